"""Save Semi-LLIE Model."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..semillie_core.weights import save_model
from . import _folders, _runtime
from ._types import LoadedModel, SemiLLIEModelType


class SaveModel(io.ComfyNode):
    """Writes a network to the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_SaveModel",
            display_name="Save Semi-LLIE Model",
            category="model/training",
            description="Saves a fine-tuned network as .safetensors. Load Semi-LLIE Model lists it after a refresh "
            "(press R).",
            search_aliases=["export", "checkpoint", "safetensors", "fine-tuned", "保存模型", "モデルを保存"],
            inputs=[
                SemiLLIEModelType.Input("model", tooltip="From Fine-Tune Semi-LLIE."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{_folders.SEMILLIE}/my-semillie",
                    tooltip="Name of the file in the output folder, to which a number is added; nothing is "
                    "overwritten. Files in 'semillie/' there can be loaded where they are. "
                    "Default: semillie/my-semillie.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Where the file is.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: LoadedModel, filename_prefix: str) -> io.NodeOutput:
        """Write the file."""
        if not filename_prefix.strip() or filename_prefix.endswith(("/", "\\")):
            raise ValueError(
                f"filename_prefix must end in a name for the file, such as {_folders.SEMILLIE}/my-semillie, got "
                f"{filename_prefix!r}."
            )
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            filename_prefix, str(_folders.output_folder())
        )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        save_model(path, model.model.network, model.model.provenance)
        text = f"{path}\n"
        if any(path.is_relative_to(listed) for listed in _folders.all_folders(_folders.SEMILLIE)):
            text += "Press R to refresh the menu of Load Semi-LLIE Model."
        else:
            text += f"To load it, move it into {_folders.default_folder(_folders.SEMILLIE)}."
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(str(path), ui=ui.PreviewText(text))
