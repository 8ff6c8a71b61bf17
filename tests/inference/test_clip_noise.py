"""Noise of a clip, averaged out over its frames."""

import pytest
import torch
import torch.nn.functional as F

from semillie_core.inference import (
    NETWORK_ALONE,
    NOISE_REDUCTION_ALONE,
    EnhanceControls,
    clip_noise,
    enhance,
)
from semillie_core.inference.clip_frames import ClipFrames
from semillie_core.inference.clip_light import measure_light, steady_light
from semillie_core.inference.clip_noise import REACH, average_frames
from semillie_core.inference.noise import reduce_noise
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import SemiLLIEModel

LIGHT, SIGMA = 0.1, 0.008
"""Frames have a tenth of the light they are shown with; this noise counts as such there."""


def scene(height=150, width=180, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator)
    return 0.3 + 0.4 * F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)


def noisy(clean, sigma=SIGMA):
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))


def average(clean, frames, amount=1.0):
    pairs = zip((LIGHT * clean).split(1), frames.split(1), strict=True)
    return torch.cat(list(average_frames(pairs, amount)))


def pan(picture, frames, down, right, height=96, width=110):
    assert down * (frames - 1) + height <= picture.shape[2]
    return torch.cat(
        [picture[..., down * i : down * i + height, right * i : right * i + width] for i in range(frames)]
    )


def test_frames_of_a_still_camera_are_averaged_with_two_on_each_side():
    clean = scene().expand(7, -1, -1, -1)
    error = (average(clean, noisy(clean)) - clean).std((1, 2, 3)) / SIGMA
    expected = [3**-0.5, 4**-0.5, *[5**-0.5] * 3, 4**-0.5, 3**-0.5]
    torch.testing.assert_close(error, torch.tensor(expected), atol=0.02, rtol=0)


@pytest.mark.parametrize(("down", "right"), [(3, 5), (0, 1), (7, 0)])
def test_frames_of_a_moving_camera_are_laid_over_each_other(down, right):
    clean = pan(scene(), 6, down, right)
    backwards = clean.flip(0)
    for clip in (clean, backwards):
        error = (average(clip, noisy(clip)) - clip)[2, :, 20:-20, 20:-20]
        assert error.std() / SIGMA == pytest.approx(5**-0.5, abs=0.03)


def test_displacements_of_large_frames_are_found_at_reduced_size(monkeypatch):
    clean = pan(scene(400, 420), 5, 9, 6, 300, 360)
    monkeypatch.setattr(clip_noise, "_ALIGNED_SIZE", 120)
    error = (average(clean, noisy(clean)) - clean)[2, :, 40:-40, 40:-40]
    assert error.std() / SIGMA < 0.6


def test_what_moves_otherwise_leaves_no_ghost():
    clean = scene().repeat(5, 1, 1, 1)
    for index, frame in enumerate(clean):
        frame[:, 40:80, 20 + 15 * index : 60 + 15 * index] = 0.9
    frames = noisy(clean)
    change = (average(clean, frames) - clean).abs()
    assert change.max() < 6 * SIGMA
    # Both where the thing is and where it was a frame before.
    assert change[2, :, 45:75, 40:85].mean() <= (frames - clean)[2].abs().mean()


def test_frames_that_show_something_else_stay_as_they_are():
    clean = torch.cat([0.5 * scene(seed=seed) + 0.4 * seed for seed in range(3)])
    frames = noisy(clean)
    torch.testing.assert_close(average(clean, frames), frames, atol=SIGMA, rtol=0)


def test_what_was_not_brightened_stays_as_it_is():
    clean = scene().expand(4, -1, -1, -1)
    frames = noisy(clean)
    kept = torch.cat(list(average_frames(zip(frames.split(1), frames.split(1), strict=True))))
    torch.testing.assert_close(kept, frames, atol=1e-6, rtol=0)


def test_the_amount_says_what_counts_as_noise():
    clean = scene().expand(5, -1, -1, -1)
    frames = noisy(clean, 3 * SIGMA)
    errors = [(average(clean, frames, amount) - clean)[2].std() for amount in (0.3, 1.0, 3.0)]
    assert errors[0] > 2 * SIGMA > errors[2] and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("count", range(7))
