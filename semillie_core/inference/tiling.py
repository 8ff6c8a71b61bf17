"""Cutting a frame into overlapping tiles and blending them back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP_FRACTION = 8
"""Neighbouring tiles share this fraction of their edge, as a divisor."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int
    overlap: int
    """Width of the ramp over which the tile blends into its neighbours."""

    @property
    def rows(self) -> slice:
        """The tile's rows of the frame."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The tile's columns of the frame."""
        return slice(self.left, self.left + self.width)

    def window(self, frame_height: int, frame_width: int) -> Tensor:
        """Blending weights ``(height, width)`` in (0, 1]: linear ramps on edges inside the frame."""

        def ramp(start: int, size: int, frame: int) -> Tensor:
            weights = torch.ones(size)
            rise = torch.arange(1, self.overlap + 1) / (self.overlap + 1)
            if start > 0:
                weights[: self.overlap] = rise
            if start + size < frame:
                weights[size - self.overlap :] = torch.minimum(weights[size - self.overlap :], rise.flip(0))
            return weights

        return ramp(self.top, self.height, frame_height)[:, None] * ramp(self.left, self.width, frame_width)


def plan_tiles(height: int, width: int, edge: int | None) -> list[Tile]:
    """Cover a frame with tiles of at most ``edge`` pixels, row by row.

    Args:
        height: Rows of the frame.
        width: Columns of the frame.
        edge: Largest tile edge; ``None`` gives one tile that is the frame.
    """
    if edge is None or (height <= edge and width <= edge):
        return [Tile(0, 0, height, width, 0)]
    overlap = edge // OVERLAP_FRACTION
    tile_height, tile_width = min(edge, height), min(edge, width)
    return [
        Tile(top, left, tile_height, tile_width, overlap)
        for top in _starts(height, tile_height, overlap)
        for left in _starts(width, tile_width, overlap)
    ]


def _starts(frame: int, tile: int, overlap: int) -> list[int]:
    """Evenly spaced starts whose tiles overlap by at least ``overlap``."""
    if tile >= frame:
        return [0]
    count = -(-(frame - overlap) // (tile - overlap))
    return [round(i * (frame - tile) / (count - 1)) for i in range(count)]
