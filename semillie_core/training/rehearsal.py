"""What a run would learn from, shown without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checks import check_config
from .config import TrainConfig
from .distributed import this_process
from .errors import TrainingError
from .inputs import load_data, shape_of
from .pictures import write_grid
from .students import build_student

_SHOWN = 8
"""Samples of a batch that a sheet shows."""


@dataclass(frozen=True)
class Rehearsal:
    """What a run begins with."""

    report: list[str]
    """What was found and what was left out, and what the first batch of every phase is, in words."""
    sheets: list[Path]
    """Contact sheets of these batches, PNG: dark photo and reference, and the two views of unpaired photos."""


def rehearse(config: TrainConfig, folder: str | Path | None = None) -> Rehearsal:
    """Do all that comes before a run's first step, make the first batch of every phase, and stop.

    Args:
        config: The run; nothing but the sheets is written.
        folder: Where the sheets go, created where missing; by default ``check`` in the run folder.

    Raises:
        TrainingError: As :func:`train`, as far as it does not take training to see; the encoder's file is missing.
        DataError: As :func:`train`.
    """
    target = Path(config.run_dir) / "check" if folder is None else Path(folder)
    with this_process(config.runtime.device) as process:
        check_config(config, process)
        # Looked for only: loading takes gigabytes.
        if config.needs_encoder and config.encoder and not Path(config.encoder).is_file():
            raise TrainingError(
                f"encoder {config.encoder} does not exist: name a RAM or RAM++ checkpoint, or leave encoder empty for "
                "the bundled EfficientNet-Lite0."
            )
        build_student(config)
        data, _ = load_data(config)
    report = [*data.report]
    sheets: list[Path] = []
    start = 0
    for number, phase in enumerate(config.phases, 1):
        shape = shape_of(config, start)
        pairs = data.paired(start, shape.paired, shape.crop)
        columns = {"pairs": [pairs.low, pairs.high]}
        if shape.unpaired:
            unpaired = data.unpaired(start, shape.unpaired, shape.crop)
            columns["unpaired"] = [unpaired.weak, unpaired.strong]
        for kind, images in columns.items():
            sheets.append(target / f"phase{number}-{kind}.png")
            write_grid(sheets[-1], [image[:_SHOWN] for image in images])
            count, _, height, width = images[0].shape
            report.append(f"phase {number}, step {start}: {count} crops of {width}x{height} pixels ({kind})")
        start += phase.steps
    return Rehearsal(report, sheets)
