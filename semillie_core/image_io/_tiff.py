"""EXIF in TIFF files, which libvips neither reads nor writes, and IPTC, of which it does a part.

An EXIF block is a small TIFF file without a picture: a directory of descriptive tags, two of which point to the
directories of camera and position. In a TIFF photo the same tags are part of the photo's own directory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

_DESCRIPTIVE_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""ImageDescription, Make, Model, Software, DateTime, Artist, Copyright."""
_DIRECTORY_TAGS = (0x8769, 0x8825)
"""Camera (EXIF) and position (GPS)."""
_INTEROPERABILITY = 0xA005
"""Points to a third directory, which says nothing about the photo."""
_MAKERS_NOTE = 0x927C
"""What the camera's maker writes into EXIF for itself: up to nearly all of it."""
_COLOUR_SPACE, _SRGB = 0xA001, 1
_SIZE_TAGS = {0xA002: 256, 0xA003: 257}
"""Width and height, in the directory of the camera and in that of a TIFF photo."""
_IPTC = 33723
_BYTES_OF_TYPE = {1: 1, 4: 4, 7: 1}
"""Of the types in which files have IPTC: bytes, numbers of four bytes, and undefined."""
_UNDEFINED = 7
_CODE_OF_TYPE = {3: "H", 4: "I"}
"""Of the types in which files have single numbers, for the module struct."""
_COMPRESSION, _PHOTOMETRIC, _INNER_DIRECTORIES = 259, 262, 330
_YCBCR = 6
"""A kind of pictures, of brightness and two differences of colour."""
_CONVERTED_COMPRESSIONS = (6, 7, 33003, 33005)
"""JPEG, as the standard first had it and now has it, and JPEG 2000."""
_SENSOR_DATA = (32803, 34892)
"""Kinds of pictures: one value per pixel, behind filters of several colours (TIFF/EP), and all at each (DNG)."""
_NEW_SUBFILE_TYPE = 254
_REDUCED = 1
"""Its bit of smaller copies of another picture in the file."""
_DAMAGE = (ValueError, LookupError, TypeError, SyntaxError, OSError, struct.error)
"""What Pillow raises at EXIF that is damaged, depending on where."""


