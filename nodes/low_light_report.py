"""Low-Light Report."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..semillie_core.metrics import histogram_image, low_light_report
from . import _runtime


class LowLightReport(io.ComfyNode):
    """Measures photos and says what is wrong with them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_LowLightReport",
            display_name="Low-Light Report",
            category="image/detection",
            description="Says in words and numbers what is wrong with a photo: darkness, noise, clipping, "
            "colour cast, and with a reference how close it comes (PSNR, SSIM, colour difference).",
            search_aliases=[
                *("exposure check", "histogram", "psnr", "ssim", "niqe", "image quality", "noise", "metrics"),
                *("clipping", "colour cast", "too dark", "直方图", "画质评估", "ヒストグラム"),
            ],
            inputs=[
                io.Image.Input("image", tooltip="Photos to judge. Transparency is ignored."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="How they should look, same size; one picture serves the whole batch. Adds PSNR "
                    "(dB, higher is closer), SSIM (1 is identical) and colour difference (CIEDE2000, below 2 "
                    "is hard to see).",
                ),
            ],
            outputs=[
                io.String.Output(
                    "verdict",
                    display_name="verdict",
                    is_output_list=True,
                    tooltip="One line of plain English per photo, most important first.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    is_output_list=True,
                    tooltip="Per photo all measurements as JSON, with NIQE (no reference needed, lower is "
                    "better, about 3 for a good photo).",
                ),
                io.Image.Output(
                    "histogram",
                    display_name="histogram",
                    tooltip="Brightness histogram of each photo: dark on the left, bright on the right.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Tensor, reference: Tensor | None = None) -> io.NodeOutput:
        """Measure photo by photo."""
        _runtime.check_images("image", image)
        photos = image.split(1)
        references: list[Tensor | None] = [None] * len(photos)
        if reference is not None:
            _runtime.check_images("reference", reference)
            references = list(reference.split(1)) * (len(photos) if len(reference) == 1 else 1)
        if len(references) != len(photos):
            raise ValueError(
                f"reference holds {len(references)} pictures for {len(photos)} photos: connect one, or "
                "as many."
            )
        progress = _runtime.Progress()
        progress(0, len(photos))
        reports = []
        for done, (photo, target) in enumerate(zip(photos, references, strict=True), 1):
            reports += low_light_report(
                _runtime.colour(photo),
                None if target is None else _runtime.colour(target),
                check=mm.throw_exception_if_processing_interrupted,
            )
            progress(done, len(photos))
        verdicts = [report.verdict for report in reports]
        histograms = _runtime.finished(torch.stack([histogram_image(report) for report in reports]))
        _runtime.show_text(cls.hidden.unique_id, "\n".join(verdicts))
        return io.NodeOutput(
            verdicts,
            [report.to_json() for report in reports],
            histograms,
            ui={**ui.PreviewImage(histograms, cls=cls).as_dict(), "text": tuple(verdicts)},
        )
