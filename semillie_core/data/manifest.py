"""The list of a data set's photos, one JSON object per line: written by ``prepare_data``, read by training and scoring.

Fields of a line: ``path`` (relative to the manifest's folder, forward slashes), ``sha256``, ``bytes``, ``width``,
``height``, ``role`` (``paired-low``, ``paired-high`` or ``unpaired``), ``split`` (``train``, ``val`` or ``test``),
``pair`` (name that the two photos of a pair share; empty for unpaired ones) and ``scene`` (empty where not known).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .pairs import DataError, Pair

ROLES = ("paired-low", "paired-high", "unpaired")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ManifestEntry:
    """One photo."""

    path: Path
    """Absolute here, relative to the manifest in the file."""
    sha256: str
    """Of the file, 64 lower-case hexadecimal digits."""
    bytes: int
    """Size of the file."""
    width: int
    """Pixels of the upright photo."""
    height: int
    """Pixels of the upright photo."""
    role: str
    """One of :data:`ROLES`."""
    split: str
    """One of :data:`SPLITS`."""
    pair: str = ""
    """Name of its pair; unique in the manifest."""
    scene: str = ""
    """Photos of one scene share it, across pairs."""


def read_manifest(path: str | Path) -> list[ManifestEntry]:
    """The photos of a manifest; the files themselves are not looked at.

    Raises:
        DataError: The file cannot be read, or a line does not fit; the message names it and the line.
    """
    source = Path(path)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read manifest {source}: {error}") from error
    folder = Path(os.path.abspath(source)).parent  # noqa: PTH100 - links inside a data set stay as they are
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(json.loads(line), folder))
        except (json.JSONDecodeError, ValueError, TypeError) as error:
            raise DataError(
                f"Line {number} of {source} is not an entry of a manifest: {error}. "
                "Make the manifest with python -m training_scripts.prepare_data."
            ) from error
    if not entries:
        raise DataError(f"Manifest {source} lists no photo.")
    try:
        for split in SPLITS:
            pairs_of(entries, split)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return entries


def write_manifest(path: str | Path, entries: Iterable[ManifestEntry]) -> None:
    """Write a manifest as a whole or not at all.

    Raises:
        DataError: A photo is on another drive, so that there is no relative path to it.
        OSError: The folder is missing or cannot be written to.
    """
    target = Path(os.path.abspath(path))  # noqa: PTH100
    lines = []
    for entry in entries:
        try:
            relative = os.path.relpath(entry.path, target.parent)
        except ValueError as error:
            raise DataError(f"{entry.path} is not on the drive of {target}: write it there.") from error
        record = asdict(entry) | {"path": Path(relative).as_posix()}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with atomic_write(target) as file:
        file.write("".join(lines).encode())


def pairs_of(entries: Sequence[ManifestEntry], split: str) -> list[Pair]:
    """The pairs of a split, sorted by name.

    Raises:
        DataError: A pair lacks a side or has one twice.
    """
    sides: dict[str, dict[str, ManifestEntry]] = {}
    for entry in entries:
        if entry.split == split and entry.role != "unpaired":
            pair = sides.setdefault(entry.pair, {})
            if entry.role in pair:
                raise DataError(f"Pair {entry.pair!r} has two photos of role {entry.role}.")
            pair[entry.role] = entry
    for name, pair in sides.items():
        if len(pair) != 2:
            raise DataError(f"Pair {name!r} of split {split} has only its {next(iter(pair))}.")
    return [
        Pair(name, pair["paired-low"].path, pair["paired-high"].path, pair["paired-high"].scene)
        for name, pair in sorted(sides.items())
    ]


def unpaired_of(entries: Sequence[ManifestEntry], split: str = "train") -> list[Path]:
    """The unpaired photos of a split, sorted."""
    return sorted(entry.path for entry in entries if entry.split == split and entry.role == "unpaired")


def trained_on(pairs: Sequence[Pair], entries: Sequence[ManifestEntry]) -> dict[str, str]:
    """The pairs that training has seen, with how.

    A pair counts as seen if one of its files is in the training split by content, or if the manifest knows the scene of
    one of its files and the training split has that scene. A copy that was saved again or resized is another file, and
    not recognised unless the manifest lists it: looks alone would refuse other photos of the same place.

    Args:
        pairs: Photos on disk.
        entries: The manifest of the training.

    Returns:
        Pair name to ``"photo"`` or ``"scene"``.

    Raises:
        OSError: A photo cannot be read.
    """
    contents = {entry.sha256 for entry in entries if entry.split == "train"}
    scenes = {entry.scene for entry in entries if entry.split == "train" and entry.scene}
    scene_of = {entry.sha256: entry.scene for entry in entries}
    seen = {}
    for pair in pairs:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (pair.low, pair.high)]
        if not contents.isdisjoint(digests):
            seen[pair.name] = "photo"
        elif any(scene_of.get(digest, "") in scenes for digest in digests):
            seen[pair.name] = "scene"
    return seen


_NUMBERS = ("bytes", "width", "height")


def _entry(record: Any, folder: Path) -> ManifestEntry:
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    names = {field.name for field in fields(ManifestEntry)}
    if unknown := record.keys() - names:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    if missing := names - {"pair", "scene"} - record.keys():
        raise ValueError(f"field {sorted(missing)[0]!r} is missing")
    for name, value in record.items():
        if name in _NUMBERS:
            if type(value) is not int or value <= 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        elif not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {value!r}")
    if record["role"] not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, not {record['role']!r}")
    if record["split"] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {record['split']!r}")
    if (record["role"] == "unpaired") == bool(record.get("pair")):
        raise ValueError("paired photos need the field pair, and unpaired ones must not have it")
    digest = record["sha256"].lower()
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("sha256 must be 64 hexadecimal digits")
    path = Path(os.path.abspath(folder / record["path"]))  # noqa: PTH100
    return ManifestEntry(**(record | {"path": path, "sha256": digest}))
