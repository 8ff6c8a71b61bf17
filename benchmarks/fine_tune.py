"""What fine-tuning gives on photos of another kind.

    python -m benchmarks.fine_tune run --shared ../shared [--domain sice] [--seeds 0 1]
    python -m benchmarks.fine_tune table

Domain ``sice``: each seed draws, from SICE's scenes, a few pairs, dark photos without references, and takes all others
for scoring; all ways of tuning share the draw. Domain ``lol_val``: tuned on the dark photos that are scored, as someone
does who has just these to enhance; their references are only used for scoring. ``run`` appends every result to
``benchmarks/results/fine_tune.jsonl`` and skips what is there. Scored is the network with noise reduction. ``table``
prints the start's scores and the gains over it; "GT-mean" scores borrow the reference's brightness. The options are the
function's defaults but where an arm says so; the weight of the contrast was chosen on ``lol_val``, and no option on
``sice``.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
from pathlib import Path

from torch import Tensor

from benchmarks.semi_supervised import append, read, spread
from semillie_core.data import Pair, find_pairs
from semillie_core.data.pairs import read_levels, to_float
from semillie_core.inference import NOISE_REDUCTION_ALONE, enhance
from semillie_core.metrics import psnr, psnr_gt_mean, ssim
from semillie_core.training import FineTuneOptions, fine_tune
from semillie_core.weights import SemiLLIEModel, load_model

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
DOMAINS = {"lol_val": tuple(arm for arm in ARMS if not ARMS[arm][0]), "sice": tuple(ARMS)}
METRICS = {"psnr": psnr, "ssim": ssim, "psnr_gt_mean": psnr_gt_mean}


def run(options: argparse.Namespace) -> None:
    """Tune and score what has no result yet."""
    model, domain = load_model(options.model), options.domain
    done = {(r["domain"], r["arm"], r["seed"]) for r in read(RESULTS) if r["model"] == model.name}
    for seed in options.seeds:
        photos = find_pairs(*(options.shared / "data" / domain / side for side in ("low", "high")))
        pairs, dark, rest = photos[:0], photos, photos
        if domain == "sice":
            random.Random(seed).shuffle(photos)  # noqa: S311  (not for secrets)
            pairs, dark, rest = photos[:PAIRS], photos[: PAIRS + DARK], photos[PAIRS + DARK :]
        for arm in ("start", *DOMAINS[domain]):
            if arm not in ("start", *options.arms) or (domain, arm, seed) in done:
                continue
            tuned = model
            if arm != "start":
                with_pairs, how = ARMS[arm]
                tuned = fine_tune(
                    model,
                    [read_photo(pair.low) for pair in dark],
                    options.runs,
                    pairs=[(read_photo(p.low), read_photo(p.high)) for p in pairs] if with_pairs else (),
                    options=dataclasses.replace(how, seed=seed),
                ).model
            columns = zip(*(score(tuned, pair) for pair in rest), strict=True)
            scores = dict(zip(METRICS, map(statistics.mean, columns), strict=True))
            append(
                RESULTS,
                {
                    "domain": domain,
                    "arm": arm,
                    "seed": seed,
                    "model": model.name,
                    "photos": len(rest),
                    **scores,
                },
            )


def score(model: SemiLLIEModel, pair: Pair) -> list[float]:
    """The metrics of one photo."""
    output = enhance(model, read_photo(pair.low)[None], controls=NOISE_REDUCTION_ALONE).image
    high = read_photo(pair.high)[None]
    return [float(metric(output, high)) for metric in METRICS.values()]


def read_photo(path: Path) -> Tensor:
    """``(3, H, W)`` in [0, 1]."""
    return to_float(read_levels(path))


def table(model: str) -> str:
    """Means and standard deviations over seeds, of what began with a model of this name."""
    records = {(r["domain"], r["arm"], r["seed"]): r for r in read(RESULTS) if r["model"] == model}
    lines = [
        "| photos | tuned on | seeds | PSNR, dB | SSIM | (GT-mean PSNR, dB) |",
        "|---|---|---|---|---|---|",
    ]
    for domain, arms in DOMAINS.items():
        for arm in ("start", *arms):
            seeds = [seed for where, name, seed in records if (where, name) == (domain, arm)]
            if not seeds:
                continue
            cells = []
            for metric, form in zip(METRICS, (".2f", ".4f", ".2f"), strict=True):
                values = [records[domain, arm, seed][metric] for seed in seeds]
                if arm != "start":
                    form = f"+{form}"
                    starts = [records[domain, "start", seed][metric] for seed in seeds]
                    values = [value - start for value, start in zip(values, starts, strict=True)]
                cells.append(spread(values, form) if values else "")
            lines.append(f"| {domain} | {arm} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    runner = commands.add_parser("run", help="tune and score what is missing")
    runner.add_argument("--shared", type=Path, required=True, help="folder that holds data/sice and lol_val")
    runner.add_argument("--domain", choices=tuple(DOMAINS), default="sice")
    runner.add_argument("--runs", type=Path, default=Path("runs/fine_tune"), help="where runs are kept")
    runner.add_argument("--model", default="semillie-compact")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    runner.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    printer = commands.add_parser("table", help="print the table")
    printer.add_argument("--model", default="semillie-compact", help="name of the model that was tuned")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        print(table(options.model))


if __name__ == "__main__":
    main()
