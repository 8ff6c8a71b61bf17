"""Noise estimates against noise of known strength."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from semillie_core.metrics import flat_patches, noise_levels, patch_deviation, rgb_to_lab

LUMA_GAIN = math.sqrt(0.299**2 + 0.587**2 + 0.114**2)


def shaded(height=192, width=384):
    """Smooth shading from dark to bright with a hard edge through it."""
    ramp = torch.linspace(0.06, 0.9, width).expand(1, 3, height, width).clone()
    ramp[:, :, : height // 3] = ramp[:, :, : height // 3].flip(-1)
    return ramp


@pytest.mark.parametrize("sigma", [0.003, 0.01])
def test_white_noise_is_measured_in_every_band(sigma):
    levels = noise_levels(shaded() + sigma * torch.randn(1, 3, 192, 384))
    assert levels.luma[0].tolist() == pytest.approx([LUMA_GAIN * sigma] * 3, rel=0.1)
    # Cb = 0.564 (B - Y) and Cr = 0.713 (R - Y), whose noise follows from the weights of Y.
    blue = 0.564 * math.hypot(0.299, 0.587, 1 - 0.114) * sigma
    red = 0.713 * math.hypot(1 - 0.299, 0.587, 0.114) * sigma
    assert levels.chroma[0].tolist() == pytest.approx([math.hypot(blue, red)] * 3, rel=0.1)


def test_shading_and_edges_are_not_noise():
    assert noise_levels(shaded()).luma.max().item() < 1e-4


def test_noise_of_the_shadows_only_is_found_there():
    image = shaded()
    dark = image[:, :1] < 0.25
    levels = noise_levels(image + 0.02 * torch.randn(1, 3, 192, 384) * dark)
    assert levels.luma[0, 0].item() == pytest.approx(LUMA_GAIN * 0.02, rel=0.15)
    assert levels.luma[0, 1:].max().item() < 1e-4


def test_relative_noise_does_not_depend_on_exposure():
    image = (0.2 + 0.01 * torch.randn(1, 3, 128, 128)).clamp(0, 1)
    bright, dark = noise_levels(image).relative[0, 0], noise_levels(image / 5).relative[0, 0]
    torch.testing.assert_close(bright, dark)
    assert bright.item() == pytest.approx(LUMA_GAIN * 0.01 / 0.2, rel=0.1)


def test_the_flattest_fifth_of_a_band_counts():
    fine = 0.1 * torch.randn(1, 1, 160, 160)
    photo = 0.4 + F.interpolate(0.02 * torch.randn(1, 1, 40, 40), (160, 160)) + fine
    photo[..., :32] = 0.4 + 0.02 * torch.randn(160, 32)  # a fifth of the patches
    found = noise_levels(photo.expand(1, 3, 160, 160)).luma[0, 1].item()
    assert found == pytest.approx(0.02, rel=0.15)


def test_a_batch_is_measured_one_by_one():
    photos = torch.cat([shaded() + sigma * torch.randn(1, 3, 192, 384) for sigma in (0.01, 0.02)])
    for together, *alone in zip(noise_levels(photos), *map(noise_levels, photos.split(1)), strict=True):
        torch.testing.assert_close(together, torch.cat(alone))


def test_autocast_changes_nothing():
    photo = shaded() + 0.005 * torch.randn(1, 3, 192, 384)
    expected = *noise_levels(photo), flat_patches(photo), *patch_deviation(photo)
    with torch.autocast("cpu", torch.bfloat16):
        found = *noise_levels(photo), flat_patches(photo), *patch_deviation(photo)
    assert all(torch.equal(*values) for values in zip(found, expected, strict=True))


def test_missing_bands_and_small_images_have_no_estimate():
    levels = noise_levels(torch.full((1, 3, 64, 64), 0.1))
    assert levels.luma[0, 0].item() == pytest.approx(0, abs=1e-6)
    assert levels.luma[0, 1:].isnan().all()
    assert noise_levels(torch.rand(1, 3, 20, 20)).luma.isnan().all()
    for clipped in (0.0, 1.0):  # the noise has been cut off
        assert noise_levels(torch.full((1, 3, 64, 64), clipped)).luma.isnan().all()
    mixed = torch.full((1, 3, 64, 64), 0.1)
    mixed[..., 16:64, 16:] = 0.8  # nine patches
    mixed[..., :16, :48] = 0.5  # three
    assert noise_levels(mixed).luma[0].isnan().tolist() == [False, True, False]
    # The limits of a band are in the brighter one.
    assert noise_levels(torch.full((1, 3, 64, 64), 0.25)).luma[0].isnan().tolist() == [True, False, True]


def test_flat_patches_are_those_without_texture():
    reference = shaded(32, 64) * 0.2 + 0.3
    reference[:, :, :16] = 0.4
    reference[:, :, 16:, 16:32] += 0.05 * torch.randn(3, 16, 16)
    flat = flat_patches(reference)
    assert flat.tolist() == [[True, True, True, True, True, False, True, True]]


def test_patch_deviation_is_the_noise_around_a_plane():
    grey = torch.full((1, 3, 16, 32), 0.4)
    slope = torch.linspace(-0.05, 0.05, 16).view(1, 1, 16, 1)
    noisy = grey + slope + 0.004 * torch.randn(1, 1, 16, 32)  # the same in R, G and B: no colour noise
    clean, measured = patch_deviation(grey), patch_deviation(noisy)
    assert clean.lightness.max().item() < 1e-3
    lightness_per_value = (patch_deviation(grey + 0.01).lightness_mean - clean.lightness_mean) / 0.01
    expected = (0.004 * lightness_per_value)[0].tolist()
    assert measured.lightness[0].tolist() == pytest.approx(expected, rel=0.15)
    assert measured.chroma.max().item() < 1e-3
    coloured = patch_deviation(grey + 0.004 * torch.randn(1, 3, 16, 32))
    assert coloured.chroma.min().item() > 0.3


def test_patch_deviation_is_that_of_a_least_squares_fit():
    photo = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    rows, columns = torch.meshgrid(*[torch.arange(16, dtype=torch.float64)] * 2, indexing="ij")
    planes = torch.stack([torch.ones(256, dtype=torch.float64), rows.flatten(), columns.flatten()], dim=1)
    values = rgb_to_lab(photo)[0].flatten(1).T
    residual = values - planes @ torch.linalg.lstsq(planes, values).solution
    lightness, a, b = (residual.square().sum(0) / (256 - 3)).sqrt().tolist()
    found = patch_deviation(photo)
    assert found.lightness.item() == pytest.approx(lightness, rel=1e-9)
    assert found.chroma.item() == pytest.approx(math.hypot(a, b), rel=1e-9)
