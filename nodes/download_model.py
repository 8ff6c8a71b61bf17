"""Download Weights."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..semillie_core.ram import download_ram
from ..semillie_core.ram.config import Variant
from ..semillie_core.weights import PUBLISHED, download_model, file_sha256
from . import _folders, _runtime

RAM_VARIANTS: dict[str, Variant] = {"RAM++ (3.0 GB)": "ram_plus", "RAM (5.6 GB)": "ram"}


class DownloadModel(io.ComfyNode):
    """Fetches weights that are too large to ship; runs only when it is queued."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_DownloadModel",
            display_name="Download Weights (Semi-LLIE, RAM)",
            category="model/loaders",
            description="Downloads weights from the Hugging Face Hub into ComfyUI's models folder, and "
            "checks them. Nothing is downloaded before you press Run; a file that is there already is kept. "
            "HF_ENDPOINT (a mirror) and HF_HUB_OFFLINE are honoured.",
            search_aliases=["download ram", "ram++", "get model", "hugging face", "weights", "下载模型"],
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=[*PUBLISHED, *RAM_VARIANTS],
                    default=next(iter(RAM_VARIANTS)),
                    tooltip="What to fetch, with its size. RAM goes to models/rams, Semi-LLIE weights to "
                    "models/semillie. The bundled Semi-LLIE models need no download. Default: RAM++.",
                )
            ],
            outputs=[
                io.String.Output("path", display_name="path", tooltip="Where the file is."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, weights: str) -> io.NodeOutput:
        """Download, unless the file is there."""
        if weights in RAM_VARIANTS:
            folder = _folders.default_folder(_folders.RAM)
            path = download_ram(RAM_VARIANTS[weights], folder, progress=_runtime.Progress())
        else:
            path = download_model(
                weights, _folders.default_folder(_folders.SEMILLIE), progress=_runtime.Progress()
            )
        size = f"{path.stat().st_size / 1e9:.2f} GB, sha256 {file_sha256(path)}"
        text = f"{path}\n{size}\nPress R to refresh the menus."
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(str(path), ui=ui.PreviewText(text))
