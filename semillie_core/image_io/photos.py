"""Reading and writing photos through libvips, which keeps what a photo carries besides its 8-bit pixels."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
"""File name endings that are read and written."""

_DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
_GREY = frozenset({"b-w", "grey16"})


class PhotoError(ValueError):
    """A photo cannot be read or written; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo, upright."""

    pixels: Tensor
    """``(3, H, W)`` or, with alpha, ``(4, H, W)`` float32 in [0, 1], in the file's own colour space; grey is repeated
    into the three channels."""
    bit_depth: int
    """8 or 16 bits per channel in the file."""
    is_grey: bool
    """Whether the file was grey."""
    source: Any
    """The libvips image, which holds the profile and metadata."""


def read_photo(path: str | Path) -> Photo:
    """Decode a photo and turn it upright.

    Values are taken as they are: a wide-gamut profile stays attached instead of being converted. CMYK is converted
    to sRGB, the only case in which a profile is applied.

    Args:
        path: A JPEG, PNG, WebP or TIFF file.

    Raises:
        PhotoError: The file is missing, truncated, not a photo, or of a kind that is not supported.
    """
    vips = _vips()
    path = Path(path)
    if not path.is_file():
        raise PhotoError(f"{path}: there is no such file.")
    if path.suffix.lower() not in PHOTO_SUFFIXES:
        raise PhotoError(f"{path}: files of this kind are not supported; use JPEG, PNG, WebP or TIFF.")
    try:
        # libvips remembers decoded files by name; revalidating notices that one has changed.
        image = vips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True).autorot()
        if image.get_typeof("n-pages") and image.get("n-pages") > 1:
            raise PhotoError(f"{path}: holds {image.get('n-pages')} pages or frames; save the one you want by itself.")
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True, depth=8)
        if image.format not in ("uchar", "ushort"):
            raise PhotoError(f"{path}: pixels are {image.format}; only 8 and 16 bits per channel are supported.")
        values = np.asarray(image.numpy())
    except vips.Error as error:
        reason = " ".join(str(error).split())
        raise PhotoError(f"{path}: the file is damaged, truncated or not a photo ({reason}).") from error
    bit_depth = 16 if image.format == "ushort" else 8
    if values.ndim == 2:
        values = values[:, :, None]
    bands = values.shape[2]
    if bands not in (1, 2, 3, 4):
        raise PhotoError(f"{path}: {bands} channels per pixel; only grey and RGB, with or without alpha, are supported.")
    pixels = torch.from_numpy(values.astype(np.float32) / (2**bit_depth - 1)).permute(2, 0, 1)
    is_grey = bands <= 2 or image.interpretation in _GREY
    if bands <= 2:
        pixels = torch.cat([pixels[:1].expand(3, -1, -1), pixels[1:]])
    return Photo(pixels.contiguous(), bit_depth, is_grey, image)


def write_photo(path: str | Path, pixels: Tensor, *, like: Photo | None = None, quality: int = 95) -> None:
    """Encode a photo, atomically, in the format that the file name says.

    Args:
        path: File to write; replaced as a whole or not at all.
        pixels: ``(3, H, W)`` or ``(4, H, W)`` in [0, 1]; rounded to the nearest code value.
        like: Photo whose depth (where the format has it), greyness, colour profile and metadata are kept.
        quality: JPEG and WebP quality, 1 to 100.

    Raises:
        PhotoError: The format is not supported, cannot hold the picture, or the file cannot be written.
    """
    vips = _vips()
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        raise PhotoError(f"{path}: cannot write files of this kind; use JPEG, PNG, WebP or TIFF.")
    if not path.parent.is_dir():
        raise PhotoError(f"{path}: the folder does not exist.")
    deep = like is not None and like.bit_depth == 16 and suffix in _DEEP_SUFFIXES
    has_alpha = pixels.shape[0] == 4 and suffix not in (".jpg", ".jpeg")
    colour, alpha = pixels[:3], pixels[3:] if has_alpha else pixels[:0]
    if like is not None and like.is_grey:
        colour = colour.mean(0, keepdim=True)
    scaled = torch.cat([colour, alpha]).cpu().float().clamp(0, 1) * (65535 if deep else 255)
    values = scaled.round().permute(1, 2, 0).numpy().astype(np.uint16 if deep else np.uint8)
    grey = colour.shape[0] == 1
    interpretation = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    image = vips.Image.new_from_array(np.ascontiguousarray(values)).copy(interpretation=interpretation)
    if like is not None:
        image = _with_metadata(image, like.source)

    options: dict[str, Any] = {"Q": quality} if suffix in (".jpg", ".jpeg", ".webp") else {}
    if suffix in (".jpg", ".jpeg") and quality >= 90:
        options["subsample_mode"] = "off"
    if suffix in (".tif", ".tiff"):
        options["compression"] = "deflate"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=suffix)
    os.close(handle)
    try:
        image.write_to_file(temporary, **options)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except (vips.Error, OSError) as error:
        raise PhotoError(f"{path}: could not be written ({' '.join(str(error).split())}).") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _with_metadata(image: Any, source: Any) -> Any:
    """Copy profile, EXIF, XMP and IPTC, and say that the picture is upright."""
    image = image.copy(xres=source.xres, yres=source.yres)
    kept = [
        name
        for name in source.get_fields()
        if name in ("icc-profile-data", "xmp-data", "iptc-data", "exif-data") or name.startswith("exif-ifd")
    ]
    for name in kept:
        if "Orientation" not in name and "Thumbnail" not in name:
            image.set_type(source.get_typeof(name), name, source.get(name))
    # Without this the orientation inside the EXIF block would be written as it was.
    image.set_type(_vips().GValue.gint_type, "orientation", 1)
    return image


def _vips() -> ModuleType:
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise PhotoError(
            f"Reading photo files needs pyvips ({error}). Install it with: pip install 'semi-llie[cli]'"
        ) from error
    module: ModuleType = pyvips
    return module
