"""Put a run's weights into the package, with their provenance.

Reads    best.safetensors, or another file of weights, and config.json of a run folder.
Writes   NAME.safetensors among the bundled weights, replacing that name's, and its line of SHA256SUMS. The model card
         beside it is written by hand.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

    python -m training_scripts.bundle_weights runs/semillie_compact semillie-compact --data "LOLv1 without test scenes"
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from semillie_core.weights import CheckpointError, file_sha256, load_model, save_model
from semillie_core.weights.bundled import BUNDLED_FOLDER

LICENCE = "Apache-2.0"


def list_hash(path: Path) -> None:
    """Put the hash of a bundled file into SHA256SUMS, by which ``semillie doctor`` knows damage; other lines stay."""
    sums = path.with_name("SHA256SUMS")
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    lines = [line for line in lines if line.split(maxsplit=1)[1] != path.name]
    lines.append(f"{file_sha256(path)}  {path.name}")
    sums.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.bundle_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("name", help="name of the bundled model, such as semillie-compact")
    parser.add_argument(
        "--weights",
        default="best.safetensors",
        help="file in that folder; last.safetensors takes the last step, selecting nothing (default: %(default)s)",
    )
    parser.add_argument("--data", required=True, help="what the network learned from, for the metadata")
    options = parser.parse_args(arguments)
    if not (options.run / options.weights).is_file():
        print(
            f"error: There is no {options.run / options.weights}; a run without validation has only last.safetensors. "
            "Name a file of the run folder with --weights.",
            file=sys.stderr,
        )
        return 1
    try:
        model = load_model(options.run / options.weights)
        config = json.loads((options.run / "config.json").read_text(encoding="utf-8"))
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for of_this_machine in ("run_dir", "runtime", "threads"):
        config.pop(of_this_machine, None)
    target = BUNDLED_FOLDER / f"{options.name}.safetensors"
    save_model(
        target,
        model.network,
        {
            "data": options.data,
            "licence": LICENCE,
            "step": model.provenance["step"],
            "training_config": json.dumps(config, sort_keys=True),
            "training_config_sha256": model.provenance["training_config_sha256"],
        },
    )
    list_hash(target)
    print(f"{target}: {target.stat().st_size:,} bytes, step {model.provenance['step']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
