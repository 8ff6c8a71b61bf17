"""Where the published RAM checkpoints are. Nothing here runs unless it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..weights.download import download_file
from .config import Variant

REPOSITORIES: dict[Variant, tuple[str, str]] = {
    "ram": ("xinyu1205/recognize_anything_model", "ram_swin_large_14m.pth"),
    "ram_plus": ("xinyu1205/recognize-anything-plus-model", "ram_plus_swin_large_14m.pth"),
}
"""Hugging Face Hub repository and file of each variant (5.6 GB and 3.0 GB)."""


def download_ram(
    variant: Variant,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Download a published checkpoint from the Hugging Face Hub, unless it is there already.

    An interrupted download goes on where it stopped. The authors publish no hash, so the file is checked against the
    SHA-256 that the Hub states for it.

    Args:
        variant: ``"ram"`` (5.6 GB) or ``"ram_plus"`` (3.0 GB).
        folder: Where to put it, normally ``models/rams``; created if need be.
        progress: Called with (bytes so far, bytes in total); may raise to interrupt.

    Returns:
        Path of the checkpoint.

    Raises:
        DownloadError: The Hub cannot be reached or is switched off, or the file arrived damaged (it is then
            deleted).
    """
    repository, name = REPOSITORIES[variant]
    return download_file(repository, name, Path(folder), progress=progress)
