"""Means over images and their intervals."""

from __future__ import annotations

import math

import pytest
import torch

from semillie_core.metrics import MeanScore, aggregate, bootstrap_interval, psnr


def test_interval_agrees_with_the_normal_approximation_on_many_scores():
    values = torch.randn(400, dtype=torch.float64) * 3 + 20
    interval = bootstrap_interval(values.tolist())
    half = 1.96 * values.std(correction=0).item() / 20
    assert interval.mean == pytest.approx(values.mean().item())
    assert interval.low == pytest.approx(interval.mean - half, abs=0.05 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.05 * half)


def test_interval_is_reproducible_and_widens_with_confidence():
    values = [1.0, 2.0, 4.0, 8.0, 3.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    narrow, wide = bootstrap_interval(values, 0.5), bootstrap_interval(values, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_needs_little_memory_and_does_not_depend_on_it(monkeypatch):
    values = torch.rand(50, dtype=torch.float64).tolist()
    at_once = bootstrap_interval(values, resamples=1000)
    drawn = []
    randint = torch.randint
    monkeypatch.setattr(
        torch, "randint", lambda high, size, **rest: drawn.append(size) or randint(high, size, **rest)
    )
    monkeypatch.setattr(aggregate, "_DRAWN_AT_ONCE", 333)
    assert bootstrap_interval(values, resamples=1000) == at_once
    assert max(rows * columns for rows, columns in drawn) <= 333


def test_interval_of_few_or_odd_values():
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0, 3.0)
    single = bootstrap_interval([5.0])
    assert single.mean == 5.0 and math.isnan(single.low) and math.isnan(single.high)
    assert bootstrap_interval([1.0, math.inf]) == (math.inf, math.inf, math.inf)
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_interval([])
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=rf"confidence must be .* got {confidence}"):
            bootstrap_interval([1.0, 2.0], confidence)


def test_mean_score_is_the_mean_over_images_not_over_batches():
    output, target = torch.rand(2, 5, 3, 8, 8)
    score = MeanScore(psnr)
    score.update(output[:4], target[:4])
    score.update(output[4:], target[4:])
    expected = psnr(output, target)
    assert score.scores == pytest.approx(expected.tolist())
    assert score.compute() == pytest.approx(expected.mean().item())
    assert score.interval() == bootstrap_interval(score.scores)
    assert score.interval(0.5) == bootstrap_interval(score.scores, 0.5)
    score.reset()
    assert score.scores == ()
    with pytest.raises(ValueError, match="update"):
        score.compute()
