"""Folders of photos as the frames of clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ._enhancer import Enhancer
from ._errors import UsageError

if TYPE_CHECKING:
    from ..inference.clip import FrameLight, SteadyLight


def steady_folders(enhancer: Enhancer, photos: Sequence[Path], frames: int) -> dict[Path, SteadyLight]:
    """Correct the light of photos that are consecutive frames.

    The photos of a folder, in the natural order of their names, are a clip; where their size changes, another begins.
    One photo after another is in memory.

    Args:
        enhancer: Its network judges the light.
        photos: The frames. One whose light cannot be measured is left out.
        frames: Over about how many frames the light is averaged.

    Returns:
        The correction of each photo, for itself alone.

    Raises:
        UsageError: The network does not judge a frame as a whole.
    """
    import torch
    from tqdm import tqdm

    from ..image_io import read_photo
    from ..inference.clip import SteadyLight, measure_light, steady_light

    if not enhancer.model.config.thumbnail:
        raise UsageError(
            "--steady-frames needs a network that judges a photo's light from its thumbnail, as semillie-compact "
            f"does; {enhancer.model.name} has none. Leave the option out or choose another --model."
        )
    measured: list[tuple[Path, tuple[int, ...], FrameLight]] = []
    bar = tqdm(sorted(photos, key=_natural), "Light of the frames", disable=None, leave=False)
    for path in bar:
        try:
            pixels = read_photo(path).pixels[None, :3]
            with torch.inference_mode():
                light = measure_light(enhancer.model.network, pixels)
        except Exception:  # noqa: S112 - It comes up again, and is reported, when the photo is to be enhanced.
            continue
        measured.append((path, tuple(pixels.shape), light))
    steady: dict[Path, SteadyLight] = {}
    for _, group in groupby(measured, key=lambda frame: (frame[0].parent, frame[1])):
        clip = list(group)
        corrections = steady_light([light for _, _, light in clip], frames)
        for index, (path, _, _) in enumerate(clip):
            steady[path] = SteadyLight(*(values[index : index + 1] for values in corrections))
    return steady


def _natural(path: Path) -> tuple[str, list[int | str]]:
    """Sorts frame2 before frame10, folder by folder."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return str(path.parent), [int(part) if index % 2 else part for index, part in enumerate(parts)]
