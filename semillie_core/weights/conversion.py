"""Checkpoints of any kind as files of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import FORMAT, CheckpointError, build_model, read, resolve, save_model
from .descriptor import SemiLLIEModel
from .download import file_sha256


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint."""

    model: SemiLLIEModel
    """The weights as written."""
    metadata: dict[str, str]
    """What the new file says about them."""
    left_out: tuple[str, ...]
    """Entries of the old file that are not in the new one."""
    renamed: bool
    """Whether tensors lost a prefix that ``DataParallel`` or ``torch.compile`` had put before their names."""


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    part: str | None = None,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write any Semi-LLIE checkpoint as this project's safetensors.

    What the old file says about itself is kept; a file of another format is named, with its hash, in ``source`` and
    ``source_sha256``.

    Args:
        source: As for :func:`load_model`.
        target: ``.safetensors`` file to write; replaced as a whole or not at all.
        part: Which weights of a training state: ``"teacher"`` (the default) or ``"student"``.
        dtype: Of the new file's tensors; loading returns to float32.
        metadata: More to say, such as data and licence; wins over what the old file says.
        overwrite: Replace a ``target`` that exists.

    Raises:
        CheckpointError: The source cannot be used, or does not fit into ``dtype``.
        FileExistsError: The target exists.
        ValueError: The target has another ending.
    """
    path, target = resolve(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} must end in .safetensors, so that the file is found and recognised.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already.")
    content = read(path, part)
    model = build_model(path, content)
    network = model.network.to(dtype)
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor {name} is not finite in {dtype}: choose float32.")
    said = {key: value for key, value in content.metadata.items() if key not in ("format", "config")}
    if content.metadata.get("format") != FORMAT:
        said |= {
            "source": path.name,
            "source_format": content.metadata.get("format", "safetensors"),
            "source_sha256": file_sha256(path),
        }
    said |= metadata or {}
    save_model(target, network, said)
    renamed = not content.tensors.keys() <= network.state_dict().keys()
    return Conversion(model, said, content.left_out, renamed)
