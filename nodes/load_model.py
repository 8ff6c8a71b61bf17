"""Load Semi-LLIE Model."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..semillie_core.weights import bundled_models, load_model
from . import _folders, _runtime
from ._types import LoadedModel, SemiLLIEModelType

AUTO = "auto"


class LoadModel(io.ComfyNode):
    """Reads a checkpoint and puts its network under ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the file menu is read anew each time the page is refreshed."""
        return io.Schema(
            node_id="SemiLLIE_LoadModel",
            display_name="Load Semi-LLIE Model",
            category="model/loaders",
            description="Loads the network that brightens dark photos. The first entries ship with this node "
            "pack and need no download.",
            search_aliases=[
                *(
                    "low light model",
                    "brighten",
                    "night",
                    "dark photo",
                    "exposure",
                    "mamba",
                    "semi-llie",
                    "llie",
                ),
                *("去暗", "低光增强模型", "暗光", "暗所", "明るく"),
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[*bundled_models(), *_folders.names(_folders.SEMILLIE)],
                    tooltip="Which weights to use. The bundled ones come first. Below them: your own files from "
                    "models/semillie and output/semillie (this project's .safetensors or the paper authors' .pth). "
                    "Default: the first.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *_runtime.DTYPES],
                    default=AUTO,
                    advanced=True,
                    tooltip="Number format of the weights. auto: float16 on a GPU that ComfyUI trusts with "
                    "it, else float32. float32: exact, most memory. bfloat16: can show banding in smooth "
                    "skies. Default: auto.",
                ),
            ],
            outputs=[SemiLLIEModelType.Output("model", tooltip="The network, for Semi-LLIE Enhance.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, dtype: str) -> str:
        """Change when the file behind the name changes, so that a swapped checkpoint is read again."""
        return _folders.state_of(_path_of(model_name))

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        """Load the checkpoint."""
        model = load_model(_path_of(model_name)).to(dtype=_pick_dtype(dtype))
        return io.NodeOutput(LoadedModel(model, _runtime.managed(model.network)))


def _path_of(name: str) -> Path:
    return bundled_models().get(name) or _folders.resolve(_folders.SEMILLIE, name)


def _pick_dtype(choice: str) -> torch.dtype:
    if choice == AUTO:
        return torch.float16 if mm.should_use_fp16(mm.get_torch_device()) else torch.float32
    return _runtime.DTYPES[choice]
