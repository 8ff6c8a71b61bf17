"""The values that travel along the wires and are not ComfyUI's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..semillie_core.ram import SemanticModel
from ..semillie_core.weights import SemiLLIEModel

SemiLLIEModelType = io.Custom("SEMILLIE_MODEL")
RAMModelType = io.Custom("SEMILLIE_RAM_MODEL")
LossMapType = io.Custom("LOSS_MAP")
"""ComfyUI's own, of its training nodes."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A Semi-LLIE network under ComfyUI's memory management.

    Attributes:
        model: The core's descriptor; its network is the patcher's module.
        patcher: ComfyUI's handle that moves the network between devices.
    """

    model: SemiLLIEModel
    patcher: Any


@dataclass(frozen=True, eq=False)
class LoadedRAM:
    """A tagging network under ComfyUI's memory management.

    Attributes:
        model: The core's descriptor; its encoder is the patcher's module.
        patcher: ComfyUI's handle that moves the network between devices.
        file: The checkpoint; ``None`` for the network that ships with the pack.
    """

    model: SemanticModel
    patcher: Any
    file: Path | None
