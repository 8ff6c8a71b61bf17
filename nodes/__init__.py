"""The nodes: schema, ComfyUI's types, progress and memory. All computing is done by ``semillie_core``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import _folders
from .download_model import DownloadModel
from .enhance import Enhance
from .enhance_video import EnhanceVideo
from .fine_tune import FineTune
from .load_model import LoadModel
from .load_ram import LoadRAM
from .low_light_report import LowLightReport
from .ram_tag import RAMTag
from .sample_photo import SamplePhoto
from .save_model import SaveModel
from .semantic_drift import SemanticDrift


class SemiLLIEExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def on_load(self) -> None:
        """Make the model folders known to ComfyUI."""
        _folders.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return all nodes, in the order of a typical graph."""
        return [
            SamplePhoto,
            LoadModel,
            Enhance,
            EnhanceVideo,
            LowLightReport,
            LoadRAM,
            RAMTag,
            SemanticDrift,
            FineTune,
            SaveModel,
            DownloadModel,
        ]


__all__ = ["SemiLLIEExtension"]
