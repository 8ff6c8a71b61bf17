"""Photos on disk, decoded when they are needed."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from .pairs import DataError, read_levels, upright_size

_DIGESTED = 1 << 16
"""Bytes of each end of a file that its digest covers."""


class PhotoStore:
    """Decode photos on demand, keep the latest in bounded memory, and count the ones that cannot be read.

    Safe to use from several threads. Worker processes have one each, which starts with an empty cache where processes
    do not share memory.

    Args:
        cache_bytes: Memory for decoded photos.
        max_corrupt: How many unreadable photos to tolerate.
    """

    def __init__(self, cache_bytes: int, max_corrupt: int = 0) -> None:
        self.cache_bytes, self.max_corrupt = cache_bytes, max_corrupt
        self.corrupt: dict[Path, str] = {}
        """Unusable photos so far, with the reason."""
        self._cache: OrderedDict[Path, Tensor] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_cache": OrderedDict(), "_held": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def read(self, path: Path) -> Tensor | None:
        """Decode to ``(3, H, W)`` in landscape, uint8 or, of files with 16 bits, uint16; do not write to the result.

        Returns:
            ``None`` for a photo that cannot be read, as long as there are few.

        Raises:
            DataError: More photos cannot be read than are tolerated; the message names them.
        """
        with self._lock:
            if path in self.corrupt:
                return None
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
        try:
            photo = _landscape(read_levels(path))
        except DataError as error:
            self.reject(path, str(error))
            warnings.warn(f"{error} It is skipped from now on.", stacklevel=2)
            return None
        with self._lock:
            if path not in self._cache and photo.nbytes <= self.cache_bytes:
                self._cache[path] = photo
                self._held += photo.nbytes
                while self._held > self.cache_bytes:
                    self._held -= self._cache.popitem(last=False)[1].nbytes
        return photo

    def size(self, path: Path) -> tuple[int, int] | None:
        """Height and width of the upright photo, from the file's header; ``None`` and errors as :meth:`read`."""
        try:
            return upright_size(path)
        except DataError as error:
            self.reject(path, str(error))
            return None

    def reject(self, path: Path, reason: str) -> None:
        """Count a photo as unusable.

        Raises:
            DataError: There are too many by now.
        """
        with self._lock:
            self.corrupt[path] = reason
            if len(self.corrupt) > self.max_corrupt:
                reasons = "\n  ".join(self.corrupt.values())
                raise DataError(
                    f"{len(self.corrupt)} photos cannot be used, and data.max_corrupt allows {self.max_corrupt}. "
                    f"Repair or remove them, or raise data.max_corrupt:\n  {reasons}"
                )


def short_digest(path: Path) -> str:
    """Tells files apart without reading all of large ones: a hash of size, beginning and end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(_DIGESTED)
        file.seek(max(_DIGESTED, size - _DIGESTED))
        content += file.read()
    return hashlib.sha256(b"%d:" % size + content).hexdigest()[:32]


def _landscape(image: Tensor) -> Tensor:
    return image if image.shape[2] >= image.shape[1] else image.transpose(1, 2).contiguous()
