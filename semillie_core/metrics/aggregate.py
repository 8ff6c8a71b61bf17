"""From scores per image to a mean that says how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_DRAWN_AT_ONCE = 1 << 20
"""Scores that are redrawn at once, which bounds memory."""


class Interval(NamedTuple):
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    """Lower end; NaN for a single value."""
    high: float
    """Upper end; NaN for a single value."""


def bootstrap_interval(
    values: Iterable[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean over images (Efron, 1979).

    It says how much the mean would move with another draw of images from the same source; it says nothing
    about other training runs. The same values and seed give the same interval.

    Args:
        values: One score per image.
        confidence: Share of resampled means inside the interval, in (0, 1).
        resamples: How many times to redraw the images.
        seed: Of the redrawing.

    Returns:
        Mean and interval. A value that is not finite makes them so, too.

    Raises:
        ValueError: No values, or a confidence outside (0, 1).
    """
    scores = torch.tensor(list(values), dtype=torch.float64)
    if scores.numel() == 0:
        raise ValueError("There are no scores to average.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, got {confidence}.")
    mean = scores.mean().item()
    if scores.numel() == 1:
        return Interval(mean, math.nan, math.nan)
    if not math.isfinite(mean):
        return Interval(mean, mean, mean)
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    for part in torch.split(means, max(1, _DRAWN_AT_ONCE // scores.numel())):
        draws = torch.randint(scores.numel(), (len(part), scores.numel()), generator=generator)
        torch.mean(scores[draws], dim=1, out=part)
    tail = (1 - confidence) / 2
    ends = means.quantile(torch.tensor((tail, 1 - tail), dtype=torch.float64))
    return Interval(mean, *ends.tolist())


class MeanScore:
    """The stateful form of any per-image metric: collects batches, gives the mean over images.

    ``score = MeanScore(psnr)``, then ``score.update(output, target)`` per batch and ``score.compute()``.

    Args:
        metric: Takes batches of images and gives ``(B,)`` scores: ``psnr``, ``niqe``, an ``LPIPSAlex``.
    """

    def __init__(self, metric: Callable[..., Tensor]) -> None:
        self.metric = metric
        self._scores: list[float] = []

    def update(self, *images: Tensor) -> None:
        """Score one batch; the arguments are those of the metric."""
        with torch.no_grad():
            self._scores += self.metric(*images).tolist()

    @property
    def scores(self) -> tuple[float, ...]:
        """The score of every image so far, in the order they came."""
        return tuple(self._scores)

    def compute(self) -> float:
        """Mean over all images so far.

        Raises:
            ValueError: There are none.
        """
        if not self._scores:
            raise ValueError("No image has been scored yet: call update() first.")
        return math.fsum(self._scores) / len(self._scores)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Mean over all images so far with its bootstrap interval."""
        return bootstrap_interval(self._scores, confidence)

    def reset(self) -> None:
        """Forget all images."""
        self._scores.clear()
