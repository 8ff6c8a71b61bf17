"""Fetching the published checkpoints. Nothing here runs unless it is called."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ..weights.download import DownloadError, download_file
from .config import Variant

REPOSITORIES: dict[Variant, tuple[str, str]] = {
    "ram": ("xinyu1205/recognize_anything_model", "ram_swin_large_14m.pth"),
    "ram_plus": ("xinyu1205/recognize-anything-plus-model", "ram_plus_swin_large_14m.pth"),
}
"""Hugging Face Hub repository and file of each variant (5.6 GB and 3.0 GB)."""


def download_ram(variant: Variant, folder: str | os.PathLike[str]) -> Path:
    """Download a published checkpoint from the Hugging Face Hub, unless it is there already.

    An interrupted download goes on where it stopped. The file is checked against the SHA-256 the Hub states
    for it. ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` are honoured; set them before the
    process starts.

    Args:
        variant: ``"ram"`` (5.6 GB) or ``"ram_plus"`` (3.0 GB).
        folder: Where to put it, normally ``models/rams``; created if need be.

    Returns:
        Path of the checkpoint.

    Raises:
        DownloadError: The Hub cannot be reached or is switched off, or the file arrived damaged (it is then
            deleted).
    """
    repository, name = REPOSITORIES[variant]
    target = Path(folder) / name
    if target.is_file():
        return target

    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        stated = get_hf_file_metadata(hf_hub_url(repository, name)).etag or ""
    except Exception as error:  # its classes depend on the hub library's version and HTTP client
        reason = str(error).strip().partition("\n")[0]
        raise DownloadError(
            f"Could not download {name} ({type(error).__name__}: {reason}). Check the connection, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or put the file from "
            f"https://huggingface.co/{repository} into {target.parent}."
        ) from error
    if not re.fullmatch(r"[0-9a-f]{64}", stated):
        raise DownloadError(
            f"The server states no SHA-256 for {name}, so it could not be checked; use another one."
        )

    # Kept apart until the file is whole and checked: an unfinished download must not be taken for a model.
    staging = target.parent / ".download" / variant
    download_file(repository, name, staging, sha256=stated).replace(target)
    shutil.rmtree(staging)
    return target
