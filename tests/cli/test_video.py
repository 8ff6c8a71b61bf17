"""``semillie video`` from its arguments to its files."""

from __future__ import annotations

import contextlib
import io
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="videos need PyAV, of the extra cli")

import av

from semillie_core import cli
from semillie_core.cli import video as command
from semillie_core.inference import EnhanceControls, enhance
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.video_io import CONTAINERS, Video, writing
from semillie_core.weights import load_model, save_model

LIGHTS = (0.1, 0.16, 0.09, 0.15, 0.1, 0.05, 0.11)


@pytest.fixture
def semillie():
    """``semillie(*arguments) -> (status, stdout, stderr)``."""

    def run(*arguments, model="semillie-compact"):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main(["video", "--model", str(model), *map(str, arguments)])
            except SystemExit as stop:
                status = stop.code
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def night(tmp_path):
    """Write a dark video of textured frames whose light pumps; ``night("a.mp4")`` is its path."""

    def write(name, lights=LIGHTS, size=(48, 64), codec="libx264", pixels="yuv444p", sound=None, transfer=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texture = np.random.default_rng(0).uniform(0.5, 1.5, (*size, 3))
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            stream.codec_context.color_trc = transfer
            if codec == "libx264":
                stream.options = {"crf": "0"}
            tone = container.add_stream(sound, rate=48000) if sound else None
            for index, light in enumerate(lights):
                deep = (texture * light * 65535).clip(0, 65535).astype(np.uint16)
                frame = av.VideoFrame.from_ndarray(deep, format="rgb48le")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if tone is not None:
                samples = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.uint8), format="u8", layout="mono"
                )
                samples.sample_rate = 48000
                container.mux([*tone.encode(samples), *tone.encode(None)])
        return path

    return write


def pictures(path):
    return torch.stack([picture.pixels for picture in Video(path)])


@pytest.mark.parametrize(
    ("arguments", "frames", "noise_reduction"),
    [
        ((), 24, 1.0),
        (("--steady-frames", 3, "--noise-reduction", 0), 3, 0.0),
        (("--steady-frames", 1), 1, 1.0),
    ],
    ids=["default", "three", "one by one"],
)
def test_gives_what_enhance_does_with_all_frames_at_once(semillie, night, arguments, frames, noise_reduction):
    source = night("night.mp4", (*LIGHTS, 0.9, 0.8))
    status, out, err = semillie(source, "--crf", 1, *arguments)
    assert (status, err) == (0, "")
    target = source.with_name("night_enhanced.mp4")
    assert str(target) in out
    assert "9 pictures" in out
    expected = enhance(
        load_model("semillie-compact"),
        pictures(source),
        controls=EnhanceControls(noise_reduction=noise_reduction),
        steady_frames=frames,
    ).image
    result = pictures(target)
    assert result.shape == expected.shape
    assert (result - expected).abs().mean() < 0.006
    # Of what the encoder loses none is a difference of light.
    torch.testing.assert_close(result.mean((1, 2, 3)), expected.mean((1, 2, 3)), atol=2e-3, rtol=0)
    assert (expected.mean((1, 2, 3))[:7] - pictures(source).mean((1, 2, 3))[:7]).min() > 0.05


def test_a_network_without_thumbnail_takes_every_picture_by_itself(semillie, night, tmp_path):
    torch.manual_seed(0)
    model = tmp_path / "plain.safetensors"
    save_model(model, SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2)), {"data": "none"})
    source = night("night.mp4", size=(24, 32))
    assert semillie(source, model=model)[0] == 0
    assert Video(source.with_name("night_enhanced.mp4")).height == 24
    status, _, err = semillie(source, "--overwrite", "--steady-frames", 8, model=model)
    assert status == 2
    assert "--steady-frames needs a network that judges" in err


def test_results_are_kept_unless_they_are_to_be_replaced(semillie, night):
    source = night("night.mp4")
    target = source.with_name("night_enhanced.mp4")
    target.write_bytes(b"mine")
    status, out, _ = semillie(source)
    assert (status, target.read_bytes()) == (0, b"mine")
    assert f"kept: {target} exists already" in out
    assert "0 enhanced, 1 kept, 0 failed." in out
    assert semillie(source, "--overwrite")[0] == 0
    assert len(pictures(target)) == len(LIGHTS)


