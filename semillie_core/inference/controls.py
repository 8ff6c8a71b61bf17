"""What the user can change about an enhancement, applied to the network's output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import linear_to_srgb, luma, srgb_to_linear
from ..network.thumbnail import make_thumbnail

WELL_LIT_START, WELL_LIT_FULL = 0.16, 0.28
"""Median luma of a photo from which ``keep_well_lit`` acts, and from which it acts fully. Of the dark photos of LOL and
SICE 95 % lie below 0.16, and of their references 95 % above 0.22."""

NOTHING_BRIGHT, SOMETHING_BRIGHT = 0.4, 0.5
"""Luma of the brightest 2 % of a photo up to which nothing in it is bright, and from which something is; 98 % of the
references of LOL's training pairs lie above 0.48."""

NOTHING_BRIGHT_SHIFT = 0.1
"""By how much more median luma a photo counts as lit well where nothing in it is bright: light scenes underexposed."""

HIGHLIGHT_INPUT = 0.15, 0.35
"""Luma of an area of the input from which ``protect_highlights`` acts, and from which it acts fully."""

HIGHLIGHT_OUTPUT = 0.7, 0.95
"""The same of the enhanced image; both must hold."""

HIGHLIGHT_CEILING = 0.85
"""Luma to which ``protect_highlights`` brightens such an area."""

GAMUT_SHOULDER = 0.95
"""Channel value up to which colours stay as they are where ``protect_highlights`` brings them into range."""

_THUMBNAIL = 64
_GUIDE, _GUIDE_RADIUS, _GUIDE_VARIANCE = 256, 8, 0.01


@dataclass(frozen=True)
class EnhanceControls:
    """Adjustments around the network; where photo and area are dark, the defaults only reduce noise.

    Raises:
        ValueError: A value is outside its range.
    """

    strength: float = 1.0
    """Blend from the input (0) to the enhanced image (1), in [0, 1]."""
    brightness: float = 0.0
    """Exposure of the result in stops (EV), in [-4, 4]; applied in linear light, whites roll off."""
    saturation: float = 1.0
    """Colourfulness of the result, in [0, 4]: 0 is grey, 1 unchanged."""
    protect_highlights: float = 1.0
    """How far areas that have light already are kept from becoming white, and strong colours from losing their texture,
    in [0, 1]."""
    noise_reduction: float = 1.0
    """How much of what may be noise is smoothed, in [0, 4], as strongly as it was brightened: 0 is nothing, 1 what
    suits most photos; see :func:`~semillie_core.inference.noise.reduce_noise`."""
    keep_well_lit: bool = True
    """Enhance a photo the less, the nearer it comes to one that is lit well; see :func:`darkness`. Brightness and
    saturation act on what comes of that."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("strength", 0, 1),
            ("brightness", -4, 4),
            ("saturation", 0, 4),
            ("protect_highlights", 0, 1),
            ("noise_reduction", 0, 4),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value}.")

    def apply(
        self,
        original: Tensor,
        enhanced: Tensor,
        mask: Tensor | None = None,
        need: Tensor | None = None,
    ) -> Tensor:
        """Adjust an enhanced image, noise reduction aside, and blend it with the original.

        Args:
            original: Whole photos, ``(B, 3, H, W)`` in [0, 1].
            enhanced: Same shape, in [0, 1].
            mask: ``(B or 1, H, W)`` in [0, 1]; the original stays where it is 0.
            need: What ``keep_well_lit`` goes by, ``(B,)``; by default the :func:`darkness` of each photo.

        Returns:
            ``(B, 3, H, W)`` in [0, 1].
        """
        result = enhanced
        if self.protect_highlights:
            result = _protect(original, result, self.protect_highlights)
        if self.keep_well_lit:
            result = keep(original, result, darkness(original) if need is None else need)
        # What the user asks for holds for photos that are kept, too.
        if self.brightness:
            result = expose(result, self.brightness)
        if self.saturation != 1:
            grey = luma(result)
            result = (grey + self.saturation * (result - grey)).clamp(0, 1)
        weight: Tensor | float = self.strength
        if mask is not None:
            weight = weight * mask.unsqueeze(1)
        if isinstance(weight, float | int) and weight == 1:
            return result
        return original + weight * (result - original)


NETWORK_ALONE = EnhanceControls(protect_highlights=0.0, noise_reduction=0.0, keep_well_lit=False)
"""Controls that leave the network's output as it is."""

NOISE_REDUCTION_ALONE = replace(NETWORK_ALONE, noise_reduction=1.0)
"""Controls that reduce noise in the network's output and change nothing else."""