def test_every_frame_comes_out_in_its_turn_and_few_are_kept(count):
    taken = []

    def frames():
        for index in range(count):
            taken.append(index)
            # Too different to be averaged.
            frame = torch.full((1, 3, 9, 8), 0.1 + 0.1 * index)
            yield 0.5 * frame, frame

    for index, frame in enumerate(average_frames(frames())):
        assert len(taken) == min(index + 1 + REACH, count)
        torch.testing.assert_close(frame, torch.full_like(frame, 0.1 + 0.1 * index))
    assert len(taken) == count and (count == 0 or index == count - 1)


def test_frames_of_another_size_are_no_neighbours():
    frames = [torch.rand(1, 3, *size) for size in ((8, 9), (9, 8), (1, 1), (1, 1))]
    for before, after in zip(frames, average_frames((0.1 * f, f) for f in frames), strict=True):
        assert before.shape == after.shape


def test_bands_change_nothing(monkeypatch):
    clean = pan(scene(), 4, 3, 5)
    frames = noisy(clean)
    whole = average(clean, frames)
    monkeypatch.setattr(clip_noise, "_BAND", 7 * clean.shape[3])
    torch.testing.assert_close(average(clean, frames), whole, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = SemiLLIEConfig(
        embed_dim=32, depths=(1,), d_state=4, expand=1.0, downscale=4, thumbnail=32, thumbnail_depth=1
    )
    return SemiLLIE(config).eval()


def test_enhance_averages_the_frames_of_each_shot(network):
    shots = [noisy(LIGHT * scene(48, 60, seed).expand(4, -1, -1, -1), 1 / 255) for seed in (0, 1)]
    clip = torch.cat([shots[0], 1 - shots[1]])

    def run(images, controls=NOISE_REDUCTION_ALONE, **options):
        return enhance(network, images, controls=controls, steady_frames=6, **options).image

    together = run(clip)
    torch.testing.assert_close(run(clip, batch_size=3), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([run(clip[:4]), run(clip[4:])]), together, atol=1e-5, rtol=0)

    def flicker(images):
        return (images[1:4] - images[:3]).abs().mean()

    by_themselves = reduce_noise(clip, run(clip, NETWORK_ALONE))
    assert flicker(together) < 0.6 * flicker(by_themselves)


@pytest.mark.parametrize("controls", [EnhanceControls(), NETWORK_ALONE])
def test_frames_read_one_by_one_give_what_the_clip_in_memory_gives(network, controls):
    clip = torch.cat([noisy(LIGHT * scene(48, 60, seed).expand(4, -1, -1, -1), 1 / 255) for seed in (0, 1)])
    expected = enhance(network, clip, controls=controls, steady_frames=6)
    reads = []

    def read(index):
        reads.append(index)
        return clip[index]

    steady = steady_light([measure_light(network, clip)], 6)
    frames = ClipFrames(SemiLLIEModel(network, "test"), steady, read, controls)
    for index in (*range(8), 1):  # going back works, too
        result = frames.enhance(index)
        torch.testing.assert_close(result.image[0], expected.image[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(result.illumination[0], expected.illumination[index], atol=1e-5, rtol=0)
    assert len(reads) == 8 + (4 if controls.noise_reduction else 1)


def test_a_neighbour_that_cannot_be_read_is_left_out(network):
    clip = noisy(LIGHT * scene(48, 60).expand(4, -1, -1, -1), 1 / 255)
    steady = steady_light([measure_light(network, clip)], 6)

    def read(index):
        if index == 2:
            raise OSError("damaged")
        return clip[index]

    frames = ClipFrames(SemiLLIEModel(network, "test"), steady, read)
    whole = ClipFrames(SemiLLIEModel(network, "test"), steady, clip.__getitem__)
    assert not torch.equal(frames.enhance(1).image, whole.enhance(1).image)
    with pytest.raises(OSError, match="damaged"):
        frames.enhance(2)
    assert frames.enhance(3).image.shape == (1, 3, 48, 60)
