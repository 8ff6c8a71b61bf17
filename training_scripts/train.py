"""Train a Semi-LLIE network on pairs.

    python -m training_scripts.train training_scripts/configs/semillie_compact.yaml --set run_dir=runs/mine

Started again with the same config, a run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from semillie_core.data import DataError
from semillie_core.training import TrainConfig, TrainingError, train


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", type=Path, help="YAML file of the run; relative paths start at the working folder"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one option, dotted for nested ones: --set loss.ssim=0.3 (the value is read as YAML)",
    )
    parser.add_argument("--every", type=int, default=20, help="steps between printed lines (default: 20)")
    options = parser.parse_args(arguments)

    def show(record: dict[str, Any]) -> None:
        if record["step"] % options.every == 0 or "val_psnr" in record:
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items()),
                flush=True,
            )

    try:
        values = yaml.safe_load(options.config.read_text(encoding="utf-8"))
        for assignment in options.set:
            _assign(values, assignment)
        result = train(TrainConfig.from_dict(values), on_step=show)
    except (DataError, TrainingError, ValueError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    print(f"Best validation PSNR {result.best_psnr:.2f} dB at step {result.best_step}: {result.best}")
    return 0


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, separator, value = assignment.partition("=")
    if not separator:
        raise ValueError(f"--set needs KEY=VALUE, got {assignment!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {assignment}: {parent} has no options inside it.")
    values[last] = yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
