"""Noise reduction: what it computes, what it takes out and what it leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from skimage.measure import block_reduce

from semillie_core.colour import luma
from semillie_core.inference import NETWORK_ALONE, NOISE_REDUCTION_ALONE, enhance, noise
from semillie_core.inference.noise import BLACK, NOISE, reduce_noise
from semillie_core.metrics import ssim
from semillie_core.weights import load_model

LIFT = 20.0
"""Gain of the made-up photos, in sRGB values."""


def lifted(*size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark photo of an edge, and the same brightened, with as much noise as counts as such."""
    generator = torch.Generator().manual_seed(0)
    noise = NOISE[0][0] * math.sqrt(LIFT - 1) / LIFT
    scene = torch.tensor([0.01, 0.03]).repeat_interleave(-(-size[1] // 2))[: size[1]].expand(1, 3, *size)
    noisy = scene + noise * torch.randn(1, 1, *size, generator=generator)
    return noisy, noisy * LIFT


def by_scipy(original: np.ndarray, enhanced: np.ndarray, amount: float, scale: int = 0) -> np.ndarray:
    """The guided filter with itself as guide over a pyramid, per image ``(3, H, W)``, in float64."""
    weights = np.array([0.2126, 0.7152, 0.0722])[:, None, None]

    def average(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, 5, mode="nearest", axes=(-2, -1))

    if scale + 1 < len(NOISE):
        small = [block_reduce(image, (1, 2, 2), np.mean) for image in (original, enhanced)]
        change = by_scipy(*small, amount, scale + 1) - small[1]
        for axis in (1, 2):
            here, last = np.arange(2 * change.shape[axis]) / 2 - 0.25, change.shape[axis] - 1
            left = np.floor(here).astype(int)
            share = np.expand_dims(here - left, tuple({0, 1, 2} - {axis}))
            near, far = (change.take(index.clip(0, last), axis) for index in (left, left + 1))
            change = (1 - share) * near + share * far
        enhanced = enhanced + change
    light = (weights * enhanced).sum(0)
    dark = average((weights * original).sum(0))
    gain = average(light) / np.maximum(dark, 0.004)
    parts = []
    for part, deviation in zip((light[None], enhanced - light), NOISE[scale], strict=True):
        mean = average(part)
        variance = (average(part**2) - mean**2).sum(0).clip(1e-10)
        slope = variance / (variance + (amount * deviation) ** 2 * (gain - 1).clip(0))
        parts.append(average(slope) * part + average((1 - slope) * mean))
    if scale + 1 == len(NOISE):
        unknown = np.interp(dark, BLACK, (1, 0)) * (amount * (gain - 1)).clip(0, 1)
        parts[1] *= 1 - unknown
    return parts[0] + parts[1]


@pytest.mark.parametrize("amount", [0.5, 1.0, 3.0])
def test_is_the_guided_filter_at_every_scale(amount):
    dark, bright = (torch.rand(2, 3, 24, 40) * scale for scale in (0.1, 1.0))
    dark[1] /= 20
    result = reduce_noise(dark, bright, amount)
    for image in range(2):
        expected = by_scipy(dark[image].double().numpy(), bright[image].double().numpy(), amount)
        torch.testing.assert_close(result[image], torch.from_numpy(expected).float(), atol=2e-6, rtol=0)


def test_blotches_go_too():
    coarse = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blotches = F.interpolate(coarse, scale_factor=8, mode="bicubic")
    dark = torch.full_like(blotches, 0.01)
    bright = dark * LIFT + NOISE[-1][0] * math.sqrt(LIFT - 1) * blotches
    result = reduce_noise(dark, bright)
    assert result.std() < 0.7 * bright.std()


def test_what_was_black_has_no_colour():
    dark = torch.zeros(1, 3, 128, 256)
    dark[..., 128:] = 0.03
    tinted = torch.tensor([0.12, 0.06, 0.08]).view(1, 3, 1, 1).expand_as(dark)
    result = reduce_noise(dark, tinted)
    torch.testing.assert_close(result[..., 192:], tinted[..., 192:])
    black = result[..., :64]
    assert black.amax(1).sub(black.amin(1)).max() < 0.01 / 255
    torch.testing.assert_close(luma(black), luma(tinted[..., :64]))
    # A black the network left as it is keeps its tint.
    torch.testing.assert_close(reduce_noise(dark + tinted / 1000, tinted / 1000), tinted / 1000)


def test_bands_change_nothing(monkeypatch):
    dark, bright = torch.rand(2, 3, 50, 20) * 0.1, torch.rand(2, 3, 50, 20)
    whole = reduce_noise(dark, bright)
    for pixels in (300, 1):
        monkeypatch.setattr(noise, "_BAND", pixels)
        assert torch.equal(reduce_noise(dark, bright), whole)


def test_noise_goes_and_edges_stay():
    dark, bright = lifted(64, 128)
    result = reduce_noise(dark, bright)
    left, right = (result[..., part].mean() for part in (slice(40, 60), slice(68, 88)))
    assert result[..., 10:50].std() < 0.6 * bright[..., 10:50].std()
    assert right - left == pytest.approx(0.02 * LIFT, rel=0.02)
    # The step itself is as steep as it was.
    assert (result[..., 64] - result[..., 63]).mean() > 0.95 * 0.02 * LIFT


def test_what_was_not_brightened_stays():
    photo = torch.rand(1, 3, 40, 40)
    torch.testing.assert_close(reduce_noise(photo, photo), photo)


def test_nothing_of_it_is_the_network_alone(photo_and_network):
    photo, network = photo_and_network
    alone = enhance(network, photo, controls=NETWORK_ALONE).image
    reduced = enhance(network, photo, controls=replace(NETWORK_ALONE, noise_reduction=2.0)).image
    assert torch.equal(alone, network.network(photo).image.clamp(0, 1))
    torch.testing.assert_close(reduced, reduce_noise(photo, alone, 2.0).clamp(0, 1), atol=1e-5, rtol=0)
    assert (reduced - alone).abs().max() > 1 / 255


def test_by_default_a_dark_photo_gets_all_of_it_and_nothing_else(photo_and_network):
    photo, network = photo_and_network
    expected = enhance(network, photo, controls=NOISE_REDUCTION_ALONE).image
    torch.testing.assert_close(enhance(network, photo).image, expected, atol=1e-3, rtol=0)
    assert NOISE_REDUCTION_ALONE.noise_reduction == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 2)])
def test_any_size(size):
    dark, bright = torch.rand(1, 3, *size) * 0.1, torch.rand(1, 3, *size)
    assert reduce_noise(dark, bright).shape == dark.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_full_comes_out(dtype):
    dark, bright = (image.to(dtype) for image in lifted(20, 20))
    result = reduce_noise(dark, bright)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, reduce_noise(dark.float(), bright.float()))


def test_results_come_nearer_to_references(shared_dir):
    from semillie_core.data import find_pairs, read_rgb

    model = load_model("semillie-compact")
    gains = []
    for pair in find_pairs(*(shared_dir / "data" / "lol_val" / side for side in ("low", "high")))[::9]:
        low, high = (read_rgb(path).unsqueeze(0).float() / 255 for path in (pair.low, pair.high))
        alone = enhance(model, low, controls=NETWORK_ALONE).image
        gains.append(ssim(reduce_noise(low, alone).clamp(0, 1), high) - ssim(alone, high))
    assert torch.cat(gains).mean() > 0.02


@pytest.fixture(scope="module")
def photo_and_network():
    torch.manual_seed(0)
    return torch.rand(1, 3, 24, 32) * 0.1, load_model("semillie-compact")
