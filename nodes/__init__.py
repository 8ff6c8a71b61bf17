"""The nodes: schema, ComfyUI's types, progress and memory. Every computation is a call into ``semillie_core``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import _folders
from .enhance import Enhance
from .load_model import LoadModel
from .sample_photo import SamplePhoto


class SemiLLIEExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def on_load(self) -> None:
        """Make the model folders known to ComfyUI."""
        _folders.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return all nodes, in the order of a typical graph."""
        return [SamplePhoto, LoadModel, Enhance]


__all__ = ["SemiLLIEExtension"]
