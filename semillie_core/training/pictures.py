"""Pictures of how a run is doing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..data import StepData
from ..files import atomic_write
from .students import View, enhance_view

GAP = 4


@torch.no_grad()
def write_progress(folder: Path, step: int, data: StepData, networks: Sequence[nn.Module]) -> None:
    """Write what networks make of a step's crops, between input and reference; unpaired crops in a file of their own.

    Args:
        folder: Where the files go, named by the step; created where missing.
        step: Number of the step.
        data: Its batches.
        networks: On the same device; put into evaluation mode.
    """

    def outputs(view: View) -> list[Tensor]:
        return [enhance_view(network.eval(), view).image for network in networks]

    paired, unpaired = data.paired, data.unpaired
    seen = View(paired.low, paired.thumbnail, paired.region)
    write_grid(folder / f"{step:07d}.png", [seen.image, *outputs(seen), paired.high])
    if unpaired is not None:
        seen = View(unpaired.weak, unpaired.weak_thumbnail, unpaired.region)
        write_grid(folder / f"{step:07d}-unpaired.png", [seen.image, *outputs(seen)])


def write_grid(path: Path, columns: list[Tensor], height: int = 240) -> None:
    """Write images side by side, one row per sample, as PNG.

    Args:
        path: File to write, atomically.
        columns: Batches ``(B, 3, H, W)``, clamped to [0, 1]; all of one shape.
        height: Rows of pixels of each picture.
    """
    shape = columns[0].shape
    size = (height, max(1, round(shape[3] * height / shape[2])))
    small = [
        F.interpolate(c.detach().float().cpu().clamp(0, 1), size, mode="bilinear", antialias=True)
        for c in columns
    ]
    rows = torch.cat([F.pad(c, (0, GAP, 0, GAP), value=1.0) for c in small], dim=3)
    sheet = torch.cat(list(rows), dim=1)[:, :-GAP, :-GAP]
    picture = Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        picture.save(file, "PNG")
