r"""Train a Semi-LLIE network, semi-supervised where there are unpaired dark photos.

    python -m training_scripts.train --preset cpu_demo
    python -m training_scripts.train --preset compact --set run_dir=runs/mine \
        --set 'data.sources=[{low: data/low, high: data/high}]' --set 'data.unpaired=[{folder: data/night}]' \
        --set data.val_low=data/val/low --set data.val_high=data/val/high
    python -m training_scripts.train my.yaml --check
    python -m training_scripts.train my.yaml
    torchrun --nproc-per-node 4 -m training_scripts.train my.yaml

A config file, a preset, or both (the file's values replace the preset's) and --set on top. Started again with the same
config, a run continues from its last checkpoint. --check shows what it would learn from and ends. The run folder
receives best.safetensors and last.safetensors (the teacher), state.pt (for resuming), log.jsonl, log.csv, pictures and
report.md. Exit status: 0 finished or checked, 1 an error that is named, 2 wrong arguments, 130 interrupted after
writing a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from semillie_core.data import DataError
from semillie_core.devices import pick_device
from semillie_core.training import Result, TrainConfig, TrainingError, rehearse, train
from semillie_core.training.options import describe
from semillie_core.training.presets import PRESETS, preset
from semillie_core.training.yaml_text import parse_yaml, read_yaml
from semillie_core.weights import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.every < 1:
        parser.error(f"--every must be at least 1, got {options.every}")
    if options.sheets and not options.check:
        parser.error("--sheets is where --check writes: add --check")
    try:
        config = read_config(options.config, options.preset, options.set)
        pick_device(config.runtime.device)
        if options.check:
            rehearsal = rehearse(config, options.sheets)
            print("\n".join([*rehearsal.report, *(f"written: {sheet}" for sheet in rehearsal.sheets)]))
            return 0
        with progress_display(config.steps, options.every) as display:
            result = train(config, on_step=display)
    except (DataError, TrainingError, CheckpointError, ValueError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped at once. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    # torchrun starts this in several processes, of which one speaks.
    if os.environ.get("RANK", "0") == "0":
        _say(result)
    return 0 if result.finished else 130


def _say(result: Result) -> None:
    if not result.finished:
        print(
            f"Stopped; {result.last} and a checkpoint are written. The same command continues.",
            file=sys.stderr,
        )
        return
    if result.best_step >= 0:
        print(f"Best validation PSNR {result.best_psnr:.2f} dB at step {result.best_step}: {result.best}")
    print(f"Report: {result.report}")


def read_config(path: Path | None, preset_name: str | None, assignments: list[str]) -> TrainConfig:
    """A run's config from a preset, a YAML file and assignments, each replacing what came before.

    Raises:
        ValueError: Nothing is named, or an option is unknown, wrong or given twice; the message names it.
    """
    if path is None and preset_name is None:
        raise ValueError(f"Name a config file, or a preset with --preset: {', '.join(PRESETS)}.")
    values = preset(preset_name) if preset_name else {}
    if path is not None:
        if not path.exists():
            raise ValueError(
                f"There is no config file {path}. A preset is named with --preset: {', '.join(PRESETS)}."
            )
        _merge(values, read_yaml(path))
    for assignment in assignments:
        _assign(values, assignment)
    return TrainConfig.from_dict(values)


class Lines:
    """Prints a line now and then, with the time that is left.

    Args:
        steps: Length of the run.
        every: Steps between lines; steps with validation scores always get one.
    """

    def __init__(self, steps: int, every: int) -> None:
        self.steps, self.every = steps, every
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (record["step"], now)
        if record["step"] % self.every and "val_psnr" not in record and record["step"] != self.steps:
            return
        cells = _cells(record)
        done = record["step"] - self._first[0]
        if done:
            left = (now - self._first[1]) / done * (self.steps - record["step"])
            cells.append(f"left {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}")
        print("  ".join(cells), flush=True)


class Bar:
    """A bar with the time that is left and the latest loss; validation scores scroll by above it.

    Args:
        steps: Length of the run.

    Raises:
        ImportError: The package rich is not installed.
    """

    def __init__(self, steps: int) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("step"),
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TextColumn("loss {task.fields[loss]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("training", total=steps, loss="")

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        # Not before: of several processes only the leading one gets records.
        self._bar.start()
        self._bar.update(self._task, completed=record["step"], loss=f"{record['loss']:.4g}")
        if "val_psnr" in record:
            self._bar.console.print("  ".join(_cells(record)), highlight=False)


def progress_display(steps: int, every: int) -> Lines | Bar:
    """A bar on a terminal where rich is installed, lines elsewhere."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return Bar(steps)
    return Lines(steps, every)


def _cells(record: dict[str, Any]) -> list[str]:
    return [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items()]


def _parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name}: {text}" for name, text in PRESETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.train",
        description=f"{__doc__}\npresets:\n{presets}",
        epilog=f"options of a run, for the file and --set, with their defaults:\n\n{describe(TrainConfig)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        type=Path,
        nargs="?",
        help="YAML file of the run; relative paths start at the working folder",
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), help="start from these values")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one option, dotted for nested ones: --set loss.ssim=0.3 (the value is read as YAML)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="load config and data, say what was found and what was left out, write contact sheets of the first batch "
        "of every phase into the run folder's check folder, and end without training",
    )
    parser.add_argument(
        "--sheets", type=Path, metavar="FOLDER", help="where --check writes the contact sheets"
    )
    parser.add_argument("--every", type=int, default=20, help="steps between printed lines (default: 20)")
    return parser


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, separator, value = assignment.partition("=")
    if not separator:
        raise ValueError(f"--set needs KEY=VALUE, got {assignment!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {assignment}: {parent} has no options inside it.")
    values[last] = parse_yaml(value, f"--set {key}")


if __name__ == "__main__":
    sys.exit(main())
