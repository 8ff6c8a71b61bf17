"""Reading photo files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..colour import linear_to_srgb
from ..dynamic_range import HIGH_RANGE, to_standard_range
from ._heif import HEIF_FORMATS, exceeds_jpeg, heif_colour_codes, heif_format, load_heif
from ._png import colour_chunks, frame_count, png_colour_codes, text_chunks
from ._raw import exif_of_raw, is_raw, load_raw
from ._tiff import exif_of_tiff, full_pages, holds_sensor_data, iptc_of_tiff, is_plain_ycbcr
from ._vips import load_vips, reason
from .photo import READABLE_FORMATS, Photo, PhotoError

_LOADERS = {
    "jpeg": "jpegload_buffer",
    "png": "pngload_buffer",
    "webp": "webpload_buffer",
    "tiff": "tiffload_buffer",
}
_SIGNATURE_BYTES = 64
_DESCRIPTION_BYTES = 2**20
"""In which AVIF and HEIC say what they hold: all before the pictures, profiles included."""
_MOST_PIXELS = 2**30
"""Of more, a small file can claim more than memory holds, and the process would be killed instead of told so."""
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNKNOWN, _BT2020, _DISPLAY_P3 = 2, 9, 12
"""Colour primaries of ITU-T H.273."""
_DEPTHS = {"uchar": 8, "ushort": 16}
_COLOUR_SPACES = ("srgb", "rgb", "rgb16", "b-w", "grey16")
_METADATA = ("icc-profile-data", "xmp-data", "iptc-data", "exif-data")
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")


def read_photo(path: str | Path) -> Photo:
    """Read a PNG, JPEG, WebP, TIFF, AVIF, HEIC or camera RAW file; the content decides which, not the name.

    EXIF orientation is applied, so that the pixels are upright. An ICC profile is kept as it is and the pixel values
    with it: a photo in Display P3 or Adobe RGB is processed in its own values and keeps its profile. So it is with the
    chunks by which a PNG says the same without a profile. CMYK is converted to sRGB, through its embedded profile, or
    a generic one without, and so is high dynamic range (PQ, HLG) as PNG, AVIF and HEIC name it by numbers. Where
    these name Display P3 by a number and have no profile, they get one. AVIF and HEIC give their main picture. HEIC
    needs a libvips that was built with HEVC, or the package pillow_heif.

    RAW needs the package rawpy. It is developed to sRGB of 16 bits with the camera's white balance, and as bright as it
    was exposed, with no curve or correction of the camera's. What begins as any TIFF file does is RAW if its name ends
    so, or if sensor data is in it. EXIF is kept where a RAW file is laid out like TIFF; XMP is not: it may tell
    programs to develop the photo once more.

    Args:
        path: The file.

    Raises:
        PhotoError: The file is missing, truncated, damaged, not a photo of a supported format, or holds more than
            2^30 pixels, several pictures, high dynamic range in colours other than BT.2020's, YCbCr in a TIFF file
            that is not compressed as JPEG, an unsupported number of channels, or samples of another type than 8 or
            16-bit integers; or what decodes it is not installed.
    """
    path = Path(path)
    vips = load_vips()
    data = _content(path)
    file_format = _sniff(data, path)
    if file_format is None:
        raise PhotoError(f"{path} is not a {READABLE_FORMATS} file. Convert it to one of these first.")
    primaries, transfer = _colour_codes(data, file_format)
    if transfer in HIGH_RANGE and primaries != _BT2020:
        raise PhotoError(
            f"{path} has high dynamic range ({HIGH_RANGE[transfer]}) with other colours than those of BT.2020. Save it "
            "with standard dynamic range, as sRGB, first."
        )
    try:
        pages = full_pages(data) if file_format == "tiff" else []
        used_bits = None
        pictures = 1
        if file_format in HEIF_FORMATS:
            image, used_bits = load_heif(vips, path, data, file_format)
        elif file_format == "raw":
            image = load_raw(vips, path, data)
        else:
            options = {"page": pages[0]} if pages else {}
            image = vips.Operation.call(_LOADERS[file_format], data, fail_on="error", **options)
        if pages and is_plain_ycbcr(data, pages[0]):
            raise PhotoError(
                f"{path} has its colours as YCbCr without being compressed as JPEG. Save it as RGB first."
            )
        if file_format == "png":
            pictures = frame_count(data)
        elif file_format in _LOADERS:
            pictures = len(pages) or (image.get("n-pages") if image.get_typeof("n-pages") else 1)
        _check_structure(path, image, pictures)
        image = image.autorot()
        bit_depth = _DEPTHS[image.format]
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=bit_depth)
        has_alpha = image.hasalpha()
        colours = image.bands - has_alpha
        if colours not in (1, 3):
            raise PhotoError(f"{path} has {image.bands} channels. Save it as a grey or RGB photo first.")
        array = image.numpy()
    except (vips.Error, UnicodeDecodeError) as error:
        raise PhotoError(
            f"{path} is a truncated, damaged or unusual {file_format.upper()} file ({reason(error)}). "
            "Copy it again from its source, or save it anew in another program."
        ) from error
    array = array.reshape(image.height, image.width, image.bands).transpose(2, 0, 1)
    # Once, and divided in place: each copy of a large photo takes gigabytes.
    planes = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    # Of 16 bits, AVIF and HEIC use the upper 10 or 12.
    unused = bit_depth - (used_bits or bit_depth)
    planes /= 2**bit_depth - 2**unused
    if colours == 1:
        planes = torch.cat([planes[:1].expand(3, -1, -1), planes[1:]])
    metadata = _metadata(image)
    if primaries == _DISPLAY_P3:
        # Of the formats that are written, only PNG says so without one.
        metadata.setdefault("icc-profile-data", vips.Image.profile_load("p3"))
    png_chunks = colour_chunks(data) + text_chunks(data) if file_format == "png" else b""
    if transfer in HIGH_RANGE:
        planes[:3] = linear_to_srgb(to_standard_range(planes[:3], transfer))
        metadata.pop("icc-profile-data", None)
        png_chunks = text_chunks(data) if file_format == "png" else b""
    if file_format == "tiff" and (exif := exif_of_tiff(data)):
        metadata["exif-data"] = exif
    if file_format == "raw" and (exif := exif_of_raw(data)):
        metadata["exif-data"] = exif
    if file_format == "tiff" and (iptc := iptc_of_tiff(data)):
        metadata["iptc-data"] = iptc
    return Photo(
        planes,
        file_format,
        bit_depth,
        is_grey=colours == 1,
        metadata=metadata,
        png_chunks=png_chunks,
        resolution=(image.xres, image.yres),
    )


def _colour_codes(data: bytes, file_format: str) -> tuple[int, int]:
    """Colour primaries and transfer characteristics (ITU-T H.273) that a file names by numbers; 2 is unknown."""
    if file_format == "png":
        return png_colour_codes(data)
    return heif_colour_codes(data) if file_format in HEIF_FORMATS else (_UNKNOWN, _UNKNOWN)


def photo_format(path: str | Path) -> str | None:
    """The format that a file's first bytes show, as in :attr:`.photo.Photo.format`.

    Args:
        path: The file.

    Returns:
        ``None`` if it is none of the supported ones, or no file that can be read twice. A RAW file that begins as
        any TIFF file does is one by the ending of its name only.
    """
    path = Path(path)
    try:
        if not path.is_file():  # The bytes of a pipe would be gone.
            return None
        with path.open("rb") as file:
            return _sniff(file.read(_SIGNATURE_BYTES), path)
    except OSError:
        return None


def result_format(path: str | Path) -> str | None:
    """The format to write a photo's results in, unless another is asked for.

    Args:
        path: The photo.

    Returns:
        Its own; of AVIF and HEIC, which are not written, JPEG, or PNG for more than 8 bits or transparency; of RAW
        PNG. ``None`` as for :func:`photo_format`.
    """
    found = photo_format(path)
    if found == "raw":
        return "png"
    if found not in HEIF_FORMATS:
        return found
    try:
        with Path(path).open("rb") as file:
            return "png" if exceeds_jpeg(file.read(_DESCRIPTION_BYTES)) else "jpeg"
    except OSError:
        return None


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PhotoError(f"{path} does not exist. Check the spelling.") from error
    except IsADirectoryError as error:
        raise PhotoError(f"{path} is a folder. Name a photo file.") from error
    except OSError as error:
        raise PhotoError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise PhotoError(f"{path} is empty. Copy it again from its source.")
    return data


def _sniff(data: bytes, path: Path) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if found := heif_format(data):
        return found
    if is_raw(data, path.suffix):
        return "raw"
    if data[:4] in _TIFF_SIGNATURES:
        return "raw" if holds_sensor_data(data) else "tiff"
    return None


def _check_structure(path: Path, image: Any, pictures: int) -> None:
    if pictures > 1:
        raise PhotoError(f"{path} holds {pictures} pictures. Save each as a file of its own first.")
    if image.width * image.height > _MOST_PIXELS:
        raise PhotoError(
            f"{path} says it has {image.width} x {image.height} pixels, more than can be worked on. Cut it into parts, "
            "or make it smaller, first."
        )
    if image.format not in _DEPTHS:
        raise PhotoError(
            f"{path} has samples of type {image.format}. Save it with 8 or 16 bits per channel first."
        )
    if image.interpretation not in (*_COLOUR_SPACES, "cmyk"):
        raise PhotoError(f"{path} is in the colour space {image.interpretation}. Save it as RGB first.")


def _metadata(image: Any) -> dict[str, bytes]:
    metadata: dict[str, bytes] = {name: image.get(name) for name in _METADATA if image.get_typeof(name)}
    if xmp := metadata.get("xmp-data"):
        # Some programs believe XMP rather than EXIF, and would turn the upright photo once more.
        metadata["xmp-data"] = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    return metadata
