"""The selective scan and the network on a CPU: speed, threads, memory and scaling, as ratios.

    python -m benchmarks.scan_cpu                     # everything (about ten minutes)
    python -m benchmarks.scan_cpu speed --sizes 96    # one section

What is compared runs in turn within each round; each printed ratio is the median over the rounds of the ratio within
a round. Times are processor time of the process with one thread, except in `threads`, which compares elapsed time and
therefore needs otherwise idle cores. The scan is that of one block of the paper's network: 128 channels, 16 states,
rank-4 step sizes, four directions.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.scan_reference import loop_scan_2d, released_scan_2d
from semillie_core.network import PAPER, SemiLLIE, blocks
from semillie_core.scan import native, selective_scan_2d

CHANNELS, STATES, RANK = PAPER.d_inner, PAPER.d_state, PAPER.dt_rank
SETS = ("avx512", "avx2", "base")
SECTIONS = ("speed", "roofline", "network", "threads", "memory", "scaling")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000"}
"""Makes glibc keep freed buffers for the next request, which takes the system's part out of the time."""
WARM_UP = 4
"""Runs before kept memory counts as there: a virtual machine's own memory comes page by page from its host."""


def make_inputs(size: int, *, grad: bool = False) -> list[Tensor]:
    """Random features of ``size`` x ``size`` and parameters as initialised."""
    block = blocks.SelectiveScan2d(PAPER)
    parameters = (block.x_proj_weight, block.dt_projs_weight, block.dt_projs_bias, block.A_logs, block.Ds)
    tensors = [torch.randn(1, size, size, CHANNELS), *(p.detach() for p in parameters)]
    return [t.requires_grad_(grad) for t in tensors]


