"""Steady exposure for the frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..network import SemiLLIE
from ..network.thumbnail import FrameIllumination, average_areas
from .controls import darkness

CUT = 0.4
"""Share of light that changes from one frame to the next, from which the two belong to different shots. Of pairs of
different dark photos 97 of 100 differ by more; of frames of a pan by 7 % of the width from frame to frame 1 of 100."""

_GRID, _REACH = 16, 2


class FrameLight(NamedTuple):
    """What decides how bright each frame of a clip becomes."""

    log_gain: Tensor
    """Mean logarithm of the brightening exponent per colour channel, ``(B, 3)``."""
    features: Tensor
    """Mean of what the body is told about the frame, ``(B, C)``."""
    darkness: Tensor
    """How far the frame is from being lit well, ``(B,)`` in [0, 1]; see :func:`~.controls.darkness`."""
    grid: Tensor
    """The frame at 16 x 16 pixels, ``(B, 3, 16, 16)``, by which cuts are found."""


class SteadyLight(NamedTuple):
    """How the light of each frame is corrected, so that frames of one shot are lit alike."""

    log_gain: Tensor
    """Added to the frame's logarithmic gain, ``(B, 3)``."""
    features: Tensor
    """Added to the frame's features, ``(B, C)``."""
    darkness: Tensor
    """Replaces the frame's own, ``(B,)``."""
    shots: Tensor
    """Number of the shot that the frame belongs to, ``(B,)``."""

    def correct(self, illumination: FrameIllumination, frames: slice) -> FrameIllumination:
        """The illumination of some frames, its local part as it was."""

        def shifted(maps: Tensor, by: Tensor) -> Tensor:
            return maps + by[frames].to(maps)[:, :, None, None]

        return FrameIllumination(
            shifted(illumination.log_gain, self.log_gain), shifted(illumination.features, self.features)
        )


def measure_light(network: SemiLLIE, frames: Tensor) -> FrameLight:
    """See how bright a network would make frames.

    Args:
        network: One with a thumbnail; where its parameters are is where the work is done.
        frames: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        Values in float32 on the CPU.

    Raises:
        ValueError: The network does not judge a frame as a whole.
    """
    parameter = network.conv_first.weight
    illumination = network.estimate_frame(frames.to(parameter.device, parameter.dtype))
    if illumination is None:
        raise ValueError(
            "steady_frames needs a network that judges a frame's light from its thumbnail, as semillie-compact does; "
            "this one has none. Set steady_frames to 1 or load another model."
        )
    values = (
        illumination.log_gain.mean((2, 3)),
        illumination.features.mean((2, 3)),
        darkness(frames),
        average_areas(frames, (_GRID, _GRID)),
    )
    return FrameLight(*(value.float().cpu() for value in values))


def find_shots(grid: Tensor) -> Tensor:
    """Number the shots of a clip.

    Args:
        grid: Consecutive frames at low resolution, ``(B, 3, h, w)`` in [0, 1].

    Returns:
        ``(B,)`` int64, counted from 0; a frame whose light differs from the one before by :data:`CUT`, the two laid
        over each other as well as a movement of the camera allows, starts another shot.
    """
    before, after = grid[:-1], grid[1:]
    height, width = grid.shape[2:]
    change = grid.new_full((len(before),), math.inf)
    # The camera may have moved: the change is that at the best of some displacements.
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            old = before[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            new = after[..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
            # One code value in 255 as a floor: between black frames everything is noise.
            light = torch.maximum(old.sum((1, 2, 3)), new.sum((1, 2, 3))).clamp(min=old[:1].numel() / 255)
            change = torch.minimum(change, (new - old).abs().sum((1, 2, 3)) / light)
    cuts = change > CUT
    return torch.cat([cuts.new_zeros(1), cuts]).cumsum(0)


def average_in_shots(values: Tensor, shots: Tensor, frames: float) -> Tensor:
    """Average values over neighbouring frames of the same shot, those before and those after alike.

    Args:
        values: One row per frame, ``(B, N)``.
        shots: :func:`find_shots`.
        frames: The weights are a Gaussian whose standard deviation is that of a window of so many frames.
    """
    sigma = frames / math.sqrt(12)
    total, weights = values.clone(), values.new_ones(len(values), 1)
    for step in range(1, min(math.ceil(3 * sigma), len(values) - 1) + 1):
        weight = (shots[step:] == shots[:-step])[:, None] * math.exp(-0.5 * (step / sigma) ** 2)
        total[step:] += weight * values[:-step]
        total[:-step] += weight * values[step:]
        weights[step:] += weight
        weights[:-step] += weight
    return total / weights


def steady_light(parts: Sequence[FrameLight], frames: int) -> SteadyLight:
    """Correct the light of a clip's frames towards the average over their neighbours in the shot.

    Args:
        parts: The light of all frames, measured in one part after the other.
        frames: Over about how many frames to average.
    """
    light = FrameLight(*map(torch.cat, zip(*parts, strict=True)))
    shots = find_shots(light.grid)
    return SteadyLight(
        average_in_shots(light.log_gain, shots, frames) - light.log_gain,
        average_in_shots(light.features, shots, frames) - light.features,
        average_in_shots(light.darkness[:, None], shots, frames)[:, 0],
        shots,
    )
