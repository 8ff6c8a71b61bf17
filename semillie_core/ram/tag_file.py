"""Tags of many photos in one file that can be added to: JSON lines, one photo each."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import atomic_write
from .descriptor import SemanticModel
from .tagging import TagOptions, tag_images


class TagFileError(ValueError):
    """A file of tags cannot be added to; the message says why and what to do."""


@dataclass(frozen=True)
class TagFileResult:
    """What a call did."""

    tagged: int
    """Photos tagged by this call."""
    kept: int
    """Photos whose tags were in the file already."""
    failures: tuple[str, ...]
    """Photos that could not be read."""


def tag_into_file(
    model: SemanticModel,
    photos: Sequence[Path],
    target: Path,
    options: TagOptions,
    *,
    read: Callable[[Path], Tensor],
    batch_size: int = 8,
    on_photo: Callable[[int, int], None] | None = None,
) -> TagFileResult:
    """Tag photos into a JSON-lines file, leaving out those that are in it already.

    A line holds ``path`` as given, ``sha256`` of the photo's content, ``model``, ``settings`` (a hash of the model's
    description and the options), ``text`` and ``tags`` as :meth:`TagResult.to_dict` gives them. A photo whose content
    has changed is tagged again; lines of photos that are not named here stay. Interrupted at any moment, the same
    call continues where it stopped.

    Args:
        model: From :func:`load_ram` or :func:`load_efficientnet_lite0`.
        photos: Files.
        target: JSON-lines file.
        options: What to report.
        read: Gives a photo as ``(C, H, W)`` in [0, 1]; what it raises as :class:`ValueError` or :class:`OSError` is
            the photo's fault and does not stop the others.
        batch_size: Photos per forward pass.
        on_photo: Called with (done, total).

    Raises:
        TagFileError: The file holds something else, or tags of another model or other options.
        OSError: The file cannot be written.
    """
    settings = _settings(model, options)
    hashes: dict[str, str] = {}
    failures = []
    for path in photos:
        try:
            hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            failures.append(f"{path}: {error}")
    records = {record["path"]: record for record in _read_records(target, settings)}
    kept = {path: r for path, r in records.items() if hashes.get(path, r["sha256"]) == r["sha256"]}
    with atomic_write(target) as file:
        file.writelines(_line(record) for record in kept.values())

    missing = [path for path in hashes if path not in kept]
    tagged = 0
    with target.open("ab") as file:
        for start in range(0, len(missing), batch_size):
            names, images = [], []
            for name in missing[start : start + batch_size]:
                try:
                    images.append(read(Path(name)))
                    names.append(name)
                except (ValueError, OSError) as error:
                    failures.append(str(error))
            results = tag_images(model, images, options, batch_size=batch_size)
            for name, result in zip(names, results, strict=True):
                record = {
                    "path": name,
                    "sha256": hashes[name],
                    "model": model.architecture,
                    "settings": settings,
                }
                file.write(_line({**record, **result.to_dict()}))
            file.flush()
            tagged += len(names)
            if on_photo is not None:
                on_photo(min(start + batch_size, len(missing)), len(missing))
    return TagFileResult(tagged, len(hashes) - len(missing), tuple(failures))


def write_tag_csv(tag_file: Path, target: Path) -> None:
    """Write path, hash and text of a file of tags as CSV (UTF-8).

    Raises:
        TagFileError: It is no file of tags.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("path", "sha256", "text"))
    table.writerows((r["path"], r["sha256"], r["text"]) for r in _read_records(tag_file, None))
    with atomic_write(target) as file:
        # File names that are no Unicode, as the system has them.
        file.write(text.getvalue().encode(errors="surrogateescape"))


def _settings(model: SemanticModel, options: TagOptions) -> str:
    described = [model.architecture, len(model.vocabulary), asdict(options)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _read_records(path: Path, settings: str | None) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            known = {"path", "sha256", "settings", "text"} <= record.keys()
        except (ValueError, AttributeError):
            # An interrupt may leave a part of the last line.
            if number == len(lines) and not line.endswith(b"\n"):
                break
            known = False
        if not known:
            raise TagFileError(f"{path}, line {number}, holds no tags: name another file.")
        if settings is not None and record["settings"] != settings:
            raise TagFileError(
                f"{path} holds tags of another model or of other options ({record.get('model')}): name another file, "
                "or remove it."
            )
        records.append(record)
    return records


def _line(record: dict[str, Any]) -> bytes:
    # What a file's name has that is no Unicode becomes an escape of JSON, which reads as the same name.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
