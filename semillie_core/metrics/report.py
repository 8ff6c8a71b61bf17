"""The low-light report: what is wrong with a dark photo, in numbers and in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ._images import as_images, rec601_luma
from .colour import colour_cast, delta_e_2000
from .exposure import clipping, histogram, loe
from .fidelity import SSIM_WINDOW, psnr, ssim
from .naturalness import PATCH as NIQE_PATCH
from .naturalness import niqe
from .noise import BANDS, noise_levels

STRONGLY_UNDEREXPOSED = 0.10
UNDEREXPOSED = 0.22
SLIGHTLY_UNDEREXPOSED = 0.30
OVEREXPOSED = 0.70
NOISE_VISIBLE = 0.08
NOISE_HIGH = 0.20
MIDTONE_NOISE_VISIBLE = 0.02
CLIPPED_MENTION = 0.0005
CLIPPED_MUCH = 0.02
LOW_CONTRAST = 0.35
CAST_VISIBLE = 15.0
CAST_STRONG = 30.0
NIQE_EDGE = 1536

_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "magenta")
_HUE_ENDS = (40.0, 70.0, 110.0, 170.0, 225.0, 300.0, 345.0)
"""Where each hue ends, as L*a*b* hue angle in degrees; beyond the last it is red again."""


@dataclass(frozen=True)
class LowLightReport:
    """Measurements of one photo. Brightness is display-encoded BT.601 luma in [0, 1]."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    exposure: str
    """By the mean brightness: ``strongly underexposed``, ``underexposed``, ``slightly underexposed``,
    ``well exposed`` or ``overexposed``."""
    mean_luminance: float
    """Mean brightness; about 0.45 for a well exposed photo."""
    median_luminance: float
    """Median brightness."""
    contrast: float
    """Distance between the 1st and the 99th percentile of brightness."""
    clipped_highlights: float
    """Share of pixels with a channel at the top 8-bit level."""
    clipped_shadows: float
    """Share of pixels that are wholly black."""
    noise: tuple[float | None, float | None, float | None]
    """Standard deviation of the luma noise in shadows, midtones and highlights; None without flat area."""
    colour_noise: tuple[float | None, float | None, float | None]
    """The same for colour."""
    shadow_noise_ratio: float | None
    """Luma noise of the shadows divided by their brightness: what brightening will show."""
    colour_cast: float
    """Strength of the colour cast: distance of the photo's mean colour from grey in L*a*b* at L* = 50."""
    colour_cast_hue: str
    """Colour the cast leans to."""
    niqe: float | None
    """NIQE of the central 1536x1536 pixels, lower is better; None without two textured 96x96 patches."""
    psnr: float | None
    """PSNR to the reference in dB, infinite if identical; None without reference, as all below."""
    ssim: float | None
    """SSIM to the reference; also None below 11 pixels."""
    delta_e: float | None
    """Mean CIEDE2000 colour difference to the reference."""
    loe: float | None
    """Lightness order error against the reference."""
    histogram: tuple[tuple[float, ...], ...]
    """Share of pixels per level: luma, red, green, blue."""
    reasons: tuple[str, ...]
    """What there is to say, most important first."""

    @property
    def verdict(self) -> str:
        """One line of plain English."""
        return "; ".join(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """Everything, verdict included, as JSON types; an infinite PSNR becomes the text ``"inf"``."""
        values = {"verdict": self.verdict, **asdict(self)}
        if self.psnr is not None and math.isinf(self.psnr):
            values["psnr"] = "inf"
        return values

    def to_json(self) -> str:
        """:meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def low_light_report(
    image: Tensor, reference: Tensor | None = None, *, check: Callable[[], None] | None = None
) -> list[LowLightReport]:
    """Measure photos and say in words what is wrong with them.

    Args:
        image: sRGB photos, ``(B, 3, H, W)`` in [0, 1].
        reference: Well-lit versions of the same size, ``(B, 3, H, W)`` or one for all, ``(1, 3, H, W)``.
        check: Called before each measurement; an exception it raises stops the work and passes through.

    Returns:
        One report per photo.

    Raises:
        ValueError: Shapes are not as above, or there are values that are not finite.
    """
    image = as_images(image, channels=(3,)).float()
    _check_finite(image, "image")
    if reference is not None:
        reference = as_images(reference, "reference", channels=(3,)).to(image)
        if reference.shape[1:] != image.shape[1:] or reference.shape[0] not in (1, image.shape[0]):
            raise ValueError(
                f"reference must have the size of the image, got {_size(reference)} for {_size(image)}; "
                "resize it first."
            )
        _check_finite(reference, "reference")
        reference = reference.expand_as(image)
    return [
        _report(image[i : i + 1], None if reference is None else reference[i : i + 1], check or _nothing)
        for i in range(len(image))
    ]


def histogram_image(source: LowLightReport | Tensor, height: int = 256) -> Tensor:
    """Draw the brightness histogram: red, green and blue areas that mix where they overlap, luma in white.

    The vertical scale is a square root, cut so that one crowded level does not flatten the rest. Thin
    vertical lines mark quarters of the brightness range.

    Args:
        source: A report, or an image ``(3, H, W)`` in [0, 1].
        height: Height of the picture in pixels.

    Returns:
        ``(3, height, 512)`` in [0, 1], on the CPU.

    Raises:
        ValueError: The image is not ``(3, H, W)``.
    """
    if isinstance(source, LowLightReport):
        shares = torch.tensor(source.histogram)
    elif source.dim() == 3:
        shares = histogram(source.detach().unsqueeze(0))[0].cpu()
    else:
        raise ValueError(f"The image must be (3, H, W), got shape {tuple(source.shape)}.")
    bins = shares.shape[1]
    column = 512 // bins
    full = 2.5 * shares[:, 1 : bins - 1].amax().clamp(1.0 / bins, 4.0 / bins)
    tops = (shares / full).clamp(0, 1).sqrt().repeat_interleave(column, dim=1) * (height - 1)

    level = torch.arange(height - 1, -1, -1.0).unsqueeze(1)
    picture = torch.full((3, height, column * bins), 0.08)
    picture[:, :, column * bins // 4 :: column * bins // 4] = 0.22
    filled = (level <= tops[1:].unsqueeze(1)) & (tops[1:].unsqueeze(1) > 0)
    picture = torch.where(filled, 0.66, picture)

    top = tops[0]
    before = torch.cat((top[:1], top[:-1]))
    line = (level <= torch.maximum(top, before) + 1) & (level >= torch.minimum(top, before) - 1)
    return torch.where(line, 1.0, picture)


def _check_finite(images: Tensor, name: str) -> None:
    # NaN compares as neither dark nor bright, and would come out as overexposed.
    if not all(torch.isfinite(single).all() for single in images):
        raise ValueError(f"{name} holds NaN or infinite values; remove them first.")


def _nothing() -> None:
    """Let the work go on."""


def _report(image: Tensor, reference: Tensor | None, check: Callable[[], None]) -> LowLightReport:
    check()
    height, width = image.shape[2:]
    brightness = rec601_luma(image).flatten().sort().values
    mean = brightness.mean().item()
    low, median, high = (brightness[round(q * (len(brightness) - 1))].item() for q in (0.01, 0.5, 0.99))
    highlights, shadows = (share.item() for share in clipping(image))
    check()
    noise = noise_levels(image)
    check()
    cast_a, cast_b = colour_cast(image)[0].tolist()
    cast = math.hypot(cast_a, cast_b)
    hue = _hue_name(cast_a, cast_b)
    naturalness = None
    if (height // NIQE_PATCH) * (width // NIQE_PATCH) >= 2:
        check()
        naturalness = _finite(niqe(_centre(image))[0])

    scores: dict[str, float | None] = dict.fromkeys(("psnr", "ssim", "delta_e", "loe"))
    if reference is not None:
        measures: dict[str, Callable[[Tensor, Tensor], Tensor]]
        measures = {"psnr": psnr, "delta_e": delta_e_2000, "loe": loe}
        if min(height, width) >= SSIM_WINDOW:
            measures["ssim"] = ssim
        for name, measure in measures.items():
            check()
            scores[name] = measure(image, reference).item()

    exposure = _exposure(mean)
    shadow_noise = _finite(noise.relative[0, 0])
    reasons = [f"{exposure}: mean luminance {mean:.2f}"]
    reasons += _noise_reasons(shadow_noise, _finite(noise.luma[0, 1]))
    reasons += _clipping_reasons(highlights, shadows)
    if exposure == "well exposed" and high - low < LOW_CONTRAST:
        reasons.append(f"low contrast: 98 % of the pixels within {high - low:.2f} of the range")
    if cast >= CAST_VISIBLE:
        reasons.append(f"colours lean {'strongly ' if cast >= CAST_STRONG else ''}to {hue}")
    if len(reasons) == 1 and exposure == "well exposed":
        reasons.append("no visible noise, clipping or colour cast")
    if scores["psnr"] is not None:
        reasons.append(_reference_reason(scores))

    return LowLightReport(
        width=width,
        height=height,
        exposure=exposure,
        mean_luminance=mean,
        median_luminance=median,
        contrast=high - low,
        clipped_highlights=highlights,
        clipped_shadows=shadows,
        noise=_per_band(noise.luma[0]),
        colour_noise=_per_band(noise.chroma[0]),
        shadow_noise_ratio=shadow_noise,
        colour_cast=cast,
        colour_cast_hue=hue,
        niqe=naturalness,
        psnr=scores["psnr"],
        ssim=scores["ssim"],
        delta_e=scores["delta_e"],
        loe=scores["loe"],
        histogram=tuple(tuple(row) for row in histogram(image)[0].tolist()),
        reasons=tuple(reasons),
    )


def _exposure(mean: float) -> str:
    if mean < STRONGLY_UNDEREXPOSED:
        return "strongly underexposed"
    if mean < UNDEREXPOSED:
        return "underexposed"
    if mean < SLIGHTLY_UNDEREXPOSED:
        return "slightly underexposed"
    return "well exposed" if mean <= OVEREXPOSED else "overexposed"


def _noise_reasons(shadow_ratio: float | None, midtones: float | None) -> list[str]:
    reasons = []
    if shadow_ratio is not None and shadow_ratio >= NOISE_VISIBLE:
        strength = "high" if shadow_ratio >= NOISE_HIGH else "visible"
        reasons.append(f"noise {strength} in {BANDS[0]} ({100 * shadow_ratio:.0f} % of the signal)")
    if midtones is not None and midtones >= MIDTONE_NOISE_VISIBLE:
        reasons.append(f"noise visible in {BANDS[1]} ({255 * midtones:.0f} of 255 levels)")
    return reasons


def _clipping_reasons(highlights: float, shadows: float) -> list[str]:
    reasons = []
    for share, name in ((highlights, "highlights"), (shadows, "shadows")):
        if share >= CLIPPED_MENTION:
            much = f"{name} lost: " if share >= CLIPPED_MUCH else ""
            what = "burnt out" if name == "highlights" else "pure black"
            reasons.append(f"{much}{100 * share:.1f} % {what}")
    return reasons


def _reference_reason(scores: dict[str, float | None]) -> str:
    if scores["psnr"] == math.inf:
        return "identical to the reference"
    similarity = "" if scores["ssim"] is None else f", SSIM {scores['ssim']:.3f}"
    colour = f", colour difference {scores['delta_e']:.1f}"
    return f"against the reference: {scores['psnr']:.2f} dB{similarity}{colour}"


def _hue_name(a: float, b: float) -> str:
    angle = math.degrees(math.atan2(b, a)) % 360
    return next((hue for hue, end in zip(_HUES, _HUE_ENDS, strict=True) if angle < end), _HUES[0])


def _centre(image: Tensor) -> Tensor:
    """The central part that NIQE looks at: its time grows with the area, its answer hardly changes."""
    height, width = image.shape[2:]
    top, left = max(0, height - NIQE_EDGE) // 2, max(0, width - NIQE_EDGE) // 2
    return image[:, :, top : top + NIQE_EDGE, left : left + NIQE_EDGE]


def _per_band(levels: Tensor) -> tuple[float | None, float | None, float | None]:
    shadows, midtones, highlights = (_finite(level) for level in levels)
    return shadows, midtones, highlights


def _finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None


def _size(images: Tensor) -> str:
    return f"{images.shape[0]}x{images.shape[2]}x{images.shape[3]} (B x H x W)"
