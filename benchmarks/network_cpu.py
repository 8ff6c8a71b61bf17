"""The whole network on one CPU thread against its plain composition, and where its time goes.

    python -m benchmarks.network_cpu                  # everything (several minutes)
    python -m benchmarks.network_cpu speed profile    # without the loop over tokens
    python -m benchmarks.network_cpu memory

``loop`` runs the plain composition (``benchmarks.network_reference``) around the released scan, one Python step per
token; ``speed`` runs it around this project's scan, so that the rest of the network is all that differs. What is
compared runs in turn within each round; each ratio is the median over the rounds of the ratio within a round. Times
are processor time. ``memory`` is what a step of the paper's network adds to a fresh process (Linux).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.network_reference import plain_forward
from benchmarks.scan_cpu import added_to_peak, describe, measure, ratio
from benchmarks.scan_reference import released_scan_2d
from semillie_core.network import COMPACT, PAPER, Prediction, SemiLLIE, SemiLLIEConfig, blocks
from semillie_core.scan import native, selective_scan_2d

SECTIONS = ("loop", "speed", "profile", "memory")
CASES = {
    "paper, inference 128 x 128": (PAPER, (1, 128, 128), False),
    "paper, inference 256 x 256": (PAPER, (1, 256, 256), False),
    "paper, step 64 x 64": (PAPER, (1, 64, 64), True),
    "compact, inference 600 x 400": (COMPACT, (1, 400, 600), False),
    "compact, step 4 of 160 x 160": (COMPACT, (4, 160, 160), True),
}
LOOP_CASES = ("paper, inference 128 x 128", "paper, step 64 x 64")
MEMORY_CASES = (("released", 48), ("ours", 48), ("ours", 256), ("ours, blocks recomputed", 256))
KINDS = {
    "scan": ("semillie::",),
    "convolutions": ("convolution", "_slow_conv"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "layer norms": ("native_layer_norm",),
    "copies and fills": ("copy_", "fill_", "aten::cat", "pixel_"),
}


def run(forward: Callable[[Tensor], Prediction], image: Tensor, training: bool) -> None:
    """One inference, or one forward and backward pass."""
    if not training:
        with torch.inference_mode():
            forward(image)
        return
    forward(image).image.square().mean().backward()


def prepare(name: str) -> tuple[SemiLLIE, Callable[[Callable[[Tensor], Prediction]], None]]:
    """A network of that case and what runs a forward function of it."""
    config, (batch, height, width), training = CASES[name]
    model = SemiLLIE(SemiLLIEConfig(**{**config.to_dict(), "drop_path_rate": 0.0})).train(training)
    image = torch.rand(batch, 3, height, width)
    return model, lambda forward: run(forward, image, training)


def compare(names: tuple[str, ...], scan: Callable[..., Tensor], rounds: int) -> None:
    """Print how many times faster the network is than its plain composition around ``scan``."""
    for name in names:
        model, execute = prepare(name)
        tasks = {
            "plain": partial(execute, partial(plain_forward, model, scan=scan)),
            "ours": partial(execute, model),
        }
        seconds = measure(tasks, rounds)
        print(f"  {name:32}{ratio(seconds['plain'], seconds['ours']):8.2f}")


def scan_share(
    execute: Callable[[Callable[[Tensor], Prediction]], None], model: SemiLLIE, rounds: int
) -> float:
    """Median share of the scans, their projection included, in the time of an inference."""
    spent = [0.0]

    def timed(*inputs: Tensor) -> Tensor:
        start = time.process_time()
        y = selective_scan_2d(*inputs)
        spent[0] += time.process_time() - start
        return y

    shares = []
    blocks.selective_scan_2d = timed
    try:
        for _ in range(rounds):
            spent[0], start = 0.0, time.process_time()
            execute(model)
            shares.append(spent[0] / (time.process_time() - start))
    finally:
        blocks.selective_scan_2d = selective_scan_2d
    return sorted(shares)[rounds // 2]


def kinds_of_operation(task: Callable[[], None]) -> Counter[str]:
    """Shares of the kinds of operation in one run's time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        task()
    shares: Counter[str] = Counter()
    for event in recorded.key_averages():
        kind = next(
            (k for k, parts in KINDS.items() if any(p in event.key for p in parts)), "elementwise, other"
        )
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    return Counter({kind: time / total for kind, time in shares.items()})


def memory_task(way: str, size: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step on a small crop, and a step on one of the given size, of the paper's network."""
    torch.set_num_threads(1)
    model = SemiLLIE(SemiLLIEConfig(**{**PAPER.to_dict(), "drop_path_rate": 0.0})).train()
    model.checkpoint_blocks = way == "ours, blocks recomputed"
    forward = partial(plain_forward, model, scan=released_scan_2d) if way == "released" else model
    return lambda: run(forward, torch.rand(1, 3, 16, 16), True), lambda: run(
        forward, torch.rand(1, 3, int(size), int(size)), True
    )


def memory() -> None:
    """Peak of a training step."""
    if sys.platform != "linux":
        print("\npeak memory: needs Linux's /proc")
        return
    print("\npeak memory of forward + backward, paper's network, one crop")
    for way, edge in MEMORY_CASES:
        peak = added_to_peak("benchmarks.network_cpu", "memory_task", way, str(edge))
        print(f"  {way:24}{edge:5} x {edge:<5}{peak:10.0f} MiB{peak * 2**20 / edge**2:12.0f} bytes per pixel")


def main() -> None:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)} (default: all)"
    )
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
        print("\ntimes faster than the plain composition around the same scan")
        compare(tuple(CASES), selective_scan_2d, options.rounds)
    if "profile" in sections:
        print("\nshare of time by kind of operation")
        for name in CASES:
            model, execute = prepare(name)
            execute(model)
            shares = kinds_of_operation(partial(execute, model))
            print(f"  {name:32}" + ", ".join(f"{kind} {share:.2f}" for kind, share in shares.most_common()))
            if not CASES[name][2]:
                print(f"  {'':32}scan with its projection {scan_share(execute, model, options.rounds):.2f}")
    if "memory" in sections:
        memory()
    if "loop" in sections:
        print("\ntimes faster than the plain composition around the released scan's loop")
        compare(LOOP_CASES, released_scan_2d, options.rounds)


if __name__ == "__main__":
    main()