def darkness(image: Tensor) -> Tensor:
    """How far photos are from being lit well, from the luma of their thumbnails.

    Args:
        image: ``(B, 3, H, W)`` sRGB in [0, 1].

    Returns:
        ``(B,)``: 1 up to a median of :data:`WELL_LIT_START`, 0 from :data:`WELL_LIT_FULL`, smooth in between; both
        shifted by up to :data:`NOTHING_BRIGHT_SHIFT`.
    """
    # Noise and texture do not count, so these are areas.
    small = luma(make_thumbnail(image, _THUMBNAIL)).flatten(1)
    median, brightest = small.median(dim=1).values, small.quantile(0.98, dim=1)
    shift = NOTHING_BRIGHT_SHIFT * (1 - _smooth_step(brightest, NOTHING_BRIGHT, SOMETHING_BRIGHT))
    return 1 - _smooth_step(median - shift, WELL_LIT_START, WELL_LIT_FULL)


def keep(original: Tensor, enhanced: Tensor, need: Tensor) -> Tensor:
    """Blend ``(B, C, H, W)`` images with their originals, by ``need`` ``(B,)`` from 0 (original) to 1 (enhanced)."""
    if bool((need >= 1).all()):
        return enhanced
    return original + need.view(-1, 1, 1, 1) * (enhanced - original)


def _protect(original: Tensor, enhanced: Tensor, amount: float) -> Tensor:
    """Where areas that had light would become white, brighten the input itself instead, and less.

    Along ``1 - (1 - x)^g``, with one g per area, its texture keeps its contrast.
    """
    before = area_luma(original)
    had_light = _smooth_step(before, *HIGHLIGHT_INPUT)
    if not bool(had_light.any()):
        return enhanced
    exponent = math.log1p(-HIGHLIGHT_CEILING) / torch.log1p(-before.clamp(1e-3, HIGHLIGHT_CEILING))
    gentle = -torch.expm1(exponent * torch.log1p(-original.clamp(0, 1 - 2**-10)))
    share = amount * had_light * _smooth_step(area_luma(enhanced), *HIGHLIGHT_OUTPUT)
    return enhanced + share * (gentle - enhanced)


def into_gamut(image: Tensor, amount: float = 1.0) -> Tensor:
    """Bring colours into range by taking saturation from them, not by cutting off channels.

    Where a single channel is cut off, a red shirt or a neon sign becomes a flat area of another hue. Here the largest
    channel bends off along ``1 - exp(-x)`` from :data:`GAMUT_SHOULDER` on, and the others follow along the line to the
    grey of the same luma.

    Args:
        image: ``(B, 3, H, W)``, of any range.
        amount: Share of what would be taken, in [0, 1]; with 0 channels are cut off.

    Returns:
        ``(B, 3, H, W)`` in [0, 1].
    """
    if not amount:
        return image.clamp(0, 1)
    grey, largest = luma(image).clamp(0, 1), image.amax(1, keepdim=True)
    room = 1 - GAMUT_SHOULDER
    bent = GAMUT_SHOULDER - room * torch.expm1((GAMUT_SHOULDER - largest).clamp(max=0) / room)
    keep = ((bent - grey) / (largest - grey).clamp_min(1e-6)).clamp(0, 1)
    share = torch.where(largest > GAMUT_SHOULDER, amount * (1 - keep), 0)
    return (image + share * (grey - image)).clamp_(0, 1)


def area_luma(image: Tensor) -> Tensor:
    """Luma without texture, its strong edges kept: a guided filter (He et al., TPAMI 2013) at reduced size.

    Args:
        image: ``(B, 3, H, W)`` sRGB in [0, 1].

    Returns:
        ``(B, 1, H, W)``.
    """
    guide = luma(image)
    small = make_thumbnail(guide, _GUIDE)

    def average(values: Tensor) -> Tensor:
        window = [min(2 * _GUIDE_RADIUS + 1, 2 * ((size - 1) // 2) + 1) for size in values.shape[2:]]
        padding = [w // 2 for w in window]
        return F.avg_pool2d(values, window, 1, padding, count_include_pad=False)

    mean = average(small)
    variance = (average(small * small) - mean * mean).clamp(min=0)
    slope = variance / (variance + _GUIDE_VARIANCE)
    line = torch.cat([average(slope), average(mean - slope * mean)], dim=1)
    line = F.interpolate(line, guide.shape[2:], mode="bilinear", align_corners=False)
    return line[:, :1] * guide + line[:, 1:]


def _smooth_step(values: Tensor, start: float, full: float) -> Tensor:
    ramp = ((values - start) / (full - start)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def expose(image: Tensor, stops: float) -> Tensor:
    """Change the exposure of an sRGB image in linear light along ``1 - (1 - x)^(2^stops)``.

    Shadows change by ``stops`` exactly; white stays white, so brightening clips nothing.

    Args:
        image: Any shape, in [0, 1].
        stops: Exposure change in EV.
    """
    exposed = -torch.expm1(2.0**stops * torch.log1p(-srgb_to_linear(image).clamp(0, 1)))
    return linear_to_srgb(exposed)
