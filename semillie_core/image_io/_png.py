"""What PNG files say beside their pixels and libvips neither reads nor writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import takewhile

_SIGNATURE_BYTES = 8
_AROUND_CONTENT = 12
"""Bytes of a chunk for its length, type and checksum."""
_HEADER_BYTES = 13
_PIXELS = b"IDAT"
_COLOUR = (b"cICP", b"gAMA", b"cHRM", b"sRGB")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
"""What a chunk of text begins with that libvips reads and writes as XMP."""
_UNKNOWN = 2


def colour_chunks(data: bytes) -> bytes:
    """The chunks of a PNG file that say what its values mean, except the ICC profile.

    Args:
        data: The file.

    Returns:
        The chunks as they are in the file, one after another; none that is damaged.
    """
    chunks = _chunks_before_pixels(data)
    return b"".join(chunks[kind] for kind in _COLOUR if kind in chunks)


def text_chunks(data: bytes) -> bytes:
    """The comments of a PNG file, as :func:`colour_chunks`: libvips takes them all for UTF-8, which most are not."""
    return b"".join(
        chunk for kind, chunk in _chunks(data) if kind in _TEXT and not chunk[8:].startswith(_XMP)
    )


def add_chunks(data: bytes, chunks: bytes) -> bytes:
    """A PNG file with chunks added, where those that describe colour belong: behind its header."""
    start = _SIGNATURE_BYTES + _AROUND_CONTENT + _HEADER_BYTES
    return data[:start] + chunks + data[start:]


def png_colour_codes(data: bytes) -> tuple[int, int]:
    """Colour primaries and transfer characteristics (ITU-T H.273) of a PNG file's values; 2 is unknown."""
    content = _chunks_before_pixels(data).get(b"cICP", b"")[8:-4]
    return (content[0], content[1]) if len(content) == 4 else (_UNKNOWN, _UNKNOWN)


def frame_count(data: bytes) -> int:
    """How many pictures a PNG file shows one after another; 1 if it is not animated."""
    content = _chunks_before_pixels(data).get(b"acTL", b"")[8:-4]
    return max(1, int.from_bytes(content[:4], "big"))


def _chunks_before_pixels(data: bytes) -> dict[bytes, bytes]:
    """The undamaged chunks before the pixels by type, each as a whole."""
    return dict(takewhile(lambda chunk: chunk[0] != _PIXELS, _chunks(data)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and whole of every undamaged chunk in turn; those of pixels are not looked at, and come empty."""
    start = _SIGNATURE_BYTES
    while start + _AROUND_CONTENT <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        stop = start + _AROUND_CONTENT + length
        if kind == _PIXELS:
            yield kind, b""
        elif zlib.crc32(data[start + 4 : stop - 4]).to_bytes(4, "big") == data[stop - 4 : stop]:
            yield kind, data[start:stop]
        start = stop
