"""What a training run is made of, as typed values that read from and write to YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data import DataConfig
from ..network import COMPACT, SemiLLIEConfig

T = TypeVar("T")

_FREE = {"run_dir", "runtime", "checkpoint_every", "pictures_every"}
"""Options that may change while a run goes on."""
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
"""What an option's type is called in help and errors."""


def _require_amounts(section: str, config: Any, *names: str) -> None:
    """Refuse options that are negative or not finite."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{section}.{name} must be 0 or more, got {getattr(config, name)}.")


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one crop size."""

    steps: int
    """Number of optimiser steps."""
    batch_size: int
    """Crops of pairs per step, over all processes."""
    crop: int
    """Edge of the crops in pixels; 0 takes whole frames."""
    unpaired: int = 0
    """Crops of unpaired photos per step for the mean teacher; 0 trains on pairs alone."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.crop < 0 or self.unpaired < 0:
            raise ValueError(f"A phase needs steps and batch_size of at least 1, got {self}.")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms on pairs; the structure loss (0.8 L1 + 0.2 MSE) has weight 1."""

    ssim: float = 0.2
    """Weight of ``1 - SSIM``."""
    gradient: float = 0.1
    """Weight of the gradient loss."""
    detail: float = 0.0
    """Weight of the detail loss: L1 after subtracting each pixel's surroundings, blind to errors of exposure."""
    colour: float = 0.0
    """Weight of the colour loss: one minus the cosine between the colours of output and reference."""
    illumination: float = 0.1
    """Weight of the structure loss on the brightened image, at a sixteenth of the resolution; networks with a
    thumbnail only."""
    perceptual: float = 0.0
    """Weight of the semantic perceptual loss: distance of encoder features on three scales."""
    perceptual_from: int = 0
    """First step of the perceptual loss."""
    noise_reduced: float = 0.0
    """Share in [0, 1] of the structure, SSIM, gradient, detail and colour losses that sees the output after the
    enhancer's noise reduction, so that the network learns what that leaves to do."""

    def __post_init__(self) -> None:
        _require_amounts("loss", self, *(field.name for field in dataclasses.fields(self)))
        if self.noise_reduced > 1:
            raise ValueError(
                f"loss.noise_reduced is a share and must be at most 1, got {self.noise_reduced}."
            )


@dataclass(frozen=True)
class ConsistencyConfig:
    """The mean teacher's terms on unpaired photos."""

    weight: float = 0.1
    """Weight of all terms on unpaired photos once the ramp is over."""
    ramp_steps: int = 1000
    """Steps over which that weight grows along ``exp(-5 (1 - t)^2)``, from the first with unpaired photos on; 0 starts
    with all of it. The released schedule takes 100 epochs from the run's start instead."""
    contrastive: float = 0.05
    """Weight of the semantic contrastive loss beside the L1 distance to the teacher. Ten times as much draws a fine
    grid into smooth areas (docs/training.md); the released recipe has 1."""
    contrastive_form: str = "bounded"
    """``"bounded"``: d_p / (d_p + d_n); ``"ratio"``: d_p / d_n as in the paper, which explodes while the student still
    equals its input; ``"attract"``: d_p."""
    logits: bool = False
    """Contrast the encoder's class scores, too, as the paper does."""
    noise_reduction: float = 0.0
    """How much of the enhancer's noise reduction the teacher's output gets before the student follows it: 0 is
    nothing, 1 what the enhancer does. Pseudo-labels of the bank get none."""
    bank_every: int = 0
    """Steps between refreshes of the bank of reliable pseudo-labels; 0 takes the teacher's present output always."""

    def __post_init__(self) -> None:
        if self.contrastive_form not in ("bounded", "ratio", "attract"):
            raise ValueError(
                f"consistency.contrastive_form must be bounded, ratio or attract, got {self.contrastive_form!r}."
            )
        _require_amounts(
            "consistency", self, "weight", "ramp_steps", "contrastive", "noise_reduction", "bank_every"
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"
    """``"adamw"``, or ``"adamp"`` as released."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warm-up."""
    final_learning_rate: float = 1e-6
    """Learning rate of the last step (cosine)."""
    schedule: str = "cosine"
    """``"cosine"``: warm-up and cosine; ``"released"``: a tenth after epoch 101 and again after 151."""
    warmup_steps: int = 100
    """Steps of linear warm-up (cosine)."""
    epoch_steps: int = 0
    """Steps that count as an epoch in the released schedules of learning rate and consistency."""
    weight_decay: float = 1e-4
    """Weight decay; with AdamW not applied to one-dimensional parameters, A_logs and step-size biases."""
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    accumulate: int = 1
    """Parts in which a batch is computed one after the other, to save memory."""

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "adamp"):
            raise ValueError(f"optimizer.name must be adamw or adamp, got {self.name!r}.")
        if self.schedule not in ("cosine", "released"):
            raise ValueError(f"optimizer.schedule must be cosine or released, got {self.schedule!r}.")
        if self.schedule == "released" and self.epoch_steps < 1:
            raise ValueError(
                "optimizer.schedule released counts epochs: set optimizer.epoch_steps to the number of steps of one."
            )
        if self.accumulate < 1:
            raise ValueError(f"optimizer.accumulate must be at least 1, got {self.accumulate}.")
        _require_amounts(
            "optimizer", self, "final_learning_rate", "warmup_steps", "weight_decay", "gradient_clip"
        )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}.")


