"""Inputs that the nodes for photos and for videos share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..semillie_core.inference.memory import TILES
from ._runtime import AUTO, OFF


def look_inputs() -> list[Any]:
    """How the result looks."""
    return [
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            tooltip="Blend between the photo as it was (0) and the enhanced one (1). Lower it for a "
            "hint of the night to stay. Default: 1.",
        ),
        io.Float.Input(
            "brightness",
            default=0.0,
            min=-4.0,
            max=4.0,
            step=0.05,
            tooltip="Exposure of the enhanced photo in stops (EV): +1 doubles the light, -1 halves "
            "it. White stays white, so raising it clips nothing. Default: 0.",
        ),
        io.Float.Input(
            "saturation",
            default=1.0,
            min=0.0,
            max=4.0,
            step=0.05,
            tooltip="Colourfulness of the enhanced photo, as a factor: 0 makes it grey, 1 leaves it, "
            "1.2 is livelier. High values also bring out colour noise. Default: 1.",
        ),
        io.Float.Input(
            "protect_highlights",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How far areas that have light already (lamps, sky, lit walls) are kept from "
            "becoming white, and strong colours from losing their texture: 0 lets the network decide, 1 "
            "brightens them gently. Default: 1.",
        ),
    ]


def tiling_input() -> Any:
    """Whether to work on parts."""
    return io.Combo.Input(
        "tiling",
        options=[AUTO, OFF, *map(str, TILES)],
        default=AUTO,
        advanced=True,
        tooltip="Work on square parts of this edge length in pixels, to save memory. auto: tiles "
        "only if the whole image would not fit. off: always the whole image. When memory runs "
        "out the size is halved and the work goes on. Default: auto.",
    )


def keep_well_lit_input() -> Any:
    """Whether what is lit well already stays as it is."""
    return io.Boolean.Input(
        "keep_well_lit",
        default=True,
        optional=True,
        tooltip="Leave photos that are lit well already nearly as they are; photos in between are "
        "enhanced in part. Brightness and saturation act on them as well. Turn it off to brighten "
        "them all the same. Default: on.",
    )


def noise_reduction_input() -> Any:
    """How much noise is smoothed."""
    return io.Float.Input(
        "noise_reduction",
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.05,
        optional=True,
        tooltip="How much grain and colour noise is smoothed in what was dark, the more the further "
        "it was brightened: 0 leaves all, 2 suits very noisy photos and costs fine texture. "
        "Default: 1.",
    )
