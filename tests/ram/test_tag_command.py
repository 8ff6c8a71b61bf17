"""``semillie tag``."""

import json

import pytest
import torch
from PIL import Image

import semillie_core.ram as ram
from semillie_core import image_io
from semillie_core.cli import main
from semillie_core.ram import RAM, load_ram

data = pytest.importorskip("skimage.data")
pytest.importorskip("pyvips")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    Image.fromarray(data.chelsea()).save(folder / "more" / "cat.jpg", quality=95)
    (folder / "notes.txt").touch()
    return folder


def test_one_line_per_photo(photos, capsys) -> None:
    assert main(["tag", str(photos), "-r", "--max-tags", "1", "--prefix", "a ", "--dtype", "float32"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{photos / 'coffee.png'}\ta espresso",
        f"{photos / 'more' / 'cat.jpg'}\ta tiger cat",
    ]
    assert "not RAM" in err


def test_json_and_filters(photos, capsys) -> None:
    arguments = [
        "--json",
        "--threshold",
        "0.05",
        "--exclude",
        "tiger_*",
        "--exclude",
        "TABBY",
        "--underscores",
    ]
    assert main(["tag", str(photos / "more" / "cat.jpg"), *arguments]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["text"].startswith("Egyptian_cat")
    assert "tabby" not in entry["text"]
    assert "not RAM" in entry["model"]
    assert entry["tags"][0]["threshold"] == pytest.approx(0.05)


def test_a_bad_photo_does_not_stop_the_others(photos, capsys) -> None:
    missing = photos / "missing.png"
    assert main(["tag", str(missing), str(photos / "notes.txt"), str(photos / "coffee.png")]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.count("failed: ") == 2


def test_photos_are_found_as_those_to_enhance_are(photos, capsys) -> None:
    coffee, enhanced = photos / "coffee.png", photos / "coffee_enhanced.png"
    enhanced.write_bytes(coffee.read_bytes())
    (photos / "._coffee.png").write_bytes(b"what macOS keeps beside a file")
    assert main(["tag", str(photos), str(coffee), str(photos / "*" / "c*.jpg"), "--max-tags", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [coffee, enhanced, photos / "more" / "cat.jpg"]
    assert [line.split("\t")[0] for line in lines] == list(map(str, named))
    assert main(["tag", str(photos / "*.gif")]) == 1
    assert "*.gif matches no PNG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(5, "Input/output error"), "coffee.png: [Errno 5] Input/output error"),
        (torch.OutOfMemoryError("out of memory"), "needs more memory than there is. Try --device cpu"),
        (RuntimeError("a defect"), "coffee.png: unexpected RuntimeError: a defect"),
    ],
)
def test_whatever_fails_the_list_is_complete(photos, capsys, monkeypatch, error, message) -> None:
    real = image_io.read_photo

    def read(path):
        if path.suffix == ".png":
            raise error
        return real(path)

    monkeypatch.setattr(image_io, "read_photo", read)
    assert main(["tag", str(photos), "--recursive", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [entry["photo"] for entry in json.loads(out)] == [str(photos / "more" / "cat.jpg")]
    assert message in err
    assert "--tile" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "zh"], "English only"),
        (["--offset", "3"], "threshold_offset"),
        (["--model", "absent.pth"], "There is no file absent.pth"),
        (["--model", "ram"], "--model ram_plus fetched with --download FOLDER"),
        (["--model", "lite", "--download", "rams"], "--download fetches 'ram' or 'ram_plus'"),
    ],
)
def test_impossible_calls(photos, capsys, arguments: list[str], message: str) -> None:
    assert main(["tag", str(photos / "coffee.png"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_a_downloaded_model_is_used(
    photos, capsys, tmp_path, tiny_configs, vocabulary, fill, monkeypatch
) -> None:
    """The command hands the path on; the tiny model stands in for the 5.6 GB one."""

    model = fill(RAM(tiny_configs["ram"]))
    torch.save({"model": model.state_dict()}, tmp_path / "ram_swin_large_14m.pth")
    tiny = {"config": model.config, "vocabulary": vocabulary}
    monkeypatch.setattr(ram, "load_ram", lambda path, **options: load_ram(path, **options, **tiny))
    arguments = ["--model", "ram", "--download", str(tmp_path), "--threshold", "0", "--sort", "list"]
    assert main(["tag", str(photos / "coffee.png"), *arguments, "--language", "zh"]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "猫, 狗, 猫粮, 路灯, 街头艺术, 汽车\n"
