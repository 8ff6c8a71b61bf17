"""Tagging, drift, report, download and sample nodes inside a running ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from client import Prompt, RefusedError, Run, Server

pytestmark = pytest.mark.engine

TAG = {
    "threshold_mode": "per_tag",
    "threshold_offset": 0.0,
    "flat_threshold": 0.65,
    "language": "en",
    "exclude": "",
    "max_tags": 0,
    "include": "",
    "sort": "score",
    "separator": ", ",
    "underscores": False,
    "prefix": "",
    "suffix": "",
    "images_per_pass": 1,
}
ENHANCE = {
    "strength": 1.0,
    "brightness": 0.0,
    "saturation": 1.0,
    "protect_highlights": 1.0,
    "tiling": "auto",
    "images_per_pass": 1,
}
BUILT_IN = "efficientnet-lite0 (built in)"


def noise(batch: int = 1, height: int = 120, width: int = 200, channels: int = 3, level: float = 0.3) -> dict:
    sizes = {"batch": batch, "height": height, "width": width, "channels": channels}
    return {"class_type": "Probe_MakeImage", "inputs": {**sizes, "level": level}}


def show(value: list) -> dict:
    return {"class_type": "PreviewAny", "inputs": {"source": value}}


def texts(run: Run, node: str) -> list[str]:
    assert run.status == "execution_success", run.error
    return list(run.ui[node]["text"])


def tagging(source: dict, **options) -> Prompt:
    return {
        "image": source,
        "ram": {"class_type": "SemiLLIE_LoadRAM", "inputs": {"model_name": BUILT_IN, "dtype": "float32"}},
        "tag": {
            "class_type": "SemiLLIE_RAMTag",
            "inputs": {"ram_model": ["ram", 0], "image": ["image", 0], **TAG, **options},
        },
        "tags": show(["tag", 0]),
        "text": show(["tag", 1]),
        "scores": show(["tag", 2]),
    }


def test_room_is_asked_for_the_images_there_are(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"
    prompt = tagging(noise(batch=2), images_per_pass=64)
    prompt["full"] = {"class_type": "Probe_FullUntilAsked", "inputs": {"model": ["ram", 0], "log": str(log)}}
    prompt["tag"]["inputs"]["ram_model"] = ["full", 0]
    assert len(texts(server.run(prompt), "tags")) == 2
    assert int(log.read_text()) == 2 * 2**26


def test_every_image_of_a_batch_gets_its_own_tags(server: Server) -> None:
    options = {"threshold_mode": "flat", "flat_threshold": 0.001, "max_tags": 3, "images_per_pass": 2}
    run = server.run(tagging(noise(batch=3), **options))
    assert len(texts(run, "tags")) == 3
    assert all(len(tags.split(", ")) == 3 for tags in texts(run, "tags"))
    assert texts(run, "text") == ["\n".join(texts(run, "tags"))]
    scores = json.loads(texts(run, "scores")[0])
    assert [len(one["tags"]) for one in scores] == [3, 3, 3]
    assert run.progress["tag"][-1] == (3, 3)


def test_excluded_tags_are_gone_and_no_tag_is_an_empty_text(server: Server) -> None:
    everything = {"threshold_mode": "flat", "flat_threshold": 0.0, "max_tags": 5}
    first = texts(server.run(tagging(noise(), **everything)), "tags")[0].split(", ")
    run = server.run(tagging(noise(), **everything, exclude=f"{first[0]}\n{first[1].upper()}"))
    assert not {first[0], first[1]} & set(texts(run, "tags")[0].split(", "))
    run = server.run(tagging(noise(), threshold_mode="flat", flat_threshold=1.0))
    assert texts(run, "tags") == [""]


def test_a_language_the_model_lacks_is_explained(server: Server) -> None:
    run = server.run(tagging(noise(), language="zh"))
    assert run.status == "execution_error"
    assert "English only" in run.error


def test_an_image_does_not_drift_from_itself(server: Server) -> None:
    prompt = tagging(noise(batch=2))
    prompt["drift"] = {
        "class_type": "SemiLLIE_SemanticDrift",
        "inputs": {
            **{"ram_model": ["ram", 0], "before": ["image", 0], "after": ["image", 0]},
            **{"threshold_offset": 0.0, "margin": 0.05, "exclude": ""},
        },
    }
    prompt["similarity"], prompt["verdict"] = show(["drift", 1]), show(["drift", 0])
    run = server.run(prompt)
    assert [float(value) for value in texts(run, "similarity")] == pytest.approx([1, 1], abs=1e-5)
    assert all("lost: none; gained: none" in verdict for verdict in texts(run, "verdict"))


def test_a_ram_file_that_is_none_is_explained(server: Server) -> None:
    folder = server.base / "models" / "rams"
    folder.mkdir(exist_ok=True)
    (folder / "ram_swin_large_14m.pth").write_bytes(b"nothing of the kind")
    prompt = tagging(noise())
    prompt["ram"]["inputs"]["model_name"] = "ram_swin_large_14m.pth"
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "ram_swin_large_14m.pth" in run.error
    (folder / "ram_swin_large_14m.pth").unlink()
    with pytest.raises(RefusedError) as refused:
        server.run(prompt)
    assert ("ram", "value_not_in_list") in [error[:2] for error in refused.value.errors]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "holds no picture"),
        ("nan", "NaN or infinite"),
        ("infinite", "NaN or infinite"),
        ("codes", "scale them to 0 to 1"),
        ("integer", "uint8"),
        ("with a channel", "C 1, 3 or 4"),
    ],
)
def test_images_that_are_none_are_explained(server: Server, how: str, says: str) -> None:
    prompt = tagging(noise(batch=2, level=1.0))
    prompt["bad"] = {"class_type": "Probe_Spoil", "inputs": {"value": ["image", 0], "how": how}}
    loaders = {name: prompt[name] for name in ("image", "ram", "bad")}
    loaders["model"] = {
        "class_type": "SemiLLIE_LoadModel",
        "inputs": {"model_name": "semillie-compact", "dtype": "float32"},
    }
    good, bad = ["image", 0], ["bad", 0]
    drift = {"ram_model": ["ram", 0], "threshold_offset": 0.0, "margin": 0.05, "exclude": ""}
    cases = [
        ("SemiLLIE_Enhance", {"model": ["model", 0], "image": bad, **ENHANCE}, "image"),
        ("SemiLLIE_RAMTag", {"ram_model": ["ram", 0], "image": bad, **TAG}, "image"),
        ("SemiLLIE_SemanticDrift", {**drift, "before": bad, "after": good}, "before"),
        ("SemiLLIE_SemanticDrift", {**drift, "before": good, "after": bad}, "after"),
        ("SemiLLIE_LowLightReport", {"image": bad}, "image"),
        ("SemiLLIE_LowLightReport", {"image": good, "reference": bad}, "reference"),
    ]
    for node, inputs, name in cases:
        run = server.run(
            {**loaders, "node": {"class_type": node, "inputs": inputs}, "shown": show(["node", 0])}
        )
        assert run.status == "execution_error", node
        assert run.error.startswith(name) and says in run.error, (node, run.error)


def test_report_measures_each_photo(server: Server) -> None:
    run = server.run(
        {
            "image": noise(batch=2, height=100, width=200, channels=4, level=0.1),
            "report": {"class_type": "SemiLLIE_LowLightReport", "inputs": {"image": ["image", 0]}},
            "verdict": show(["report", 0]),
            "numbers": show(["report", 1]),
            "histogram": {"class_type": "Probe_Describe", "inputs": {"value": ["report", 2]}},
        }
    )
    verdicts = texts(run, "verdict")
    assert len(verdicts) == 2
    assert all(verdict.startswith("strongly underexposed") for verdict in verdicts)
    numbers = [json.loads(text) for text in texts(run, "numbers")]
    assert [round(one["mean_luminance"], 2) for one in numbers] == [0.05, 0.05]
    assert numbers[0]["psnr"] is None
    shape = json.loads(texts(run, "histogram")[0])["shape"]
    assert shape[0] == 2 and shape[3] == 3
    assert run.progress["report"][0] == (0, 2)
    assert run.progress["report"][-1] == (2, 2)


def test_report_against_a_reference(server: Server) -> None:
    report = {"image": ["image", 0], "reference": ["reference", 0]}
    prompt = {
        "image": noise(batch=2),
        "reference": noise(),
        "report": {"class_type": "SemiLLIE_LowLightReport", "inputs": report},
        "numbers": show(["report", 1]),
    }
    run = server.run(prompt)
    first, second = (json.loads(text) for text in texts(run, "numbers"))
    assert texts(run, "report") == [first["verdict"], second["verdict"]]
    assert first["psnr"] == "inf"
    assert 5 < second["psnr"] < 40
    prompt["reference"] = noise(batch=3)
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "3 pictures for 2 photos" in run.error


def test_download_without_a_network_says_where_the_file_goes(server: Server) -> None:
    download = {"class_type": "SemiLLIE_DownloadModel", "inputs": {"weights": "RAM++ (3.0 GB)"}}
    run = server.run({"download": download})
    assert run.status == "execution_error"
    assert "ram_plus_swin_large_14m.pth" in run.error
    assert str(server.base / "models" / "rams") in run.error


def test_a_file_that_is_there_is_not_downloaded(server: Server) -> None:
    path = server.base / "models" / "rams" / "ram_plus_swin_large_14m.pth"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"abc")
    download = {"class_type": "SemiLLIE_DownloadModel", "inputs": {"weights": "RAM++ (3.0 GB)"}}
    run = server.run({"download": download})
    path.unlink()
    assert server.run({"download": download}).status == "execution_error", "the file has to be fetched again"
    (text,) = texts(run, "download")
    assert str(path) in text
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in text


def test_sample_photos_are_there_and_as_dark_as_they_say(server: Server) -> None:
    info = server.get("/object_info/SemiLLIE_SamplePhoto")["SemiLLIE_SamplePhoto"]
    options = info["input"]["required"]["photo"]
    photos = options[1].get("options") or options[0]
    prompt: Prompt = {}
    for photo in photos:
        prompt[photo] = {"class_type": "SemiLLIE_SamplePhoto", "inputs": {"photo": photo}}
        prompt[f"{photo} described"] = {"class_type": "Probe_Describe", "inputs": {"value": [photo, 0]}}
    run = server.run(prompt)
    assert len(photos) >= 4
    for photo in photos:
        description = json.loads(texts(run, f"{photo} described")[0])
        assert description["shape"][3] == 3
        assert (description["mean"] < 0.25) is not photo.endswith("(well lit)")
