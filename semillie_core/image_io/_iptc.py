"""Captions and keywords in the form of IPTC (Information Interchange Model), which JPEG and TIFF hold differently.

In TIFF it is a tag of its own. In JPEG it is one of several resources in a block of Photoshop's, and libvips calls the
whole block IPTC.
"""

from __future__ import annotations

import struct

_PHOTOSHOP = b"Photoshop 3.0\0"
_RESOURCE = b"8BIM"
_IPTC_RESOURCE = 0x0404


def to_photoshop(data: bytes) -> bytes:
    """IPTC of either form as JPEG holds it; a block of Photoshop's stays as it is."""
    if data.startswith(_PHOTOSHOP):
        return data
    # After the number an empty name, and an even length.
    head = struct.pack(">4sHHI", _RESOURCE, _IPTC_RESOURCE, 0, len(data))
    return _PHOTOSHOP + head + data + bytes(len(data) % 2)


def from_photoshop(data: bytes) -> bytes:
    """IPTC of either form as TIFF holds it; empty where a block of Photoshop's has none or is damaged."""
    if not data.startswith(_PHOTOSHOP):
        return data
    at = len(_PHOTOSHOP)
    try:
        while data[at : at + 4] == _RESOURCE:
            (kind,) = struct.unpack_from(">H", data, at + 4)
            at += 6 + (data[at + 6] + 2) // 2 * 2  # a name with its length before it, padded to an even size
            (length,) = struct.unpack_from(">I", data, at)
            if kind == _IPTC_RESOURCE:
                return data[at + 4 : at + 4 + length]
            at += 4 + length + length % 2
    except (struct.error, IndexError):
        pass
    return b""
