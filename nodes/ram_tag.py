"""RAM Tag."""

from __future__ import annotations

import json
from typing import Any

import comfy.model_management as mm
from comfy_api.latest import io, ui
from torch import Tensor

from ..semillie_core.ram import TagOptions, tag_images
from . import _runtime
from ._types import LoadedRAM, RAMModelType


class RAMTag(io.ComfyNode):
    """Names what is in pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_RAMTag",
            display_name="RAM Tag",
            category="image/detection",
            description="Names what is in each picture, best match first. One result per picture, also for a "
            "batch.",
            search_aliases=[
                *(
                    "tagger",
                    "caption",
                    "recognize anything",
                    "interrogate",
                    "wd14",
                    "image to text",
                    "keywords",
                ),
                *("标签", "反推", "识别", "タグ付け"),
            ],
            inputs=[
                RAMModelType.Input("ram_model", tooltip="From Load RAM Model."),
                io.Image.Input("image", tooltip="Pictures to tag, any size."),
                io.Combo.Input(
                    "threshold_mode",
                    options=["per_tag", "flat"],
                    default="per_tag",
                    tooltip="How sure the model must be. per_tag: each tag has its own threshold, set by "
                    "RAM's authors. flat: one threshold for all. Default: per_tag.",
                ),
                io.Float.Input(
                    "threshold_offset",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Added to every per-tag threshold, in probability: -0.1 finds more tags, +0.1 "
                    "only surer ones. A threshold never falls below a quarter of itself. Only for per_tag. "
                    "Default: 0.",
                ),
                io.Float.Input(
                    "flat_threshold",
                    default=0.65,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Probability a tag must exceed. Lower finds more and guesses more. Only for "
                    "flat. Default: 0.65.",
                ),
                io.Combo.Input(
                    "language",
                    options=["en", "zh", "both"],
                    default="en",
                    tooltip="Language of tags and text: English, Chinese, or both. The built-in network "
                    "knows English only. Default: en.",
                ),
                io.String.Input(
                    "exclude",
                    default="",
                    multiline=True,
                    tooltip="Tags never to report, separated by commas or lines. Case does not matter, _ "
                    "equals a blank, * and ? are wildcards: 'photo*, grey' drops photo, photography and "
                    "grey. Default: none.",
                ),
                io.Int.Input(
                    "max_tags",
                    default=0,
                    min=0,
                    max=500,
                    tooltip="Keep only this many of the surest tags per picture; 0 keeps all. Default: 0.",
                ),
                io.String.Input(
                    "include",
                    default="",
                    advanced=True,
                    tooltip="If given, only tags that match are reported; written like exclude. Default: "
                    "all.",
                ),
                io.Combo.Input(
                    "sort",
                    options=["score", "list"],
                    default="score",
                    advanced=True,
                    tooltip="score: surest first. list: in the order of the model's tag list, as RAM's own "
                    "program prints them. Default: score.",
                ),
                io.String.Input(
                    "separator",
                    default=", ",
                    advanced=True,
                    tooltip="Between tags. RAM's own program uses ' | '. Default: a comma and a blank.",
                ),
                io.Boolean.Input(
                    "underscores",
                    default=False,
                    advanced=True,
                    tooltip="Write 'street_light' instead of 'street light'. Default: off.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    advanced=True,
                    tooltip="Put before the tags of each picture that has any. Default: nothing.",
                ),
                io.String.Input(
                    "suffix",
                    default="",
                    advanced=True,
                    tooltip="Put after the tags of each picture that has any. Default: nothing.",
                ),
                io.Int.Input(
                    "images_per_pass",
                    default=1,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="How many pictures are computed at once. More is faster on a GPU and needs more "
                    "memory; halved on its own when memory runs out. Default: 1.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "tags",
                    display_name="tags",
                    is_output_list=True,
                    tooltip="The tags of each picture as a list with one text per picture; empty where "
                    "nothing was found.",
                ),
                io.String.Output("text", display_name="text", tooltip="All pictures' tags, one line each."),
                io.String.Output(
                    "scores",
                    display_name="scores",
                    tooltip="JSON: for each picture its tags with probability, threshold and score "
                    "(0.5 is just at the threshold).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, ram_model: LoadedRAM, image: Tensor, images_per_pass: int, **options: Any
    ) -> io.NodeOutput:
        """Tag the batch."""
        _runtime.check_images("image", image)
        per_pass = min(images_per_pass, len(image))
        _runtime.load(ram_model.patcher, _runtime.tagging_memory(ram_model.model, per_pass))
        results = tag_images(
            ram_model.model,
            image.movedim(-1, 1),
            TagOptions(**options),
            batch_size=per_pass,
            progress=_runtime.Progress(),
            check=mm.throw_exception_if_processing_interrupted,
            out_of_memory=_runtime.ran_out_of_memory,
        )
        lines = [result.text for result in results]
        text = "\n".join(lines)
        scores = json.dumps([result.to_dict() for result in results], ensure_ascii=False, indent=1)
        # The page does not show an empty text, but leaves the last one.
        _runtime.show_text(cls.hidden.unique_id, "\n".join(line or "(no tags)" for line in lines))
        return io.NodeOutput(lines, text, scores, ui=ui.PreviewText(text))
