"""Download RAM Weights."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as mm
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
    def fingerprint_inputs(cls, weights: str) -> str:
        """Change when the file goes, so that it is fetched again."""
        path = _path_of(weights)
        return _folders.state_of(path) if path.is_file() else f"{path} is absent"

    @classmethod
    def execute(cls, weights: str) -> io.NodeOutput:
        """Download, unless the file is there."""
        progress = _runtime.Progress()
        folder = _path_of(weights).parent
        if weights in RAM_VARIANTS:
            path = download_ram(RAM_VARIANTS[weights], folder, progress=progress)
        else:
            path = download_model(weights, folder, progress=progress)
        digest = file_sha256(path, mm.throw_exception_if_processing_interrupted)
        text = f"{path}\n{path.stat().st_size / 1e9:.2f} GB, sha256 {digest}\nPress R to refresh the menus."
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(str(path), ui=ui.PreviewText(text))


def _path_of(weights: str) -> Path:
    """Where the file is, or else where it goes: the first folder of its kind."""
    if weights in RAM_VARIANTS:
        kind, name = _folders.RAM, REPOSITORIES[RAM_VARIANTS[weights]][1]
    else:
        kind, name = _folders.SEMILLIE, PUBLISHED[weights].filename
    paths = [folder / name for folder in _folders.all_folders(kind)]
    return next((path for path in paths if path.is_file()), paths[0])
