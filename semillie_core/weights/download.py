"""Fetching published files from the Hugging Face Hub, only when the user asks for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says where to put it by hand."""


@dataclass(frozen=True)
class PublishedFile:
    """A file on the Hub."""

    repo_id: str
    """Repository, ``owner/name``."""
    filename: str
    """Path in the repository."""
    sha256: str
    """Hash of its content, in hexadecimal."""


PUBLISHED: dict[str, PublishedFile] = {}
"""Semi-LLIE weights published beyond the bundled ones, by name. None yet."""


def download_model(name: str, folder: str | Path) -> Path:
    """Fetch a published Semi-LLIE model into ``folder``.

    Raises:
        DownloadError: There is no such model, or it could not be fetched or verified.
    """
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED) or "none yet; the bundled models need no download"
        raise DownloadError(f"No published model is called {name!r}. Published: {known}.")
    file = PUBLISHED[name]
    return download_file(file.repo_id, file.filename, folder, sha256=file.sha256)


def download_file(repo_id: str, filename: str, folder: str | Path, *, sha256: str | None = None) -> Path:
    """Fetch one file from the Hub.

    ``huggingface_hub`` resumes partial downloads and honours ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``.

    Args:
        repo_id: Repository, ``owner/name``.
        filename: Path in the repository.
        folder: Where the file goes; created if need be. A file already there is verified and kept.
        sha256: Expected hash. A download that does not match is removed; a file that was already there is not.

    Returns:
        The file's path in ``folder``.

    Raises:
        DownloadError: The Hub cannot be reached, has no such file, or sent something else.
    """
    folder = Path(folder)
    target = folder / filename
    by_hand = (
        f"To install it by hand, put {filename} from https://huggingface.co/{repo_id} into {folder.resolve()}"
    )
    if sha256:
        by_hand += f" (sha256 {sha256})"
    already_there = target.is_file()
    if not already_there:
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        except ImportError as error:
            raise DownloadError(f"huggingface_hub is not installed. {by_hand}.") from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
            hf_hub_download(repo_id, filename, local_dir=folder)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise DownloadError(
                f"Could not download {filename} from {repo_id}: {error} {by_hand}."
            ) from error
    if sha256:
        found = _sha256(target)
        if found != sha256.lower():
            if already_there:
                raise DownloadError(
                    f"{target} is not the published file (sha256 {found}). Move it away first."
                )
            target.unlink()
            raise DownloadError(f"{repo_id} sent another file (sha256 {found}); it was removed. {by_hand}.")
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
