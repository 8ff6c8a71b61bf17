"""What a run is refused for before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..data.manifest import read_manifest
from ..metrics.fidelity import SSIM_WINDOW
from .config import TrainConfig
from .distributed import Process
from .errors import TrainingError


def check_config(config: TrainConfig, process: Process) -> None:
    """Refuse what cannot be met, before anything is loaded.

    Raises:
        TrainingError: The run folder lies inside the data, or an option does not fit the others or the processes.
    """
    run = Path(config.run_dir).resolve()
    for folder in _data_folders(config):
        if run.is_relative_to(Path(folder).resolve()):
            raise TrainingError(
                f"run_dir {config.run_dir} lies inside the data folder {folder}, which stays as it is. Choose another."
            )
    shares = process.world * config.optimizer.accumulate
    for phase in config.phases:
        if config.loss.ssim and 0 < phase.crop < SSIM_WINDOW:
            raise TrainingError(
                f"A phase's crop of {phase.crop} pixels is smaller than the window of the SSIM loss: make it at least "
                f"{SSIM_WINDOW}, or set loss.ssim to 0."
            )
        for name, count in (("batch_size", phase.batch_size), ("unpaired", phase.unpaired)):
            if count % shares:
                raise TrainingError(
                    f"A phase's {name} of {count} cannot be shared evenly by {process.world} processes in "
                    f"{config.optimizer.accumulate} parts each: make it a multiple of {shares}."
                )
    if config.official_compat and config.needs_encoder and not config.encoder:
        raise TrainingError(
            "official_compat compares RAM's features, and no file of RAM is named: name it in encoder, or set "
            "loss.perceptual and consistency.contrastive to 0."
        )


def _data_folders(config: TrainConfig) -> Iterator[str]:
    for source in config.data.sources:
        yield from (source.low, source.high)
    yield from (unpaired.folder for unpaired in config.data.unpaired)
    yield from (folder for folder in (config.data.val_low, config.data.val_high) if folder)
    if config.data.manifest:
        # The manifest itself may lie anywhere, above the run folder, too.
        yield from {str(entry.path.parent) for entry in read_manifest(config.data.manifest)}
