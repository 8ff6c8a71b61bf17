"""Semantic Drift."""

from __future__ import annotations

import json

import comfy.model_management as mm
from comfy_api.latest import io, ui
from torch import Tensor

from ..semillie_core.ram import DriftReport, TagOptions, semantic_drift
from . import _runtime
from ._types import LoadedRAM, RAMModelType


class SemanticDrift(io.ComfyNode):
    """Compares what is in pictures before and after an edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_SemanticDrift",
            display_name="Semantic Drift",
            category="image/detection",
            description="Tells whether an edit changed what is in a picture: which tags it lost, which "
            "appeared, and how alike the two are to the tagging network.",
            search_aliases=[
                *("compare tags", "before after", "content check", "hallucination", "semantic similarity"),
                *("语义对比", "比較"),
            ],
            inputs=[
                RAMModelType.Input("ram_model", tooltip="From Load RAM Model."),
                io.Image.Input("before", tooltip="Pictures before the edit."),
                io.Image.Input("after", tooltip="The same pictures after it, as many; sizes may differ."),
                io.Float.Input(
                    "threshold_offset",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Added to every tag's threshold, in probability: lower compares more and less "
                    "sure tags. A threshold never falls below a quarter of itself. Default: 0.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.05,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="How far below its threshold a tag may fall on one side and still count as kept, "
                    "in score (0.5 is the threshold). 0 calls every crossing a change. Default: 0.05.",
                ),
                io.String.Input(
                    "exclude",
                    default="",
                    multiline=True,
                    tooltip="Tags to leave out of the comparison, such as 'night, dark*'. Separated by "
                    "commas or lines; * and ? are wildcards. Default: none.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "verdict",
                    display_name="verdict",
                    is_output_list=True,
                    tooltip="One sentence per picture.",
                ),
                io.Float.Output(
                    "similarity",
                    display_name="similarity",
                    is_output_list=True,
                    tooltip="Per picture, how alike both look to the network: 1 the same, 0 unrelated.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="JSON: kept, lost and gained tags with scores."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        ram_model: LoadedRAM,
        before: Tensor,
        after: Tensor,
        threshold_offset: float,
        margin: float,
        exclude: str,
    ) -> io.NodeOutput:
        """Compare the batches."""
        _runtime.check_images("before", before)
        _runtime.check_images("after", after)
        _runtime.load(ram_model.patcher, _runtime.tagging_memory(ram_model.model, 1))
        reports = semantic_drift(
            ram_model.model,
            before.movedim(-1, 1),
            after.movedim(-1, 1),
            TagOptions(threshold_offset=threshold_offset, exclude=exclude),
            margin=margin,
            progress=_runtime.Progress(),
            check=mm.throw_exception_if_processing_interrupted,
            out_of_memory=_runtime.ran_out_of_memory,
        )
        verdicts = [_sentence(report) for report in reports]
        text = "\n".join(verdicts)
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(
            verdicts,
            [report.similarity for report in reports],
            json.dumps([report.to_dict() for report in reports], ensure_ascii=False, indent=1),
            ui=ui.PreviewText(text),
        )


def _sentence(report: DriftReport) -> str:
    parts = [f"similarity {report.similarity:.2f}"]
    for name, changes in (("kept", report.kept), ("lost", report.lost), ("gained", report.gained)):
        parts.append(f"{name}: {', '.join(change.english for change in changes) or 'none'}")
    return "; ".join(parts)
