"""How many images per second a training step and whole photos take on this machine, per scan backend.

Reads    a bundled model's name or a checkpoint; the images are random.
Writes   a Markdown table: images per second, peak memory, and the ratio to the same work with the plain loop over
         tokens in the scan; with --json also every measurement. A training step is the mean teacher's with all its
         losses, its images pairs and unpaired photos together. Photos larger than --tile are done in tiles.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

Runs from the repository, with the extra: pip install '.[train]'. Examples (minutes on a CPU; one thread is measured in
processor time, which other programs disturb least):

    python -m training_scripts.benchmark
    python -m training_scripts.benchmark --only training --batch 2 --crop 96 --rounds 3
    python -m training_scripts.benchmark --device cuda --model runs/mine/best.safetensors --json speed.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import throughput
from semillie_core.files import atomic_write, prepare_target
from semillie_core.weights import CheckpointError, load_model

WORKS = {"training": [throughput.TRAINING], "inference": list(throughput.PHOTOS)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    works = WORKS[options.only] if options.only else [work for kind in WORKS.values() for work in kind]
    try:
        if options.json is not None:
            prepare_target(options.json)
        model = load_model(options.model).to(device=options.device)
        machine = throughput.describe_machine(options.device, options.threads)
        cases = throughput.make_cases(
            options.model,
            options.device,
            options.threads,
            tile=options.tile,
            batch=options.batch,
            crop=options.crop,
            repeats=options.repeats,
            works=works,
        )
        results = throughput.measure(
            cases,
            options.rounds,
            lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True),
        )
    except (CheckpointError, OSError, RuntimeError, AssertionError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print(
        f"{machine}\n{model.name}, {model.variant}, {model.parameter_count:,} parameters; training: "
        f"{options.batch} pairs and {options.batch} unpaired crops of {options.crop} pixels\n"
    )
    print(throughput.to_table(results))
    if options.json is not None:
        record = {
            "machine": machine,
            "cases": [
                {**asdict(case), "runs": [asdict(m) for m in found]} for case, found in results.items()
            ],
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(record, indent=1).encode() + b"\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="semillie-compact", help="bundled model or checkpoint file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--only", choices=tuple(WORKS), help="one kind of work (default: both)")
    for name, default, text in (
        ("threads", 1, "CPU threads"),
        ("batch", 2, "pairs, and as many unpaired photos, in a training step"),
        ("crop", 128, "edge of training crops in pixels"),
        ("tile", 1024, "edge of tiles for larger photos in pixels"),
        ("repeats", 2, "timed runs within a round, after one to warm up"),
        ("rounds", 1, "rounds, each of fresh processes"),
    ):
        parser.add_argument(
            f"--{name}", type=_count, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