@pytest.mark.parametrize("output", [(), ("-o", "done")], ids=["beside", "in a folder"])
def test_the_same_call_again_finds_all_done(semillie, night, tmp_path, output, monkeypatch):
    monkeypatch.chdir(tmp_path)
    night("a.mp4", LIGHTS[:2]), night("b.mov", LIGHTS[:2])
    call = ("**/*.m*", *output, "--steady-frames", 1)
    assert "2 enhanced, 0 kept, 0 failed." in semillie(*call)[1]
    files = sorted(tmp_path.rglob("*.m*"))
    assert "0 enhanced, 2 kept, 0 failed." in semillie(*call)[1]
    assert sorted(tmp_path.rglob("*.m*")) == files


def test_several_videos_go_into_a_folder_and_one_that_fails_stops_none(semillie, night, tmp_path):
    night("one/clip.mp4"), night("two/clip.mp4")
    broken = tmp_path / "three" / "broken.mp4"
    broken.parent.mkdir()
    broken.write_text("no video")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    output = tmp_path / "results" / "today"
    status, out, err = semillie(
        tmp_path / "one" / "clip.mp4", broken, tmp_path / "*" / "clip.mp4", "-o", output
    )
    assert status == 1
    assert f"failed: {broken} is no video that can be read, or it is damaged." in err
    assert "2 enhanced, 0 kept, 1 failed." in out
    assert sorted(path.name for path in output.iterdir()) == ["clip-2.mp4", "clip.mp4"]
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*") if path.is_file()} == before


def test_kinds_that_are_not_written_become_others(semillie, night, tmp_path):
    for name, options in {
        "a.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
        "b.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "sound": "pcm_u8"},
        "c.MOV": {},
    }.items():
        night(name, **options)
    assert semillie(tmp_path / "[abc].*")[0] == 0
    results = sorted(path.name for path in tmp_path.glob("*_enhanced.*"))
    assert results == ["a_enhanced.mp4", "b_enhanced.mp4", "c_enhanced.mov"]


def test_of_high_dynamic_range_the_result_is_of_standard_range(semillie, night, tmp_path):
    if int(av.__version__.split(".")[0]) < 18:
        pytest.skip("PyAV knows BT.2020's matrix from version 18 on")
    status, said, _ = semillie(night("a.mp4", pixels="yuv420p10le", transfer=18))
    assert status == 0
    assert "a.mp4 is of high dynamic range (HLG), the result of standard range." in said
    assert not Video(tmp_path / "a_enhanced.mp4").high_range


def test_calls_that_make_no_sense_are_refused(semillie, night, tmp_path):
    source, other = night("night.mp4"), night("other.mp4")
    for arguments, says in {
        (source, "--crf", 52): "--crf must be between 0 and 51",
        (source, "--crf", -1): "--crf must be between 0 and 51",
        (source, "--steady-frames", 0): "--steady-frames must be at least 1",
        (source, "--strength", 3): "--strength must be",
        (source, "-o", source): "would overwrite the video itself",
        (source, other, "-o", tmp_path / "all.mp4"): "is one file, but there are 2 videos",
        (source, "-o", tmp_path / "new.webm"): "end a file's name in .mp4",
        (source, "-o", tmp_path / "new.png"): "end a file's name in .mp4",
    }.items():
        status, out, err = semillie(*arguments)
        assert (status, out) == (2, ""), arguments
        assert says in err
    assert sorted(tmp_path.glob("*")) == [source, other]


def test_the_command_knows_what_is_written():
    assert tuple(CONTAINERS) == command._WRITABLE


def test_what_names_no_video_is_said(semillie, night, tmp_path):
    source = night("night.mp4")
    status, out, err = semillie(tmp_path, tmp_path / "missing.mp4", tmp_path / "*.mkv", "", source)
    assert status == 1
    assert "1 enhanced" in out
    assert f"{tmp_path} is a folder. Name its videos, as in" in err
    assert "missing.mp4 does not exist" in err
    assert "*.mkv matches no video" in err
    assert "An empty argument" in err


def test_an_interrupt_leaves_nothing(semillie, night, monkeypatch):
    source = night("night.mp4")
    frames = writing._frames

    def stopped(*args):
        yield next(frames(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_frames", stopped)
    assert semillie(source)[0] == 130
    assert list(source.parent.iterdir()) == [source]


def test_photos_and_videos_are_sent_to_each_others_command(semillie, night, repository):
    source = night("night.mp4")
    photo = repository / "samples" / "meadow.jpg"
    assert "Brighten it with `semillie enhance`" in semillie(photo)[2]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["enhance", str(source)]) == 1
    assert "semillie video" in err.getvalue()


def test_without_pyav_the_remedy_is_named(semillie, night, monkeypatch):
    source = night("night.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = semillie(source)
    assert status == 2
    assert "pip install av" in err
