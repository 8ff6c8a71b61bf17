"""Load RAM Model."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..semillie_core.ram import find_ram_files, load_efficientnet_lite0, load_ram, recommended_dtype
from . import _folders, _runtime
from ._types import LoadedRAM, RAMModelType

AUTO = "auto"
BUILT_IN = "efficientnet-lite0 (built in)"


class LoadRAM(io.ComfyNode):
    """Reads Recognize Anything, or the small network that is always there."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the file menu is read anew each time the page is refreshed."""
        return io.Schema(
            node_id="SemiLLIE_LoadRAM",
            display_name="Load RAM Model",
            category="model/loaders",
            description="Loads Recognize Anything (RAM or RAM++), which names what is in a picture. The "
            "first entry is a small stand-in that ships with the pack and knows ImageNet's 1000 classes.",
            search_aliases=[
                *("recognize anything", "ram++", "tagger", "tagging", "image tags", "interrogate"),
                *("标签", "识别", "タグ"),
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[BUILT_IN, *find_ram_files(_folders.all_folders(_folders.RAM))],
                    default=BUILT_IN,
                    tooltip="Which network. The built-in one needs no download, is not RAM, and knows 1000 "
                    "objects. RAM and RAM++ know 4585 tags: put ram_swin_large_14m.pth or "
                    "ram_plus_swin_large_14m.pth into models/rams, or use the Download node. "
                    "Default: the built-in one.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *_runtime.DTYPES],
                    default=AUTO,
                    advanced=True,
                    tooltip="Number format of the weights. auto: for RAM float16 on a GPU, bfloat16 on a "
                    "processor that is fast in it; else float32. float32 doubles the memory and gives the official "
                    "scores to the last digit. Default: auto.",
                ),
            ],
            outputs=[RAMModelType.Output("ram_model", tooltip="For RAM Tag and Semantic Drift.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, dtype: str) -> str:
        """Change when the file behind the name changes, so that a swapped checkpoint is read again."""
        return BUILT_IN if model_name == BUILT_IN else _folders.state_of(_path_of(model_name))

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        """Load the network."""
        progress = _runtime.Progress()
        progress(0, 1)
        path = None if model_name == BUILT_IN else _path_of(model_name)
        if path is None:
            # So small a network gains nothing from half precision.
            model = load_efficientnet_lite0(dtype=torch.float32 if dtype == AUTO else _runtime.DTYPES[dtype])
        else:
            model = load_ram(
                path, dtype=_pick_dtype(dtype), check=mm.throw_exception_if_processing_interrupted
            )
        progress(1, 1)
        return io.NodeOutput(LoadedRAM(model, _runtime.managed(model.encoder), path))


def _path_of(name: str) -> Path:
    path = find_ram_files(_folders.all_folders(_folders.RAM)).get(name)
    if path is None:
        raise _folders.not_found(_folders.RAM, name)
    return path


def _pick_dtype(choice: str) -> torch.dtype:
    return recommended_dtype(mm.get_torch_device()) if choice == AUTO else _runtime.DTYPES[choice]
