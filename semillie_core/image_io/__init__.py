"""Photo files on disk: PNG, JPEG, WebP and TIFF with their depth, orientation, profile, metadata and alpha.

Reading and writing need pyvips, which the extra ``cli`` installs; importing this room does not.
"""

from .photo import Photo, PhotoError
from .reading import read_photo
from .writing import PHOTO_SUFFIXES, write_atomically, write_photo

__all__ = ["PHOTO_SUFFIXES", "Photo", "PhotoError", "read_photo", "write_atomically", "write_photo"]
