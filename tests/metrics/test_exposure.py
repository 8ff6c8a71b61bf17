"""Clipping, histogram and lightness order against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semillie_core.colour import linear_to_srgb
from semillie_core.metrics import clipping, exposure_error, histogram, loe, mean_luminance, niqe


def lightness_order_error(after, before):
    """Pair by pair, in plain loops: (H, W, 3) arrays of 0...255."""

    def samples(image):
        light = np.round(image.max(axis=2))
        height, width = light.shape
        step = max(1, min(height, width) // 50)
        rows = range(step - 1, height, step)
        columns = range(step - 1, width, step)
        return np.array(
            [light[max(0, i - 7) : i + 8, max(0, j - 7) : j + 8].max() for i in rows for j in columns]
        )

    a, b = samples(after), samples(before)
    return sum(((a >= a[i]) != (b >= b[i])).sum() for i in range(len(a))) / len(a)


@pytest.mark.parametrize("size", [(33, 20), (104, 170), (475, 460)])
def test_loe_matches_brute_force(size):
    before, after = torch.rand(2, 2, 3, *size, dtype=torch.float64) ** 3
    expected = [
        lightness_order_error(255 * a.permute(1, 2, 0).numpy(), 255 * b.permute(1, 2, 0).numpy())
        for a, b in zip(after, before, strict=True)
    ]
    assert min(expected) > 0
    assert loe(after, before).tolist() == pytest.approx(expected, abs=1e-9)


def test_loe_ignores_any_order_preserving_change():
    levels = torch.randint(0, 12, (1, 3, 4, 4)).repeat_interleave(20, 2).repeat_interleave(20, 3) * 20 / 255
    assert loe(levels**0.5, levels).item() == 0
    assert loe(1 - levels, levels).item() > 100


def test_loe_of_what_is_no_number_is_none():
    output, source = torch.rand(2, 3, 3, 60, 50)
    expected = loe(output, source)
    output[1, 2, 30, 20] = source[0, 0, 5, 5] = math.nan
    found = loe(output, source)
    assert found[:2].isnan().all()
    assert found[2] == expected[2]


def test_loe_takes_values_outside_as_the_end_levels():
    output, source = torch.rand(2, 1, 3, 4, 4).repeat_interleave(20, 3).repeat_interleave(20, 4) * 1.6 - 0.4
    assert loe(output, source) == loe(output.clamp(0, 1), source.clamp(0, 1)) > 0


def test_exposure_error_is_in_stops_of_linear_light():
    light = torch.rand(2, 3, 8, 9, dtype=torch.float64) * 0.25
    photo = linear_to_srgb(light)
    assert exposure_error(photo, photo).tolist() == [0, 0]
    assert exposure_error(linear_to_srgb(4 * light), photo).tolist() == pytest.approx([2, 2])
    assert exposure_error(photo, linear_to_srgb(2 * light)).tolist() == pytest.approx([-1, -1])
    grey = photo[:, :1]
    assert exposure_error(grey.expand(-1, 3, -1, -1), photo[:, 1:2].expand(-1, 3, -1, -1)).tolist() == (
        pytest.approx(exposure_error(grey, photo[:, 1:2]).tolist())
    )


def test_exposure_error_weighs_colours_like_the_eye():
    def only(channel):
        image = torch.zeros(1, 3, 4, 4)
        image[:, channel] = 0.5
        return image

    assert exposure_error(only(1), only(2)).item() == pytest.approx(math.log2(0.7152 / 0.0722))


def test_exposure_error_of_black_is_finite():
    black = torch.zeros(1, 3, 4, 4)
    assert exposure_error(black, black).item() == 0
    assert -17 < exposure_error(black, torch.ones(1, 3, 4, 4)).item() < -15


def test_clipping_counts_any_channel_high_and_all_channels_low():
    image = torch.full((2, 3, 10, 10), 0.5)
    image[0, 0, 0, :3] = 1.0
    image[0, :, 1, :5] = 0.0
    image[0, 1, 2, :] = 0.0  # one channel only: still a colour
    highlights, shadows = clipping(image)
    assert highlights.tolist() == pytest.approx([0.03, 0.0])
    assert shadows.tolist() == pytest.approx([0.05, 0.0])


def test_clipping_goes_by_8_bit_levels():
    levels = torch.tensor([0.0, 0.4, 0.6, 254.0, 254.4, 254.6, 255.0]) / 255
    highlights, shadows = clipping(levels.view(1, 1, 1, 7))
    assert (highlights.item(), shadows.item()) == pytest.approx((2 / 7, 2 / 7))


def test_histogram_matches_numpy():
    image = torch.rand(2, 3, 30, 40, dtype=torch.float64)
    image[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    shares = histogram(image, bins=16)
    assert shares.shape == (2, 4, 16)
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(2, 4))
    for b in range(2):
        planes = [0.299 * image[b, 0] + 0.587 * image[b, 1] + 0.114 * image[b, 2], *image[b]]
        for row, plane in zip(shares[b], planes, strict=True):
            expected = np.histogram(plane.numpy(), bins=16, range=(0, 1))[0] / plane.numel()
            assert np.abs(row.numpy() - expected).max() < 1e-6


def test_histogram_counts_every_pixel_of_a_large_dark_photo():
    # More pixels of one level than float32 can count.
    image = torch.full((1, 1, 1, 1), 0.02).expand(1, 3, 4096, 4200)
    shares = histogram(image, bins=4)
    assert shares[0].tolist() == [[1, 0, 0, 0]] * 4


def test_histogram_puts_values_outside_into_the_end_levels():
    image = torch.tensor([-math.inf, -1.0, 0.5, 2.0, math.inf]).expand(1, 3, 1, 5)
    assert histogram(image, bins=4)[0, 1].tolist() == pytest.approx([0.4, 0, 0.2, 0.4])


class WithoutDouble(torch.Tensor):
    """A tensor on a device that has no float64."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        if func is torch.Tensor.double:
            raise TypeError("no float64 on this device")
        if func is torch.Tensor.cpu:
            return torch.from_numpy(args[0].numpy())
        return super().__torch_function__(func, types, args, kwargs or {})


def test_devices_without_double_precision_score_alike():
    before, after = torch.rand(2, 3, 96, 192) * 0.3, torch.rand(2, 3, 96, 192)
    there = [images.as_subclass(WithoutDouble) for images in (after, before)]
    for metric in (exposure_error, loe):
        assert torch.equal(metric(*there), metric(after, before))
    assert torch.equal(niqe(there[0]), niqe(after))


def test_mean_luminance_weighs_the_channels():
    image = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    assert mean_luminance(image).item() == pytest.approx(0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.9)
    assert mean_luminance(image[:, 1:2]).item() == pytest.approx(0.5)
