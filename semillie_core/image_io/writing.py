"""Writing photo files."""

from __future__ import annotations

import contextlib
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..colour import luma
from ..files import atomic_write, check_writable
from ._iptc import from_photoshop, to_photoshop
from ._png import add_chunks
from ._tiff import add_exif_to_tiff, add_iptc_to_tiff, shorten_exif
from ._vips import from_array, load_vips, reason
from .photo import PHOTO_SUFFIXES, Photo, PhotoError

_DEEP_FORMATS = ("png", "tiff")
_LARGEST_EDGE = {"jpeg": 65_500, "webp": 16_383}
"""In pixels, of the formats in which it is less than a photo may have."""
_MOST_EXIF = 65_000
"""In bytes: of a little more, which JPEG's 65533 leave room for, libvips keeps nothing, in no format."""


def check_target(path: str | Path, height: int, width: int) -> None:
    """Make sure that a photo can be written, before the work on it.

    Args:
        path: File to write; nothing is written to it yet.
        height: Rows of the photo.
        width: Columns of the photo.

    Raises:
        PhotoError: The ending is none of :data:`.photo.PHOTO_SUFFIXES`, the photo is too large for the format, or
            the file cannot be made where it should be.
    """
    path = Path(path)
    file_format = _format_of(path)
    edge = _LARGEST_EDGE.get(file_format, math.inf)
    if max(height, width) > edge:
        raise PhotoError(
            f"{path} cannot be written: {file_format.upper()} has at most {edge} pixels per side, the photo is "
            f"{width} x {height}. Write a PNG or TIFF file."
        )
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(path.stat().st_mode):
                raise PhotoError(f"{path} cannot be written: it is a folder. Choose another name.")
        check_writable(path)
    except OSError as error:
        raise PhotoError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_photo(path: str | Path, pixels: Tensor, *, like: Photo | None = None, quality: int = 95) -> None:
    """Write a photo, as a whole or not at all.

    The ending of the name decides the format. Values are rounded to the nearest step. PNG and TIFF keep 16 bits and
    are lossless; JPEG and WebP have 8. JPEG has no alpha: the photo is put on white. WebP has no grey: the values of a
    grey profile become those of sRGB. TIFF leaves out EXIF that is damaged, the others what a camera maker notes down
    for itself where EXIF has more than 65000 bytes; PNG and WebP leave out IPTC, and only PNG keeps
    :attr:`.photo.Photo.png_chunks`.

    Args:
        path: File to write; replaced if it exists.
        pixels: ``(C, H, W)`` in [0, 1]; C is 3 or 4 (alpha last). Values outside are clamped.
        like: Photo whose depth, greyness, profile, resolution and metadata the file gets. Without one it has 8 bits
            and no metadata.
        quality: Of JPEG and WebP, 1 to 100; a WebP of quality 100 is lossless.

    Raises:
        PhotoError: The ending is none of :data:`.photo.PHOTO_SUFFIXES`, or the file cannot be written.
        ValueError: ``pixels`` has another shape, or integers, NaN or infinite values; or ``quality`` is out of range.
    """
    path = Path(path)
    vips = load_vips()
    file_format = _format_of(path)
    if pixels.dim() != 3 or pixels.shape[0] not in (3, 4) or pixels.numel() == 0:
        raise ValueError(f"pixels must be (3 or 4, H, W), got {tuple(pixels.shape)}.")
    if not pixels.is_floating_point():
        raise ValueError(
            f"pixels must be floating point in [0, 1], got {pixels.dtype}; divide by its maximum."
        )
    if not torch.isfinite(pixels).all():
        raise ValueError("pixels holds NaN or infinite values; remove them first.")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be between 1 and 100, got {quality}.")

    bit_depth = like.bit_depth if like is not None and file_format in _DEEP_FORMATS else 8
    planes = pixels.detach().float().cpu().clamp(0, 1)
    if file_format == "jpeg" and planes.shape[0] == 4:
        planes = planes[:3] * planes[3:] + (1 - planes[3:])
    if like is not None and like.is_grey:
        planes = torch.cat([luma(planes[None, :3])[0], planes[3:]])
    image = _to_vips(vips, planes, bit_depth)
    metadata = dict(like.metadata) if like is not None else {}
    exif, iptc = metadata.get("exif-data", b""), metadata.pop("iptc-data", b"")
    if iptc and file_format == "jpeg":
        metadata["iptc-data"] = to_photoshop(iptc)
    if len(exif) > _MOST_EXIF:
        metadata["exif-data"] = shorten_exif(exif, _MOST_EXIF)
    if like is not None:
        image = image.copy(xres=like.resolution[0], yres=like.resolution[1])
        for name, value in metadata.items():
            image.set_type(vips.GValue.blob_type, name, value)
        # Setting EXIF sets what it says: turned, and with a thumbnail of the dark photo.
        image.set_type(vips.GValue.gint_type, "orientation", 1)
        image.remove("jpeg-thumbnail-data")
    try:
        encoded = _encode(image, file_format, quality)
    except (vips.Error, UnicodeDecodeError) as error:
        raise PhotoError(f"{path} cannot be encoded as {file_format.upper()}: {reason(error)}.") from error
    if file_format == "png" and like is not None:
        encoded = add_chunks(encoded, like.png_chunks)
    if file_format == "tiff" and exif:
        encoded = add_exif_to_tiff(encoded, exif)
    if file_format == "tiff" and len(block := from_photoshop(iptc)) > 4:
        encoded = add_iptc_to_tiff(encoded, block)
    try:
        with atomic_write(path) as file:
            file.write(encoded)
    except OSError as error:
        raise PhotoError(f"{path} cannot be written: {error.strerror or error}.") from error


def _format_of(path: Path) -> str:
    file_format = PHOTO_SUFFIXES.get(path.suffix.lower())
    if file_format is None:
        raise PhotoError(
            f"{path} should end in one of {', '.join(PHOTO_SUFFIXES)}: the ending decides the format."
        )
    return file_format


def _to_vips(vips: Any, planes: Tensor, bit_depth: int) -> Any:
    """A picture of planes, which are overwritten: each copy of a large photo takes gigabytes."""
    levels = planes.mul_(2**bit_depth - 1).round_().movedim(0, -1).numpy()
    return from_array(vips, levels.astype(np.uint8 if bit_depth == 8 else np.uint16))


def _encode(image: Any, file_format: str, quality: int) -> bytes:
    if file_format == "jpeg":
        encoded = image.jpegsave_buffer(Q=quality, optimize_coding=True)
    elif file_format == "webp":
        if image.get_typeof("icc-profile-data") and image.get("icc-profile-data")[16:20] == b"GRAY":
            # WebP is always RGB, for which a profile of grey values says nothing.
            image = image.icc_transform("srgb", embedded=True)
        encoded = image.webpsave_buffer(Q=quality, lossless=quality == 100, exact=True)
    elif file_format == "png":
        encoded = image.pngsave_buffer(compression=6, filter="all")
    else:
        encoded = image.tiffsave_buffer(compression="deflate", predictor="horizontal")
    return bytes(encoded)
