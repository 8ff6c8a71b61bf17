"""What loading a checkpoint returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..network import SemiLLIE, SemiLLIEConfig


@dataclass(frozen=True)
class SemiLLIEModel:
    """A loaded network and everything worth knowing about it."""

    network: SemiLLIE
    """The module, in evaluation mode with frozen parameters."""
    name: str
    """Name of the bundled model, or the file's stem."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where the weights come from: the file, its format, and what its metadata says (training run, data, licence)."""

    architecture: str = "Semi-LLIE"
    """Name of the architecture."""
    supported_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    """Parameter dtypes that inference works in; the selective scan computes in float32 at least in each of them."""

    @property
    def config(self) -> SemiLLIEConfig:
        """Hyper-parameters of the network."""
        return self.network.config

    @property
    def variant(self) -> str:
        """``"compact"``, ``"multi-scale"``, ``"guided"`` or ``"single-scale"``."""
        return self.config.variant

    @property
    def parameter_count(self) -> int:
        """Number of values in the network's parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.network.conv_first.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return self.network.conv_first.weight.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SemiLLIEModel:
        """Move the network, in place, and return this descriptor.

        Raises:
            ValueError: Inference does not work in that dtype.
        """
        if dtype is not None and dtype not in self.supported_dtypes:
            names = ", ".join(str(d).removeprefix("torch.") for d in self.supported_dtypes)
            raise ValueError(f"{self.name} does not support {dtype}; choose one of {names}.")
        self.network.to(device=device, dtype=dtype)
        return self
