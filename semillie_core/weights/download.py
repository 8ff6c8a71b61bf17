"""Fetching published files from the Hugging Face Hub, only when the user asks for it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in total); may raise to interrupt."""


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says where to put it by hand."""


@dataclass(frozen=True)
class PublishedFile:
    """A file on the Hub."""

    repo_id: str
    """Repository, ``owner/name``."""
    filename: str
    """Name of the file in the repository."""
    sha256: str
    """Hash of its content, in hexadecimal."""


PUBLISHED: dict[str, PublishedFile] = {}
"""Semi-LLIE weights published beyond the bundled ones, by name. None yet."""


def download_model(name: str, folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Fetch a published Semi-LLIE model into ``folder``.

    Raises:
        DownloadError: There is no such model, or it could not be fetched or verified.
    """
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED) or "none yet; the bundled models need no download"
        raise DownloadError(f"No published model is called {name!r}. Published: {known}.")
    file = PUBLISHED[name]
    return download_file(file.repo_id, file.filename, folder, sha256=file.sha256, progress=progress)


def download_file(
    repo_id: str,
    filename: str,
    folder: str | Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch one file from the Hub, unless it is there already.

    An interrupted download goes on where it stopped, also in another process. ``HF_ENDPOINT`` (a mirror),
    ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` are honoured; set them before the process starts.

    Args:
        repo_id: Repository, ``owner/name``.
        filename: Name of the file in the repository.
        folder: Where the file goes; created if need be.
        sha256: Expected hash; by default the one that the server states.
        progress: Called as the file arrives and while it is verified.

    Returns:
        The file's path in ``folder``.

    Raises:
        DownloadError: The Hub cannot be reached or is switched off, the file arrived damaged (it is then deleted), or
            the file that is there already is another one (it is left alone).
    """
    target = Path(folder) / filename
    if target.is_file():
        if sha256 is not None and (found := file_sha256(target)) != sha256:
            raise DownloadError(f"{target} is not the published file (SHA-256 {found}). Move it away first.")
        return target

    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    by_hand = f"put the file from https://huggingface.co/{repo_id} into {target.parent.resolve()}"
    if sha256 is not None:
        by_hand += f" (SHA-256 {sha256})"
    try:
        url = hf_hub_url(repo_id, filename)
        stated = get_hf_file_metadata(url)
    except Exception as error:
        raise _failure(filename, error, by_hand) from error
    expected, size = sha256 or stated.etag or "", stated.size or 0
    if not re.fullmatch(r"[0-9a-f]{64}", expected) or not size:
        raise DownloadError(f"The server states no SHA-256 for {filename}: use another server, or {by_hand}.")

    # Not hf_hub_download: since version 2 of the hub library it throws an unfinished download away.
    partial = target.parent / f".{filename}.{expected[:12]}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_file() and partial.stat().st_size > size:
        # A server that was asked for the rest sent all of it: no other try would end better.
        partial.unlink()
    with _ReportingFile(partial, size, progress) as stream:
        try:
            # A download that was interrupted while it was verified is complete: there is no rest to ask for.
            if stream.tell() != size:
                http_get(
                    url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=size
                )
        except Exception as error:
            if stream.interrupted is error:
                raise
            raise _failure(filename, error, by_hand) from error
    actual = file_sha256(partial, None if progress is None else lambda: progress(size, size))
    if actual != expected:
        partial.unlink()
        raise DownloadError(
            f"{filename} arrived damaged (SHA-256 {actual} instead of {expected}) and was deleted: try again, or "
            f"{by_hand}."
        )
    partial.replace(target)
    return target


def file_sha256(path: Path, check: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path: The file.
        check: Called often; an exception it raises stops the work and passes through.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            if check is not None:
                check()
            digest.update(block)
    return digest.hexdigest()


class _ReportingFile(io.BufferedWriter):
    """Appends to a file and reports how far it is."""

    def __init__(self, path: Path, size: int, progress: Progress | None) -> None:
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
