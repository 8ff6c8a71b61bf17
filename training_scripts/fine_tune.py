"""Fine-tune a Semi-LLIE network on dark photos of one kind, with or without pairs.

Reads    dark photos (files or folders), and with --pairs a folder of dark photos and one of what they should become, of
         equal names and sizes.
Writes   OUTPUT, which goes into ComfyUI's models/semillie as it is, and a run folder below --runs: log, report,
         checkpoint and the photos as they were learned from. It may be deleted afterwards.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments, 130 after Ctrl-C. The same command goes on.

    python -m training_scripts.fine_tune my_photos --output my-semillie.safetensors
    python -m training_scripts.fine_tune my_photos --pairs before after --steps 1000 --output my-semillie.safetensors

All photos are held in memory. For validation, other losses, large sets or several GPUs see training_scripts.train with
init=semillie-compact.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.progress import Progress
from torch import Tensor

from semillie_core.data import DataError, find_images, find_pairs
from semillie_core.data.pairs import read_levels, to_float
from semillie_core.devices import pick_device
from semillie_core.training import FineTuneOptions, TrainingError, fine_tune
from semillie_core.training.options import tooltip
from semillie_core.weights import CheckpointError, load_model, save_model

FIELDS = dataclasses.fields(FineTuneOptions)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        # Before hours of training, not after.
        if options.output.suffix != ".safetensors":
            raise ValueError(f"--output {options.output} must end in .safetensors.")
        pick_device(options.device)
        if options.output.exists() and not options.force:
            raise FileExistsError(f"{options.output} exists. Choose another name, or add --force.")
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with Progress() as bar:
            task = bar.add_task("Fine-tuning", total=options.steps)
            result = fine_tune(
                load_model(options.model),
                [to_float(read_levels(path)) for path in _dark(options.dark)],
                options.runs,
                pairs=_pairs(options.pairs),
                options=FineTuneOptions(**{field.name: getattr(options, field.name) for field in FIELDS}),
                encoder=options.encoder,
                device=options.device,
                progress=lambda done, total, preview: bar.update(task, completed=done, total=total),
            )
        save_model(options.output, result.model.network, result.model.provenance)
    except (CheckpointError, DataError, TrainingError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    print(f"written: {options.output}\nrun folder: {result.run}")
    return 0


def _dark(arguments: list[Path]) -> list[Path]:
    """The photos that files and folders stand for."""
    found: list[Path] = []
    for argument in arguments:
        found += find_images(argument) if argument.is_dir() else [argument]
    return found


def _pairs(folders: list[Path] | None) -> list[tuple[Tensor, Tensor]]:
    pairs = find_pairs(*folders) if folders else []
    return [(to_float(read_levels(pair.low)), to_float(read_levels(pair.high))) for pair in pairs]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.fine_tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dark", type=Path, nargs="+", metavar="DARK", help="dark photos: files or folders")
    parser.add_argument("--output", type=Path, required=True, help="file to write, ends in .safetensors")
    parser.add_argument(
        "--pairs", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="folders of pairs with equal names"
    )
    parser.add_argument(
        "--model", default="semillie-compact", help="where to start (default: semillie-compact)"
    )
    parser.add_argument(
        "--encoder",
        default="",
        metavar="FILE",
        help="RAM or RAM++ checkpoint for the contrastive loss (default: the bundled EfficientNet-Lite0)",
    )
    for field in FIELDS:
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            metavar="N",
            help=f"{tooltip(FineTuneOptions, field.name).removesuffix('.')} (default: {field.default})".replace(
                "%", "%%"
            ),
        )
    parser.add_argument("--runs", type=Path, default=Path("runs/fine_tune"), help="where run folders go")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a GPU where there is one), cpu, cuda, mps, ... (default: auto)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    return parser


if __name__ == "__main__":
    sys.exit(main())