@dataclass(frozen=True)
class TeacherConfig:
    """The average of the student's weights over time."""

    decay: float = 0.999
    """What the teacher keeps of itself at each step, in the long run."""
    warmup: str = "gradual"
    """``"gradual"``: min(decay, (1 + i) / (10 + i)) after i steps; ``"released"``: min(decay, 1 - 1 / i)."""

    def __post_init__(self) -> None:
        if self.warmup not in ("gradual", "released"):
            raise ValueError(f"teacher.warmup must be gradual or released, got {self.warmup!r}.")
        if not 0 <= self.decay < 1:
            raise ValueError(f"teacher.decay must be in [0, 1), got {self.decay}.")


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a run computes; none of it changes what is learned beyond rounding."""

    device: str = "auto"
    """``"auto"`` takes a GPU where there is one, among several processes only NVIDIA's and AMD's; else a PyTorch
    device."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""
    amp: str = "off"
    """Mixed precision: ``"off"``, ``"bf16"``, or ``"fp16"`` with a loss scaler."""
    compile: bool = False
    """Compile the student with torch.compile; needs a C++ compiler on CPUs."""
    checkpoint_blocks: bool = False
    """Recompute the network's blocks in the backward pass instead of storing them (activation checkpointing)."""

    def __post_init__(self) -> None:
        if self.amp not in ("off", "bf16", "fp16"):
            raise ValueError(f"runtime.amp must be off, bf16 or fp16, got {self.amp!r}.")
        if self.threads < 0:
            raise ValueError(f"runtime.threads must be at least 0, got {self.threads}.")


