"""Camera RAW files: what the pixels of a sensor have seen, each through the filter of one colour."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ._installing import pip_install
from ._tiff import exif_of_tiff
from ._vips import from_array
from .photo import RAW_SUFFIXES, PhotoError

_SIGNATURES = (
    b"II*\0\x10\0\0\0CR",  # CR2
    b"\0\0\0\x18ftypcrx ",  # CR3
    b"FUJIFILMCCD-RAW",  # RAF
    *(b"IIRO", b"IIRS", b"MMOR"),  # ORF
    b"IIU\0",  # RW2
)
_SRGB_CURVE = (2.4, 12.92)
"""Its exponent, and its slope in black."""


def is_raw(data: bytes, suffix: str) -> bool:
    """Whether a file is RAW by the ending of its name, or by how it begins: many kinds do so as any TIFF file does.

    Args:
        data: The beginning, which is of no other format than TIFF.
        suffix: The ending.
    """
    return suffix.lower() in RAW_SUFFIXES or data.startswith(_SIGNATURES)


def raw_obstacle() -> str | None:
    """Why no camera RAW file can be read, and what to do about it, without a final stop; ``None`` if they can."""
    try:
        import rawpy  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library that it needs is missing.
        return f"reading those needs another package ({error}). Install it with: {pip_install('rawpy')}"
    return None


def load_raw(vips: Any, path: Path, data: bytes) -> Any:
    """Develop a file to sRGB, upright.

    Args:
        vips: The library.
        path: The file's name, for messages.
        data: Its content.

    Returns:
        The picture in 16 bits and without metadata.

    Raises:
        PhotoError: It is of a kind that LibRaw does not know, or rawpy is not installed.
        pyvips.Error: It is damaged.
        MemoryError: LibRaw did not get the memory it needs.
    """
    if (obstacle := raw_obstacle()) is not None:
        raise PhotoError(
            f"{path} is a camera RAW file; {obstacle}. Or save the photo as TIFF in the program of the camera's maker."
        )
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            array = raw.postprocess(
                # Where there is none, daylight's: LibRaw would take the one that makes the average grey, which in
                # the dark is the colour of a few lamps, and changes from photo to photo.
                use_camera_wb=raw.camera_whitebalance[0] > 0,
                # As exposed: either would brighten a photo, or a frame of a clip, by what is brightest in it.
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
                gamma=_SRGB_CURVE,
                output_bps=16,
            )
    except rawpy.LibRawFileUnsupportedError as error:
        version = ".".join(map(str, rawpy.libraw_version))
        raise PhotoError(
            f"{path} is no intact camera RAW file, or of a kind that LibRaw {version} does not know. Get the newest "
            f"with: {pip_install('--upgrade rawpy')}. Or save the photo as TIFF in the program of the camera's maker."
        ) from error
    except rawpy.LibRawUnsufficientMemoryError as error:
        raise MemoryError(_text(error)) from error
    except rawpy.LibRawError as error:
        raise vips.Error("rawpy", _text(error)) from error
    return from_array(vips, array)


def exif_of_raw(data: bytes) -> bytes | None:
    """The EXIF of a file that is laid out like TIFF, for the picture that :func:`load_raw` makes of it.

    Args:
        data: The file.

    Returns:
        The block, or ``None`` if there is no EXIF, it is damaged, or elsewhere, as in RAF and CR3.
    """
    # ORF and RW2 are TIFF but for this number.
    number = {b"II": b"*\0", b"MM": b"\0*"}.get(data[:2], b"")
    return exif_of_tiff(data[:2] + number + data[4:], as_srgb=True) if number else None


def _text(error: Exception) -> str:
    # LibRaw's own words come as bytes.
    return error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
