"""Folders of photos as the frames of clips."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ._enhancer import Enhancer
from ._errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ..inference.clip_frames import ClipFrames
    from ..inference.clip_light import FrameLight, SteadyLight


@dataclass(frozen=True, eq=False)
class _Clip:
    """Photos that are consecutive frames."""

    frames: Sequence[Path]
    steady: SteadyLight


class Clips:
    """Enhances photos as frames of clips.

    The photos of a folder, in the natural order of their names, are a clip; where their size changes, another begins.
    A few photos at a time are in memory.

    Args:
        enhancer: Its network judges the light.
        photos: The frames. One whose light cannot be measured is a photo by itself.
        frames: Over about how many frames the light is averaged.

    Raises:
        UsageError: The network does not judge a frame as a whole.
    """

    def __init__(self, enhancer: Enhancer, photos: Sequence[Path], frames: int) -> None:
        from ..inference.clip_light import steady_light

        self._enhancer = enhancer
        self._places: dict[Path, tuple[_Clip, int]] = {}
        self._current: tuple[_Clip, ClipFrames] | None = None
        measured = _measure(enhancer, sorted(photos, key=natural))
        for _, group in groupby(measured, key=lambda frame: (frame[0].parent, frame[1])):
            paths, _, lights = zip(*group, strict=True)
            clip = _Clip(paths, steady_light(lights, frames))
            self._places.update({path: (clip, index) for index, path in enumerate(paths)})

    def enhance(self, photo: Path, pixels: Tensor, progress: Callable[[float], None]) -> Tensor:
        """Enhance a photo, fastest in the :func:`natural` order.

        Args:
            photo: One of the photos.
            pixels: What is in it, ``(C, H, W)`` in [0, 1].
            progress: Called with the fraction that is done.

        Returns:
            Same shape.
        """
        from ..image_io import read_photo
        from ..inference.clip_frames import ClipFrames

        if photo not in self._places:
            return self._enhancer(pixels, progress)
        clip, index = self._places[photo]
        if self._current is None or self._current[0] is not clip:

            def read(index: int) -> Tensor:
                return read_photo(clip.frames[index]).pixels

            # Its frames have one size.
            tile = self._enhancer.edge(*pixels.shape[1:])
            self._current = (
                clip,
                ClipFrames(self._enhancer.model, clip.steady, read, self._enhancer.controls, tile=tile),
            )
        return self._current[1].enhance(index, progress).image[0]


def check_judges_frames(enhancer: Enhancer) -> None:
    """Make sure that the light of frames can be steadied.

    Raises:
        UsageError: The network does not judge a frame as a whole.
    """
    if not enhancer.model.config.thumbnail:
        raise UsageError(
            "--steady-frames needs a network that judges a photo's light from its thumbnail, as semillie-compact "
            f"does; {enhancer.model.name} has none. Leave the option out or choose another --model."
        )


def natural(path: Path) -> tuple[str, list[int | str]]:
    """Sorts frame2 before frame10, folder by folder."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return str(path.parent), [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _measure(enhancer: Enhancer, photos: Sequence[Path]) -> list[tuple[Path, tuple[int, ...], FrameLight]]:
    """The photos whose light can be measured, with their shapes and the light."""
    import torch
    from tqdm import tqdm

    from ..image_io import read_photo
    from ..inference.clip_light import measure_light

    check_judges_frames(enhancer)
    measured = []
    for path in tqdm(photos, "Light of the frames", disable=None, leave=False):
        try:
            pixels = read_photo(path).pixels[None, :3]
            with torch.inference_mode():
                light = measure_light(enhancer.model.network, pixels)
        except Exception:  # noqa: S112 - It comes up again, and is reported, when the photo is to be enhanced.
            continue
        measured.append((path, tuple(pixels.shape), light))
    return measured
