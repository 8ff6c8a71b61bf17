"""From folders of photos to a manifest whose splits share no scene, with a report of what was left out and why."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .layouts import FoundFolder, FoundPhoto, find_photos
from .manifest import SPLITS, ManifestEntry, read_manifest
from .pairs import DataError, read_rgb
from .scenes import SAME_SCENE, Groups, agreement, fingerprint, similar

_EXAMPLES = 5


@dataclass(frozen=True)
class Dropped:
    """A photo that was left out."""

    path: Path
    reason: str
    """What kind of problem, the same words for all photos that have it."""
    detail: str = ""
    """The other photo, or the error."""


@dataclass(frozen=True)
class Leak:
    """Two photos of different splits that show one scene."""

    one: Path
    other: Path
    splits: tuple[str, str]
    how: str
    """``"content"``: the same file; ``"scene"``: listed with one scene; ``"looks"``: similar fingerprints."""
    similarity: float = 1.0


@dataclass
class Preparation:
    """A manifest's entries and how they came about."""

    entries: list[ManifestEntry]
    sources: list[FoundFolder]
    dropped: list[Dropped]
    leaks: list[Leak]
    """Leaks that were kept, because it was asked for."""
    settings: dict[str, str | float | bool] = field(default_factory=dict)
    scene_agreement: tuple[float, float] | None = None
    """Precision and recall of grouping by looks against the given scene list, over the pairs that it lists."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Per split: scenes, pairs, unpaired photos."""
        table = {}
        for split in SPLITS:
            entries = [entry for entry in self.entries if entry.split == split]
            table[split] = {
                "scenes": len({entry.scene for entry in entries}),
                "pairs": sum(entry.role == "paired-low" for entry in entries),
                "unpaired": sum(entry.role == "unpaired" for entry in entries),
            }
        return table

    def to_json(self) -> str:
        """Everything except the entries, as indented JSON text."""
        record = {
            "settings": self.settings,
            "counts": self.counts(),
            "sources": [
                {
                    "folder": str(folder.path),
                    "kind": folder.kind,
                    "split": folder.split,
                    "pairs": sum(photo.high is not None for photo in folder.photos),
                    "unpaired": sum(photo.high is None for photo in folder.photos),
                }
                for folder in self.sources
            ],
            "scene_agreement": self.scene_agreement
            and dict(zip(("precision", "recall"), self.scene_agreement, strict=True)),
            "dropped": [asdict(dropped) | {"path": str(dropped.path)} for dropped in self.dropped],
            "leaks": [asdict(leak) | {"one": str(leak.one), "other": str(leak.other)} for leak in self.leaks],
        }
        return json.dumps(record, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A page to read: what was found, the splits, what was left out and why."""
        lines = ["# Data", "", "| folder | layout | its split | pairs | unpaired |", "|---|---|---|---|---|"]
        for folder in self.sources:
            pairs = sum(photo.high is not None for photo in folder.photos)
            lines.append(
                f"| {folder.path} | {folder.kind} | {folder.split or '–'} | {pairs} | {len(folder.photos) - pairs} |"
            )
        lines += ["", "| split | scenes | pairs | unpaired |", "|---|---|---|---|"]
        for split, size in self.counts().items():
            lines.append(f"| {split} | {size['scenes']} | {size['pairs']} | {size['unpaired']} |")
        if self.scene_agreement is not None:
            precision, recall = self.scene_agreement
            lines += [
                "",
                f"Scenes told by looks against the given list: precision {precision:.4f}, recall {recall:.4f}.",
            ]
        lines += ["", "## Left out", ""]
        for reason, count in Counter(dropped.reason for dropped in self.dropped).most_common():
            lines.append(f"- **{count}** {reason}:")
            shown = [dropped for dropped in self.dropped if dropped.reason == reason]
            for dropped in shown[:_EXAMPLES]:
                lines.append(f"  - {dropped.path}" + (f" ({dropped.detail})" if dropped.detail else ""))
            if count > _EXAMPLES:
                lines.append("  - … (all are in the JSON report)")
        if not self.dropped:
            lines.append("Nothing.")
        if self.leaks:
            lines += ["", "## Leaks that were kept", ""]
            lines += [
                f"- {leak.one} ({leak.splits[0]}) and {leak.other} ({leak.splits[1]}): {leak.how}"
                for leak in self.leaks[:50]
            ]
            if len(self.leaks) > 50:
                lines.append(f"- … {len(self.leaks)} in all, in the JSON report")
        return "\n".join(lines) + "\n"


def prepare(
    roots: Sequence[str | Path],
    *,
    val: float | None = None,
    test: float = 0.0,
    seed: int = 0,
    scenes: str | Path | None = None,
    similarity: float = SAME_SCENE,
    keep_leaks: bool = False,
    workers: int = 4,
    on_photo: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Find, check, group and split the photos below some folders.

    Splits that a layout names stay as they are, except that photos which show a scene of test leave train and val, and
    those which show a scene of val leave train. Scenes without a named split, and for ``val`` those named train, are
    drawn by a hash of seed and scene, so adding photos of other scenes moves none.

    Args:
        roots: Folders of data sets.
        val: Fraction of the scenes to validate on; by default 0.1, or 0 if a layout names a val split.
        test: Fraction of the scenes without a named split to test on.
        seed: Decides the drawn splits.
        scenes: CSV with a column ``scene``, a column of file names, and optionally a column ``set`` with the folder
            that a file is in; for the photos it lists, it overrules looks (not a reference file that two pairs share).
        similarity: Fingerprints at least this similar show one scene, in (0, 1].
        keep_leaks: Keep photos of train that show scenes of val or test, and list them in the report.
        workers: Threads that read photos.
        on_photo: Called with (done, total) photos read.

    Raises:
        DataError: A folder or the CSV cannot be used, or nothing is left to train on.
    """
    if not 0 < similarity <= 1:
        raise DataError(f"similarity must be in (0, 1], got {similarity}.")
    if not (0 <= (val or 0) < 1 and 0 <= test < 1 and (val or 0) + test < 1):
        raise DataError(f"val and test are fractions below 1 together, got {val} and {test}.")
    if len({Path(root).name for root in map(os.path.abspath, roots)}) < len(roots):
        raise DataError("Two of the folders have the same name, which names their pairs: rename one.")
    sources = [folder for root in roots for folder in find_photos(root)]
    dropped = [Dropped(path, reason) for folder in sources for path, reason in folder.dropped]
    given = {photo.name: folder.split for folder in sources for photo in folder.photos}
    if val is None:
        val = 0.0 if "val" in given.values() else 0.1
    found = [photo for folder in sources for photo in folder.photos]
    paths = sorted({path for photo in found for path in (photo.low, photo.high) if path is not None})
    measured = _measure_all(paths, workers, dropped, on_photo)
    items = _usable(found, given, measured, dropped)
    listed = _scene_list(scenes, items) if scenes is not None else {}
    groups, agreed = _group(items, listed, similarity)
    splits = _split(items, groups, val, test, seed)
    if not keep_leaks:
        items = _without_leaks(items, groups, splits, dropped)
    entries = _entries(items, groups, splits)
    if not any(entry.split == "train" for entry in entries):
        reasons = Counter(one.reason for one in dropped).most_common(3)
        raise DataError(
            "Nothing is left to train on. Left out: "
            + ("; ".join(f"{count} {reason}" for reason, count in reasons) or "nothing")
        )
    prints = {photo.path: photo.print for photo in measured.values()}
    return Preparation(
        entries,
        sources,
        sorted(dropped, key=lambda one: (one.reason, one.path)),
        _leaks(entries, prints, similarity) if keep_leaks else [],
        {"val": val, "test": test, "seed": seed, "similarity": similarity, "keep_leaks": keep_leaks},
        agreed,
    )


def check_manifest(
    path: str | Path,
    *,
    similarity: float = SAME_SCENE,
    workers: int = 4,
    on_photo: Callable[[int, int], None] | None = None,
) -> tuple[list[str], list[Leak]]:
    """Compare a manifest with the files it lists, and its splits with one another.

    Returns:
        Photos that are missing or differ from their entry, in words; and the leaks between splits by content, by the
        manifest's scenes and by looks.

    Raises:
        DataError: The manifest cannot be read.
    """
    entries = read_manifest(path)
    unreadable: list[Dropped] = []
    measured = _measure_all(sorted({entry.path for entry in entries}), workers, unreadable, on_photo)
    problems = [f"{one.path}: {one.detail}" for one in unreadable]
    for entry in entries:
        photo = measured.get(entry.path)
        if photo is not None and photo.sha256 != entry.sha256:
            problems.append(f"{entry.path}: not the photo that was listed (another sha256)")
        elif photo is not None and (photo.bytes, photo.width, photo.height) != (
            entry.bytes,
            entry.width,
            entry.height,
        ):
            problems.append(f"{entry.path}: bytes, width or height differ from the entry")
    return problems, _leaks(entries, {one.path: one.print for one in measured.values()}, similarity)


@dataclass(frozen=True)
class _Photo:
    path: Path
    sha256: str
    bytes: int
    width: int
    height: int
    brightness: float
    print: NDArray[np.float32]


@dataclass(frozen=True)
class _Item:
    name: str
    given: str
    low: _Photo
    high: _Photo | None

    @property
    def photos(self) -> tuple[_Photo, ...]:
        return (self.low,) if self.high is None else (self.low, self.high)


def _measure(path: Path) -> _Photo | Dropped:
    try:
        content = path.read_bytes()
        pixels = read_rgb(path).permute(1, 2, 0).numpy()
    except (DataError, OSError) as error:
        return Dropped(path, "cannot be read", f"{type(error).__name__}: {error}")
    height, width = pixels.shape[:2]
    grey = Image.fromarray(pixels).convert("L")
    brightness = float(np.asarray(grey.resize((64, 64), Image.Resampling.BOX), np.float64).mean())
    digest = hashlib.sha256(content).hexdigest()
    return _Photo(path, digest, len(content), width, height, brightness, fingerprint(grey))


def _measure_all(
    paths: Sequence[Path],
    workers: int,
    dropped: list[Dropped],
    on_photo: Callable[[int, int], None] | None,
) -> dict[Path, _Photo]:
    measured = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for done, photo in enumerate(pool.map(_measure, paths), 1):
                if isinstance(photo, Dropped):
                    dropped.append(photo)
                else:
                    measured[photo.path] = photo
                if on_photo is not None:
                    on_photo(done, len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return measured


def _usable(
    found: Iterable[FoundPhoto],
    given: dict[str, str],
    measured: dict[Path, _Photo],
    dropped: list[Dropped],
) -> list[_Item]:
    """What can be trained on, each dark photo once: as a pair rather than alone, in test rather than in train."""
    items: list[_Item] = []
    for photo in found:
        low = measured.get(photo.low)
        high = measured.get(photo.high) if photo.high is not None else None
        if low is None or (photo.high is not None and high is None):
            if low is not None:
                dropped.append(Dropped(photo.low, "reference cannot be read", str(photo.high)))
            continue
        if high is not None and (low.width, low.height) != (high.width, high.height):
            sizes = f"{low.width}x{low.height} and {high.width}x{high.height}"
            dropped.append(Dropped(photo.low, "size differs from its reference", sizes))
            continue
        if high is not None and low.brightness >= high.brightness:
            dropped.append(Dropped(photo.low, "not darker than its reference", str(photo.high)))
            continue
        items.append(_Item(photo.name, given[photo.name], low, high))
    items.sort(key=lambda item: (-_rank(item.given), item.high is None, item.name))
    first: dict[str, _Item] = {}
    for item in items:
        if item.low.sha256 in first:
            other = first[item.low.sha256].low.path
            dropped.append(Dropped(item.low.path, "same file as another dark photo", str(other)))
        else:
            first[item.low.sha256] = item
    return list(first.values())


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else 0


def _scene_list(path: str | Path, items: Sequence[_Item]) -> dict[str, str]:
    """Item name to the scene that a CSV gives it."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read scene list {path}: {error}") from error
    columns = [column for column in (rows[0] if rows else {}) if column not in ("set", "scene")]
    if not rows or "scene" not in rows[0] or len(columns) != 1 or any(None in row.values() for row in rows):
        raise DataError(
            f"Scene list {path} needs a header with the column scene, one column of file names, and optionally set."
        )
    by_stem: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_stem.setdefault(Path(row[columns[0]]).stem, []).append((row.get("set", ""), row["scene"]))
    listed: dict[str, str] = {}
    for item in items:
        folders = item.name.split("/")
        scenes = {
            scene
            for folder, scene in by_stem.get(item.low.path.stem, [])
            if not folder or folder in folders[:-1]
        }
        if len(scenes) > 1:
            raise DataError(
                f"Scene list {path} gives {item.name} several scenes: {', '.join(sorted(scenes))}."
            )
        if scenes:
            listed[item.name] = scenes.pop()
    if not listed:
        raise DataError(f"Scene list {path} names none of the photos found.")
    return listed


def _group(
    items: Sequence[_Item], listed: dict[str, str], similarity: float
) -> tuple[Groups[str], tuple[float, float] | None]:
    """Groups of item names that show one scene, and how looks alone compare with the list."""
    names = [item.name for item in items]
    groups, by_looks = Groups(names), Groups(names)
    owners = [(item.name, photo) for item in items for photo in item.photos]
    first: dict[str, str] = {}
    for name, photo in owners:  # references that several exposures share
        groups.link(name, first.setdefault(photo.sha256, name))
    for i, j, _ in similar([photo.print for _, photo in owners], similarity):
        one, other = owners[i][0], owners[j][0]
        by_looks.link(one, other)
        if one not in listed or other not in listed:
            groups.link(one, other)
    scenes: dict[str, str] = {}
    for name, scene in listed.items():
        groups.link(name, scenes.setdefault(scene, name))
    known = [name for name in names if name in listed]
    agreed = agreement([by_looks.of(name) for name in known], [listed[name] for name in known])
    return groups, agreed if known else None


def _members(items: Iterable[_Item], groups: Groups[str]) -> dict[str, list[_Item]]:
    members: dict[str, list[_Item]] = {}
    for item in items:
        members.setdefault(groups.of(item.name), []).append(item)
    return members


def _split(items: Sequence[_Item], groups: Groups[str], val: float, test: float, seed: int) -> dict[str, str]:
    splits = {}
    for members in _members(items, groups).values():
        given = {item.given for item in members}
        drawn = "train"
        if not given & {"val", "test"} and any(item.high is not None for item in members):
            digest = hashlib.sha256(f"{seed}:{_scene_key(members)}".encode()).digest()
            share = int.from_bytes(digest[:6], "big") / 2**48
            # What a layout calls train is never tested on.
            if share < test and given == {""}:
                drawn = "test"
            elif test <= share < test + val:
                drawn = "val"
        for item in members:
            splits[item.name] = item.given if item.given in ("val", "test") else drawn
    return splits


def _scene_key(members: Iterable[_Item]) -> str:
    return min(item.photos[-1].sha256 for item in members)


def _without_leaks(
    items: Sequence[_Item], groups: Groups[str], splits: dict[str, str], dropped: list[Dropped]
) -> list[_Item]:
    kept = []
    for members in _members(items, groups).values():
        held_out = max(members, key=lambda item: _rank(splits[item.name]))
        split = splits[held_out.name]
        for item in members:
            if splits[item.name] != split:
                reason = f"shows a scene of the {split} split"
                dropped.append(Dropped(item.low.path, reason, str(held_out.low.path)))
            elif item.high is None and split != "train":
                dropped.append(Dropped(item.low.path, f"shows a scene of the {split} split", ""))
            else:
                kept.append(item)
    return kept


def _entries(items: Sequence[_Item], groups: Groups[str], splits: dict[str, str]) -> list[ManifestEntry]:
    scenes = {root: _scene_key(members)[:16] for root, members in _members(items, groups).items()}
    entries = []
    for item in sorted(items, key=lambda item: (SPLITS.index(splits[item.name]), item.name)):
        for photo in item.photos:
            side = "paired-low" if photo is item.low else "paired-high"
            entries.append(
                ManifestEntry(
                    photo.path,
                    photo.sha256,
                    photo.bytes,
                    photo.width,
                    photo.height,
                    "unpaired" if item.high is None else side,
                    splits[item.name],
                    "" if item.high is None else item.name,
                    scenes[groups.of(item.name)],
                )
            )
    return entries


def _leaks(
    entries: Sequence[ManifestEntry], prints: dict[Path, NDArray[np.float32]], similarity: float
) -> list[Leak]:
    """Photo pairs across splits that share content, scene or looks; of several ways the first counts."""
    leaks: dict[frozenset[Path], Leak] = {}

    def note(one: ManifestEntry, other: ManifestEntry, how: str, alike: float = 1.0) -> None:
        if one.split != other.split:
            one, other = sorted((one, other), key=lambda entry: SPLITS.index(entry.split))
            pair = frozenset((one.path, other.path))
            leaks.setdefault(pair, Leak(one.path, other.path, (one.split, other.split), how, alike))

    for attribute, how in (("sha256", "content"), ("scene", "scene")):
        together: dict[str, list[ManifestEntry]] = {}
        for entry in entries:
            if getattr(entry, attribute):
                together.setdefault(getattr(entry, attribute), []).append(entry)
        for group in together.values():
            for i, one in enumerate(group):
                for other in group[i + 1 :]:
                    note(one, other, how)
    known = [entry for entry in entries if entry.path in prints]
    for i, j, alike in similar([prints[entry.path] for entry in known], similarity):
        note(known[i], known[j], "looks", alike)
    return list(leaks.values())
