"""Photo files: pixels with their depth, orientation, colour profile, alpha and metadata."""

from .photos import PHOTO_SUFFIXES, Photo, PhotoError, read_photo, write_photo

__all__ = ["PHOTO_SUFFIXES", "Photo", "PhotoError", "read_photo", "write_photo"]
