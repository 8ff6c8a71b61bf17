"""Semi-LLIE for ComfyUI: brightens dark photos, with weights included."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import SemiLLIEExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> SemiLLIEExtension:
    """Return the extension; ComfyUI calls this once at start-up."""
    from .nodes import SemiLLIEExtension

    return SemiLLIEExtension()
