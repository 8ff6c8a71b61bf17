"""Whether a network in onnxruntime does what it does in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..network import SemiLLIE

TOLERANCE = 1e-4
"""Largest difference that passes, for images in [0, 1]."""

Shape = tuple[int, int, int]
"""Batch, height, width."""

DEFAULT_SHAPES: tuple[Shape, ...] = ((1, 2, 3), (2, 37, 50), (1, 64, 64), (1, 101, 167), (1, 240, 321))
"""Small, odd, square and larger than a thumbnail, one of them a batch."""


@dataclass(frozen=True)
class ParityCase:
    """One image size."""

    shape: Shape
    """Batch, height, width."""
    max_difference: float
    """Largest absolute difference of the enhanced images; NaN when one of them is not finite."""
    mean_difference: float
    """Mean absolute difference."""


@dataclass(frozen=True)
class ParityReport:
    """All sizes that were compared."""

    cases: tuple[ParityCase, ...]
    tolerance: float
    """Largest ``max_difference`` that passes."""
    versions: dict[str, str]
    """Of the libraries compared."""

    @property
    def passed(self) -> bool:
        """Whether every size agrees."""
        return all(case.max_difference <= self.tolerance for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a difference that is not a number becomes null."""
        return {
            "passed": self.passed,
            "tolerance": self.tolerance,
            "versions": self.versions,
            "cases": [
                {
                    "batch": case.shape[0],
                    "height": case.shape[1],
                    "width": case.shape[2],
                    "max_difference": _number(case.max_difference),
                    "mean_difference": _number(case.mean_difference),
                }
                for case in self.cases
            ],
        }

    def to_text(self) -> str:
        """A table for people."""
        lines = [f"{'batch':>5} {'height':>7} {'width':>6} {'largest difference':>20} {'mean':>10}"]
        for case in self.cases:
            batch, height, width = case.shape
            verdict = "" if case.max_difference <= self.tolerance else f"  over {self.tolerance:g}"
            lines.append(
                f"{batch:5} {height:7} {width:6} {case.max_difference:20.2e} {case.mean_difference:10.1e}{verdict}"
            )
        return "\n".join(lines)


def compare_with_onnx(
    network: SemiLLIE, onnx_model: bytes, shapes: Sequence[Shape], tolerance: float
) -> ParityReport:
    """Enhance the same dark images with PyTorch and with onnxruntime on the CPU.

    Args:
        network: In evaluation mode, on the CPU in float32.
        onnx_model: Content of the ONNX file.
        shapes: Sizes to compare.
        tolerance: Largest difference that passes.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    cases = []
    for shape in shapes:
        image = dark_image(shape)
        with torch.inference_mode():
            expected = network(image).image.clamp(0, 1)
        (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        difference = (torch.from_numpy(output) - expected).abs()
        cases.append(ParityCase(shape, float(difference.max()), float(difference.mean())))
    versions = {"torch": str(torch.__version__), "onnxruntime": onnxruntime.__version__}
    return ParityReport(tuple(cases), tolerance, versions)


def dark_image(shape: Shape) -> Tensor:
    """Smooth shading with noise, mostly below 0.3, the same on every call; ``(B, 3, H, W)``."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(0)
    shading = torch.rand(batch, 3, 4, 4, generator=generator).square()
    smooth = torch.nn.functional.interpolate(shading, (height, width), mode="bicubic", align_corners=False)
    noise = 0.02 * torch.randn(batch, 3, height, width, generator=generator)
    return (0.3 * smooth + noise).clamp(0, 1)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
