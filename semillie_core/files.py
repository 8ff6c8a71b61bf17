"""Writing files so that a crash or an interrupt leaves no broken one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and disappears if it fails.

    Args:
        path: File to write; an existing one stays as it is until the new one is complete on disk, and gives it its
            permissions. A symbolic link stays one: what it leads to is replaced.

    Yields:
        A binary stream.

    Raises:
        OSError: The folder is missing or cannot be written to, or the disk is full; the error names ``path``.
    """
    target, temporary = _places(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # On Windows the one permission is not to be written to, which a new file must not have.
        if os.name != "nt":
            with contextlib.suppress(OSError):
                shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # Of a failed write the system names no file, and of the temporary one nobody knows.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def prepare_target(path: Path) -> None:
    """Make the folder of a file that takes long to make, so that the work is not lost for want of one.

    Raises:
        OSError: It cannot be made, or ``path`` is a folder itself.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Make sure that a file can be made beside ``path``, as :func:`atomic_write` will, and leave none.

    Raises:
        OSError: It cannot.
    """
    # Not by the module tempfile, which on Windows tries name after name for hours in a folder that is locked.
    _, temporary = _places(path)
    temporary.open("xb").close()
    temporary.unlink()


def _places(path: Path) -> tuple[Path, Path]:
    """The file to replace, which is not a link, and a temporary one beside it."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    return target, target.with_name(f".{secrets.token_hex(4)}.tmp{target.suffix}")
