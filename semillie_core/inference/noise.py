"""Noise that brightening left, taken out of the enhanced image.

The network works at a fraction of the photo's resolution and leaves grain in what it lifted, and blotches of many
pixels where cameras and JPEG have smoothed the grain. An edge-preserving filter takes both out, at one scale after the
other: the guided filter with the image as its own guide (He et al., TPAMI 2013), which for every neighbourhood is the
local Wiener filter, so structure that stands clear of the noise stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import luma

NOISE = ((0.004, 0.009), (0.0035, 0.002), (0.0035, 0.002), (0.0035, 0.002))
"""Standard deviations, in sRGB values of [0, 1], of what counts as noise where luma was doubled: of luma and of the
differences to it, for the photo and for its versions of half, a quarter and an eighth of the size. Chosen on LOL
validation pairs, by SSIM and LPIPS; LPIPS alone would leave the coarse colour blotches."""

BLACK = 0.25 / 255, 1.5 / 255
"""Luma of an area of the original up to which its colour is not known, and from which it is: below one step of 8 bits
a camera's black level and JPEG decide it. Chosen on LOL validation pairs, where the colours of such areas in the
enhanced image and in the reference have little in common."""

RADIUS = 2
"""Pixels that a neighbourhood reaches to each side."""

_REACH = 2 * RADIUS
_DARKEST = 0.004  # luma of one step of 8 bits
_ROUNDING = 1e-10
_BAND = 1 << 18
"""Pixels that are filtered at once, which bounds memory."""


def reduce_noise(original: Tensor, enhanced: Tensor, amount: float = 1.0) -> Tensor:
    """Smooth what may be noise of the original, as strongly as it was brightened.

    The standard deviation that counts as noise in a neighbourhood is that of :data:`NOISE` times ``sqrt(gain - 1)``,
    with the gain from the original's luma to the enhanced image's: the variance of shot noise grows with the gain, and
    what was not brightened stays as it is. Areas that were :data:`black <BLACK>` and were brightened lose their colour.

    Args:
        original: The dark photos, ``(B, 3, H, W)`` in [0, 1].
        enhanced: What became of them, same shape and device.
        amount: Factor on the expected noise; 0 returns ``enhanced``.

    Returns:
        ``(B, 3, H, W)`` float32, not clamped.
    """
    if not amount:
        return enhanced
    return _smooth(original.float(), enhanced.float(), amount, scale=0)


def _smooth(original: Tensor, enhanced: Tensor, amount: float, scale: int) -> Tensor:
    """Filter an image that is reduced ``scale`` times: first its coarser versions, then itself."""
    batch, _, height, width = enhanced.shape
    if scale + 1 < len(NOISE):
        small_original, small = _halve(original), _halve(enhanced)
        change = _smooth(small_original, small, amount, scale + 1) - small
        enhanced = enhanced + F.interpolate(change, scale_factor=2, mode="bilinear")[..., :height, :width]
    rows = max(_BAND // (batch * width), _REACH)
    result = torch.empty_like(enhanced)
    for top in range(0, height, rows):
        first, last = max(top - _REACH, 0), min(top + rows + _REACH, height)
        part = (..., slice(first, last), slice(None))
        band = _filter(original[part], enhanced[part], amount, scale)
        result[..., top : top + rows, :] = band[..., top - first : top - first + rows, :]
    return result


def _halve(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)


def _filter(original: Tensor, enhanced: Tensor, amount: float, scale: int) -> Tensor:
    values = luma_and_colour(enhanced)
    squares = values.square()
    means = neighbourhood_mean(values)
    spread = neighbourhood_mean(torch.cat([squares[:, :1], squares[:, 1:].sum(1, keepdim=True)], dim=1))
    squared_means = means.square()
    spread -= torch.cat([squared_means[:, :1], squared_means[:, 1:].sum(1, keepdim=True)], dim=1)
    dark = neighbourhood_mean(luma(original))
    gain = means[:, :1] / dark.clamp_min(_DARKEST)
    noise = amount**2 * _variance(gain, scale)
    spread.clamp_(min=_ROUNDING)
    keep = (spread / (spread + noise))[:, [0, 1, 1, 1]]
    result = neighbourhood_mean(keep) * values + neighbourhood_mean(means - keep * means)
    light, colour = result[:, :1], result[:, 1:]
    if scale + 1 == len(NOISE):
        unknown = ((BLACK[1] - dark) / (BLACK[1] - BLACK[0])).clamp(0, 1)
        colour = colour * (1 - unknown * (amount * (gain - 1)).clamp(0, 1))
    return light + colour


def luma_and_colour(image: Tensor) -> Tensor:
    """Luma and the three differences to it, ``(B, 4, H, W)``."""
    light = luma(image)
    return torch.cat([light, image - light], dim=1)


def expected_noise(original: Tensor, enhanced: Tensor) -> Tensor:
    """Variances of what counts as noise in the neighbourhood of each pixel, of luma and of the differences to it.

    Args:
        original: The dark photos, ``(B, 3, H, W)`` in [0, 1].
        enhanced: What became of them, same shape and device.

    Returns:
        ``(B, 2, H, W)``.
    """
    light, dark = (neighbourhood_mean(luma(image)) for image in (enhanced, original))
    return _variance(light / dark.clamp_min(_DARKEST), scale=0)


def _variance(gain: Tensor, scale: int) -> Tensor:
    return (gain - 1).clamp_min(0) * gain.new_tensor(NOISE[scale]).view(1, 2, 1, 1).square()


def neighbourhood_mean(values: Tensor) -> Tensor:
    """Mean over :data:`RADIUS` pixels on all sides of ``(B, C, H, W)``, with the border repeated."""
    height, width = values.shape[2:]
    size = 2 * RADIUS + 1
    padded = F.pad(values, (RADIUS,) * 4, mode="replicate")
    # Sums of shifted views: on a CPU several times faster than pooling.
    rows = padded[:, :, :height].clone()
    for shift in range(1, size):
        rows += padded[:, :, shift : shift + height]
    both = rows[..., :width].clone()
    for shift in range(1, size):
        both += rows[..., shift : shift + width]
    return both.div_(size**2)
