"""What a photo file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

PHOTO_SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
"""File name endings, in lower case, and the format each stands for."""

_RAW_KINDS = (
    "dng 3fr arw cr2 cr3 crw dcr erf fff iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
)
RAW_SUFFIXES = tuple(f".{kind}" for kind in _RAW_KINDS.split())
"""Endings of camera RAW files, in lower case."""

READABLE_SUFFIXES = {
    **PHOTO_SUFFIXES,
    ".avif": "avif",
    **dict.fromkeys((".heic", ".heif", ".hif"), "heic"),
    **dict.fromkeys(RAW_SUFFIXES, "raw"),
}
"""The endings that are written, with those of formats that are read but not written."""

READABLE_FORMATS = "PNG, JPEG, WebP, TIFF, AVIF, HEIC or camera RAW"
"""For messages."""


class PhotoError(ValueError):
    """A photo cannot be read or written; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo, upright, with what is needed to write another one like it."""

    pixels: Tensor = field(repr=False)
    """``(C, H, W)`` float32 in [0, 1]. C is 3 (RGB) or 4 (RGB and alpha); greyscale is expanded to three equal
    channels. Values are the file's own, in the colour space of its profile (sRGB without one)."""
    format: str
    """``"png"``, ``"jpeg"``, ``"webp"``, ``"tiff"``, ``"avif"``, ``"heic"`` or ``"raw"``, from the file's content."""
    bit_depth: int = 8
    """Bits per channel, 8 or 16; 16 for the 10 or 12 of AVIF and HEIC, and for RAW."""
    is_grey: bool = False
    """Whether the file holds one colour channel."""
    metadata: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """ICC profile, EXIF, XMP and IPTC under libvips' field names; IPTC of a JPEG in the block of Photoshop's that holds
    it there."""
    png_chunks: bytes = field(default=b"", repr=False)
    """Chunks of a PNG file: cICP, gAMA, cHRM and sRGB, which say what its values mean where no profile does, and its
    comments."""
    resolution: tuple[float, float] = (1.0, 1.0)
    """Horizontal and vertical resolution in pixels per millimetre."""
