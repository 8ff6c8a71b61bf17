"""How good a network is on whole validation photos."""

from __future__ import annotations

import torch
from torch import nn

from ..data import Pair
from ..data.pairs import read_levels, to_float
from ..inference.noise import reduce_noise
from ..metrics import psnr, psnr_gt_mean, ssim
from .distributed import Process
from .students import enhance_photo


def validate(
    network: nn.Module, pairs: list[Pair], process: Process, *, noise_reduced: bool = False
) -> dict[str, float]:
    """Means of :func:`score_pairs` over all pairs, which the processes share out, for the log."""
    network.eval()
    mine = pairs[process.rank :: process.world]
    parts = process.gather(score_pairs(network, mine, noise_reduced=noise_reduced))
    scores = [row for part in parts for row in part]
    return {f"val_{name}": sum(row[name] for row in scores) / len(scores) for name in scores[0]}


@torch.no_grad()
def score_pairs(
    network: nn.Module, pairs: list[Pair], *, noise_reduced: bool = False
) -> list[dict[str, float]]:
    """Scores of whole photos, clamped to [0, 1], on the network's device.

    Returns:
        For each pair ``psnr`` (dB, plain), ``ssim`` and ``psnr_gt_mean``; with ``noise_reduced`` also
        ``psnr_noise_reduced`` and ``ssim_noise_reduced``, of the output after the enhancer's noise reduction.
    """
    device = next(network.parameters()).device
    scores = []
    for pair in pairs:
        low, high = (to_float(read_levels(path))[None].to(device) for path in (pair.low, pair.high))
        output = enhance_photo(network, low).float()
        image = output.clamp(0, 1)
        row = {
            "psnr": float(psnr(image, high)),
            "ssim": float(ssim(image, high)),
            "psnr_gt_mean": float(psnr_gt_mean(image, high)),
        }
        if noise_reduced:
            image = reduce_noise(low, output).clamp(0, 1)
            row |= {
                "psnr_noise_reduced": float(psnr(image, high)),
                "ssim_noise_reduced": float(ssim(image, high)),
            }
        scores.append(row)
    return scores
