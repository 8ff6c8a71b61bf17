"""Which photos of a folder tree are pairs, in which split, and which are dark photos on their own.

Recognised: LOL v1 (``our485``, ``eval15``), LOL v2 (``Real_captured``, ``Synthetic``), LSRW (``Huawei``, ``Nikon``),
SICE (numbered folders of exposures beside ``Label``), ``labeled/{input,GT}`` beside ``unlabeled/input`` as in the
VisDrone experiments, plain ``low``/``high`` folders, and folders of dark photos.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .pairs import IMAGE_SUFFIXES, DataError

_LOW = ("low", "input", "dark", "lq")
_HIGH = ("high", "normal", "gt", "label", "reference", "target", "hq")
_NOT_PHOTOGRAPHED = frozenset({"candidate", "la"})
"""Pseudo-labels and illumination maps that older trainers kept inside data sets."""
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "our485", "labeled", "labelled"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "eval15"), "test"),
}
_KINDS = (
    ({"our485", "eval15"}, "LOL v1"),
    ({"real_captured", "synthetic"}, "LOL v2"),
    ({"huawei", "nikon"}, "LSRW"),
    ({"labeled", "labelled", "unlabeled", "unlabelled"}, "labeled and unlabeled"),
)
_SIDE = re.compile(r"^(?:low|normal|high|input|gt)[\W_]*(?=\d)|[\W_]+(?:low|normal|high|input|gt)$", re.I)


@dataclass(frozen=True)
class FoundPhoto:
    """A pair, or a dark photo without reference."""

    name: str
    """Path below the data set's root without extension and side, such as ``our485/5``."""
    low: Path
    high: Path | None


@dataclass
class FoundFolder:
    """What one folder of a data set holds."""

    path: Path
    kind: str
    """Recognised layout."""
    split: str
    """What the layout says: ``train``, ``val``, ``test``, or empty."""
    photos: list[FoundPhoto] = field(default_factory=list)
    dropped: list[tuple[Path, str]] = field(default_factory=list)
    """Images that are of no use, and why."""


def find_photos(root: str | Path) -> list[FoundFolder]:
    """Look through a folder tree for training photos; files are listed, not opened.

    Raises:
        DataError: The folder is missing or holds nothing that can be used.
    """
    start = Path(root).absolute()
    if not start.is_dir():
        raise DataError(f"Folder {root} does not exist.")
    found: list[FoundFolder] = []
    _walk(start, start, "", found, set())
    if not any(folder.photos for folder in found):
        raise DataError(
            f"{root} holds no pair and no dark photo ({', '.join(sorted(IMAGE_SUFFIXES))}). Expected are folders named "
            f"{', '.join(_LOW)} beside {', '.join(_HIGH)}, numbered exposures beside Label, or folders of photos."
        )
    return found


def _walk(folder: Path, root: Path, split: str, found: list[FoundFolder], visited: set[Path]) -> None:
    if folder.resolve() in visited:  # a link back up
        return
    visited.add(folder.resolve())
    for word in re.split(r"[^a-z0-9]+", folder.name.casefold()):
        split = _SPLIT_WORDS.get(word, split)
    # Hidden folders hold what programs keep for themselves, such as thumbnails of the photos beside them.
    below = {
        path.name.casefold(): path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    low = next((below[name] for name in _LOW if name in below), None)
    high = next((below[name] for name in _HIGH if name in below), None)
    exposures = [path for name, path in below.items() if name.isdigit()]
    here = FoundFolder(folder, _kind(folder, root), split)
    prefix = "/".join((root.name, *folder.relative_to(root).parts))
    if low is not None and high is not None:
        here.kind = here.kind or "pairs"
        _pair_folders(here, prefix, low, high)
        done = {low, high}
        here.dropped += _beside(folder)
    elif "label" in below and exposures:
        here.kind = "SICE"
        _pair_exposures(here, prefix, below["label"], exposures)
        done = {below["label"], *exposures}
        here.dropped += _beside(folder)
    else:
        here.kind = here.kind or "dark photos"
        images = _images(folder, recursive=False)
        name = folder.name.casefold()
        why = ""
        if name in _NOT_PHOTOGRAPHED:
            why = "pseudo-label or illumination map, not a photo"
        elif name in _HIGH:
            why = "reference without a folder of dark photos beside it"
        elif split in ("val", "test"):
            why = f"{split} photo without a reference"
        if why:
            here.dropped += [(path, why) for path in images.values()]
        else:
            here.photos += [FoundPhoto(f"{prefix}/{key}", path, None) for key, path in images.items()]
        done = set()
    if here.photos or here.dropped:
        found.append(here)
    for path in below.values():
        if path not in done:
            _walk(path, root, split, found, visited)


def _beside(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder whose pairs lie in folders of their own."""
    return [
        (path, "beside folders of pairs, in none of them")
        for path in _images(folder, recursive=False).values()
    ]


def _kind(folder: Path, root: Path) -> str:
    parts = {part.casefold() for part in (root.name, *folder.relative_to(root).parts)}
    return next((kind for names, kind in _KINDS if names & parts), "")


def _pair_folders(here: FoundFolder, prefix: str, low_folder: Path, high_folder: Path) -> None:
    low = _images(low_folder, dropped=here.dropped)
    high = _images(high_folder, dropped=here.dropped)
    pairs = {key: (low.pop(key), high.pop(key)) for key in sorted(low.keys() & high.keys())}
    # LOL v2 names the two sides low00001 and normal00001.
    bare_low, bare_high = _without_side(low), _without_side(high)
    for key in sorted(bare_low.keys() & bare_high.keys() - pairs.keys()):
        pairs[key] = (low.pop(bare_low[key]), high.pop(bare_high[key]))
    here.photos += [FoundPhoto(f"{prefix}/{key}", *paths) for key, paths in pairs.items()]
    here.dropped += [(path, "no reference of the same name") for path in low.values()]
    here.dropped += [(path, "no dark photo of the same name") for path in high.values()]


def _without_side(images: dict[str, Path]) -> dict[str, str]:
    """Name without the side's word to name, where that is unambiguous."""
    bare: dict[str, list[str]] = {}
    for key in images:
        parent, _, stem = key.rpartition("/")
        bare.setdefault(f"{parent}/{_SIDE.sub('', stem)}".lstrip("/"), []).append(key)
    return {short: keys[0] for short, keys in bare.items() if len(keys) == 1}


def _pair_exposures(here: FoundFolder, prefix: str, labels: Path, folders: list[Path]) -> None:
    references = _images(labels, dropped=here.dropped)
    for folder in folders:
        reference = references.pop(folder.name, None)
        for key, path in _images(folder, dropped=here.dropped).items():
            if reference is None:
                here.dropped.append((path, "no reference of the same name"))
            else:
                here.photos.append(FoundPhoto(f"{prefix}/{folder.name}/{key}", path, reference))
    here.dropped += [(path, "no dark photo of the same name") for path in references.values()]


def _images(
    folder: Path, *, recursive: bool = True, dropped: list[tuple[Path, str]] | None = None
) -> dict[str, Path]:
    """Images by path below the folder without extension; of several with one name the first is taken."""
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if dropped is not None and key in images:
            dropped.append((path, f"same name as {images[key].name}"))
        else:
            images[key if key not in images else path.name] = path
    return images
