"""AVIF and HEIC files, which are boxes of ISO/IEC 23008-12 around pictures in AV1 or HEVC."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._installing import pip_install
from ._vips import from_array
from .photo import PhotoError

HEIF_FORMATS = ("avif", "heic")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SEQUENCES = {b"avis", b"hevc", b"hevx", b"msf1"}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1\0")
_NO_DECODER = re.compile("not been built in|Unsupported codec|Unsupported feature")
"""What libheif says of a compression that it was built without, depending on its version."""
_UNKNOWN = 2


def heif_format(data: bytes) -> str | None:
    """``"avif"`` or ``"heic"``, from the first bytes of a file; ``None`` if it is neither."""
    brands = _brands(data)
    if not _AVIF_BRANDS.isdisjoint(brands):
        return "avif"
    return None if _HEIC_BRANDS.isdisjoint(brands) else "heic"


def is_sequence(data: bytes) -> bool:
    """Whether a file is made to show several pictures one after another."""
    return bool(_SEQUENCES.intersection(_brands(data)[:1]))


def exceeds_jpeg(data: bytes) -> bool:
    """Whether a file, of which ``data`` is the beginning, has transparency or more than 8 bits per channel."""
    depths = _primary_properties(data).get(b"pixi", b"")[5:]
    return any(alpha in data for alpha in _ALPHA) or any(depth > 8 for depth in depths)


def heif_colour_codes(data: bytes) -> tuple[int, int]:
    """Colour primaries and transfer characteristics (ITU-T H.273) of a file's picture; 2 is unknown."""
    content = _primary_properties(data).get(b"colrnclx", b"")
    return struct.unpack_from(">HH", content) if len(content) >= 4 else (_UNKNOWN, _UNKNOWN)


def load_heif(vips: Any, path: Path, data: bytes, file_format: str) -> tuple[Any, int]:
    """Decode the main picture of a file, upright.

    Args:
        vips: The library.
        path: The file's name, for messages.
        data: Its content.
        file_format: One of :data:`HEIF_FORMATS`.

    Returns:
        The picture with its metadata, in memory, and the bits per channel that are used of its 8 or 16.

    Raises:
        PhotoError: It shows several pictures, or no decoder is installed.
        pyvips.Error: It is damaged.
    """
    if is_sequence(data):
        raise PhotoError(f"{path} holds a sequence of pictures. Save each as a file of its own first.")
    image = None
    if vips.type_find("VipsOperation", "heifload_buffer"):
        try:
            image = vips.Operation.call("heifload_buffer", data, fail_on="error").copy_memory()
            bits = image.get("bits-per-sample") if image.get_typeof("bits-per-sample") else 8
        except vips.Error as error:
            if _NO_DECODER.search(error.detail) is None:
                raise
    if image is None and file_format == "avif":
        raise PhotoError(
            f"{path} is an AVIF file, which the libvips that is installed cannot decode. Install one that can with: "
            + pip_install("'pyvips[binary]'")
        )
    if image is None:
        image, bits = _with_pillow_heif(vips, path, data)
    return image, bits


def _with_pillow_heif(vips: Any, path: Path, data: bytes) -> tuple[Any, int]:
    try:
        import pillow_heif
    except (ImportError, OSError) as error:  # OSError: a library that it needs is missing.
        raise PhotoError(
            f"{path} is a HEIC file, which needs another package ({error}). Install it with: "
            f"{pip_install('pillow_heif')}. Or save the photo as JPEG."
        ) from error
    try:
        picture = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
        array = np.asarray(picture)
    except (ValueError, OSError, EOFError, RuntimeError, SyntaxError) as error:
        raise vips.Error("pillow_heif", str(error).strip()) from error
    image = from_array(vips, array)
    for name, key in (("icc-profile", "icc_profile"), ("exif", "exif"), ("xmp", "xmp")):
        if content := picture.info.get(key):
            image.set_type(vips.GValue.blob_type, f"{name}-data", content)
    # Setting EXIF sets what it says: turned, which the picture no longer is.
    image.set_type(vips.GValue.gint_type, "orientation", 1)
    return image, int(picture.info["bit_depth"])


def _brands(data: bytes) -> list[bytes]:
    """What a file says it is: its main brand, then those it is compatible with."""
    if data[4:8] != b"ftyp":
        return []
    stop = min(int.from_bytes(data[:4], "big"), len(data))
    return [data[8:12], *(data[at : at + 4] for at in range(16, stop - 3, 4))]


def _primary_properties(data: bytes) -> dict[bytes, bytes]:
    """The properties of the main picture by type, of colour (``colr``) by type and kind; none if damaged."""
    try:
        meta = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))
        wide = meta[b"pitm"][0] > 0
        (primary,) = struct.unpack_from(">I" if wide else ">H", meta[b"pitm"], 4)
        parts = dict(_boxes(meta[b"iprp"]))
        properties = list(_boxes(parts[b"ipco"]))
        found = {}
        for index in filter(None, _associations(parts[b"ipma"], primary)):
            kind, content = properties[index - 1]
            if kind == b"colr":
                kind, content = kind + content[:4], content[4:]
            found[kind] = content
    except (KeyError, IndexError, struct.error):
        return {}
    return found


def _associations(content: bytes, item: int) -> list[int]:
    """The numbers of an item's properties, counted from 1; 0 stands for none."""
    item_code = ">I" if content[0] else ">H"
    index_code, index_mask = (">H", 0x7FFF) if content[3] & 1 else (">B", 0x7F)
    (entries,) = struct.unpack_from(">I", content, 4)
    at = 8
    for _ in range(entries):
        (number,) = struct.unpack_from(item_code, content, at)
        at += struct.calcsize(item_code) + 1
        stop = at + content[at - 1] * struct.calcsize(index_code)
        if number == item:
            return [index & index_mask for (index,) in struct.iter_unpack(index_code, content[at:stop])]
        at = stop
    return []


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of a file or a box, type and content."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        elif size == 0:
            size = len(data) - at
        if size < header:
            return
        yield kind, data[at + header : at + size]
        at += size
