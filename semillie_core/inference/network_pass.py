"""Running the network over whole frames of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..cancelling import called_inside
from ..network import SemiLLIE
from ..network.thumbnail import FrameIllumination
from ..out_of_memory import is_out_of_memory
from .tiling import blend_tiles

MINIMUM_TILE = 128
"""Smallest tile edge, in pixels, that running out of memory falls back to."""

Correction = Callable[[FrameIllumination], FrameIllumination]


class NetworkPass:
    """The network over whole frames, tile by tile where memory asks for it.

    Args:
        network: What to run, and where.
        edge: Edge of square tiles in pixels; ``None`` takes whole frames.
        out_of_memory: Tells failed allocations from other errors.
    """

    def __init__(
        self,
        network: SemiLLIE,
        edge: int | None = None,
        out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
    ) -> None:
        self.network, self.edge, self.out_of_memory = network, edge, out_of_memory

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.conv_first.weight.device

    def __call__(
        self,
        frames: Tensor,
        correct: Correction | None = None,
        tile_done: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Brighten frames.

        When memory runs out for a single one, ``edge`` is halved for it and all that follow, down to
        :data:`MINIMUM_TILE`; of several, fewer at once are the caller's to try, which changes nothing in them.

        Args:
            frames: ``(B, 3, H, W)`` in [0, 1].
            correct: Changes what the network judges the frames' light to be.
            tile_done: Called as ``tile_done(done, tiles)``.

        Returns:
            Same shape, float32, where the frames are; not clamped.
        """
        while True:
            try:
                return self._run(frames, correct, tile_done)
            except Exception as error:
                smaller = (self.edge or max(frames.shape[2:])) // 2
                if len(frames) > 1 or smaller < MINIMUM_TILE or not self.out_of_memory(error):
                    raise
                self.edge = smaller

    def _run(
        self, frames: Tensor, correct: Correction | None, tile_done: Callable[[int, int], None] | None
    ) -> Tensor:
        seen = frames.to(self.device, self.network.conv_first.weight.dtype)
        # All tiles share the illumination of the whole frame, so that they agree on its exposure.
        illumination = self.network.estimate_frame(seen)
        if correct is not None and illumination is not None:
            illumination = correct(illumination)

        def run(tile: Tensor, region: Tensor) -> Tensor:
            image: Tensor = self.network(tile, illumination, region).image
            return image

        return blend_tiles(seen, self.edge, run, tile_done).to(frames.device, torch.float32)


@contextmanager
def ready(network: SemiLLIE, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Have a network infer, also one that is learning, and call ``check`` before each of its modules."""
    learning = network.training
    network.eval()
    try:
        with torch.inference_mode(), called_inside(network, check):
            yield
    finally:
        network.train(learning)
