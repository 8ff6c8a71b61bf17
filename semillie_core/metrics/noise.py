"""Noise: estimated blindly per luminance band, and measured on patches known to be flat."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ._images import as_images, rec601_luma
from .colour import rgb_to_lab

PATCH = 16
"""Edge of the patches in pixels."""

BANDS = ("shadows", "midtones", "highlights")
BAND_LIMITS = (0.25, 0.70)
"""Mean display-encoded luma of a patch that ends the shadows and begins the highlights."""

_FLATTEST = 0.2
_FEWEST_PATCHES = 4
_CLIPPED_SHARE = 0.1


class NoiseLevels(NamedTuple):
    """Standard deviation of the noise per band; each ``(B, 3)`` in the order of :data:`BANDS`.

    NaN where a picture has too few patches of a band.
    """

    luma: Tensor
    """Of the luma, in units of the [0, 1] range."""
    chroma: Tensor
    """Of the colour (root of the summed Cb and Cr variances), in units of the [0, 1] range."""
    relative: Tensor
    """Luma noise divided by the luma it sits on: unchanged by scaling the exposure."""


def noise_levels(images: Tensor) -> NoiseLevels:
    """Estimate the noise of each image from its flattest patches.

    Each 16x16 patch is rated by the mean absolute response to the difference of two Laplacians, which ignores
    constant and linear shading (Immerkær, CVIU 64(2), 1996). Of each band's patches the fifth with the least
    coarse structure (spread of 4x4 means around a plane) counts, and their median is the estimate. Right for
    white Gaussian noise; fine texture without any flat place reads as noise, and blurred noise reads low.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        Noise per image and band.

    Raises:
        ValueError: Not ``(B, 3, H, W)``.
    """
    images = as_images(images, channels=(3,))
    y = rec601_luma(images)
    planes = torch.stack((y, 0.564 * (images[:, 2] - y), 0.713 * (images[:, 0] - y)), dim=1)
    rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
    if rows * columns < _FEWEST_PATCHES:
        nothing = y.new_full((len(images), len(BANDS)), torch.nan)
        return NoiseLevels(nothing, nothing, nothing)

    sigma = _patches(_laplacian_difference(planes).abs()).mean(dim=-1) * math.sqrt(math.pi / 2)
    pixels = _patches(y.unsqueeze(1))[:, 0]
    brightness = pixels.mean(dim=-1)
    clipped = ((pixels <= 0.5 / 255) | (pixels >= 254.5 / 255)).float().mean(dim=-1) > _CLIPPED_SHARE
    structure = _plane_residual(_patches(F.avg_pool2d(y.unsqueeze(1), 4), 4))[:, 0]

    luma_noise, chroma_noise = sigma[:, 0], torch.hypot(sigma[:, 1], sigma[:, 2])
    relative = luma_noise / brightness.clamp_min(0.5 / 255)
    band = torch.bucketize(brightness, brightness.new_tensor(BAND_LIMITS), right=True)
    estimates = y.new_full((3, len(images), len(BANDS)), torch.nan)
    for i in range(len(images)):
        for b in range(len(BANDS)):
            of_band = ((band[i] == b) & ~clipped[i]).nonzero().squeeze(1)
            if len(of_band) < _FEWEST_PATCHES:
                continue
            count = max(_FEWEST_PATCHES, int(_FLATTEST * len(of_band)))
            flattest = of_band[structure[i, of_band].argsort()[:count]]
            for k, noise in enumerate((luma_noise, chroma_noise, relative)):
                estimates[k, i, b] = noise[i, flattest].median()
    return NoiseLevels(*estimates)


def flat_patches(reference: Tensor, limit: float = 0.01) -> Tensor:
    """Find the patches of clean references that show nothing but smooth shading.

    Args:
        reference: Clean images, ``(B, 3, H, W)`` in [0, 1].
        limit: Largest standard deviation of the luma around a plane, in units of the [0, 1] range.

    Returns:
        Boolean ``(B, patches)``, 16x16 patches in row-major order from the top left corner.
    """
    reference = as_images(reference, "reference", channels=(3,))
    return _plane_residual(_patches(rec601_luma(reference).unsqueeze(1)))[:, 0] < limit


class PatchDeviation(NamedTuple):
    """What each 16x16 patch, ``(B, patches)``, deviates from smooth shading, in CIE L*a*b* units."""

    lightness_mean: Tensor
    """Mean L*."""
    lightness: Tensor
    """Standard deviation of L* around a plane."""
    chroma: Tensor
    """Root of the summed variances of a* and b* around planes: colour blotches as well as grain."""


def patch_deviation(images: Tensor) -> PatchDeviation:
    """Measure patches of known flatness: there all deviation is noise, of any grain size up to a patch.

    Args:
        images: sRGB, ``(B, 3, H, W)`` in [0, 1].

    Returns:
        Mean lightness and deviations per patch, in the order of :func:`flat_patches`.
    """
    patches = _patches(rgb_to_lab(as_images(images, channels=(3,))))
    deviation = _plane_residual(patches)
    return PatchDeviation(
        patches[:, 0].mean(dim=-1), deviation[:, 0], torch.hypot(deviation[:, 1], deviation[:, 2])
    )


def _laplacian_difference(planes: Tensor) -> Tensor:
    """High-pass response of ``(B, C, H, W)``, same shape, that leaves white noise its standard deviation."""
    taps = planes.new_tensor((1.0, -2.0, 1.0)) / math.sqrt(6)
    kernel = torch.outer(taps, taps).expand(planes.shape[1], 1, 3, 3)
    with full_precision(planes.device):
        return F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="reflect"), kernel, groups=planes.shape[1])


def _patches(planes: Tensor, edge: int = PATCH) -> Tensor:
    """``(B, C, H, W) -> (B, C, patches, edge²)``; what does not fill a patch is left out."""
    batch, channels, height, width = planes.shape
    rows, columns = height // edge, width // edge
    tiles = planes[:, :, : rows * edge, : columns * edge].reshape(batch, channels, rows, edge, columns, edge)
    return tiles.transpose(3, 4).reshape(batch, channels, rows * columns, edge * edge)


def _plane_residual(patches: Tensor) -> Tensor:
    """Standard deviation of square patches ``(..., edge²)`` around their least-squares planes."""
    edge = math.isqrt(patches.shape[-1])
    ramp = torch.arange(edge, dtype=patches.dtype, device=patches.device) - (edge - 1) / 2
    ramp = ramp / (ramp.square().sum() * edge).sqrt()
    centred = patches - patches.mean(dim=-1, keepdim=True)
    across, down = ramp.repeat(edge), ramp.repeat_interleave(edge)
    with full_precision(patches.device):
        slopes = (centred @ across).square() + (centred @ down).square()
    free = patches.shape[-1] - 3
    return ((centred.square().sum(dim=-1) - slopes).clamp_min(0) / free).sqrt()
