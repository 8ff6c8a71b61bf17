"""Pictures of a video, one after the other."""

from __future__ import annotations

import pytest
import torch

from semillie_core.inference import EnhanceControls, enhance
from semillie_core.inference.video import enhance_video, measure_video
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.video_io import Picture
from semillie_core.weights import SemiLLIEModel

TIMES = (0, 3, 4, 9, 12, 13, 20)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=4, thumbnail=16)
    network = SemiLLIE(config)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return SemiLLIEModel(network, "test")


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(1)
    texture = torch.rand(3, 40, 56, generator=generator) * 0.3
    return [Picture(texture * (0.5 + 0.2 * (i % 2)), time, i + 1) for i, time in enumerate(TIMES)]


@pytest.mark.parametrize("frames", [5, 1])
def test_gives_what_enhance_does_with_all_frames_at_once(model, pictures, frames):
    controls = EnhanceControls(brightness=0.2)
    steady = measure_video(model, iter(pictures), frames) if frames > 1 else None
    result = list(enhance_video(model, iter(pictures), steady, controls=controls))
    batch = torch.stack([picture.pixels for picture in pictures])
    expected = enhance(model, batch, controls=controls, steady_frames=frames).image
    torch.testing.assert_close(
        torch.stack([picture.pixels for picture in result]), expected, atol=1e-5, rtol=0
    )
    assert tuple(picture.time for picture in result) == TIMES
    assert [picture.duration for picture in result] == [1, 2, 3, 4, 5, 6, 7]


def test_a_few_pictures_are_read_ahead(model, pictures):
    read = []

    def source():
        for picture in pictures:
            read.append(picture.time)
            yield picture

    result = enhance_video(model, source(), measure_video(model, pictures, 5))
    next(result)
    assert len(read) == 3


@pytest.mark.parametrize("steady", [True, False])
def test_a_check_that_raises_stops_the_work(model, pictures, steady):
    class Stop(BaseException):
        pass

    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls > 30:
            raise Stop

    with pytest.raises(Stop):
        list(
            enhance_video(
                model, iter(pictures), measure_video(model, pictures, 5) if steady else None, check=check
            )
        )
    assert calls == 31


def test_memory_that_runs_out_makes_the_tiles_smaller_for_good(model):
    sizes = []
    broken = MemoryError("out of memory")

    def watch(module, inputs):
        sizes.append(max(inputs[0].shape[2:]))
        if sizes[-1] > 200:
            raise broken

    pictures = [Picture(torch.rand(3, 140, 300) * 0.2, time) for time in range(3)]
    steady = measure_video(model, pictures, 5)
    handle = model.network.conv_first.register_forward_pre_hook(watch)
    try:
        result = list(enhance_video(model, pictures, steady, out_of_memory=lambda error: error is broken))
    finally:
        handle.remove()
    assert len(result) == 3
    assert sum(size > 200 for size in sizes) == 1


def test_pictures_that_fail_and_too_few_of_them_are_errors(model, pictures):
    steady = measure_video(model, pictures, 5)

    def failing():
        yield from pictures[:4]
        raise OSError("the disk is gone")

    done = []
    with pytest.raises(OSError, match="the disk is gone"):
        done.extend(enhance_video(model, failing(), steady))
    with pytest.raises(ValueError, match="fewer pictures than before"):
        done.extend(enhance_video(model, iter(pictures[:4]), steady))
