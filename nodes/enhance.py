"""Semi-LLIE Enhance."""

from __future__ import annotations

import logging

import comfy.model_management as mm
from comfy_api.latest import io
from torch import Tensor

from ..semillie_core.inference import EnhanceControls, enhance
from . import _runtime
from ._look import keep_well_lit_input, look_inputs, noise_reduction_input, tiling_input
from ._types import LoadedModel, SemiLLIEModelType

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
                *look_inputs(),
                tiling_input(),
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
                keep_well_lit_input(),
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
                noise_reduction_input(),
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
        tile = _runtime.load_and_pick_tile(tiling, model, height, width, per_pass)
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
