"""Access to libvips, the optional library behind this room."""

from __future__ import annotations

from functools import cache
from typing import Any

from .photo import PhotoError


@cache
def load_vips() -> Any:
    """Import pyvips.

    Raises:
        PhotoError: It is not installed or does not work.
    """
    try:
        import pyvips
    except (ImportError, OSError) as error:  # OSError: pyvips is there, the libvips library is not.
        raise PhotoError(
            f"Photo files need pyvips, which cannot be loaded ({error}). Install it with: "
            "pip install 'semi-llie[cli]'"
        ) from error
    # Every photo is decoded once: what the operation cache would keep is memory lost.
    pyvips.cache_set_max(0)
    return pyvips


def reason(error: Exception) -> str:
    """The last line of a libvips error, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "unknown error"
