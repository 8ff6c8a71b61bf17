"""Checkpoints: what is in a file, loading it safely, and the files that ship with the package."""

from .bundled import bundled_models
from .checkpoint import CheckpointError, load_model, save_model
from .conversion import Conversion, convert_checkpoint
from .descriptor import SemiLLIEModel
from .download import PUBLISHED, DownloadError, PublishedFile, download_file, download_model, file_sha256

__all__ = [
    "PUBLISHED",
    "CheckpointError",
    "Conversion",
    "DownloadError",
    "PublishedFile",
    "SemiLLIEModel",
    "bundled_models",
    "convert_checkpoint",
    "download_file",
    "download_model",
    "file_sha256",
    "load_model",
    "save_model",
]
