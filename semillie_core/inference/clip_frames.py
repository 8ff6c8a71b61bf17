"""Enhancing the frames of a clip that is not in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..out_of_memory import is_out_of_memory
from ..weights import SemiLLIEModel
from .clip_light import SteadyLight
from .clip_noise import REACH, Frame, average_frame
from .controls import EnhanceControls
from .enhance import Enhancement, colours, finish
from .network_pass import NetworkPass, ready


class ClipFrames:
    """Frames of a clip, each read when it is needed and enhanced as :func:`~.enhance.enhance` does with all of them.

    What the network made of the frames around the last one is kept, so frames are best asked for in their order.

    Args:
        model: A loaded model.
        steady: How the light of all frames is corrected (:func:`~.clip_light.steady_light`).
        read: Returns the frame of a number, ``(C, H, W)`` in [0, 1]. What it raises for a neighbour leaves that out.
        controls: Adjustments.
        tile, check, out_of_memory: As in :func:`~.enhance.enhance`.
    """

    def __init__(
        self,
        model: SemiLLIEModel,
        steady: SteadyLight,
        read: Callable[[int], Tensor],
        controls: EnhanceControls | None = None,
        *,
        tile: int | None = None,
        check: Callable[[], None] | None = None,
        out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
    ) -> None:
        self.model, self.steady, self.read, self.check = model, steady, read, check
        self.controls = controls or EnhanceControls()
        self._run = NetworkPass(model.network, tile, out_of_memory)
        self._near: dict[int, tuple[Tensor, Frame]] = {}

    def enhance(self, index: int, progress: Callable[[float], None] | None = None) -> Enhancement:
        """Enhance a frame.

        Args:
            index: Its number.
            progress: Called with the share of the work that is done.

        Returns:
            A batch of one.
        """
        run = self._run
        reach = REACH if self.controls.noise_reduction else 0
        shots = self.steady.shots
        near = range(max(index - reach, 0), min(index + reach + 1, len(shots)))
        shot = [number for number in near if shots[number] == shots[index]]
        self._near = {number: self._near[number] for number in shot if number in self._near}
        missing = [number for number in shot if number not in self._near]
        with ready(self.model.network, self.check):
            for count, number in enumerate(missing):

                def tile_done(done: int, tiles: int, count: int = count) -> None:
                    if progress is not None:
                        progress((count + done / tiles) / len(missing))

                try:
                    image = self.read(number)[None]
                except Exception:
                    if number == index:
                        raise
                    continue
                colour = colours(image)
                correct = partial(self.steady.correct, frames=slice(number, number + 1))
                self._near[number] = image, Frame.of(colour, run(colour, correct, tile_done))
            image, frame = self._near[index]
            bright = frame.enhanced
            if self.controls.noise_reduction:
                others = [self._near[number][1] for number in sorted(self._near) if number != index]
                bright = average_frame(frame, others, self.controls.noise_reduction, run.device)
            need = self.steady.darkness[index : index + 1]
            return finish(image, bright, self.controls, run.device, need=need)
