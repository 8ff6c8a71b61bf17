"""How good a network is on whole validation photos."""

from __future__ import annotations

import torch
from torch import nn

from ..data import Pair
from ..data.pairs import read_levels, to_float
from ..metrics import psnr, psnr_gt_mean, ssim
from .distributed import Process
from .students import enhance_photo


def validate(network: nn.Module, pairs: list[Pair], process: Process) -> dict[str, float]:
    """Means of :func:`score_pairs` over all pairs, which the processes share out, for the log."""
    network.eval()
    mine = pairs[process.rank :: process.world]
    scores = [row for part in process.gather(score_pairs(network, mine)) for row in part]
    means = [sum(column) / len(scores) for column in zip(*scores, strict=True)]
    return dict(zip(("val_psnr", "val_ssim", "val_psnr_gt_mean"), means, strict=True))


@torch.no_grad()
def score_pairs(network: nn.Module, pairs: list[Pair]) -> list[tuple[float, float, float]]:
    """Plain PSNR (dB), SSIM and GT-mean PSNR of whole photos, clamped to [0, 1], on the network's device."""
    device = next(network.parameters()).device
    scores = []
    for pair in pairs:
        low, high = (to_float(read_levels(path))[None].to(device) for path in (pair.low, pair.high))
        output = enhance_photo(network, low).float().clamp(0, 1)
        scores.append(tuple(float(f(output, high)) for f in (psnr, ssim, psnr_gt_mean)))
    return scores  # type: ignore[return-value]
