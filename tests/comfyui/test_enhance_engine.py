"""Loading and enhancing inside a running ComfyUI, seen from outside: pixels, messages, cache, files."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from client import Prompt, RefusedError, Run, Server
from PIL import Image

from semillie_core.inference import EnhanceControls, enhance
from semillie_core.inference.memory import working_memory
from semillie_core.network import COMPACT, SemiLLIE
from semillie_core.weights import bundled_models, load_model, save_model

pytestmark = pytest.mark.engine

CONTROLS = {
    "strength": 1.0,
    "brightness": 0.0,
    "saturation": 1.0,
    "protect_highlights": 1.0,
    "tiling": "auto",
    "images_per_pass": 1,
}
DEFAULT_MODEL = next(iter(bundled_models()))


def graph(*, source: dict | None = None, model: str = DEFAULT_MODEL, **controls) -> Prompt:
    """Load Image, Load Semi-LLIE Model, Semi-LLIE Enhance, Save Image; extra inputs go to Enhance."""
    return {
        "image": source or {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
        "model": {"class_type": "SemiLLIE_LoadModel", "inputs": {"model_name": model, "dtype": "float32"}},
        "enhance": {
            "class_type": "SemiLLIE_Enhance",
            "inputs": {"model": ["model", 0], "image": ["image", 0], **CONTROLS, **controls},
        },
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["enhance", 0], "filename_prefix": "result"},
        },
    }


def made(batch: int = 1, height: int = 64, width: int = 64, channels: int = 3, level: float = 0.2) -> dict:
    """A probe node that makes an image and a mask of its left half."""
    sizes = {"batch": batch, "height": height, "width": width, "channels": channels}
    return {"class_type": "Probe_MakeImage", "inputs": {**sizes, "level": level}}


def describe(value: list, **more: list) -> dict:
    return {"class_type": "Probe_Describe", "inputs": {"value": value, **more}}


def described(run: Run, node: str) -> dict:
    assert run.status == "execution_success", run.error
    return json.loads(run.ui[node]["text"][0])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64)


@pytest.fixture(scope="module")
def photo(server: Server) -> np.ndarray:
    """A small dark picture with structure, as ``photo.png`` in the server's input folder."""
    rows, columns = np.mgrid[0:75, 0:101]
    channels = [rows * 0.5 + 8, columns * 0.4, (rows * columns) % 47]
    picture = np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)
    Image.fromarray(picture).save(server.base / "input" / "photo.png")
    return picture


def core_result(picture: np.ndarray, controls: EnhanceControls | None = None) -> np.ndarray:
    image = torch.from_numpy(picture).movedim(-1, 0).unsqueeze(0).float() / 255
    enhanced = enhance(load_model(DEFAULT_MODEL), image, controls=controls).image[0]
    # Save Image cuts off the fraction.
    return np.floor(enhanced.movedim(0, -1).numpy() * 255)


def test_saved_picture_is_what_the_core_computes(server: Server, photo: np.ndarray) -> None:
    run = server.run(graph())
    assert run.status == "execution_success", run.error
    (path,) = server.saved(run, "save")
    expected = core_result(photo)
    assert np.abs(pixels(path) - expected).max() <= 1
    assert np.abs(expected - photo).mean() > 5, "the network must have done something"


def test_controls_reach_the_core(server: Server, photo: np.ndarray) -> None:
    controls = {
        "strength": 0.8,
        "brightness": 0.5,
        "saturation": 1.5,
        "protect_highlights": 0.6,
        "noise_reduction": 2.0,
    }
    run = server.run(graph(**controls))
    (path,) = server.saved(run, "save")
    assert np.abs(pixels(path) - core_result(photo, EnhanceControls(**controls))).max() <= 1


def test_second_run_executes_nothing(server: Server, photo: np.ndarray) -> None:
    server.run(graph())
    again = server.run(graph())
    assert again.status == "execution_success"
    assert not again.executed
    assert set(again.cached) == {"image", "model", "enhance", "save"}


def test_a_changed_widget_reruns_only_what_depends_on_it(server: Server, photo: np.ndarray) -> None:
    server.run(graph())
    run = server.run(graph(brightness=0.25))
    assert set(run.executed) == {"enhance", "save"}


