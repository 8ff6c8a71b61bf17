"""Training steps and whole photos per second, and what they need of memory: behind ``training_scripts.benchmark``.

Every case runs in a fresh process, so that its peak memory is its own; the cases take turns, round by round. The
baseline is the same work with the released scan's loop over tokens (:mod:`benchmarks.scan_reference`) in the network.
"""

from __future__ import annotations

import copy
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.scan_reference import released_scan_2d
from semillie_core.inference import enhance
from semillie_core.network import blocks
from semillie_core.ram import load_efficientnet_lite0
from semillie_core.scan import available_backends, selective_scan_2d
from semillie_core.scan.backends import BACKENDS
from semillie_core.training.config import TrainConfig
from semillie_core.training.presets import preset
from semillie_core.training.step import run_steps, whole_frames
from semillie_core.weights import load_model

LOOP = "plain loop"
"""The baseline's name among the backends."""

TRAINING = "training step"
PHOTOS = {"512 x 512": (512, 512), "1920 x 1080": (1080, 1920), "3840 x 2160": (2160, 3840)}
"""Width x height to rows and columns."""


@dataclass(frozen=True)
class Case:
    """One piece of work on one backend."""

    work: str
    """:data:`TRAINING` or a key of :data:`PHOTOS`."""
    backend: str
    """A scan backend's name, or :data:`LOOP`."""
    model: str
    device: str
    threads: int
    tile: int
    """Edge of tiles for photos larger than that in both directions, in pixels."""
    batch: int
    """Pairs, and as many unpaired photos, in a training step."""
    crop: int
    """Edge of training crops in pixels."""
    repeats: int
    """Timed runs after the first, of which the median counts."""


@dataclass(frozen=True)
class Measurement:
    """What a case took."""

    seconds: float
    """Median of the repeats: processor time on one CPU thread, elapsed time otherwise."""
    peak_mib: float
    """Memory beyond that of the process before the work, in MiB; NaN where the system does not say."""


def make_cases(
    model: str, device: str, threads: int, *, tile: int, batch: int, crop: int, repeats: int, works: list[str]
) -> list[Case]:
    """Every piece of work on every backend that runs there, the baseline first where it is not endless."""
    kind = torch.device(device)
    reasons = available_backends()
    names = [b.name for b in BACKENDS if reasons[b.name] is None and b.supports(kind, torch.float32)]
    cases = []
    for work in works:
        # Each of the loop's steps costs more than what it computes: a photo of 2 megapixels takes minutes.
        loop = [LOOP] if work in (TRAINING, "512 x 512") else []
        cases += [
            Case(work, backend, model, device, threads, tile, batch, crop, repeats)
            for backend in (*loop, *names)
        ]
    return cases


def measure(
    cases: list[Case], rounds: int, on_case: Callable[[int, int], None]
) -> dict[Case, list[Measurement]]:
    """Run every case once per round."""
    results: dict[Case, list[Measurement]] = {case: [] for case in cases}
    for done in range(rounds * len(cases)):
        on_case(done, rounds * len(cases))
        case = cases[done % len(cases)]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            results[case].append(process.submit(run_case, case).result())
    return results


def run_case(case: Case) -> Measurement:
    """Do the work in this process, which should be a fresh one."""
    torch.set_num_threads(case.threads)
    scan = (
        released_scan_2d
        if case.backend == LOOP
        else lambda *inputs: selective_scan_2d(*inputs, backend=case.backend)
    )
    room: Any = blocks
    room.selective_scan_2d = scan
    device = torch.device(case.device)
    work = _training_step(case) if case.work == TRAINING else _photo(case)
    clock = time.process_time if case.threads == 1 and device.type == "cpu" else time.perf_counter
    before = _peak_bytes(device)
    seconds = []
    for _ in range(case.repeats + 1):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return Measurement(statistics.median(seconds[1:]), (_peak_bytes(device) - before) / 2**20)


def _training_step(case: Case) -> Callable[[], object]:
    """A step of the mean teacher with all its losses: pairs, unpaired photos, perceptual and contrastive terms."""
    model = load_model(case.model).to(device=case.device)
    values = preset("compact")
    values |= {"run_dir": "unused", "network": model.config.to_dict()}
    values["phases"] = [{"steps": 10, "batch_size": case.batch, "crop": case.crop, "unpaired": case.batch}]
    values["loss"]["perceptual_from"] = values["optimizer"]["warmup_steps"] = 0
    config = TrainConfig.from_dict(values)
    student = model.network.train().requires_grad_(True)
    teacher = copy.deepcopy(student)
    encoder = load_efficientnet_lite0(device=case.device).encoder
    generator = torch.Generator().manual_seed(0)

    def images() -> Tensor:
        return torch.rand(case.batch, 3, case.crop, case.crop, generator=generator).to(case.device)

    data = whole_frames(images() * 0.2, images(), images() * 0.2, images() * 0.2)
    return lambda: run_steps(config, student, teacher, [data], encoder=encoder)


def _photo(case: Case) -> Callable[[], object]:
    model = load_model(case.model).to(device=case.device)
    image = 0.2 * torch.rand(1, 3, *PHOTOS[case.work], generator=torch.Generator().manual_seed(0))
    tile = case.tile if min(PHOTOS[case.work]) > case.tile else None
    return lambda: enhance(model, image, tile=tile, device=case.device)


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def to_table(results: dict[Case, list[Measurement]]) -> str:
    """Markdown: rates, memory, and how many times faster than the loop and than plain PyTorch within each round."""
    by_place = {(case.work, case.backend): found for case, found in results.items()}
    lines = [
        f"| work | scan | images/s | peak MiB | x {LOOP} | x chunked |",
        "|---|---|---|---|---|---|",
    ]
    for case, found in results.items():
        images = 2 * case.batch if case.work == TRAINING else 1
        seconds = statistics.median(m.seconds for m in found)
        ratios = [
            _ratio(by_place.get((case.work, other), []), found) if other != case.backend else "1"
            for other in (LOOP, "chunked")
        ]
        peak = statistics.median(m.peak_mib for m in found)
        lines.append(
            f"| {case.work} | {case.backend} | {images / seconds:.3g} | {peak:.0f} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def _ratio(slow: list[Measurement], fast: list[Measurement]) -> str:
    if not slow:
        return "–"
    return f"{statistics.median(a.seconds / b.seconds for a, b in zip(slow, fast, strict=True)):.1f}"


def describe_machine(device: str, threads: int) -> str:
    """Processor or GPU, system, PyTorch and its threads, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    if torch.device(device).type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    return f"{name}, {platform.system()}, torch {torch.__version__}, {threads} thread(s)"
