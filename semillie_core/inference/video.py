"""Brightening the pictures of a video one after the other, so that a few of them are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..out_of_memory import is_out_of_memory
from ..video_io import Picture
from ..weights import SemiLLIEModel
from .clip_frames import ClipFrames
from .clip_light import SteadyLight, measure_light, steady_light
from .controls import EnhanceControls
from .enhance import enhance


def measure_video(model: SemiLLIEModel, pictures: Iterable[Picture], frames: int) -> SteadyLight:
    """See how the light of a video's pictures is to be corrected, so that it does not pump.

    Args:
        model: One whose network judges a frame as a whole.
        pictures: All of them, in order.
        frames: Over about how many to average.

    Raises:
        ValueError: The network does not judge a frame as a whole.
    """
    with torch.inference_mode():
        return steady_light(
            [measure_light(model.network, picture.pixels[None]) for picture in pictures], frames
        )


def enhance_video(
    model: SemiLLIEModel,
    pictures: Iterable[Picture],
    steady: SteadyLight | None = None,
    *,
    controls: EnhanceControls | None = None,
    tile: int | None = None,
    check: Callable[[], None] | None = None,
    out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> Iterator[Picture]:
    """Brighten the pictures of a video.

    Args:
        model: A loaded model.
        pictures: All of them, in order; read a few at a time.
        steady: From :func:`measure_video`: the pictures are the frames of a clip, with steady exposure and with noise
            averaged over five. ``None`` takes every picture by itself.
        controls: Adjustments.
        tile: As in :func:`~.enhance.enhance`; smaller for all that follow once memory ran out.
        check: Called often, also inside a picture; an exception it raises stops the work and passes through.
        out_of_memory: Tells failed allocations from other errors.

    Yields:
        As many, at the same times and for as long.

    Raises:
        ValueError: There are fewer pictures than were measured.
    """
    if steady is None:
        for picture in pictures:
            image = enhance(
                model,
                picture.pixels[None],
                controls=controls,
                tile=tile,
                check=check,
                out_of_memory=out_of_memory,
            ).image[0]
            yield picture._replace(pixels=image)
        return

    source = iter(pictures)
    shown: list[tuple[int, int]] = []  # When, and for how long.
    failure: Exception | None = None

    def read(_: int) -> Tensor:
        # They are asked for one after the other, each once; but one that failed as a neighbour comes up again.
        nonlocal failure
        if failure is None:
            try:
                picture = next(source)
            except StopIteration:
                failure = ValueError(
                    "The video has fewer pictures than before. Something changed it; try again."
                )
            except Exception as error:
                failure = error
            else:
                shown.append((picture.time, picture.duration))
                return picture.pixels
        raise failure

    clip = ClipFrames(model, steady, read, controls, tile=tile, check=check, out_of_memory=out_of_memory)
    for index in range(len(steady.shots)):
        image = clip.enhance(index).image[0]
        yield Picture(image, *shown[index])
