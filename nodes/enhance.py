"""Semi-LLIE Enhance."""

from __future__ import annotations

import logging

import comfy.model_management as mm
from comfy_api.latest import io
from torch import Tensor

from ..semillie_core.inference import EnhanceControls, enhance
from ..semillie_core.inference.memory import TILES, free_memory, pick_tile, working_memory
from . import _runtime
from ._types import LoadedModel, SemiLLIEModelType

AUTO, OFF = "auto", "off"

log = logging.getLogger(__name__)


class Enhance(io.ComfyNode):
    """Brightens images with a loaded network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_Enhance",
            display_name="Semi-LLIE Enhance",
            category="image/adjustments",
            description="Brightens dark photos and video frames, and tames the noise that comes up with the "
            "shadows. Any size, any number of images; transparency is kept.",
            search_aliases=[
                *(
                    "brighten",
                    "night",
                    "dark photo",
                    "low light",
                    "exposure",
                    "underexposed",
                    "relight",
                    "llie",
                ),
                *(
                    "shadows",
                    "night mode",
                    "lighten",
                    "去暗",
                    "低光增强",
                    "提亮",
                    "夜景",
                    "明るく",
                    "暗い写真",
                ),
            ],
            inputs=[
                SemiLLIEModelType.Input("model", tooltip="From Load Semi-LLIE Model."),
                io.Image.Input(
                    "image",
                    tooltip="One or more photos or video frames, any size. With four channels the fourth is "
                    "kept as transparency.",
                ),
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
                io.Combo.Input(
                    "tiling",
                    options=[AUTO, OFF, *map(str, TILES)],
                    default=AUTO,
                    advanced=True,
                    tooltip="Work on square parts of this edge length in pixels, to save memory. auto: tiles "
                    "only if the whole image would not fit. off: always the whole image. When memory runs "
                    "out the size is halved and the work goes on. Default: auto.",
                ),
                io.Int.Input(
                    "images_per_pass",
                    default=1,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="How many images of a batch are computed at once. More can be faster for small "
                    "frames on a GPU and needs that many times the memory; halved on its own when memory runs "
                    "out. Default: 1.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to enhance: 1 fully, 0 not at all. It is stretched to the image; one "
                    "mask serves the whole batch. Without a mask everything is enhanced.",
                ),
                io.Boolean.Input(
                    "keep_well_lit",
                    default=True,
                    optional=True,
                    tooltip="Leave photos that are lit well already nearly as they are; photos in between are "
                    "enhanced in part. Brightness and saturation act on them as well. Turn it off to brighten "
                    "them all the same. Default: on.",
                ),
                io.Int.Input(
                    "steady_frames",
                    default=1,
                    min=1,
                    max=240,
                    optional=True,
                    tooltip="For clips: the exposure of consecutive frames is averaged over about this many, so "
                    "that it does not pump when the camera moves, and their grain over five, so that it does not "
                    "flicker; cuts are noticed. A second's worth of frames is a good value. 1 enhances every "
                    "image by itself. Default: 1.",
                ),
                io.Float.Input(
                    "noise_reduction",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    optional=True,
                    tooltip="How much grain and colour noise is smoothed in what was dark, the more the further "
                    "it was brightened: 0 leaves all, 2 suits very noisy photos and costs fine texture. "
                    "Default: 1.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The brightened images."),
                io.Mask.Output(
                    "illumination",
                    display_name="illumination",
                    tooltip="How much light each spot had: 0 in darkness, 1 where nothing needed "
                    "brightening. Use it as a mask for other nodes.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        image: Tensor,
        strength: float,
        brightness: float,
        saturation: float,
        protect_highlights: float,
        tiling: str,
        images_per_pass: int,
        mask: Tensor | None = None,
        keep_well_lit: bool = True,
        steady_frames: int = 1,
        noise_reduction: float = 1.0,
    ) -> io.NodeOutput:
        """Enhance the batch."""
        _runtime.check_images("image", image)
        masks = None if mask is None else _runtime.mask_for(mask, image)
        if masks is not None and not masks.any():
            log.warning(
                "Semi-LLIE Enhance: the mask is zero everywhere, so nothing is enhanced. Load Image gives such a mask "
                "for a photo without transparency: leave mask unconnected."
            )
        count, height, width, _ = image.shape
        per_pass = min(images_per_pass, count)
        tile = _load_and_pick_tile(tiling, model, height, width, per_pass)
        result = enhance(
            model.model,
            image.movedim(-1, 1),
            controls=EnhanceControls(
                strength,
                brightness,
                saturation,
                protect_highlights,
                noise_reduction=noise_reduction,
                keep_well_lit=keep_well_lit,
            ),
            mask=masks,
            tile=tile,
            batch_size=per_pass,
            steady_frames=steady_frames,
            progress=_runtime.Progress(),
            check=mm.throw_exception_if_processing_interrupted,
            out_of_memory=_runtime.ran_out_of_memory,
        )
        return io.NodeOutput(
            _runtime.finished(result.image), result.illumination.to(mm.intermediate_device())
        )


def _load_and_pick_tile(
    tiling: str, model: LoadedModel, height: int, width: int, per_pass: int
) -> int | None:
    """Have ComfyUI load the network and make room for the work, then see what the room suffices for."""
    config, device = model.model.config, model.patcher.load_device
    tile = None if tiling in (AUTO, OFF) else int(tiling)
    area = height * width if tile is None else min(tile, height) * min(tile, width)
    _runtime.load(
        model.patcher, min(working_memory(config, area * per_pass), int(mm.get_total_memory(device)))
    )
    if tiling != AUTO:
        return tile
    # By the patcher: with dynamic VRAM other models stay until their memory is needed, and it counts theirs as free.
    free = int(model.patcher.get_free_memory(device) - mm.extra_reserved_memory())
    if mm.is_device_cpu(device):
        # ComfyUI counts the whole machine's memory, also where a container may not use all of it.
        free = min(free, free_memory(device))
    return pick_tile(config, height, width, free // per_pass)
