"""Networks for other runtimes: ONNX files whose height, width and batch stay free, checked against PyTorch."""

from .onnx_file import ExportError, export_onnx
from .parity import DEFAULT_SHAPES, TOLERANCE, ParityCase, ParityReport

__all__ = ["DEFAULT_SHAPES", "TOLERANCE", "ExportError", "ParityCase", "ParityReport", "export_onnx"]
