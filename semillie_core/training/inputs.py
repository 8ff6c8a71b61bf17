"""What a run reads: photos, and weights that it does not train."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data import Pair, StepShape, TrainingData
from ..data.pairs import upright_size
from ..data.photos import short_digest
from ..metrics.fidelity import SSIM_WINDOW
from ..ram import SemanticEncoder, load_efficientnet_lite0, load_ram
from .config import TrainConfig
from .errors import TrainingError


def load_data(config: TrainConfig) -> tuple[TrainingData, list[Pair]]:
    """A run's photos, whose report says how many they are, and its validation pairs if it validates.

    Raises:
        TrainingError: A phase asks for unpaired photos, and there are none, or a validation photo is too small.
        DataError: A folder or file of the data cannot be used.
    """
    data = TrainingData(config.data, config.seed, config.network.thumbnail)
    if any(phase.unpaired for phase in config.phases) and not data.unpaired_photos:
        raise TrainingError(
            "A phase asks for unpaired photos, and there are none: name folders in data.unpaired, or a manifest "
            "that has some; with data.unpaired_from_pairs, data.pair_fraction must leave pairs out."
        )
    validation = data.validation() if config.val_every else []
    for pair in validation:
        if min(upright_size(pair.low)) < SSIM_WINDOW:
            raise TrainingError(
                f"The validation photo {pair.low} is smaller than SSIM's window of {SSIM_WINDOW} pixels: take it out."
            )
    data.report.append(f"{len(validation)} validation pairs")
    return data, validation


def shape_of(config: TrainConfig, step: int) -> StepShape:
    """Sizes of the global batches of a step."""
    phase = config.phase(step)
    return StepShape(phase.batch_size, phase.unpaired, phase.crop)


def load_encoder(config: TrainConfig, device: torch.device) -> SemanticEncoder | None:
    """The encoder of the semantic losses, if a phase uses one."""
    if not config.needs_encoder:
        return None
    if not config.encoder:
        return load_efficientnet_lite0(device=device).encoder
    encoder = load_ram(config.encoder, device=device).encoder
    if config.official_compat and hasattr(encoder, "official_compat"):
        encoder.official_compat = True
    return encoder


def weight_digests(config: TrainConfig, *, given: bool) -> dict[str, str]:
    """A digest of every file of weights that the config names and the run uses."""
    used = (config.encoder,) if given else (config.encoder, config.init, config.spandrel)
    return {name: short_digest(Path(name)) for name in used if name and Path(name).is_file()}
