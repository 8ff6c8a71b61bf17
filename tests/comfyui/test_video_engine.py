"""Videos inside a running ComfyUI: from Load Video to Save Video."""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from client import Prompt, Run, Server

from semillie_core.inference import EnhanceControls, enhance
from semillie_core.video_io import Video
from semillie_core.weights import bundled_models, load_model

pytestmark = pytest.mark.engine

FRAMES, HEIGHT, WIDTH, RATE = 7, 48, 64, 25
MODEL = next(iter(bundled_models()))
CONTROLS = {
    "strength": 1.0,
    "brightness": 0.0,
    "saturation": 1.0,
    "protect_highlights": 1.0,
    "steady_frames": 24,
    "crf": 0,
    "tiling": "auto",
}


@pytest.fixture(scope="module")
def clip(server: Server) -> Path:
    """A dark clip with sound whose light pumps, as ``clip.mkv`` in the server's input folder."""
    path = server.base / "input" / "clip.mkv"
    texture = np.random.default_rng(0).uniform(0.5, 1.5, (HEIGHT, WIDTH, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p"
        tone = container.add_stream("aac", rate=48000)
        for index in range(FRAMES):
            deep = (texture * (0.1 + 0.05 * (index % 2)) * 65535).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(deep, format="rgb48le")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for index in range(12):
            samples = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            samples.sample_rate, samples.pts = 48000, index * 1024
            container.mux(tone.encode(samples))
        container.mux(tone.encode(None))
    return path


def graph(**controls) -> Prompt:
    """Load Video, Load Semi-LLIE Model, Semi-LLIE Enhance Video, Save Video."""
    return {
        "clip": {"class_type": "LoadVideo", "inputs": {"file": "clip.mkv"}},
        "model": {"class_type": "SemiLLIE_LoadModel", "inputs": {"model_name": MODEL, "dtype": "float32"}},
        "enhance": {
            "class_type": "SemiLLIE_EnhanceVideo",
            "inputs": {"model": ["model", 0], "video": ["clip", 0], **CONTROLS, **controls},
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["enhance", 0],
                "filename_prefix": "result",
                "format": "auto",
                "codec": "auto",
            },
        },
    }


def saved(server: Server, run: Run) -> tuple[Path, torch.Tensor]:
    assert run.status == "execution_success", run.error
    (path,) = server.saved(run, "save")
    return path, torch.stack([picture.pixels for picture in Video(path)])


def sound(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(audio=0))


@pytest.mark.parametrize("steady_frames", [24, 1])
def test_a_saved_video_is_what_the_core_makes_of_all_frames(
    server: Server, clip: Path, steady_frames: int
) -> None:
    controls = {"strength": 0.9, "brightness": 0.3, "noise_reduction": 0.5, "keep_well_lit": False}
    path, result = saved(server, server.run(graph(steady_frames=steady_frames, **controls)))
    source = torch.stack([picture.pixels for picture in Video(clip)])
    expected = enhance(
        load_model(MODEL), source, controls=EnhanceControls(**controls), steady_frames=steady_frames
    ).image
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 4 / 255
    assert (expected - source).abs().mean() > 0.1, "the network must have done something"
    assert sound(path) == sound(clip) != b""


def test_a_trimmed_video_and_one_that_nodes_made_are_enhanced(server: Server, clip: Path) -> None:
    trimmed = graph()
    trimmed["trim"] = {
        "class_type": "Video Slice",
        "inputs": {"video": ["clip", 0], "start_time": 0.08, "duration": 0.12, "strict_duration": False},
    }
    trimmed["enhance"]["inputs"]["video"] = ["trim", 0]
    made = graph()
    made["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["clip", 0]}}
    made["made"] = {
        "class_type": "CreateVideo",
        "inputs": {"images": ["parts", 0], "audio": ["parts", 1], "fps": float(RATE)},
    }
    made["enhance"]["inputs"]["video"] = ["made", 0]
    source = torch.stack([picture.pixels for picture in Video(clip)])
    for prompt, frames in ((trimmed, slice(2, 5)), (made, slice(0, FRAMES))):
        path, result = saved(server, server.run(prompt))
        expected = enhance(load_model(MODEL), source[frames], steady_frames=24).image
        assert result.shape == expected.shape
        # Such videos are encoded by Save Video, at its own quality and with colours of half the resolution.
        assert (result - expected).abs().mean() < 0.05
        assert sound(path) != b""


def test_progress_shows_frames_and_never_falls(server: Server, clip: Path) -> None:
    run = server.run(graph(crf=1))
    assert run.status == "execution_success", run.error
    values = [value for value, _ in run.progress["enhance"]]
    assert values == sorted(values) and values[-1] == 1000
    assert run.previews and all(preview[:2] == b"\xff\xd8" for preview in run.previews)


def test_a_cancelled_run_leaves_no_file(server: Server, clip: Path) -> None:
    prompt = graph(crf=2)
    prompt["slow"] = {
        "class_type": "Probe_SlowModel",
        "inputs": {"model": ["model", 0], "seconds": 1.0, "log": str(server.base / "slow.log")},
    }
    prompt["enhance"]["inputs"]["model"] = ["slow", 0]
    before = set((server.base / "temp").rglob("*"))

    def cancel() -> None:
        time.sleep(2)
        server.post("/interrupt", {})

    threading.Thread(target=cancel).start()
    run = server.run(prompt)
    assert run.status == "execution_interrupted"
    assert set((server.base / "temp").rglob("*")) == before


def test_what_is_wrong_with_a_video_is_said(server: Server) -> None:
    (server.base / "input" / "broken.mp4").write_text("no video")
    prompt = graph()
    prompt["clip"]["inputs"]["file"] = "broken.mp4"
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "broken.mp4 is no video that can be read, or it is damaged" in run.error
