"""Low/normal-light pairs in two folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..image_io import read_photo

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright, by EXIF orientation."""
_FIRST_SIDEWAYS = 5
"""Orientation from which on a photo is stored with height and width swapped."""


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
            f"({len(low_files)} and {len(high_files)} images found; folders inside them are not searched)."
        )
    return [Pair(name, low_files[name], high_files[name]) for name in names]


def find_unpaired(low: str | Path, high: str | Path) -> list[Path]:
    """The images that :func:`find_pairs` leaves out for want of a partner, sorted by name."""
    low_files, high_files = _by_stem(Path(low)), _by_stem(Path(high))
    alone = low_files.keys() ^ high_files.keys()
    return [files[name] for files in (low_files, high_files) for name in sorted(alone & files.keys())]


def named(paths: Sequence[Path | str], shown: int = 10) -> str:
    """Files in words, the first few by path."""
    more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(map(str, paths[:shown])) + more


def find_images(folder: str | Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    found = sorted(_by_stem(Path(folder)).values())
    if not found:
        raise DataError(
            f"Folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); folders inside it are not searched."
        )
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"Folder {folder} does not exist.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # macOS leaves hidden files beside photos on foreign drives: ._name.png, which is no image.
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} share the name {path.stem!r}: keep one of them.")
        found[path.stem] = path
    return found


def read_levels(path: Path) -> Tensor:
    """Decode an image file upright, as its EXIF orientation says, in the depth that it has.

    Returns:
        ``(3, H, W)`` sRGB: uint16 where the file has 16 bits per channel, uint8 otherwise.

    Raises:
        DataError: The file cannot be decoded, its samples are neither integers of 8 or 16 bits, or it has 16 and pyvips
            is not installed.
    """
    try:
        with Image.open(path) as image:
            if _has_16_bits(image):
                # Pillow drops the lower half of them, or all that is above 255.
                pixels = read_photo(path).pixels[:3]
                return (pixels * 65535).round().to(torch.int32).to(torch.uint16)
            if image.mode.split(";")[0] in ("I", "F"):
                raise DataError(
                    f"its samples are of type {image.mode}: save it with 8 or 16 bits per channel"
                )
            # TIFF photos are turned by Pillow when it decodes them.
            turn = None if _is_tiff(image) else _TURNS.get(_orientation(image))
            colours = image.convert("RGB")
            array = np.array(colours if turn is None else colours.transpose(turn))
    # Decoders raise what they like for broken files.
    except Exception as error:
        raise _cannot_read(path, error) from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def to_float(levels: Tensor) -> Tensor:
    """uint8 or uint16 to float32 in [0, 1]."""
    return levels.to(torch.float32) / torch.iinfo(levels.dtype).max


def read_rgb(path: Path) -> Tensor:
    """:func:`read_levels` in 8 bits: ``(3, H, W)`` uint8."""
    levels = read_levels(path)
    return levels if levels.dtype == torch.uint8 else (to_float(levels) * 255).round().byte()


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of what :func:`read_levels` gives, from the file's header.

    Raises:
        DataError: The file is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Whose size some versions of Pillow have turned by now.
            if _is_tiff(image):
                width, height = (
                    image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH)
                )
            return (width, height) if _orientation(image) >= _FIRST_SIDEWAYS else (height, width)
    except Exception as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        return DataError(
            f"Cannot read image {path}: it is damaged or of no known format. Replace it or take it out."
        )
    return DataError(f"Cannot read image {path}: {error}")


def differ_in_size(pair: Pair, low: Sequence[int], high: Sequence[int]) -> str:
    """What is wrong with a pair whose photos have these heights and widths."""
    return (
        f"{pair.low} and {pair.high} differ in size: "
        f"{low[1]}x{low[0]} and {high[1]}x{high[0]} pixels, held upright."
    )


def _is_tiff(image: Image.Image) -> TypeGuard[TiffImagePlugin.TiffImageFile]:
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation by the file's header, 1 to 8."""
    # Asked for what it does not have there, a PNG is decoded to its end.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in _TURNS else 1


def _has_16_bits(image: Image.Image) -> bool:
    """Whether a PNG or TIFF file, just opened, has 16 bits per channel; its mode says so for grey ones only."""
    if _is_tiff(image):
        unsigned = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1
        return unsigned and 16 in image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
    return isinstance(image, PngImagePlugin.PngImageFile) and "16" in str(image.tile[0][3])
