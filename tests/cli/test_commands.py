"""The semillie command from its arguments to its files."""

import contextlib
import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, features

pytest.importorskip("pyvips", reason="the command line needs the extra cli")

from semillie_core import cli
from semillie_core.cli import _files, demo
from semillie_core.image_io import read_photo, write_photo
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import bundled, load_model, save_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small network with random weights: the files do not care what it thinks of the photo."""
    torch.manual_seed(1)
    config = SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2, downscale=4, thumbnail=8, thumbnail_depth=1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, SemiLLIE(config), {"data": "none"})
    return path


@pytest.fixture
def semillie(checkpoint):
    """``semillie(command, *arguments) -> (status, stdout, stderr)``."""

    def run(command, *arguments):
        if command in ("enhance", "demo"):
            arguments = ("--model", checkpoint, *arguments)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main([command, *map(str, arguments)])
            except SystemExit as stop:
                status = stop.code
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def photo(tmp_path):
    """Write a dark photo; ``photo("a.jpg")`` is its path."""

    def write(name, size=(40, 56), channels=3):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(path, torch.rand(channels, *size) * 0.2)
        return path

    return write


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_enhances_a_photo_beside_it_and_leaves_it_alone(semillie, photo):
    source = photo("night.png")
    before = digest(source)
    status, out, err = semillie("enhance", source)
    target = source.with_name("night_enhanced.png")
    assert (status, err) == (0, "")
    assert "tiny" in out
    assert str(target) in out
    assert digest(source) == before
    assert read_photo(target).pixels.shape == read_photo(source).pixels.shape
    assert not torch.equal(read_photo(target).pixels, read_photo(source).pixels)


def test_bundled_model_writes_what_the_core_computes(repository, tmp_path):
    """The ComfyUI tests hold Save Image against the same call, so the two agree with each other."""
    from semillie_core.data import read_rgb
    from semillie_core.inference import enhance
    from semillie_core.weights import load_model

    source, target = repository / "samples" / "coffee.png", tmp_path / "coffee.png"
    assert cli.main(["enhance", str(source), "-o", str(target), "--device", "cpu", "--tile", "off"]) == 0
    expected = enhance(load_model("semillie-compact"), read_rgb(source)[None].float() / 255).image[0]
    assert (read_rgb(target).float() - expected * 255).abs().max() <= 0.501


def test_strength_zero_returns_the_photo(semillie, photo, tmp_path):
    source = photo("night.png")
    assert semillie("enhance", source, "-o", tmp_path / "same.png", "--strength", "0")[0] == 0
    assert torch.equal(read_photo(tmp_path / "same.png").pixels, read_photo(source).pixels)


def test_bad_files_are_reported_at_the_end_and_the_others_done(semillie, photo, tmp_path):
    folder = tmp_path / "in"
    photo("in/a.png")
    photo("in/z.jpg")
    (folder / "m.jpg").write_bytes(b"no photo")
    whole = photo("in/t.png").read_bytes()
    (folder / "t.png").write_bytes(whole[: len(whole) // 2])
    status, out, err = semillie("enhance", folder, tmp_path / "gone.jpg", "-o", tmp_path / "out")
    assert status == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "z.jpg"]
    assert "2 enhanced, 0 kept, 3 failed" in out
    for name, cause in (("m.jpg", "is not a PNG"), ("t.png", "truncated"), ("gone.jpg", "does not exist")):
        assert any(name in line and cause in line for line in err.splitlines())


def test_existing_results_are_kept_unless_told_otherwise(semillie, photo, tmp_path):
    source, target = photo("a.png"), tmp_path / "a_enhanced.png"
    target.write_bytes(b"mine")
    status, out, _ = semillie("enhance", source)
    assert status == 0
    assert "exists already" in out
    assert target.read_bytes() == b"mine"
    assert semillie("enhance", source, "--overwrite")[0] == 0
    assert read_photo(target).pixels.shape == (3, 40, 56)


def test_a_name_too_long_for_a_result_fails_the_photo_alone(semillie, photo, tmp_path, monkeypatch):
    from semillie_core import inference

    enhance = inference.enhance
    calls = []
    monkeypatch.setattr(inference, "enhance", lambda *a, **o: calls.append(1) or enhance(*a, **o))
    # 255 bytes are allowed nearly everywhere, and are reached by "_enhanced".
    long, short = photo("n" * 245 + ".png"), photo("short.png")
    status, out, err = semillie("enhance", long, short)
    assert status == 1
    assert "1 enhanced, 0 kept, 1 failed" in out
    assert f"failed: {long.with_stem(long.stem + '_enhanced')} cannot be written" in err
    assert len(calls) == 1
    assert (tmp_path / "short_enhanced.png").is_file()


def test_thousands_of_results_are_kept_in_no_time(semillie, tmp_path):
    count = 2000
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    compared = 0

    def compare(self, other):
        nonlocal compared
        compared += 1
        return self is other

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files.Job, "__eq__", compare)
        status, out, _ = semillie("enhance", tmp_path / "in", "-o", tmp_path / "out")
    assert status == 0
    assert f"0 enhanced, {count} kept" in out
    assert compared <= count


def test_names_that_the_output_cannot_show_stop_nothing(checkpoint, photo, tmp_path):
    photo("in/\u7167\u7247.png"), photo("in/z.png")
    # Where Windows sends output to a file, its encoding is one of these.
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for command in (["enhance", "--model", str(checkpoint), "-o", str(tmp_path / "out")], ["tag"]):
        result = subprocess.run(
            [sys.executable, "-m", "semillie_core.cli", *command, str(tmp_path / "in")],
            capture_output=True,
            check=False,
            env=environment,
        )
        assert result.returncode == 0, result.stderr
        assert b"\\u7167\\u7247.png" in result.stdout
        assert b"z.png" in result.stdout


@pytest.mark.parametrize("command", ["enhance", "demo"])
def test_a_comparison_too_wide_is_noticed_before_the_work(semillie, photo, tmp_path, monkeypatch, command):
    from semillie_core import inference

    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    monkeypatch.setattr(inference, "enhance", lambda *_args, **_options: pytest.fail("enhanced"))
    wide = photo("wide.png", size=(2, 33_000))
    options = ["--compare"] if command == "enhance" else []
    status, _, err = semillie(command, wide, "-o", tmp_path / "out", *options)
    assert status == 1
    assert "at most 65500 pixels per side, the photo is 66330 x 2" in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("enhance", "PHOTO", "--model"), ("models",), ("tag", "PHOTO", "--model")]
)
def test_a_model_that_must_not_be_read_is_named(semillie, photo, tmp_path, monkeypatch, arguments):
    model = tmp_path / "locked.pth"
    model.write_bytes(b"PK" + bytes(100))
    open_file = Path.open

    def locked(path, *options, **more):
        if path == model:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, *options, **more)

    monkeypatch.setattr(Path, "open", locked)
    command, *rest = (str(photo("a.png")) if part == "PHOTO" else part for part in arguments)
    status, _, err = semillie(command, *rest, model)
    assert status == 2
    assert "locked.pth" in err
    assert "Permission denied" in err


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_a_photo_is_not_overwritten_through_a_link(semillie, photo, tmp_path):
    source = photo("in/a.png")
    before = digest(source)
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "out").symlink_to(tmp_path / "in", target_is_directory=True)
    assert semillie("enhance", source, "-o", tmp_path / "link.png", "--overwrite")[0] == 2
    assert semillie("enhance", source, "-o", tmp_path / "out", "--overwrite")[0] == 0
    assert digest(source) == before
    assert (tmp_path / "in" / "a_enhanced.png").is_file()


def test_compare_shows_both_and_format_converts(semillie, photo, tmp_path):
    source = photo("a.png", channels=4)
    assert (
        semillie(
            "enhance", source, "-o", tmp_path / "out", "--compare", "--format", "webp", "--quality", "100"
        )[0]
        == 0
    )
    result = read_photo(tmp_path / "out" / "a.webp")
    assert result.format == "webp"
    torch.testing.assert_close(result.pixels[3], read_photo(source).pixels[3])
    with Image.open(tmp_path / "out" / "a_compare.jpg") as picture:
        assert picture.size == (2 * 56 + 2, 40)


def test_sixteen_bits_and_grey_stay(semillie, tmp_path):
    import numpy as np
    import pyvips

    values = (torch.rand(24, 24, 1) * 9000).numpy().astype(np.uint16)
    pyvips.Image.new_from_array(values, interpretation="grey16").write_to_file(str(tmp_path / "a.tif"))
    assert semillie("enhance", tmp_path / "a.tif")[0] == 0
    result = read_photo(tmp_path / "a_enhanced.tif")
    assert (result.bit_depth, result.is_grey) == (16, True)
    assert len(result.pixels.unique()) > 256


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_becomes_jpeg(semillie, tmp_path):
    Image.new("RGB", (56, 40), (20, 10, 30)).save(tmp_path / "a.avif")
    assert semillie("enhance", tmp_path)[0] == 0
    assert read_photo(tmp_path.with_name(f"{tmp_path.name}_enhanced") / "a.jpg").pixels.shape == (3, 40, 56)


def test_raw_and_the_jpeg_beside_it_become_two_photos(semillie, photo, tmp_path, dng):
    pytest.importorskip("rawpy", reason="camera RAW needs rawpy")
    photo("a.jpg")
    (tmp_path / "a.dng").write_bytes(dng(torch.linspace(0, 0.01, 3000).expand(3, 24, 3000)))
    status, _, err = semillie("enhance", tmp_path)
    assert (status, err) == (0, "")
    results = tmp_path.with_name(f"{tmp_path.name}_enhanced")
    assert read_photo(results / "a.jpg").pixels.shape == (3, 40, 56)
    deep = read_photo(results / "a.png")
    assert (deep.bit_depth, deep.pixels.shape) == (16, (3, 24, 3000))
    assert len(deep.pixels[1].unique()) > 256


RAW = b"II*\0\x10\0\0\0CR\x02\0"


@pytest.mark.parametrize("argument", ["trip", "trip/*"])
def test_without_rawpy_the_jpegs_of_pairs_are_enhanced(semillie, photo, tmp_path, monkeypatch, argument):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for name in ("IMG_1", "IMG_2"):
        photo(f"trip/{name}.JPG")
        (tmp_path / "trip" / f"{name}.CR2").write_bytes(RAW)
    out = tmp_path / "out"
    status, text, err = semillie("enhance", tmp_path / argument, "-o", out)
    assert status == 0
    assert "2 enhanced, 0 kept, 0 failed." in text
    assert err.startswith("left out: 2 camera RAW files; reading those needs another package")
    assert err.endswith(f"{sys.executable} -m pip install rawpy\n")
    assert err.count("\n") == 1
    assert sorted(path.name for path in out.iterdir()) == ["IMG_1.JPG", "IMG_2.JPG"]
    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    for command, option in (("demo", ("-o", tmp_path / "results")), ("tag", ())):
        status, _, err = semillie(command, tmp_path / argument, *option)
        assert status == 0
        assert "left out: 2 camera RAW files" in err
        assert "failed" not in err


@pytest.mark.parametrize("command", ["enhance", "demo", "tag"])
def test_without_rawpy_raw_alone_fails(semillie, photo, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trip").mkdir()
    (tmp_path / "trip" / "a.CR2").write_bytes(RAW)
    status, _, err = semillie(command, "trip")
    assert status == 1
    assert "1 camera RAW file; reading those needs" in err
    status, _, err = semillie(command, Path("trip", "a.CR2"), photo("b.png"))
    assert status == 1
    assert f"failed: {Path('trip', 'a.CR2')} is a camera RAW file; reading those needs" in err


def test_a_deep_photo_of_the_wrong_name_stays_deep(semillie, tmp_path):
    import numpy as np
    import pyvips

    values = (torch.rand(24, 24, 4) * 65535).numpy().astype(np.uint16)
    image = pyvips.Image.new_from_array(values, interpretation="rgb16")
    (tmp_path / "a.jpg").write_bytes(image.pngsave_buffer())
    assert semillie("enhance", tmp_path / "a.jpg")[0] == 0
    result = read_photo(tmp_path / "a_enhanced.png")
    assert (result.format, result.bit_depth, result.pixels.shape) == ("png", 16, (4, 24, 24))


def test_what_cannot_be_written_is_not_enhanced(semillie, photo, tmp_path, monkeypatch):
    from semillie_core import inference

    monkeypatch.setattr(inference, "enhance", lambda *_args, **_options: pytest.fail("enhanced"))
    wide, source = photo("wide.png", size=(2, 16_384)), photo("a.png")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    for arguments, message in (
        ([wide, "--format", "webp"], "at most 16383 pixels per side, the photo is 16384 x 2"),
        ([source, "-o", tmp_path / "file" / "inside"], "inside"),
        ([source, "-o", tmp_path / "out", "--overwrite"], "is a folder"),
    ):
        status, _, err = semillie("enhance", *arguments)
        assert status == 1
        assert message in err
        assert "unexpected" not in err


def test_folders_are_clips_whose_exposure_is_kept_steady(semillie, tmp_path):
    from semillie_core.inference import enhance
    from semillie_core.weights import load_model

    scene, folder = torch.rand(3, 40, 56) * 0.3, tmp_path / "clip"
    folder.mkdir()
    for index, gain in enumerate([1.0, 0.8, 1.1, 0.9] * 4):  # frame10 comes after frame2
        width = 56 if index < 5 else 48  # another size is another clip
        write_photo(folder / f"frame{index}.png", scene[..., :width] * gain)
    frames = [read_photo(folder / f"frame{index}.png").pixels for index in range(16)]
    (folder / "frame7a.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    out.mkdir()
    write_photo(out / "frame3.png", scene)
    options = ("--steady-frames", "6", "-o", out, "--model", "semillie-compact", "--device", "cpu")
    status, text, err = semillie("enhance", folder, *options)
    assert status == 1
    assert "15 enhanced, 1 kept, 1 failed." in text
    assert "frame7a.png" in err
    model = load_model("semillie-compact")
    for start, stop in ((0, 5), (5, 16)):
        clip = torch.stack(frames[start:stop])
        expected, alone = (enhance(model, clip, steady_frames=count).image for count in (6, 1))
        assert (expected - alone).abs().max() > 0.01
        for index in set(range(start, stop)) - {3}:
            written = read_photo(out / f"frame{index}.png").pixels
            torch.testing.assert_close(written, expected[index - start], atol=0.52 / 255, rtol=0)


def test_a_frame_that_cannot_be_measured_is_enhanced_alone(semillie, photo, tmp_path, monkeypatch):
    from semillie_core.inference import clip_light

    def scarce(_network, _frames):
        raise torch.OutOfMemoryError("out of memory")

    source = photo("a.png")
    semillie("enhance", source, "-o", tmp_path / "alone.png")
    monkeypatch.setattr(clip_light, "measure_light", scarce)
    assert semillie("enhance", source, "-o", tmp_path / "b.png", "--steady-frames", "4")[0] == 0
    assert digest(tmp_path / "b.png") == digest(tmp_path / "alone.png")


def test_steady_frames_need_a_network_that_judges_frames(semillie, photo, tmp_path):
    save_model(tmp_path / "flat.safetensors", SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2)))
    arguments = (photo("a.png"), "--steady-frames", "4", "--model", tmp_path / "flat.safetensors")
    status, _, err = semillie("enhance", *arguments)
    assert status == 2
    assert "--steady-frames needs a network" in err


def test_closed_outputs_stop_nothing(checkpoint, photo, tmp_path, monkeypatch):
    source = photo("a.png")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["enhance", str(source), "--model", str(checkpoint)]) == 0
    assert (tmp_path / "a_enhanced.png").is_file()


def test_tiles_change_little(semillie, photo, tmp_path):
    source = photo("a.png", size=(150, 300))
    for name, tile in (("whole.png", "off"), ("tiled.png", "128")):
        assert semillie("enhance", source, "-o", tmp_path / name, "--tile", tile)[0] == 0
    whole, tiled = read_photo(tmp_path / "whole.png").pixels, read_photo(tmp_path / "tiled.png").pixels
    assert (whole - tiled).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "2"], "--strength must be between 0 and 1"),
        (["--protect-highlights", "-1"], "--protect-highlights must be between 0 and 1"),
        (["--steady-frames", "0"], "--steady-frames must be at least 1"),
        (["--quality", "0"], "--quality must be between 1 and 100"),
        (["--tile", "12"], "at least 128"),
        (["--device", "tpu"], "'tpu' is neither auto nor cpu"),
        (["--device", "cpu:1"], "'cpu:1' is neither auto nor cpu"),
        (["--device", "xpu:99"], "finds no xpu:99 device here: use auto, or "),
        (["--device", "cuda"], "finds no cuda device"),
        (["--model", "nonesuch"], "nonesuch"),
        (["--output", "x.png", "--format", "jpeg"], "contradict"),
    ],
)
def test_calls_that_make_no_sense_end_with_two(semillie, photo, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    source = photo("a.png")
    status, _, err = semillie("enhance", source, *arguments)
    assert status == 2
    assert message in err
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize(
    ("counts", "picks"),
    [
        ({}, {"auto": "cpu", "cpu": "cpu", "xpu": None, "cuda:0": None}),
        ({"xpu": 2}, {"auto": "xpu:0", "xpu": "xpu:0", "xpu:1": "xpu:1", "xpu:2": None, "mps": None}),
        ({"mps": 1, "xpu": 1}, {"auto": "mps", "mps": "mps", "cpu": "cpu"}),
        (
            {"cuda": 11, "mps": 1},
            {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1", "cuda:10": "cuda:10"},
        ),
    ],
)
def test_devices_are_picked_among_those_that_are_there(monkeypatch, counts, picks):
    from semillie_core.devices import pick_device

    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda kind=kind: counts.get(kind, 0))
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda kind=kind: kind in counts)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in counts)
    for name, device in picks.items():
        if device is None:
            with pytest.raises(ValueError, match=f"finds no {name} device"):
                pick_device(name)
        else:
            assert pick_device(name) == device


def test_ctrl_c_leaves_no_half_written_file(semillie, photo, tmp_path, monkeypatch):
    source = photo("a.png")

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    status, _, err = semillie("enhance", source, "-o", tmp_path / "out")
    assert status == 130
    assert "stopped" in err
    assert list((tmp_path / "out").iterdir()) == []


def test_running_out_of_memory_fails_the_photo_not_the_run(semillie, photo, tmp_path, monkeypatch):
    from semillie_core import inference

    real = inference.enhance

    def scarce(model, image, **options):
        if image.shape[-1] > 60:
            raise torch.OutOfMemoryError("out of memory")
        return real(model, image, **options)

    monkeypatch.setattr(inference, "enhance", scarce)
    big, small = photo("big.png", size=(40, 80)), photo("small.png")
    status, _, err = semillie("enhance", big, small)
    assert status == 1
    assert "big.png needs more memory" in err
    assert (tmp_path / "small_enhanced.png").is_file()


@pytest.mark.parametrize("command", ["enhance", "demo"])
def test_unexpected_errors_fail_the_photo_and_say_where(semillie, photo, tmp_path, monkeypatch, command):
    from semillie_core import inference

    real = inference.enhance

    def broken(model, image, **options):
        if image.shape[-1] > 60:
            raise RuntimeError("a defect")
        return real(model, image, **options)

    monkeypatch.setattr(inference, "enhance", broken)
    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    big, small = photo("big.png", size=(40, 80)), photo("small.png")
    status, _, err = semillie(command, big, small, "-o", tmp_path / "out")
    assert status == 1
    assert "big.png: unexpected RuntimeError: a defect (test_commands.py, line " in err
    assert [path.name[:5] for path in (tmp_path / "out").iterdir()] == ["small"]


def test_demo_pictures_the_samples_and_the_users_photos(semillie, photo, tmp_path, monkeypatch):
    samples = tmp_path / "samples"
    photo("samples/one.jpg")
    photo("samples/two.png")
    (samples / "clip.webp").write_bytes(b"not for the demo")
    monkeypatch.setattr(demo, "SAMPLES", samples)
    mine = photo("mine/one.png")
    status, out, _ = semillie("demo", mine, "-o", tmp_path / "results")
    assert status == 0
    pictures = {path.name: read_photo(path) for path in (tmp_path / "results").iterdir()}
    assert set(pictures) == {"one_before_after.jpg", "two_before_after.jpg", "one-2_before_after.jpg"}
    assert all(picture.pixels.shape == (3, 40, 114) for picture in pictures.values())
    before = pictures["two_before_after.jpg"].pixels[:, :, :56]
    torch.testing.assert_close(
        before.mean(), read_photo(samples / "two.png").pixels.mean(), atol=0.01, rtol=0
    )
    assert str((tmp_path / "results").resolve()) in out
    assert out.count(" s, mean brightness") == 3


def test_demo_writes_over_no_photo(semillie, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    mine = photo("results/one_before_after.jpg")
    before = digest(mine)
    assert semillie("demo", photo("one.png"), mine, "-o", tmp_path / "results")[0] == 0
    assert digest(mine) == before
    assert (tmp_path / "results" / "one-2_before_after.jpg").is_file()


def test_demo_without_samples_asks_for_a_photo(semillie, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", tmp_path / "none")
    status, _, err = semillie("demo", "-o", tmp_path / "results")
    assert status == 2
    assert "name a photo" in err


def test_models_describes_checkpoints(semillie, checkpoint):
    status, out, _ = semillie("models", checkpoint)
    assert status == 0
    assert "tiny: Semi-LLIE, compact" in out
    assert "data: none" in out
    status, _, err = semillie("models", checkpoint.with_name("other.pth"))
    assert status == 2
    assert "other.pth" in err


def test_what_a_checkpoint_says_of_itself_moves_no_cursor(semillie, checkpoint):
    save_model(checkpoint, load_model(checkpoint).network, {"data": "a\x1b[2Jb\r\u202ec"})
    assert "data: a [2Jb  c" in semillie("models", checkpoint)[1]


def test_doctor_notices_damaged_and_missing_weights(semillie, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "BUNDLED_FOLDER", tmp_path)
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(checkpoint.read_bytes())
    sums = tmp_path / "SHA256SUMS"
    assert "is missing: no weights" in semillie("doctor")[1]

    sums.write_text(f"{digest(weights)}  tiny.safetensors\n", encoding="utf-8")
    status, out, _ = semillie("doctor")
    assert status == 0
    assert "tiny: compact" in out
    assert torch.__version__ in out
    assert "chunked: available" in out
    assert "Everything is in order." in out
    assert "  rawpy" in out

    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    status, out, _ = semillie("doctor")
    assert status == 1
    assert f"{weights} is not the file that was published" in out
    weights.unlink()
    assert f"{weights} is missing" in semillie("doctor")[1]


def test_every_bundled_model_is_in_the_list_of_hashes():
    sums = bundled.BUNDLED_FOLDER / "SHA256SUMS"
    listed = (
        {line.split(maxsplit=1)[1] for line in sums.read_text().splitlines()} if sums.is_file() else set()
    )
    assert listed == {path.name for path in bundled.bundled_models().values()}


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2] for module in cli.COMMANDS])
def test_every_command_explains_itself_without_loading_torch(command):
    script = (
        "import sys, semillie_core.cli as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'pyvips', 'tqdm', 'PIL'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, command, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"usage: semillie {command}" in result.stdout


def test_a_closed_pipe_ends_the_output_quietly(checkpoint):
    arguments = [sys.executable, "-m", "semillie_core.cli", "models", *[str(checkpoint)] * 3]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 141
    assert b"BrokenPipe" not in errors