def test_mask_alpha_batch_and_outputs(server: Server) -> None:
    prompt = graph(
        source=made(batch=3, height=40, width=52, channels=4), mask=["image", 1], images_per_pass=2
    )
    prompt["save"] = describe(["enhance", 0])
    prompt["light"] = describe(["enhance", 1])
    # After the enhancement, the input must be what it was.
    prompt["input"] = describe(["image", 0], wait_for=["enhance", 0])
    prompt["fresh"] = {"class_type": "Probe_MakeImage", "inputs": {**prompt["image"]["inputs"]}}
    prompt["fresh_input"] = describe(["fresh", 0])
    run = server.run(prompt)
    result, light = described(run, "save"), described(run, "light")
    assert result["shape"] == [3, 40, 52, 4]
    assert (result["dtype"], result["device"]) == ("torch.float32", "cpu")
    assert result["min"] >= 0 and result["max"] <= 1
    assert light["shape"] == [3, 40, 52]
    assert light["min"] >= 0 and light["max"] <= 1
    assert described(run, "input")["sha256"] == described(run, "fresh_input")["sha256"]


def test_a_mask_keeps_the_original_where_it_is_zero(server: Server, photo: np.ndarray) -> None:
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:, :50] = 255
    Image.fromarray(mask).save(server.base / "input" / "mask.png")
    prompt = graph(mask=["mask", 0])
    prompt["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}}
    (path,) = server.saved(server.run(prompt), "save")
    result = pixels(path)
    assert np.abs(result[:, 50:] - photo[:, 50:]).max() <= 1
    assert np.abs(result[:, :50] - core_result(photo)[:, :50]).max() <= 1


def test_a_mask_of_zeros_is_told_in_the_log(server: Server, photo: np.ndarray) -> None:
    prompt = graph(mask=["image", 1])  # of Load Image, from a photo without transparency
    before = len(server.log.read_text(encoding="utf-8"))
    (path,) = server.saved(server.run(prompt), "save")
    assert np.array_equal(pixels(path), photo)
    assert "the mask is zero everywhere" in server.log.read_text(encoding="utf-8")[before:]


@pytest.mark.parametrize("how", ["nan", "infinite", "tripled", "with a channel"])
def test_any_mask_is_stretched_to_the_image_and_brought_into_range(server: Server, how: str) -> None:
    prompt = graph(source=made(height=64, width=96), mask=["spoilt", 0])
    prompt["small"] = made(height=32, width=24)
    prompt["spoilt"] = {"class_type": "Probe_Spoil", "inputs": {"value": ["small", 1], "how": how}}
    prompt["save"] = describe(["enhance", 0])
    result = described(server.run(prompt), "save")
    assert result["shape"] == [1, 64, 96, 3]
    assert 0 <= result["min"] < result["max"] <= 1


def test_a_small_mask_covers_its_share_of_the_image(server: Server, photo: np.ndarray) -> None:
    prompt = graph(mask=["small", 1])
    prompt["small"] = made(height=20, width=30)
    (path,) = server.saved(server.run(prompt), "save")
    result = pixels(path)
    assert np.abs(result[:, 56:] - photo[:, 56:]).max() <= 1
    assert np.abs(result[:, :45] - core_result(photo)[:, :45]).max() <= 1


def test_progress_counts_frames_and_shows_them(server: Server) -> None:
    prompt = graph(source=made(batch=6))
    prompt["slow"] = {
        "class_type": "Probe_SlowModel",
        "inputs": {"model": ["model", 0], "seconds": 0.3, "log": os.devnull},
    }
    prompt["enhance"]["inputs"]["model"] = ["slow", 0]
    run = server.run(prompt)
    assert run.status == "execution_success", run.error
    values = run.progress["enhance"]
    assert values[-1] == (6, 6)
    assert [value for value, _ in values] == sorted({value for value, _ in values})
    assert len(values) >= 5
    assert len(run.previews) >= 3
    assert all(preview[:2] == b"\xff\xd8" for preview in run.previews)


def test_cancel_ends_within_one_frame(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "passes.txt"
    prompt = graph(source=made(batch=40, height=48))
    prompt["slow"] = {
        "class_type": "Probe_SlowModel",
        "inputs": {"model": ["model", 0], "seconds": 0.3, "log": str(log)},
    }
    prompt["enhance"]["inputs"]["model"] = ["slow", 0]
    passes_at_cancel: list[int] = []

    def cancel(_: Run) -> None:
        if not passes_at_cancel:
            passes_at_cancel.append(len(log.read_text().splitlines()))
            server.post("/interrupt", {})

    run = server.run(prompt, on_progress=cancel)
    assert run.status == "execution_interrupted"
    assert len(log.read_text().splitlines()) <= passes_at_cancel[0] + 1
    assert "save" not in run.executed
    server.forget()
    assert server.run(graph(source=made())).status == "execution_success", "the server must go on working"


@pytest.mark.parametrize("steady_frames", [1, 3])
def test_cancel_is_heard_inside_a_frame(server: Server, tmp_path: Path, steady_frames: int) -> None:
    log = tmp_path / "blocks.txt"
    prompt = graph(
        source=made(batch=2, height=300, width=400),
        tiling="off",
        images_per_pass=2,
        steady_frames=steady_frames,
    )
    prompt["slow"] = {
        "class_type": "Probe_SlowBlocks",
        "inputs": {"model": ["model", 0], "seconds": 1.0, "log": str(log)},
    }
    prompt["enhance"]["inputs"]["model"] = ["slow", 0]

    def cancel() -> None:
        while not log.exists():
            time.sleep(0.05)
        server.post("/interrupt", {})

    canceller = threading.Thread(target=cancel)
    canceller.start()
    run = server.run(prompt)
    canceller.join()
    assert run.status == "execution_interrupted"
    assert log.read_text() == "a block\n"
    server.forget()  # the network stays slow


def test_running_out_of_memory_halves_the_tile(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "passes.txt"
    prompt = graph(source=made(height=300, width=520), tiling="off")
    prompt["small"] = {
        "class_type": "Probe_SmallMemory",
        "inputs": {"model": ["model", 0], "pixels": 140 * 140, "log": str(log)},
    }
    prompt["enhance"]["inputs"]["model"] = ["small", 0]
    prompt["save"] = describe(["enhance", 0])
    run = server.run(prompt)
    assert described(run, "save")["shape"] == [1, 300, 520, 3]
    edges = [max(json.loads(line)[2:]) for line in log.read_text().splitlines()]
    assert edges[:3] == [520, 260, 130]
    assert set(edges[2:]) == {130}


def test_memory_that_never_suffices_is_reported(server: Server, tmp_path: Path) -> None:
    prompt = graph(source=made(height=300, width=300), tiling="256")
    prompt["small"] = {
        "class_type": "Probe_SmallMemory",
        "inputs": {"model": ["model", 0], "pixels": 64, "log": os.devnull},
    }
    prompt["enhance"]["inputs"]["model"] = ["small", 0]
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "memory" in run.error.lower()


def test_auto_tiles_only_what_would_not_fit(server: Server, tmp_path: Path) -> None:
    reserved = 400 << 20  # what ComfyUI leaves to others where --reserve-vram does not say
    for free, expected in ((2**40, 600), (reserved + 180_000_000, 384), (reserved, 256)):
        log = tmp_path / f"{free}.txt"
        prompt = graph(source=made(height=400, width=600))
        prompt["little"] = {
            "class_type": "Probe_LittleFree",
            "inputs": {"model": ["model", 0], "free": free, "log": str(log)},
        }
        prompt["enhance"]["inputs"]["model"] = ["little", 0]
        run = server.run(prompt)
        assert run.status == "execution_success", run.error
        assert {max(json.loads(line)[2:]) for line in log.read_text().splitlines()} == {expected}


def test_auto_minds_the_limits_of_a_container(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "passes.txt"
    prompt = graph(source=made(height=300, width=300))
    prompt["container"] = {
        "class_type": "Probe_SmallContainer",
        "inputs": {"model": ["model", 0], "free": 0, "log": str(log)},
    }
    prompt["enhance"]["inputs"]["model"] = ["container", 0]
    run = server.run(prompt)
    assert run.status == "execution_success", run.error
    assert {max(json.loads(line)[2:]) for line in log.read_text().splitlines()} == {256}


def test_auto_counts_what_comfyui_can_free(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "passes.txt"
    prompt = graph(source=made(height=400, width=600))
    prompt["full"] = {
        "class_type": "Probe_FullUntilAsked",
        "inputs": {"model": ["model", 0], "log": str(log)},
    }
    prompt["enhance"]["inputs"]["model"] = ["full", 0]
    run = server.run(prompt)
    assert run.status == "execution_success", run.error
    asked, *passes = map(json.loads, log.read_text().splitlines())
    assert asked >= working_memory(load_model(DEFAULT_MODEL).config, 400 * 600)
    assert passes == [[1, 3, 400, 600]]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2), ("bfloat16", 16)])
def test_lower_precision_comes_close(server: Server, photo: np.ndarray, dtype: str, tolerance: float) -> None:
    prompt = graph()
    prompt["model"]["inputs"]["dtype"] = dtype
    (path,) = server.saved(server.run(prompt), "save")
    assert np.abs(pixels(path) - core_result(photo)).max() <= tolerance


@pytest.mark.parametrize(
    ("changes", "node", "kind"),
    [
        ({"strength": 1.5}, "enhance", "value_bigger_than_max"),
        ({"brightness": -9.0}, "enhance", "value_smaller_than_min"),
        ({"tiling": "100"}, "enhance", "value_not_in_list"),
        ({"images_per_pass": 0}, "enhance", "value_smaller_than_min"),
        ({"model": "../../secret.safetensors"}, "model", "value_not_in_list"),
    ],
)
def test_bad_values_are_refused(
    server: Server, photo: np.ndarray, changes: dict, node: str, kind: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        server.run(graph(**changes))
    assert (node, kind) in [(at, what) for at, what, _ in refused.value.errors]


def test_bad_files_and_images_are_explained(server: Server, photo: np.ndarray) -> None:
    (server.base / "models" / "semillie").mkdir(exist_ok=True)
    (server.base / "models" / "semillie" / "broken.safetensors").write_bytes(b"not a checkpoint at all")
    run = server.run(graph(model="broken.safetensors"))
    assert run.status == "execution_error"
    assert "broken.safetensors" in run.error and "Expected a Semi-LLIE checkpoint" in run.error

    run = server.run(graph(source=made(channels=2)))
    assert run.status == "execution_error"
    assert re.search(r"C 1, 3 or 4", run.error)

    prompt = graph(source=made(batch=2), mask=["masks", 0])
    prompt["three"] = made(batch=3)
    prompt["masks"] = {"class_type": "ImageToMask", "inputs": {"image": ["three", 0], "channel": "red"}}
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "3 masks for 2 images" in run.error


def test_own_checkpoints_are_listed_loaded_and_reloaded_when_swapped(
    server: Server, photo: np.ndarray
) -> None:
    here = server.base / "models" / "semillie" / "mine.safetensors"
    here.parent.mkdir(exist_ok=True)
    there = server.base / "elsewhere" / "theirs.pth"
    torch.manual_seed(1)
    first, second = SemiLLIE(COMPACT), SemiLLIE(COMPACT)
    with torch.no_grad():
        second.conv_last.bias.add_(0.1)
    save_model(here, first)
    torch.save({"arch": "x", "epoch": 3, "state_dict": first.state_dict(), "optimizer_dict": {}}, there)

    options = server.get("/object_info/SemiLLIE_LoadModel")["SemiLLIE_LoadModel"]["input"]["required"][
        "model_name"
    ]
    names = options[1].get("options") or options[0]
    assert names[0] == DEFAULT_MODEL
    assert {"mine.safetensors", "theirs.pth"} <= set(names)

    (before,) = server.saved(server.run(graph(model="mine.safetensors")), "save")
    (same,) = server.saved(server.run(graph(model="theirs.pth")), "save")
    assert np.array_equal(pixels(before), pixels(same))

    save_model(here, second)
    run = server.run(graph(model="mine.safetensors"))
    assert {"model", "enhance", "save"} <= set(run.executed)
    (after,) = server.saved(run, "save")
    assert (pixels(after) - pixels(before)).mean() > 10
