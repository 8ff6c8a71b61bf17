"""Photo files on disk: PNG, JPEG, WebP and TIFF with their depth, orientation, profile, metadata and alpha.

AVIF, HEIC and camera RAW are read, too. Reading and writing need pyvips, which the extra ``cli`` installs; importing
this room does not.
"""

from ._raw import raw_obstacle
from ._vips import load_vips
from .comparison import compared_width, side_by_side
from .photo import PHOTO_SUFFIXES, READABLE_FORMATS, READABLE_SUFFIXES, Photo, PhotoError
from .reading import photo_format, read_photo, result_format
from .writing import check_target, write_photo

__all__ = [
    "PHOTO_SUFFIXES",
    "READABLE_FORMATS",
    "READABLE_SUFFIXES",
    "Photo",
    "PhotoError",
    "check_target",
    "compared_width",
    "load_vips",
    "photo_format",
    "raw_obstacle",
    "read_photo",
    "result_format",
    "side_by_side",
    "write_photo",
]
