"""Noise of a clip, averaged out over neighbouring frames.

Where two frames show the same, they differ by their noise, and their mean has less of it; grain that is new in every
frame flickers no more. A frame is laid over its neighbours by the displacement of the whole picture, found by phase
correlation (Kuglin and Hines, 1975); what then differs by more than noise does, because it moved in another way,
takes no part.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import luma
from .noise import RADIUS, expected_noise, luma_and_colour, neighbourhood_mean

REACH = 2
"""Frames before and after a frame that it is averaged with."""

TOLERANCE = 4.0
"""Times the expected variance by which neighbourhoods may differ and still count as the same. Chosen on clips made of
LOL's validation references, still and moving ones: more gains in noisier clips, and costs sharpness in others."""

_ALIGNED_SIZE = 1024
"""Edge up to which displacements are found at full size; of larger frames at a whole fraction of it."""
_STRONG = 10.0  # times the mean, from where a frequency counts fully
_NOTHING = 1e-12
_NO_NOISE = 1e-8
_BAND = 1 << 18
"""Pixels that are averaged at once, which bounds memory."""


class _Neighbour(NamedTuple):
    enhanced: Tensor
    down: int  # where the picture lies in it
    right: int


class Frame(NamedTuple):
    """A frame and what its neighbours need to know of it."""

    original: Tensor
    """The dark frame, ``(1, 3, H, W)`` in [0, 1]."""
    enhanced: Tensor
    """What became of it, same shape and device."""
    small: Tensor
    """Luma of the latter, reduced, ``(h, w)``; on the CPU, since not every GPU can transform it."""
    spectrum: Tensor
    """The Fourier transform of that, windowed."""

    @classmethod
    def of(cls, original: Tensor, enhanced: Tensor) -> Frame:
        """Prepare a frame."""
        small = F.avg_pool2d(luma(enhanced), _reduction(enhanced))[0, 0].float().cpu()
        # The picture's borders are no edges of it.
        fade = [torch.hann_window(length, periodic=False) for length in small.shape]
        return cls(original, enhanced, small, torch.fft.rfft2((small - small.mean()) * torch.outer(*fade)))


def average_frames(
    frames: Iterable[tuple[Tensor, Tensor]], amount: float = 1.0, device: torch.device | str | None = None
) -> Iterator[Tensor]:
    """Average each frame of a shot with its neighbours.

    Args:
        frames: The dark frame and what became of it, as :class:`Frame` has them. Up to ``2 * REACH + 1`` are kept.
        amount: As in :func:`average_frame`.
        device: As in :func:`average_frame`.

    Yields:
        For each frame ``(1, 3, H, W)``; :data:`REACH` frames later than it came in, where there are that many.
    """
    window: deque[Frame] = deque(maxlen=2 * REACH + 1)

    def averaged(position: int) -> Tensor:
        near = [*window][max(position - REACH, 0) : position + REACH + 1]
        frame = window[position]
        return average_frame(frame, [other for other in near if other is not frame], amount, device)

    for original, enhanced in frames:
        window.append(Frame.of(original, enhanced))
        if len(window) > REACH:
            yield averaged(len(window) - 1 - REACH)
    for position in range(max(len(window) - REACH, 0), len(window)):
        yield averaged(position)


def average_frame(
    frame: Frame,
    others: Iterable[Frame],
    amount: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Average a frame with others, as far as they show the same.

    The weight of another is 1 where its neighbourhood differs by up to :data:`TOLERANCE` times what counts as noise
    there (see :func:`~.noise.expected_noise`), and falls to 0 where it differs by more.

    Args:
        frame: The frame.
        others: Those around it. Frames of another size take no part.
        amount: Factor on the expected noise, above 0.
        device: Where to compute, a band of rows at a time; by default where the frames are.

    Returns:
        ``(1, 3, H, W)``, where the frame is.
    """
    factor, (height, width) = _reduction(frame.enhanced), frame.enhanced.shape[2:]
    neighbours = []
    for other in others:
        if other.enhanced.shape == frame.enhanced.shape:
            down, right = (round(factor * by) for by in displacement(frame, other))
            neighbours.append(_Neighbour(other.enhanced, down, right))
    result = torch.empty_like(frame.enhanced)
    rows = max(_BAND // width, RADIUS)
    for top in range(0, height, rows):
        first, last = max(top - RADIUS, 0), min(top + rows + RADIUS, height)
        band = _average_rows(frame, neighbours, slice(first, last), amount, device)
        result[..., top : top + rows, :] = band[..., top - first : top - first + rows, :]
    return result


def displacement(frame: Frame, other: Frame) -> tuple[float, float]:
    """How many pixels further down and right a frame's picture lies in another; 0 if they are no more alike then.

    Both are seen at reduced size.
    """
    cross = frame.spectrum.conj() * other.spectrum
    size = cross.abs()
    # All frequencies count alike, as in a phase correlation, but the weak ones, which are noise.
    likeness = torch.fft.irfft2(cross / (size + _STRONG * size.mean() + _NOTHING), s=frame.small.shape)
    row, column = divmod(int(likeness.argmax()), likeness.shape[1])
    down, right = (
        at - length if at > length // 2 else at
        for at, length in zip((row, column), likeness.shape, strict=True)
    )
    here, there = overlap(likeness.shape, down, right)
    still, moved = ((frame.small[here] - other.small[place]).abs().mean() for place in (here, there))
    if not moved < still:
        return 0.0, 0.0
    return down + _offset(likeness[:, column], row), right + _offset(likeness[row], column)


def overlap(size: Sequence[int], down: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the one frame and of the other, in which it lies further down and right, that both show."""
    here = tuple(
        slice(max(-by, 0), length - max(by, 0)) for length, by in zip(size, (down, right), strict=True)
    )
    there = tuple(
        slice(max(by, 0), length - max(-by, 0)) for length, by in zip(size, (down, right), strict=True)
    )
    return here, there  # type: ignore[return-value]


def _reduction(enhanced: Tensor) -> int:
    return math.ceil(max(enhanced.shape[2:]) / _ALIGNED_SIZE)


def _offset(line: Tensor, at: int) -> float:
    """Where, beside its largest value, the parabola through it and its neighbours is highest."""
    before, peak, after = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    bend = 2 * peak - before - after
    return 0.5 * (after - before) / bend if bend > 0 else 0.0


def _average_rows(
    frame: Frame,
    neighbours: Sequence[_Neighbour],
    rows: slice,
    amount: float,
    device: torch.device | str | None,
) -> Tensor:
    size = frame.enhanced.shape[2:]
    original, enhanced = (image[..., rows, :].to(device) for image in (frame.original, frame.enhanced))
    # The difference of two frames has the noise of both.
    noise = 2 * TOLERANCE * amount**2 * expected_noise(original, enhanced) + _NO_NOISE
    total, weights = enhanced.clone(), torch.ones_like(enhanced[:, :1])
    for other, down, right in neighbours:
        here, there = overlap(size, down, right)
        first, last = max(here[0].start, rows.start), min(here[0].stop, rows.stop)
        if first >= last:
            continue
        mine = (..., slice(first - rows.start, last - rows.start), here[1])
        seen = other[..., first + down : last + down, there[1]].to(device)
        change = luma_and_colour(seen - enhanced[mine]).square()
        change = torch.cat([change[:, :1], change[:, 1:].sum(1, keepdim=True)], dim=1)
        excess = (neighbourhood_mean(change) / noise[mine]).amax(1, keepdim=True) - 1
        weight = torch.exp(-excess.clamp_min(0))
        total[mine] += weight * seen
        weights[mine] += weight
    return total / weights
