"""PSNR and SSIM, and their GT-mean variants under names of their own.

The plain functions are the protocol. The ``*_gt_mean`` functions first scale each output to the mean
brightness of its reference, which needs the reference at test time and hides every exposure error; papers
quote it, so it can be computed, but it is never the default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ._images import as_pair, rec601_luma

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr(output: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB.

    ``10 log10(data_range² / MSE)`` with the mean squared error over all channels and pixels of one image.
    Nothing is clipped or rounded. Differentiable. Identical images score ``inf``.

    Args:
        output: Images to judge, ``(B, C, H, W)`` in [0, 1].
        target: Their references, same shape.
        data_range: Distance between black and white.

    Returns:
        ``(B,)``.

    Raises:
        ValueError: The shapes differ or are not ``(B, C, H, W)``.
    """
    output, target = as_pair(output, target)
    error = (output - target).square().mean(dim=(1, 2, 3))
    return 10.0 * torch.log10(data_range**2 / error)


def ssim(output: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image (Wang et al., IEEE TIP 13(4), 2004, equation 13).

    Convention: Gaussian window of 11x11 pixels, sigma 1.5, normalised to sum 1; population (not sample)
    variance and covariance; K1 = 0.01, K2 = 0.03; the map is taken only where the whole window lies inside
    the image (no padding); mean over the map, per colour channel, averaged over the channels of RGB as given.
    This is ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=...)``; torchmetrics extends the images by reflection instead
    and differs in the third or fourth decimal. Differentiable.

    Args:
        output: Images to judge, ``(B, C, H, W)`` in [0, 1], at least 11 pixels high and wide.
        target: Their references, same shape.
        data_range: Distance between black and white.

    Returns:
        ``(B,)``, at most 1 (identical).

    Raises:
        ValueError: The shapes differ, are not ``(B, C, H, W)``, or an edge is shorter than the window.
    """
    output, target = as_pair(output, target)
    batch, channels, height, width = output.shape
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width} (H x W)."
        )
    # Variances do not depend on an offset; near zero E[x²] - E[x]² does not cancel in float32.
    offset = target.detach().mean(dim=(2, 3), keepdim=True)
    x, y = output - offset, target - offset
    edge = SSIM_WINDOW - 1
    moments = torch.stack((x, y, x * x, y * y, x * y)).reshape(-1, height, width)
    moments = _blur_valid(moments).reshape(5, batch, channels, height - edge, width - edge)
    mean_x, mean_y = moments[0], moments[1]
    var_x = moments[2] - mean_x * mean_x
    var_y = moments[3] - mean_y * mean_y
    covariance = moments[4] - mean_x * mean_y
    mean_x, mean_y = mean_x + offset, mean_y + offset

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def scale_to_gt_mean(output: Tensor, target: Tensor) -> Tensor:
    """Scale each output so that its mean luma equals its reference's, then clip to [0, 1].

    Args:
        output: ``(B, 1 or 3, H, W)`` in [0, 1].
        target: Same shape.

    Returns:
        The scaled images, same shape. After clipping the means may still differ a little.
    """
    output, target = as_pair(output, target, channels=(1, 3))
    tiny = torch.finfo(output.dtype).tiny
    gain = rec601_luma(target).mean(dim=(1, 2)) / rec601_luma(output).mean(dim=(1, 2)).clamp_min(tiny)
    return (output * gain.reshape(-1, 1, 1, 1)).clamp(0.0, 1.0)


def psnr_gt_mean(output: Tensor, target: Tensor) -> Tensor:
    """:func:`psnr` after :func:`scale_to_gt_mean`: not comparable with plain PSNR. ``(B,)`` in dB."""
    return psnr(scale_to_gt_mean(output, target), target)


def ssim_gt_mean(output: Tensor, target: Tensor) -> Tensor:
    """:func:`ssim` after :func:`scale_to_gt_mean`: not comparable with plain SSIM. ``(B,)``."""
    return ssim(scale_to_gt_mean(output, target), target)


def _blur_valid(maps: Tensor) -> Tensor:
    """Gaussian-weighted window means of ``(N, H, W)`` wherever the whole window fits."""
    x = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    taps = torch.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    taps = (taps / taps.sum()).to(maps)
    # One depthwise call with the maps as channels: 30 times faster on a CPU than the same maps as a batch.
    count = maps.shape[0]
    # Under autocast E[x²] - E[x]² would not cancel, and the gradient of a loss point anywhere.
    with full_precision(maps.device):
        columns = F.conv2d(maps.unsqueeze(0), taps.reshape(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count)
        rows = F.conv2d(columns, taps.reshape(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)
    return rows.squeeze(0)
