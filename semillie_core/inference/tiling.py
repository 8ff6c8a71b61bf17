"""Cutting a frame into overlapping tiles and blending them back."""

from __future__ import annotations

from collections.abc import Callable
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

    def region(self, frame_height: int, frame_width: int) -> tuple[float, float, float, float]:
        """Top, left, height and width in fractions of the frame."""
        return (
            self.top / frame_height,
            self.left / frame_width,
            self.height / frame_height,
            self.width / frame_width,
        )

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


def blend_tiles(
    frames: Tensor,
    edge: int | None,
    work: Callable[[Tensor, Tensor], Tensor],
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Work on frames tile by tile and blend what becomes of the tiles.

    Args:
        frames: ``(B, C, H, W)``.
        edge: Largest tile edge in pixels; ``None`` takes whole frames.
        work: From a tile ``(B, C, h, w)`` and where it lies in its frame, ``(B, 4)`` float32 as :meth:`Tile.region`, to
            what becomes of it, same shape.
        report: Called between tiles with how many are done and how many there are.

    Returns:
        Same shape.
    """
    height, width = frames.shape[2:]
    tiles = plan_tiles(height, width, edge)

    def output(tile: Tile) -> Tensor:
        # In float32: half precision misplaces the tiles of a large photo.
        region = torch.tensor(tile.region(height, width), device=frames.device)
        return work(frames[:, :, tile.rows, tile.columns], region.expand(len(frames), 4))

    if len(tiles) == 1:
        return output(tiles[0])
    total, weights = torch.zeros_like(frames), frames.new_zeros(1, 1, height, width)
    for done, tile in enumerate(tiles, 1):
        window = tile.window(height, width).to(frames)
        total[:, :, tile.rows, tile.columns] += output(tile) * window
        weights[:, :, tile.rows, tile.columns] += window
        if report is not None and done < len(tiles):
            report(done, len(tiles))
    return total / weights


def _starts(frame: int, tile: int, overlap: int) -> list[int]:
    """Evenly spaced starts whose tiles overlap by at least ``overlap``."""
    if tile >= frame:
        return [0]
    count = -(-(frame - overlap) // (tile - overlap))
    return [round(i * (frame - tile) / (count - 1)) for i in range(count)]
