"""Sample Photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageSequence

from . import _folders

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SUFFIXES = frozenset({".jpg", ".png", ".webp"})


class SamplePhoto(io.ComfyNode):
    """A dark photo that ships with the pack, so that every example runs as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_SamplePhoto",
            display_name="Sample Photo (Semi-LLIE)",
            category="image",
            description="One of the free photos that ship with Semi-LLIE, too dark on purpose, for trying things "
            "out. Replace it with Load Image to use your own.",
            search_aliases=["sample image", "demo photo", "test image", "示例图片", "サンプル"],
            inputs=[
                io.Combo.Input(
                    "photo",
                    options=list(_photos()),
                    tooltip="Which photo. The licence of each is in the pack's samples folder. Default: the "
                    "first.",
                )
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The photo; a clip gives all its frames."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, photo: str) -> str:
        """Change when the file changes, for instance through an update of the pack."""
        return _folders.state_of(_path_of(photo))

    @classmethod
    def execute(cls, photo: str) -> io.NodeOutput:
        """Read the photo."""
        with Image.open(_path_of(photo)) as file:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
        return io.NodeOutput(torch.from_numpy(np.stack(frames)).float() / 255)


def _photos() -> dict[str, Path]:
    """Menu entry to file: the dark photos, dark clips, then the well-lit originals that some have."""
    dark, clips, well_lit = (
        # Not what file managers leave beside them, such as .DS_Store.
        {f"{path.stem}{mark}": path for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES}
        for folder, mark in ((SAMPLES, ""), (SAMPLES / "clips", ""), (SAMPLES / "reference", " (well lit)"))
    )
    return dark | clips | well_lit


def _path_of(photo: str) -> Path:
    photos = _photos()
    if photo not in photos:
        raise ValueError(f"There is no sample photo {photo!r}; pick one of {', '.join(photos)}.")
    return photos[photo]
