"""Low/normal-light pairs in two folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


class DataError(ValueError):
    """A folder or file of training data cannot be used; the message names it and what to do."""


@dataclass(frozen=True)
class Pair:
    """A dark photo and its well-lit reference."""

    name: str
    low: Path
    high: Path
    scene: str = ""
    """Which pairs show the same scene; empty where that is not known."""


def find_pairs(low: str | Path, high: str | Path) -> list[Pair]:
    """Pair the images of two folders by file stem (extensions may differ), sorted by name.

    Raises:
        DataError: A folder is missing, a stem occurs twice in one folder, or nothing pairs up.
    """
    low_files, high_files = _by_stem(Path(low)), _by_stem(Path(high))
    names = sorted(low_files.keys() & high_files.keys())
    if not names:
        raise DataError(
            f"No image in {low} has a partner of the same name in {high} "
            f"({len(low_files)} and {len(high_files)} images found)."
        )
    return [Pair(name, low_files[name], high_files[name]) for name in names]


def find_images(folder: str | Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    found = sorted(_by_stem(Path(folder)).values())
    if not found:
        raise DataError(f"Folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"Folder {folder} does not exist.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} share the name {path.stem!r}: keep one of them.")
        found[path.stem] = path
    return found


def read_rgb(path: Path) -> Tensor:
    """Decode an image file to ``(3, H, W)`` uint8 sRGB.

    Raises:
        DataError: The file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"Cannot read image {path}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
