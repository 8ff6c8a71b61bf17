"""What a training run is made of, as typed values that read from and write to YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data.sampling import SamplingConfig
from ..network import COMPACT, SemiLLIEConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one crop size."""

    steps: int
    """Number of optimiser steps."""
    batch_size: int
    """Crops per step."""
    crop: int
    """Edge of the crops in pixels; 0 takes whole photos."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the structure loss (0.8 L1 + 0.2 MSE) has weight 1."""

    ssim: float = 0.2
    """Weight of ``1 - SSIM``."""
    gradient: float = 0.1
    """Weight of the gradient loss."""
    illumination: float = 0.1
    """Weight of the structure loss on the brightened image, at a sixteenth of the resolution; networks with a
    thumbnail only."""


@dataclass(frozen=True)
class TrainConfig:
    """A supervised training run."""

    run_dir: str
    """Folder for checkpoints and logs; created, and resumed from when it holds a checkpoint."""
    data: SamplingConfig
    """Where the training batches come from."""
    val_low: str
    """Folder of dark validation photos."""
    val_high: str
    """Folder of their references."""
    network: SemiLLIEConfig = COMPACT
    """What to train."""
    phases: tuple[Phase, ...] = (Phase(1000, 4, 192),)
    """Crop-size schedule; the learning rate follows one cosine over all of it."""
    loss: LossConfig = LossConfig()
    """Weights of the loss terms."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up."""
    final_learning_rate: float = 1e-6
    """Learning rate of the last step."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW weight decay; not applied to one-dimensional parameters, A_logs and step-size biases."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are validated and exported."""
    val_every: int = 500
    """Steps between validations; the best weights by validation PSNR are kept."""
    checkpoint_every: int = 250
    """Steps between resumable checkpoints."""
    seed: int = 0
    """Seed of initialisation and batches."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""

    @property
    def steps(self) -> int:
        """Length of the run in optimiser steps."""
        return sum(phase.steps for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def sha256(self) -> str:
        """Hash of everything that decides the result (paths of the run folder and thread count do not)."""
        decisive = {k: v for k, v in self.to_dict().items() if k not in {"run_dir", "threads"}}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: An unknown or missing key, or a value of the wrong kind; the message names it.
        """
        return build(cls, values, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainConfig:
        """Read a YAML file.

        Raises:
            ValueError: As :meth:`from_dict`, or the file is not a YAML mapping.
        """
        import yaml

        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a YAML mapping.")
        return cls.from_dict(content)


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from plain values, refusing unknown keys and wrong kinds.

    Args:
        cls: The dataclass.
        values: Plain values by field name.
        where: Dotted position in the whole config, for messages.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'the config'} must be a mapping, got {values!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - fields.keys())
    if unknown:
        raise ValueError(f"Unknown option {where}{unknown[0]}. Known here: {', '.join(fields)}.")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"Option {where}{missing[0]} is required.")
    return cls(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type[Any], hint), value, f"{where}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"Option {where} must be a list, got {value!r}.")
        inner = typing.get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise ValueError(f"Option {where} must have {len(inner)} values, got {value!r}.")
        return tuple(
            _convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 (no dot) as text.
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"Option {where} must be {hint.__name__}, got {value!r}.")
    return value
