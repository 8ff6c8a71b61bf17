"""Photo files on disk: PNG, JPEG, WebP and TIFF with their depth, orientation, profile, metadata and alpha.

Reading and writing need pyvips, which the extra ``cli`` installs; importing this room does not.
"""

from ._vips import load_vips
from .comparison import side_by_side
from .photo import PHOTO_SUFFIXES, Photo, PhotoError
from .reading import photo_format, read_photo
from .writing import check_target, write_photo

__all__ = [
    "PHOTO_SUFFIXES",
    "Photo",
    "PhotoError",
    "check_target",
    "load_vips",
    "photo_format",
    "read_photo",
    "side_by_side",
    "write_photo",
]
