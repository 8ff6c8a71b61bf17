"""Pictures of how a run is doing."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..files import atomic_write

GAP = 4


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
