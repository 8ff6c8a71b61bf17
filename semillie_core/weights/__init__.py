"""Checkpoints: what is in a file, loading it safely, and the files that ship with the package."""

from .bundled import bundled_models
from .checkpoint import CheckpointError, load_model, save_model
from .descriptor import SemiLLIEModel
from .download import PUBLISHED, DownloadError, PublishedFile, download_file, download_model, file_sha256

__all__ = [
    "PUBLISHED",
    "CheckpointError",
    "DownloadError",
    "PublishedFile",
    "SemiLLIEModel",
    "bundled_models",
    "download_file",
    "download_model",
    "file_sha256",
    "load_model",
    "save_model",
]
