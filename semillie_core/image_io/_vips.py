"""Access to libvips, the optional library behind this room."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._installing import pip_install
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
        # What the extra "cli" holds: a copy that runs where it lies has no extras, and no index knows this package.
        raise PhotoError(
            f"Photo files need pyvips, which cannot be loaded ({error}). Install it with: "
            + pip_install("'pyvips[binary]' tqdm")
        ) from error
    # Every photo is decoded once: what the operation cache would keep is memory lost.
    pyvips.cache_set_max(0)
    return pyvips


def from_array(vips: Any, array: NDArray[np.uint8] | NDArray[np.uint16]) -> Any:
    """A picture with ``(H, W)`` or ``(H, W, C)`` values: grey or, of three channels and more, RGB."""
    height, width = array.shape[:2]
    bands = array.shape[2] if array.ndim == 3 else 1
    kind, grey, colour = (
        ("uchar", "b-w", "srgb") if array.dtype == np.uint8 else ("ushort", "grey16", "rgb16")
    )
    image = vips.Image.new_from_memory(array.tobytes(), width, height, bands, kind)
    return image.copy(interpretation=colour if bands >= 3 else grey)


def reason(error: Any) -> str:
    """The cause that a ``pyvips.Error`` names, without the noise around it.

    What a damaged file holds may be quoted in it, in which case pyvips raises ``UnicodeDecodeError`` instead.
    """
    if isinstance(error, UnicodeDecodeError):
        detail = error.object.decode(errors="backslashreplace")
        # pyvips has not come to this, and would fail at every other photo's error, or none.
        load_vips().vips_lib.vips_error_clear()
    else:
        detail = error.detail
    causes = [line.strip().rstrip(".") for line in detail.splitlines() if line.strip()]
    # libheif reads ahead, and is told at every try that the file has ended.
    causes = [cause for cause in causes if "bad seek" not in cause] or causes
    return causes[0] if causes else str(error)