def forward(scan: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Inference."""
    with torch.no_grad():
        scan(*inputs)


def forward_backward(scan: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """One training step's worth of scan."""
    scan(*inputs).sum().backward()


def with_native(instruction_set: str) -> Callable[..., Tensor]:
    """The native backend, restricted to one instruction set."""

    def scan(*inputs: Tensor) -> Tensor:
        os.environ[native.INSTRUCTION_SET_ENV] = instruction_set
        return selective_scan_2d(*inputs, backend="native")

    return scan


def with_chunked(*inputs: Tensor) -> Tensor:
    """The pure PyTorch backend."""
    return selective_scan_2d(*inputs, backend="chunked")


def usable_sets() -> list[str]:
    """Instruction sets of this machine, best first."""
    os.environ.pop(native.INSTRUCTION_SET_ENV, None)
    return list(SETS[SETS.index(native.instruction_set()) :])


def measure(
    tasks: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each task in each round; short tasks are repeated within a round and averaged."""
    repeats = {}
    for name, task in tasks.items():
        start = clock()
        task()
        repeats[name] = max(1, min(5, int(0.5 / max(clock() - start, 1e-6))))
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = clock()
            for _ in range(repeats[name]):
                task()
            seconds[name].append((clock() - start) / repeats[name])
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of ``slow / fast``."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def speed(sizes: list[int], rounds: int) -> None:
    """Against the loops and against plain PyTorch."""
    for size in sizes:
        print(f"\nscan, {size} x {size}, one thread: how many times faster than")
        print(f"{'':38}{'released':>10}{'lean loop':>11}{'plain':>8}{'10^9 updates/s':>17}")
        updates = 4 * CHANNELS * STATES * size * size
        for title, mode in (("forward", forward), ("forward + backward", forward_backward)):
            inputs = make_inputs(size, grad=mode is forward_backward)
            scans: dict[str, Callable[..., Tensor]] = {}
            # Under autograd the loops keep several tensors of (tokens, channels, states): too much memory at 256.
            if mode is forward or size <= 128:
                scans = {"released": released_scan_2d, "lean loop": loop_scan_2d}
            scans["plain PyTorch"] = with_chunked
            scans.update({f"native {name}": with_native(name) for name in usable_sets()})
            seconds = measure({name: partial(mode, scan, inputs) for name, scan in scans.items()}, rounds)
            for name, values in seconds.items():
                columns = [
                    f"{ratio(seconds[other], values):{width}.1f}" if other in seconds else f"{'-':>{width}}"
                    for other, width in (("released", 10), ("lean loop", 11), ("plain PyTorch", 8))
                ]
                rate = updates / statistics.median(values) / 1e9
                print(f"  {title:20}{name:16}{''.join(columns)}{rate:17.3f}")


def roofline(size: int, rounds: int) -> None:
    """The forward pass against what this core does in a matrix product and in a copy, taken in turn."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source, target = torch.randn(2**26), torch.empty(2**26)
    inputs = make_inputs(size)
    weight = inputs[1].flatten(0, 1).t()
    flat = inputs[0].flatten(0, 2)
    best = usable_sets()[0]
    tasks = {
        "product": lambda: torch.mm(a, b),
        "copy": lambda: target.copy_(source),
        "projection": lambda: torch.mm(flat, weight),
        "scan": partial(forward, with_native(best), inputs),
    }
    seconds = {name: statistics.median(values) for name, values in measure(tasks, rounds).items()}
    tokens, row = size * size, 4 * (RANK + 2 * STATES)
    # Per update: dt A, its power of two (AVX-512: 12 operations, else 16), dt u B, and two multiply-adds.
    flops = (18 if best == "avx512" else 22) * 4 * CHANNELS * STATES * tokens
    # Per token: the projection reads x and writes a row; each direction reads x, its part of the row and y, writes y.
    traffic = 4 * tokens * (CHANNELS + row + 4 * 3 * CHANNELS + row)
    own = seconds["scan"] - seconds["projection"]
    print(f"\nroofline, forward, {size} x {size}, one thread, {best}")
    print(f"  matrix product {2e-9 * 1024**3 / seconds['product']:30.1f} 10^9 operations/s")
    print(f"  scan without its projection {flops * 1e-9 / own:17.1f} 10^9 operations/s")
    print(f"  copy {8e-9 * source.numel() / seconds['copy']:40.1f} 10^9 bytes/s")
    print(f"  scan {traffic * 1e-9 / seconds['scan']:40.1f} 10^9 bytes/s")
    print(f"  operations per byte {flops / traffic:25.1f}")
    print(f"  projection's share of the time {seconds['projection'] / seconds['scan']:14.2f}")


def network(size: int, rounds: int) -> None:
    """The paper's network with each scan, and the scan's share."""
    print(f"\nnetwork of the paper, one thread{'':25}vs the released scan   share of the scan")
    best = with_native(usable_sets()[0])
    spent = [0.0]

    def timed(*inputs: Tensor) -> Tensor:
        start = time.process_time()
        y = best(*inputs)
        spent[0] += time.process_time() - start
        return y

    scans = {"released": released_scan_2d, "plain PyTorch": with_chunked, "native": timed}
    for title, edge, training in (
        (f"inference, {size} x {size}", size, False),
        (f"step, {size // 2} x {size // 2}", size // 2, True),
    ):
        model = SemiLLIE(PAPER).train(training)
        image = torch.rand(1, 3, edge, edge)

        def run(
            scan: Callable[..., Tensor],
            model: SemiLLIE = model,
            image: Tensor = image,
            training: bool = training,
        ) -> None:
            blocks.selective_scan_2d = scan
            with torch.set_grad_enabled(training):
                output = model(image)[0]
            if training:
                output.mean().backward()

        spent[0] = 0.0
        try:
            seconds = measure({name: lambda scan=scan: run(scan) for name, scan in scans.items()}, rounds)
            spent[0], start = 0.0, time.process_time()
            run(timed)
            share = spent[0] / (time.process_time() - start)
        finally:
            blocks.selective_scan_2d = selective_scan_2d
        for name, values in seconds.items():
            # In a training step the scan's backward pass runs outside the timed call.
            of_total = f"{share:17.2f}" if name == "native" and not training else f"{'-':>17}"
            print(f"  {title:26}{name:20}{ratio(seconds['released'], values):16.1f}{of_total}")


def threads(size: int, rounds: int) -> None:
    """Elapsed time with one and two threads."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"\nnative, {size} x {size}, elapsed time, load average before: {load}{'':6}1 thread / 2 threads")
    scan = with_native(usable_sets()[0])

    def use(count: int, task: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(count)
            task()

        return run

    leaves = make_inputs(size, grad=True)
    for title, mode in (("forward", forward), ("forward + backward", forward_backward)):
        tasks = {str(n): use(n, lambda mode=mode: mode(scan, leaves)) for n in (1, 2)}
        seconds = measure(tasks, rounds, time.perf_counter)
        print(f"  {title:50}{ratio(seconds['1'], seconds['2']):10.2f}")
    torch.set_num_threads(1)


PEAK = """
import importlib, sys

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])

module, function, *arguments = sys.argv[1:]
warm_up, task = getattr(importlib.import_module(module), function)(*arguments)
warm_up()
before = peak()
task()
print(peak() - before)
"""


def added_to_peak(module: str, function: str, *arguments: str) -> float:
    """MiB that a task adds to the peak memory of a fresh process (Linux).

    ``function(*arguments)`` of the module returns what to run before and what to measure.
    """
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PEAK, module, function, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    return int(result.stdout) / 1024


def memory_task(name: str, size: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A pass over a small image, and one forward and backward pass."""
    torch.set_num_threads(1)
    scan = {"released": released_scan_2d, "plain": with_chunked, "native": with_native("auto")}[name]
    inputs = make_inputs(int(size), grad=True)
    small = make_inputs(2, grad=True)
    return lambda: forward_backward(scan, small), lambda: forward_backward(scan, inputs)


def memory(loop_size: int, size: int) -> None:
    """Peak of forward + backward."""
    if sys.platform != "linux":
        print("\npeak memory: needs Linux's /proc")
        return
    print("\npeak memory of forward + backward, scan of one block, added to its inputs")
    for name, edge in (
        ("released", loop_size),
        ("plain", loop_size),
        ("native", loop_size),
        ("plain", size),
        ("native", size),
    ):
        peak = added_to_peak("benchmarks.scan_cpu", "memory_task", name, str(edge))
        print(
            f"  {name:10}{edge:5} x {edge:<5}{peak:10.0f} MiB{peak * 2**20 / edge**2:12.0f} bytes per token"
        )


def scaling(sizes: list[int], rounds: int) -> None:
    """Time per token, and again in a process that keeps freed memory, once it has it."""
    kept = KEEP_MEMORY.items() <= os.environ.items()
    state = "freed memory kept" if kept else "freed memory handed back"
    print(f"\nnative forward, {state:26}time per token relative to {sizes[0]} x {sizes[0]}", flush=True)
    scan = with_native(usable_sets()[0])
    first = make_inputs(sizes[0])
    for size in sizes:
        inputs = make_inputs(size)
        for _ in range(WARM_UP if kept else 0):
            forward(scan, inputs)
        # Enough small images to take as long as a large one, up to a limit.
        count = max(1, min(64, (size // sizes[0]) ** 2))

        def several(count: int = count) -> None:
            for _ in range(count):
                forward(scan, first)

        seconds = measure({"first": several, "this": lambda inputs=inputs: forward(scan, inputs)}, rounds)
        per_token = ratio(seconds["this"], seconds["first"]) * count * sizes[0] ** 2 / size**2
        print(f"  {size:5} x {size:<5}{per_token:28.3f}", flush=True)
    if not kept and platform.libc_ver()[0] == "glibc":
        command = [sys.executable, "-m", "benchmarks.scan_cpu", "scaling", "--rounds", str(rounds)]
        subprocess.run(command, env=os.environ | KEEP_MEMORY, check=True)  # noqa: S603


def describe() -> str:
    """The machine, in a line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line),
            cpu,
        )
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} logical cores, {system}, native: {native.instruction_set()}{load}"


def main() -> None:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 256], help="image edges for `speed`")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    reason = native.unavailable_reason()
    if reason is not None:
        sys.exit(f"The native backend is not there: {reason}.")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(describe())
    sections = options.sections or SECTIONS
    if "speed" in sections:
        speed(options.sizes, options.rounds)
    if "roofline" in sections:
        roofline(256, options.rounds)
    if "network" in sections:
        network(128, options.rounds)
    if "threads" in sections:
        threads(256, 2 * options.rounds + 1)
    if "memory" in sections:
        memory(96, 256)
    if "scaling" in sections:
        scaling([64, 128, 256, 512, 1024, 2048], options.rounds)


if __name__ == "__main__":
    main()
