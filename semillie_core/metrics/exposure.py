"""Brightness: histogram, clipping, and whether the order of lightness survived."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import REC709, srgb_to_linear
from ..precision import in_double
from ._images import as_images, as_pair, rec601_luma

LOE_SAMPLES = 50
LOE_RADIUS = 7
DARKEST_LIGHT = 2.0**-16
"""Mean luminance below which :func:`exposure_error` tells no difference: far below one 8-bit level."""


def mean_luminance(images: Tensor) -> Tensor:
    """Mean BT.601 luma of each display-encoded image, ``(B, 1 or 3, H, W) -> (B,)`` in [0, 1]."""
    return rec601_luma(as_images(images, channels=(1, 3))).mean(dim=(1, 2))


def clipping(images: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each image that holds no more detail.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].

    Returns:
        Highlights and shadows, each ``(B,)`` in [0, 1]: pixels with *any* channel at the top 8-bit level, and
        pixels with *all* channels at the bottom one.

    Raises:
        ValueError: Not a floating-point batch.
    """
    images = as_images(images)
    highlights = images.amax(dim=1) >= 254.5 / 255
    shadows = images.amax(dim=1) <= 0.5 / 255
    return highlights.float().mean(dim=(1, 2)), shadows.float().mean(dim=(1, 2))


def exposure_error(output: Tensor, target: Tensor) -> Tensor:
    """By how many stops each image is exposed more than its reference: log2 of the ratio of their mean luminance.

    Luminance is that of linear light (ITU-R BT.709 weights, sRGB curve undone).

    Args:
        output: ``(B, 1 or 3, H, W)`` sRGB in [0, 1].
        target: The references, same shape.

    Returns:
        ``(B,)`` float64, on the CPU for devices without, in EV: 0 for equal light, 1 for twice as much, -1 for half.

    Raises:
        ValueError: The shapes differ or are not as above.
    """
    made, wanted = (_mean_light(images) for images in as_pair(output, target, channels=(1, 3)))
    return made.log2() - wanted.log2()


def _mean_light(images: Tensor) -> Tensor:
    channels = srgb_to_linear(in_double(images)).mean(dim=(2, 3))
    if channels.shape[1] == 3:
        channels = channels @ channels.new_tensor(REC709).unsqueeze(1)
    return channels.squeeze(1).clamp(min=DARKEST_LIGHT)


def histogram(images: Tensor, bins: int = 64) -> Tensor:
    """Share of pixels per brightness level, for luma and each colour channel.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1]; values outside count as the end levels.
        bins: Number of levels.

    Returns:
        ``(B, 4, bins)`` float32 in the order luma, red, green, blue; each row sums to 1.

    Raises:
        ValueError: Not ``(B, 3, H, W)``.
    """
    images = as_images(images, channels=(3,))
    planes = torch.cat((rec601_luma(images).unsqueeze(1), images), dim=1).flatten(2)
    # Counted in integers: a float32 stops counting at 16.8 million pixels, which a dark photo may have of one level.
    counts = [
        (plane.clamp(0, 1) * bins).long().clamp(0, bins - 1).bincount(minlength=bins)
        for plane in planes.flatten(0, 1)
    ]
    return torch.stack(counts).view(*planes.shape[:2], bins).float() / planes.shape[2]


def loe(output: Tensor, source: Tensor) -> Tensor:
    """Lightness order error of each image: in how many pixel pairs did brighter and darker change places?

    Wang et al., "Naturalness Preserved Enhancement Algorithm for Non-Uniform Illumination Images", IEEE TIP
    22(9), 2013, in the convention of the widely used Matlab script: lightness is the 8-bit maximum of R, G
    and B, dilated by 15x15 pixels and sampled on a regular grid whose step is a fiftieth of the shorter edge;
    the score is the mean over samples of the *number* of samples whose order towards it changed. It therefore
    grows with the aspect ratio, and published figures compare only between images of one shape.

    Args:
        output: Enhanced images, ``(B, 1 or 3, H, W)`` in [0, 1].
        source: The images before enhancement, same shape.

    Returns:
        ``(B,)`` float64, on the CPU for devices without; 0 when the order is unchanged, NaN where an image holds NaN.

    Raises:
        ValueError: The shapes differ or are not as above.
    """
    output, source = as_pair(output, source, channels=(1, 3))
    pairs = zip(_lightness(output), _lightness(source), strict=True)
    changes = torch.stack([_order_changes(after, before) for after, before in pairs])
    # As a level, NaN counts as black, and the score may be nearly perfect.
    broken = (output + source).isnan().flatten(1).any(dim=1)
    return changes.masked_fill(broken.to(changes.device), torch.nan)


def _lightness(images: Tensor) -> Tensor:
    """Sampled lightness levels 0...255, ``(B, samples)``."""
    levels = (images.amax(dim=1, keepdim=True).nan_to_num(0.0).clamp(0, 1) * 255).round()
    step = max(1, min(images.shape[2:]) // LOE_SAMPLES)
    # The first window is centred on pixel step - 1; level 0 changes no maximum.
    first = LOE_RADIUS - (step - 1)
    levels = F.pad(levels, (first, LOE_RADIUS, first, LOE_RADIUS))
    return F.max_pool2d(levels, 2 * LOE_RADIUS + 1, stride=step).flatten(1).long()


def _order_changes(after: Tensor, before: Tensor) -> Tensor:
    """Mean over samples i of the number of samples j with ``(a_j >= a_i) != (b_j >= b_i)``.

    Counted over pairs of levels instead of pairs of samples: with ``S[a, b]`` the number of samples of at
    least these levels, that number is ``S[a, 0] + S[0, b] - 2 S[a, b]``.
    """
    joint = torch.bincount(256 * after + before, minlength=256 * 256).view(256, 256)
    at_least = joint.flip(0, 1).cumsum(0).cumsum(1).flip(0, 1)
    changed = at_least[:, :1] + at_least[:1] - 2 * at_least
    return in_double((joint * changed).sum()) / len(after)
