"""NIQE, the Natural Image Quality Evaluator: how far a picture's statistics are from good photographs'.

Written from Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE
Signal Processing Letters 20(3), 2013. The model of good photographs (36 means, 36x36 covariances) is the one
that the authors released; its notice is in ``niqe_model.NOTICE.txt``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import REC601
from ..precision import in_double
from ._images import as_images

PATCH = 96
"""Patch edge in pixels at full scale, as the released model was fitted with."""

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(images: Tensor) -> Tensor:
    """NIQE of each image; lower is better, good photographs score about 3.

    Convention: on the 8-bit Y channel of BT.601 (16...235, rounded), 96x96 patches without overlap from the
    top left corner, second scale by antialiased bicubic halving. Flat pixels are neither bright nor dark, and
    patches without any texture are left out. Not differentiable.

    Args:
        images: ``(B, 1 or 3, H, W)`` in [0, 1], with room for at least two 96x96 patches.

    Returns:
        ``(B,)`` float64, on the CPU for devices without; NaN where fewer than two patches have texture.

    Raises:
        ValueError: Not such a batch, or the images are too small.
    """
    images = as_images(images, channels=(1, 3))
    rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
    if rows * columns < 2:
        raise ValueError(
            f"NIQE needs at least two {PATCH}x{PATCH} patches, got images of {images.shape[2]}x"
            f"{images.shape[3]} pixels (H x W)."
        )
    with torch.no_grad():
        y = _studio_y(in_double(images))[:, :, : rows * PATCH, : columns * PATCH]
        features = torch.cat((_features(y, PATCH), _features(_halve(y), PATCH // 2)), dim=-1)
        return torch.stack([_distance(patches) for patches in features])


def _studio_y(images: Tensor) -> Tensor:
    """8-bit Y of BT.601, 16...235, ``(B, 1, H, W)``."""
    weights = images.new_tensor(REC601) * 219
    y = 16.0 + torch.einsum("bchw,c->bhw", images.expand(-1, 3, -1, -1), weights)
    return y.round().unsqueeze(1)


def _halve(y: Tensor) -> Tensor:
    """Antialiased bicubic halving of ``(B, 1, H, W)``, H and W even, borders mirrored, as Matlab's imresize.

    ``F.interpolate`` cuts the kernel at the border instead, which moves the score by up to one per cent.
    """
    distance = (torch.arange(8, dtype=y.dtype, device=y.device) - 3.5).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance <= 1, near, far)
    taps = taps / taps.sum()
    for _ in range(2):  # columns, then rows
        y = torch.cat((y[..., :3].flip(-1), y, y[..., -3:].flip(-1)), dim=-1)
        y = F.conv2d(y, taps.view(1, 1, 1, -1), stride=(1, 2)).transpose(2, 3)
    return y


def _features(y: Tensor, patch: int) -> Tensor:
    """The 18 statistics of each patch, ``(B, 1, H, W) -> (B, patches, 18)``."""
    padded = F.pad(y, (3, 3, 3, 3), mode="replicate")
    # One row of patches at a time: the statistics need ten times the memory of what they are taken from.
    strips = [padded[:, :, top : top + patch + 6] for top in range(0, y.shape[2], patch)]
    return torch.cat([_strip_features(strip, patch) for strip in strips], dim=1)


def _strip_features(strip: Tensor, patch: int) -> Tensor:
    """The 18 statistics of one row of patches with a margin of 3, ``-> (B, patches, 18)``."""
    x = torch.arange(-3, 4, dtype=strip.dtype, device=strip.device)
    taps = torch.exp(-(x**2) / (2 * (7 / 6) ** 2))
    taps = taps / taps.sum()
    sums = F.conv2d(torch.cat((strip, strip * strip)), taps.view(1, 1, -1, 1))
    mean, square = F.conv2d(sums, taps.view(1, 1, 1, -1)).chunk(2)
    deviation = (square - mean * mean).abs().sqrt()
    contrast = (strip[:, :, 3:-3, 3:-3] - mean) / (deviation + 1.0)
    # Where a picture is flat this is rounding noise, whose signs would decide the fit.
    contrast = torch.where(contrast.abs() < 1e-9, 0.0, contrast)

    tiles = contrast.view(len(strip), patch, -1, patch).transpose(1, 2)
    shape, left, right, _ = _fit_aggd(tiles)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right, mean = _fit_aggd(tiles * tiles.roll(shift, dims=(-2, -1)))
        features += [shape, mean, left, right]
    return torch.stack(features, dim=-1)


def _fit_aggd(tiles: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moment-matching fit of an asymmetric generalised Gaussian to each tile ``(..., p, p)``.

    Returns:
        Shape, left scale, right scale and mean, each ``(...)``; NaN for a tile without values on either side.
    """
    x = tiles.flatten(-2)
    positive = x.clamp_min(0)
    negative = positive - x
    left_norm, right_norm = (torch.linalg.vector_norm(side, dim=-1) for side in (negative, positive))
    left = left_norm / negative.count_nonzero(-1).to(x).sqrt()
    right = right_norm / positive.count_nonzero(-1).to(x).sqrt()
    ratio = left / right
    mean_square = (left_norm.square() + right_norm.square()) / x.shape[-1]
    moment = torch.linalg.vector_norm(x, ord=1, dim=-1).div(x.shape[-1]).square() / mean_square
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1).square()

    shapes, moments = _shape_table(x.device)
    above = torch.searchsorted(moments, moment.contiguous()).clamp(1, len(moments) - 1)
    nearer_below = (moment - moments[above - 1]) < (moments[above] - moment)
    shape = shapes[torch.where(nearer_below, above - 1, above)]

    g1, g2, g3 = (torch.lgamma(k / shape) for k in (1, 2, 3))
    scale = ((g1 - g3) / 2).exp()
    left, right = left * scale, right * scale
    return torch.where(moment.isnan(), torch.nan, shape), left, right, (right - left) * (g2 - g1).exp()


@cache
def _shape_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Candidate shapes 0.2...10 and the (increasing) moment ratio that each has."""
    shapes = torch.arange(200, 10001, dtype=torch.float64, device=device) / 1000
    g1, g2, g3 = (torch.lgamma(k / shapes) for k in (1, 2, 3))
    return shapes, (2 * g2 - g1 - g3).exp()


@cache
def _pristine_model() -> tuple[Tensor, Tensor]:
    """Mean ``(36,)`` and covariance ``(36, 36)`` of good photographs, float64."""
    from safetensors.torch import load_file

    model = load_file(Path(__file__).with_name("niqe_model.safetensors"))
    return model["mean"], model["covariance"]


def _distance(patches: Tensor) -> Tensor:
    """Equation 10: distance of one image's patch features ``(patches, 36)`` to the pristine model."""
    complete = patches[~patches.isnan().any(dim=1)]
    if len(complete) < 2:
        return patches.new_tensor(torch.nan)
    mean, covariance = (part.to(patches.device) for part in _pristine_model())
    difference = mean - patches.nanmean(dim=0)
    pooled = (covariance + complete.T.cov()) / 2
    return torch.sqrt(difference @ torch.linalg.pinv(pooled, hermitian=True) @ difference)
