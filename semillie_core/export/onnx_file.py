"""Writing a network as an ONNX file."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..files import atomic_write
from ..network import SemiLLIE
from ..network.thumbnail import ThumbnailEstimator
from ..weights import SemiLLIEModel
from .parity import DEFAULT_SHAPES, TOLERANCE, ParityReport, Shape, compare_with_onnx

INPUT, OUTPUT = "image", "enhanced"
"""Names in the file: ``(batch, 3, height, width)`` float32 in [0, 1], both."""

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_TRACED_SHAPE = (2, 3, 37, 50)


class ExportError(RuntimeError):
    """A network cannot be exported; the message says why and what to do."""

    def __init__(self, message: str, report: ParityReport | None = None) -> None:
        super().__init__(message)
        self.report = report
        """What was compared, when the comparison failed."""


def export_onnx(
    model: SemiLLIEModel,
    path: str | Path,
    *,
    shapes: Sequence[Shape] = DEFAULT_SHAPES,
    tolerance: float = TOLERANCE,
) -> ParityReport:
    """Write a network as one ONNX file, after comparing it with PyTorch.

    The file takes ``image`` and gives ``enhanced``, both ``(batch, 3, height, width)`` float32 in [0, 1] of any size
    (the guided variant: from 2 x 2 pixels on). Its metadata holds the model's name, network options
    and provenance. Needs the extra ``onnx``.

    Args:
        model: From :func:`semillie_core.weights.load_model`.
        path: File to write; replaced as a whole, and only if every size agrees.
        shapes: Sizes to compare, as (batch, height, width).
        tolerance: Largest absolute difference that passes.

    Raises:
        ExportError: A library is missing, or onnxruntime and PyTorch do not agree; nothing is written then.
        ValueError: No sizes.
        OSError: The file cannot be written.
    """
    if not shapes:
        raise ValueError("Name at least one size to compare.")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ExportError(f"Exporting needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    network = copy.deepcopy(model.network).to(device="cpu", dtype=torch.float32).eval()
    content = _to_onnx(network, _metadata(model))
    report = compare_with_onnx(network, content, shapes, tolerance)
    if not report.passed:
        worst = max(
            report.cases, key=lambda c: math.inf if math.isnan(c.max_difference) else c.max_difference
        )
        raise ExportError(
            f"onnxruntime and PyTorch differ by {worst.max_difference:.2e} at {worst.shape[2]}x{worst.shape[1]} "
            f"pixels, more than {tolerance:g}: nothing was written. Report it with the versions "
            f"{', '.join(f'{name} {version}' for name, version in report.versions.items())}.",
            report,
        )
    with atomic_write(Path(path)) as file:
        file.write(content)
    return report


class _ImageToImage(nn.Module):
    """The network as its users run it: whole photos, values in [0, 1]."""

    def __init__(self, network: SemiLLIE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        image = image.clamp(0.0, 1.0)
        estimator, frame = self.network.estimator, None
        if isinstance(estimator, ThumbnailEstimator):
            thumbnail = torch.ops.semillie_export.make_thumbnail(image, estimator.long_side)
            frame = estimator.from_thumbnail(thumbnail)
        enhanced: Tensor = self.network(image, frame).image
        return enhanced.clamp(0.0, 1.0)


def _to_onnx(network: SemiLLIE, metadata: dict[str, str]) -> bytes:
    import onnx

    from .translation import OPSET, translations

    free = torch.export.Dim.DYNAMIC
    with _quiet(), torch.no_grad():
        exported = torch.export.export(
            _ImageToImage(network),
            (torch.rand(_TRACED_SHAPE),),
            dynamic_shapes=({0: free, 2: free, 3: free},),
            strict=False,
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None  # only the old exporter returns nothing  # noqa: S101
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, metadata)
    proto.producer_name, proto.producer_version = "semi-llie", __version__
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


def _strip(graph: Any) -> None:
    """Drop what the exporter noted down: stack traces with this machine's paths, and its own names of the axes."""
    del graph.value_info[:], graph.metadata_props[:]
    for value in graph.initializer:
        del value.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def _metadata(model: SemiLLIEModel) -> dict[str, str]:
    provenance = {key: value for key, value in model.provenance.items() if key not in ("file", "config")}
    config = json.dumps(model.config.to_dict(), sort_keys=True)
    return {**provenance, "name": model.name, "variant": model.variant, "config": config}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own insides and about torchvision, which is not needed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
