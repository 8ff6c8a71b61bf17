"""Fetching the published checkpoints. Nothing here runs unless it is called."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import BinaryIO

from .config import Variant

REPOSITORIES: dict[Variant, tuple[str, str]] = {
    "ram": ("xinyu1205/recognize_anything_model", "ram_swin_large_14m.pth"),
    "ram_plus": ("xinyu1205/recognize-anything-plus-model", "ram_plus_swin_large_14m.pth"),
}
"""Hugging Face Hub repository and file of each variant (5.6 GB and 3.0 GB)."""


class DownloadError(OSError):
    """A checkpoint could not be fetched; the message says why and what to do."""


def download_ram(variant: Variant, folder: str | os.PathLike[str]) -> Path:
    """Download a published checkpoint from the Hugging Face Hub, unless it is there already.

    An interrupted download goes on where it stopped. The file is checked against the SHA-256 the Hub states for it.
    ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` are honoured; set them before the process starts.

    Args:
        variant: ``"ram"`` (5.6 GB) or ``"ram_plus"`` (3.0 GB).
        folder: Where to put it, normally ``models/rams``; created if need be.

    Returns:
        Path of the checkpoint.

    Raises:
        DownloadError: The Hub cannot be reached or is switched off, or the file arrived damaged (it is then deleted).
    """
    repository, name = REPOSITORIES[variant]
    target = Path(folder) / name
    if target.is_file():
        return target

    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # Kept until the file is whole and checked, so that an unfinished download is never mistaken for a model.
    staging = target.parent / ".download" / variant
    by_hand = f"You can also fetch {name} from {repository} by hand and put it in {target.parent}."
    try:
        stated = get_hf_file_metadata(hf_hub_url(repository, name)).etag or ""
        arrived = Path(hf_hub_download(repository, name, local_dir=staging))
    except Exception as error:  # the exception classes depend on the hub library's version and HTTP client
        raise DownloadError(
            f"Could not download {name} ({type(error).__name__}: {str(error).strip().splitlines()[0]}). "
            f"What has arrived is kept: try again to go on from there. {by_hand}"
        ) from error

    if re.fullmatch(r"[0-9a-f]{64}", stated):
        with arrived.open("rb") as stream:
            actual = _sha256(stream)
        if actual != stated:
            shutil.rmtree(staging)
            raise DownloadError(
                f"{name} arrived damaged (SHA-256 {actual}, stated {stated}) and was deleted: try again. {by_hand}"
            )
    else:
        warnings.warn(
            f"The server states no SHA-256 for {name}: the file could not be checked.", stacklevel=2
        )
    arrived.replace(target)
    shutil.rmtree(staging)
    return target


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()
