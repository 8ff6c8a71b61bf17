"""Writing files so that a crash or an interrupt leaves no broken one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and disappears if it fails.

    Args:
        path: File to write; an existing one stays as it is until the new one is complete on disk.

    Yields:
        A binary stream.

    Raises:
        OSError: The folder is missing or cannot be written to, or the disk is full; the error names ``path``.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Of a failed write the system names no file, and of the temporary one nobody knows.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise
