"""What fine-tuning gives on photos of another kind: a few pairs and some dark photos of SICE, scored on the rest.

    python -m benchmarks.fine_tune run --shared ../shared [--seeds 0 1]
    python -m benchmarks.fine_tune table

Each seed draws, from SICE's scenes, a few pairs, dark photos without references, and takes all others for scoring; all
ways of tuning share the draw. ``run`` appends every result to ``benchmarks/results/fine_tune.jsonl`` and skips what is
there. ``table`` prints the start's scores and the gains over it; "GT-mean" scores borrow the reference's brightness.
The options are the function's defaults but where an arm says so; they were not chosen by these scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
from pathlib import Path

from benchmarks.semi_supervised import spread
from semillie_core.data import find_pairs, read_rgb
from semillie_core.data.pairs import to_float
from semillie_core.files import atomic_write
from semillie_core.training import FineTuneOptions, fine_tune
from semillie_core.training.trainer import score_pairs
from semillie_core.weights import load_model

RESULTS = Path(__file__).parent / "results" / "fine_tune.jsonl"
PAIRS, DARK = 8, 40
DEFAULT = FineTuneOptions()
ARMS: dict[str, tuple[bool, FineTuneOptions]] = {
    "dark photos": (False, DEFAULT),
    "dark photos, contrast 0": (False, dataclasses.replace(DEFAULT, contrastive=0.0)),
    "dark photos, contrast 0.5": (False, dataclasses.replace(DEFAULT, contrastive=0.5)),
    "pairs": (True, dataclasses.replace(DEFAULT, consistency=0.0)),
    "pairs and dark photos": (True, DEFAULT),
}
"""Ways of tuning: whether the pairs are used, and the options."""
METRICS = ("psnr", "ssim", "psnr_gt_mean")


def run(options: argparse.Namespace) -> None:
    """Tune and score what has no result yet."""
    done = {(r["arm"], r["seed"]) for r in read()}
    model = load_model(options.model)
    for seed in options.seeds:
        sice = find_pairs(*(options.shared / "data" / "sice" / side for side in ("low", "high")))
        random.Random(seed).shuffle(sice)  # noqa: S311  (not for secrets)
        pairs, dark, rest = sice[:PAIRS], sice[PAIRS : PAIRS + DARK], sice[PAIRS + DARK :]
        for arm in ("start", *ARMS):
            if (arm, seed) in done:
                continue
            tuned = model
            if arm != "start":
                with_pairs, how = ARMS[arm]
                tuned = fine_tune(
                    model,
                    [to_float(read_rgb(pair.low)) for pair in [*pairs, *dark]],
                    options.runs,
                    pairs=[(to_float(read_rgb(p.low)), to_float(read_rgb(p.high))) for p in pairs]
                    if with_pairs
                    else (),
                    options=dataclasses.replace(how, seed=seed),
                ).model
            columns = zip(*score_pairs(tuned.network, rest), strict=True)
            scores = dict(zip(METRICS, map(statistics.mean, columns), strict=True))
            append({"arm": arm, "seed": seed, "model": model.name, "photos": len(rest), **scores})


def read() -> list[dict]:
    """All results so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def append(record: dict) -> None:
    """Add a result to the file, which is replaced as a whole."""
    print(json.dumps(record), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with atomic_write(RESULTS) as file:
        file.write("".join(json.dumps(r) + "\n" for r in [*read(), record]).encode())


def table() -> str:
    """Means and standard deviations over seeds."""
    records = {(r["arm"], r["seed"]): r for r in read()}
    lines = ["| tuned on | seeds | PSNR, dB | SSIM | (GT-mean PSNR, dB) |", "|---|---|---|---|---|"]
    for arm in ("start", *ARMS):
        seeds = [seed for name, seed in records if name == arm]
        cells = []
        for metric, form in zip(METRICS, (".2f", ".4f", ".2f"), strict=True):
            values = [records[arm, seed][metric] for seed in seeds]
            if arm != "start":
                form = f"+{form}"
                values = [v - records["start", s][metric] for v, s in zip(values, seeds, strict=True)]
            cells.append(spread(values, form) if values else "")
        lines.append(f"| {arm} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    runner = commands.add_parser("run", help="tune and score what is missing")
    runner.add_argument("--shared", type=Path, required=True, help="folder that holds data/sice")
    runner.add_argument("--runs", type=Path, default=Path("runs/fine_tune"), help="where runs are kept")
    runner.add_argument("--model", default="semillie-compact")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    commands.add_parser("table", help="print the table")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        print(table())


if __name__ == "__main__":
    main()