class _Text(str):
    """Text of EXIF as Pillow reads it, a letter per byte; of itself Pillow writes ? for every byte beyond ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        """The bytes that were read, whatever is asked for."""
        return super().encode("latin-1")


def exif_of_tiff(data: bytes, *, as_srgb: bool = False) -> bytes | None:
    """The EXIF of a TIFF file as the block that other formats hold.

    Args:
        data: The file.
        as_srgb: Let it say that the photo is in sRGB, whatever the camera was set to.

    Returns:
        The block, or ``None`` if there is no EXIF or it is damaged.
    """
    try:
        exif = _select(data, "<")
        if as_srgb and (camera := exif.get(_DIRECTORY_TAGS[0])):
            camera[_COLOUR_SPACE] = _SRGB
        return exif.tobytes() if len(exif) else None
    except _DAMAGE:
        return None


def add_exif_to_tiff(data: bytes, block: bytes) -> bytes:
    """A TIFF file with the tags of an EXIF block added to its own, with the size that it has.

    Args:
        data: A file as libvips writes it: one directory, 32-bit offsets.
        block: EXIF, as other formats hold it.

    Returns:
        The file; as it was if the block is damaged.
    """
    order = _order(data)
    start = len(data) + len(data) % 2
    header = len(b"Exif\0\0") + 8
    try:
        exif = _select(block, order)
        camera, (page, *_) = exif.get(_DIRECTORY_TAGS[0], {}), _pages(data)
        # Where the photo was turned, they are no longer what the camera wrote.
        camera.update({tag: page[size] for tag, size in _SIZE_TAGS.items() if tag in camera})
        added = exif.tobytes(start)[header:]
    except _DAMAGE:
        return data
    return _add(data, added, _entries(added, 0, order))


def shorten_exif(block: bytes, most: int) -> bytes:
    """An EXIF block without its thumbnail and, if it still has too many bytes, its maker's note.

    Args:
        block: EXIF, as formats other than TIFF hold it.
        most: How many bytes are not too many.

    Returns:
        The block; as it was if it is damaged.
    """
    exif = Image.Exif()
    try:
        exif.load(block)
        for directory in (exif, *map(exif.get_ifd, _DIRECTORY_TAGS)):
            directory.update(_with_text(directory))
        if len(shorter := exif.tobytes()) > most:
            exif.get_ifd(_DIRECTORY_TAGS[0]).pop(_MAKERS_NOTE, None)
            shorter = exif.tobytes()
    except _DAMAGE:
        return block
    return shorter


def iptc_of_tiff(data: bytes) -> bytes | None:
    """The IPTC of a TIFF file, of which libvips gives a quarter where it is stored as numbers of four bytes.

    Args:
        data: The file.

    Returns:
        The block, or ``None`` if there is none, or it is damaged or in a file with 64-bit offsets.
    """
    order = _order(data)
    try:
        entry = _entries(data, struct.unpack_from(f"{order}I", data, 4)[0], order).get(_IPTC, b"")
        kind, count, offset = struct.unpack_from(f"{order}HII", entry, 2)
    except struct.error:
        return None
    stop = offset + count * _BYTES_OF_TYPE.get(kind, 0)
    return data[offset:stop] if offset < stop <= len(data) else None


def add_iptc_to_tiff(data: bytes, block: bytes) -> bytes:
    """A TIFF file with IPTC, whole: libvips writes a quarter of it.

    Args:
        data: As for :func:`add_exif_to_tiff`.
        block: More than four bytes.
    """
    start = len(data) + len(data) % 2
    return _add(
        data, block, {_IPTC: struct.pack(f"{_order(data)}HHII", _IPTC, _UNDEFINED, len(block), start)}
    )


def full_pages(data: bytes) -> list[int]:
    """The pages of a TIFF file that are pictures of their own, not smaller copies of one.

    Args:
        data: The file, with 32-bit or 64-bit offsets.

    Returns:
        Their numbers, counted from 0; all pages if each says that it is a copy, and none if the file is damaged.
    """
    pages = _pages(data)
    full = [index for index, page in enumerate(pages) if not page.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED]
    return full or list(range(len(pages)))


def is_plain_ycbcr(data: bytes, page: int) -> bool:
    """Whether a TIFF file has its colours as YCbCr where libvips takes them for RGB: outside of JPEG and JPEG 2000.

    Args:
        data: The file, as for :func:`full_pages`.
        page: One of its pages, counted from 0.
    """
    numbers = _pages(data)[page]
    return numbers.get(_PHOTOMETRIC) == _YCBCR and numbers.get(_COMPRESSION) not in _CONVERTED_COMPRESSIONS


def holds_sensor_data(data: bytes) -> bool:
    """Whether a TIFF file is a camera's RAW file, the first picture of which may be a preview.

    Args:
        data: The file, of which the part that is no picture is looked at; with 32-bit offsets.

    Returns:
        ``False`` also if that part is damaged.
    """
    order = _order(data)
    try:
        offsets = list(struct.unpack_from(f"{order}I", data, 4))
        if inner := _entries(data, offsets[0], order).get(_INNER_DIRECTORIES):
            count, offset = struct.unpack_from(f"{order}II", inner, 4)
            offsets += [offset] if count == 1 else struct.unpack_from(f"{order}{count}I", data, offset)
        kinds = [_entries(data, offset, order).get(_PHOTOMETRIC) for offset in offsets]
        return any(kind and struct.unpack_from(f"{order}H", kind, 8)[0] in _SENSOR_DATA for kind in kinds)
    except struct.error:
        return False


def _pages(data: bytes) -> list[dict[int, int]]:
    """The numbers that are in the entries of each page's directory, by tag; none of what is damaged."""
    order = _order(data)
    is_big = data[2:4] in (b"+\0", b"\0+")
    count_type, entry_bytes, offset_type = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    pages: dict[int, dict[int, int]] = {}
    """By the offset of each page's directory, since a damaged file may lead back to one."""
    try:
        (offset,) = struct.unpack_from(order + offset_type, data, 8 if is_big else 4)
        while 0 < offset < len(data) and offset not in pages:
            (count,) = struct.unpack_from(order + count_type, data, offset)
            first = offset + struct.calcsize(count_type)
            end = first + count * entry_bytes
            (following,) = struct.unpack_from(order + offset_type, data, end)
            page = pages[offset] = {}
            for entry in range(first, end, entry_bytes):
                tag, kind = struct.unpack_from(f"{order}HH", data, entry)
                if kind in _CODE_OF_TYPE:
                    value_at = entry + entry_bytes - struct.calcsize(offset_type)
                    (page[tag],) = struct.unpack_from(order + _CODE_OF_TYPE[kind], data, value_at)
            offset = following
    except (struct.error, IndexError, OverflowError):
        pass
    return list(pages.values())


def _select(data: bytes, order: str) -> Image.Exif:
    """The tags that describe the photo rather than the file."""
    found, selected = Image.Exif(), Image.Exif()
    found.load(data)
    selected.endian = order
    selected.update(_with_text({tag: found[tag] for tag in _DESCRIPTIVE_TAGS if tag in found}))
    for tag in _DIRECTORY_TAGS:
        directory = _with_text(found.get_ifd(tag))
        directory.pop(_INTEROPERABILITY, None)
        if directory:
            selected[tag] = directory
    return selected


def _with_text(directory: Mapping[int, Any]) -> dict[int, Any]:
    """A directory as Pillow gives it, to be written with the bytes of text that were read."""
    return {tag: _Text(value) if isinstance(value, str) else value for tag, value in directory.items()}


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _add(data: bytes, content: bytes, entries: dict[int, bytes]) -> bytes:
    """A file with content behind it, and entries that point there in its directory; those it has stay."""
    order = _order(data)
    data += bytes(len(data) % 2)
    entries = entries | _entries(data, struct.unpack_from(f"{order}I", data, 4)[0], order)
    directory = (
        struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    )
    data += content + bytes(len(content) % 2)
    return data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + directory


def _entries(data: bytes, offset: int, order: str) -> dict[int, bytes]:
    """The entries of a directory by tag, as they are in the file."""
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    raw = [data[start : start + 12] for start in range(offset + 2, offset + 2 + 12 * count, 12)]
    return {struct.unpack_from(f"{order}H", entry)[0]: entry for entry in raw}
