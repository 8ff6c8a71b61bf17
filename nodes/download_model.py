"""Download RAM Weights."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io, ui

from ..semillie_core.ram import download_ram
from ..semillie_core.ram.config import Variant
from ..semillie_core.ram.download import REPOSITORIES
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
            display_name="Download RAM Weights",
            category="model/loaders",
            description="Downloads RAM or RAM++ from the Hugging Face Hub into ComfyUI's models folder, and "
            "verifies what arrives. Nothing is downloaded before you press Run; a file that is there already is "
            "kept. HF_ENDPOINT (a mirror) and HF_HUB_OFFLINE are honoured.",
            search_aliases=["download ram", "ram++", "get model", "hugging face", "weights", "下载模型"],
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=[*PUBLISHED, *RAM_VARIANTS],
                    default=next(iter(RAM_VARIANTS)),
                    tooltip="What to fetch, with its size. It goes to the first rams folder (models/rams, unless "
                    "your extra_model_paths.yaml names another). The Semi-LLIE models need no download. "
                    "Default: RAM++.",
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
        progress = _runtime.Progress()
        if weights in RAM_VARIANTS:
            variant = RAM_VARIANTS[weights]
            folder = _folder_of(_folders.RAM, REPOSITORIES[variant][1])
            path = download_ram(variant, folder, progress=progress)
        else:
            folder = _folder_of(_folders.SEMILLIE, PUBLISHED[weights].filename)
            path = download_model(weights, folder, progress=progress)
        size = f"{path.stat().st_size / 1e9:.2f} GB, sha256 {file_sha256(path)}"
        text = f"{path}\n{size}\nPress R to refresh the menus."
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(str(path), ui=ui.PreviewText(text))


def _folder_of(kind: str, name: str) -> Path:
    """The folder that holds the file already, or else the first of its kind."""
    folders = _folders.all_folders(kind)
    return next((folder for folder in folders if (folder / name).is_file()), folders[0])
