"""Fetching the published checkpoints. Nothing here runs unless it is called."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..weights.download import DownloadError
from .config import Variant

if TYPE_CHECKING:
    from typing_extensions import Buffer

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

    An interrupted download goes on where it stopped, also in another process. The file is checked against the
    SHA-256 the Hub states for it. ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` are honoured;
    set them before the process starts.

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
    target = Path(folder) / name
    if target.is_file():
        return target

    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    by_hand = f"put the file from https://huggingface.co/{repository} into {target.parent}"
    try:
        url = hf_hub_url(repository, name)
        stated = get_hf_file_metadata(url)
    except Exception as error:
        raise _failure(name, error, by_hand) from error
    sha256, size = stated.etag or "", stated.size or 0
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not size:
        raise DownloadError(f"The server states no SHA-256 for {name}: use another server, or {by_hand}.")

    # Not hf_hub_download: since version 2 of the hub library it throws an unfinished download away.
    partial = target.parent / f".{name}.{sha256[:12]}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _ReportingFile(partial, size, progress) as stream:
        try:
            http_get(url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=size)
        except Exception as error:
            if stream.interrupted is error:
                raise
            raise _failure(name, error, by_hand) from error
    actual = _sha256(partial)
    if actual != sha256:
        partial.unlink()
        raise DownloadError(
            f"{name} arrived damaged (SHA-256 {actual} instead of {sha256}) and was deleted: try again, or "
            f"{by_hand}."
        )
    partial.replace(target)
    return target


class _ReportingFile(io.BufferedWriter):
    """Appends to a file and reports how far it is."""

    def __init__(self, path: Path, size: int, progress: Callable[[int, int], None] | None) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._size, self._progress = size, progress
        self.interrupted: BaseException | None = None

    def write(self, data: Buffer) -> int:
        written = super().write(data)
        if self._progress is not None:
            try:
                self._progress(self.tell(), self._size)
            except BaseException as error:
                self.interrupted = error
                raise
        return written


def _failure(name: str, error: Exception, by_hand: str) -> DownloadError:
    # The exception classes depend on the hub library's version and HTTP client, so only their text is used.
    reason = str(error).strip().partition("\n")[0]
    return DownloadError(
        f"Could not download {name} ({type(error).__name__}: {reason}). What has arrived is kept: check the "
        f"connection, HF_ENDPOINT and HF_HUB_OFFLINE and try again, or {by_hand}."
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