@dataclass(frozen=True)
class TrainConfig:
    """A training run, semi-supervised where its phases have unpaired photos."""

    run_dir: str
    """Folder for checkpoints and logs; created, and resumed from when it holds a checkpoint."""
    data: DataConfig
    """Where the training and validation photos come from."""
    network: SemiLLIEConfig = COMPACT
    """What to train."""
    spandrel: str = ""
    """Train another 1x restoration architecture instead: a checkpoint that spandrel recognises."""
    init: str = ""
    """Start from this checkpoint (a bundled name or a file) instead of random weights; it must be of ``network``,
    ``drop_path_rate`` aside. Not with ``spandrel``."""
    encoder: str = ""
    """RAM or RAM++ checkpoint for the semantic losses; empty takes the bundled EfficientNet-Lite0."""
    phases: tuple[Phase, ...] = (Phase(1000, 4, 192),)
    """Crop-size schedule."""
    loss: LossConfig = LossConfig()
    """Terms on pairs."""
    consistency: ConsistencyConfig = ConsistencyConfig()
    """Terms on unpaired photos."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the student learns."""
    teacher: TeacherConfig = TeacherConfig()
    """How the teacher follows; it is what is validated and exported."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how the run computes."""
    official_compat: bool = False
    """Compute as the released trainer: gradient loss twice, unscaled perceptual distances, input to RAM that is neither
    antialiased nor normalised, and a teacher that drops paths in the first epoch. Everything else of its recipe has an
    option of its own, which the preset ``paper`` sets, ``semantic_gradient`` aside. Needs ``optimizer.schedule``
    released, and RAM for semantic losses."""
    semantic_gradient: bool = True
    """Whether the semantic losses train the student. The released code cuts their gradient, so that they change nothing
    but the loss that it reports; false does the same."""
    val_every: int = 500
    """Steps between validations; the best weights by plain validation PSNR are kept. 0 never validates."""
    checkpoint_every: int = 250
    """Steps between resumable checkpoints; new best weights come with one, too."""
    pictures_every: int = 0
    """Steps between pictures of input, student, teacher and reference; 0 makes none."""
    seed: int = 0
    """Seed of initialisation and batches."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("phases must name at least one phase.")
        for name, least in (("val_every", 0), ("checkpoint_every", 1), ("pictures_every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.init and self.spandrel:
            raise ValueError(
                "init and spandrel both name a checkpoint to start from. Leave init empty for spandrel's architectures."
            )
        if self.spandrel and self.runtime.checkpoint_blocks:
            raise ValueError(
                "runtime.checkpoint_blocks works with Semi-LLIE networks only. Turn it off for those of spandrel."
            )
        if self.official_compat and self.optimizer.schedule != "released":
            raise ValueError(
                "official_compat counts epochs: set optimizer.schedule to released and optimizer.epoch_steps to the "
                "number of steps of one."
            )

    @property
    def steps(self) -> int:
        """Length of the run in optimiser steps."""
        return sum(phase.steps for phase in self.phases)

    @property
    def needs_encoder(self) -> bool:
        """Whether a loss compares semantic features."""
        unpaired = any(phase.unpaired for phase in self.phases)
        contrasts = self.consistency.weight and self.consistency.contrastive
        return bool(self.loss.perceptual or (unpaired and contrasts))

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise IndexError(f"The run ends before step {step}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def decisive(self) -> dict[str, Any]:
        """The plain values that decide what is learned (not where, how, or how often it validates and saves)."""
        values = {k: v for k, v in self.to_dict().items() if k not in _FREE}
        for option in ("workers", "pin_memory", "cache_mib"):
            del values["data"][option]
        # Whether it validates stays: what is best is so on the validation photos, which a run keeps.
        values["val_every"] = "above 0" if self.val_every else 0
        return values

    def sha256(self) -> str:
        """Hash of everything that decides what is learned."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What decides what is learned and is not as in another config, in words.

        Args:
            stored: :meth:`to_dict` of the other config, perhaps by an earlier version; options that it lacks have
                their defaults.

        Raises:
            ValueError: It has an option that is not known.
        """
        return _differences(TrainConfig.from_dict(stored).decisive(), self.decisive(), "")

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
            ValueError: As :meth:`from_dict`, the file is not a YAML mapping, or gives an option twice.
        """
        # Here, because PyYAML is part of an extra.
        from .yaml_text import read_yaml

        return cls.from_dict(read_yaml(Path(path)))


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from plain values, refusing unknown keys and wrong kinds.

    Args:
        cls: The dataclass.
        values: Plain values by field name.
        where: Dotted position in the whole config, for messages.
    """
    if not isinstance(values, Mapping):
        name = f"Option {where.rstrip('.')}" if where else "The config"
        raise ValueError(f"{name} must have options of its own, got {values!r}.")
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
    if hint is bool and isinstance(value, str):
        # Truth values in YAML 1.1, which configs were read as.
        value = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"Option {where} must be of the kind {KINDS[hint]}, got {value!r}.")
    return value


def _differences(there: Any, here: Any, where: str) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [d for key in here for d in _differences(there[key], here[key], f"{where}.{key}".lstrip("."))]
    return [] if there == here else [f"{where} is {here!r}, was {there!r}"]
