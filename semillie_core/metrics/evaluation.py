"""Score an enhancer on pairs of photos, one row per image.

Imported on its own (``semillie_core.metrics.evaluation``), because it reads image files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import DataError, Pair
from ..data.manifest import read_manifest, trained_on
from ..data.pairs import differ_in_size, read_levels, to_float
from .aggregate import Interval, MeanScore
from .colour import delta_e_2000
from .exposure import exposure_error, loe
from .fidelity import psnr, psnr_gt_mean, ssim, ssim_gt_mean
from .lpips import LPIPSAlex
from .naturalness import niqe

LABELS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "lpips_alex": "LPIPS-Alex ↓",
    "delta_e_2000": "ΔE00 ↓",
    "niqe": "NIQE ↓",
    "loe": "LOE ↓",
    "exposure_ev": "exposure, EV",
    "psnr_gt_mean": "PSNR, GT-mean ↑",
    "ssim_gt_mean": "SSIM, GT-mean ↑",
}
"""Column titles. Arrows show the better direction; exposure is best at 0 (above: too bright). GT-mean scores use the
reference's brightness."""
_PARTICULAR = ("ssim", "lpips_alex", "niqe", "ssim_gt_mean")
"""Metrics that need images of a least size."""


class EvaluationError(ValueError):
    """The evaluation would not mean anything; the message says why and what to do."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one enhancer on one set of pairs."""

    images: dict[str, dict[str, float]]
    """Per image name: metric name to score."""
    means: dict[str, Interval]
    """Per metric: mean over the images with its 95 % bootstrap interval."""
    seen_in_training: tuple[str, ...]
    """Images whose photo or scene the enhancer was trained on; a score that has any is no evidence."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metrics without scores, because an image is too small for them, and which."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; values that are not finite become text or null."""
        return {
            "protocol": "full resolution, RGB in [0, 1], not rounded, plain scores; *_gt_mean apart",
            "count": len(self.images),
            "seen_in_training": list(self.seen_in_training),
            "left_out": self.left_out,
            "means": {
                name: {end: _json_number(value) for end, value in interval._asdict().items()}
                for name, interval in self.means.items()
            },
            "images": {
                image: {name: _json_number(score) for name, score in scores.items()}
                for image, scores in self.images.items()
            },
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """A table with one row per image and the means with their intervals below."""
        names = list(self.means)
        lines = [
            "| image | " + " | ".join(LABELS[name] for name in names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for image, scores in self.images.items():
            lines.append(f"| {image} | " + " | ".join(_decimals(name, scores[name]) for name in names) + " |")
        means, intervals = [], []
        for name in names:
            mean, low, high = self.means[name]
            means.append(f"**{_decimals(name, mean)}**")
            intervals.append("–" if math.isnan(low) else f"{_decimals(name, low)} … {_decimals(name, high)}")
        lines.append(f"| **mean of {len(self.images)}** | " + " | ".join(means) + " |")
        lines.append("| 95 % interval | " + " | ".join(intervals) + " |")
        for name, reason in self.left_out.items():
            lines += ["", f"Without {LABELS[name][:-2]}: {reason}"]
        if self.seen_in_training:
            lines += ["", f"**Not a test: {_seen_text(self.seen_in_training)}.**"]
        return "\n".join(lines) + "\n"


def evaluate(
    enhancer: Callable[[Tensor], Tensor] | Mapping[str, Path],
    pairs: Sequence[Pair],
    *,
    lpips: LPIPSAlex | None = None,
    training_manifest: str | Path | None = None,
    allow_seen: bool = False,
    on_image: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Enhance the dark photo of each pair and score the result against its reference.

    Args:
        enhancer: ``(1, 3, H, W)`` sRGB in [0, 1] to the same shape; the result is clamped to [0, 1]. Or the image files
            that another program made, by pair name.
        pairs: Photos on disk.
        lpips: Perceptual distance; without it the table has no LPIPS column.
        training_manifest: What the enhancer was trained on, as written by ``prepare_data``.
        allow_seen: Score photos and scenes of its training split all the same; the result then says so.
        on_image: Called with (done, total) after every pair.

    Returns:
        Scores per image and their means, plain ones first. SSIM, LPIPS and NIQE are left out if an image is too small
        for them.

    Raises:
        EvaluationError: No pairs, sizes that do not match, a missing result or one that holds NaN, or images whose
            photo or scene was trained on.
        DataError: An image cannot be read.
    """
    if not pairs:
        raise EvaluationError("There are no pairs to evaluate.")
    seen = seen_in_training(pairs, training_manifest) if training_manifest is not None else ()
    if seen and not allow_seen:
        raise EvaluationError(f"{_seen_text(seen)}; use other images, or allow it explicitly.")

    scores = {
        name: MeanScore(metric)
        for name, metric in {
            "psnr": psnr,
            "ssim": ssim,
            "lpips_alex": lpips,
            "delta_e_2000": delta_e_2000,
            "niqe": niqe,
            "loe": loe,
            "exposure_ev": exposure_error,
            "psnr_gt_mean": psnr_gt_mean,
            "ssim_gt_mean": ssim_gt_mean,
        }.items()
        if metric is not None
    }
    left_out: dict[str, str] = {}
    for done, pair in enumerate(pairs, start=1):
        low, high = (to_float(read_levels(path))[None] for path in (pair.low, pair.high))
        if low.shape != high.shape:
            raise EvaluationError(differ_in_size(pair, low.shape[2:], high.shape[2:]))
        with torch.no_grad():
            made = enhancer(low) if callable(enhancer) else _finished(enhancer, pair.name)
        output = made.float().cpu().clamp(0, 1)
        if output.isnan().any():
            raise EvaluationError(
                f"{pair.name}: the result holds NaN, often of a network in half precision; compute in float32."
            )
        if output.shape != low.shape:
            raise EvaluationError(
                f"{pair.name}: the result is {tuple(output.shape)} for a photo of {tuple(low.shape)}; "
                "it must have the photo's size."
            )
        for name, score in list(scores.items()):
            try:
                if name == "niqe":
                    score.update(output)
                else:
                    score.update(output, low if name == "loe" else high)
            except ValueError as error:
                if name not in _PARTICULAR:
                    raise
                # A mean over fewer images than the others would not stand beside them.
                left_out[name] = f"{pair.name}: {error}"
                del scores[name]
        if on_image is not None:
            on_image(done, len(pairs))
    table = {
        pair.name: {name: score.scores[i] for name, score in scores.items()} for i, pair in enumerate(pairs)
    }
    means = {name: score.interval() for name, score in scores.items()}
    return Evaluation(table, means, seen, left_out)


def _finished(results: Mapping[str, Path], name: str) -> Tensor:
    if name not in results:
        raise EvaluationError(f"There is no result for {name}: every pair needs one of its name.")
    return to_float(read_levels(results[name]))[None]


def seen_in_training(pairs: Sequence[Pair], manifest: str | Path) -> tuple[str, ...]:
    """Names of the pairs of which a photo, by content, or the scene is in a manifest's training split.

    Args:
        pairs: Photos on disk.
        manifest: As written by ``prepare_data``.

    Raises:
        EvaluationError: The manifest cannot be read.
    """
    try:
        return tuple(trained_on(pairs, read_manifest(manifest)))
    except DataError as error:
        raise EvaluationError(f"{manifest} is not a training manifest: {error}") from error


def _seen_text(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} of the images or their scenes were trained on ({shown})"


def _decimals(name: str, value: float) -> str:
    digits = {"ssim": 4, "ssim_gt_mean": 4, "lpips_alex": 4, "loe": 0}.get(name, 2)
    sign = "+" if name == "exposure_ev" else ""
    return f"{value:{sign}.{digits}f}"


def _json_number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
