"""What one 600 x 400 photo costs in each configuration: multiply-adds, parameters and CPU time as a ratio.

Run it with ``python -m benchmarks.network_cost``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from semillie_core.network import BASE, COMPACT, PAPER, SemiLLIE, SemiLLIEConfig
from semillie_core.network.thumbnail import make_thumbnail
from semillie_core.scan import resolve_backend

SIZE = (400, 600)


def scan_macs(config: SemiLLIEConfig) -> float:
    """What the counter does not see inside the scan's operator, per position and direction.

    The projection of the features to ranks of step sizes, B and C, that of the ranks to step sizes, and three
    multiply-adds per state and channel.
    """
    projections = config.d_inner * (config.dt_rank + 2 * config.d_state) + config.dt_rank * config.d_inner
    per_position = 4 * (projections + 3 * config.d_inner * config.d_state)
    positions = sum(config.depths) * SIZE[0] * SIZE[1] / config.downscale**2
    if config.thumbnail:
        height, width = make_thumbnail(torch.zeros(1, 1, *SIZE), config.thumbnail).shape[2:]
        positions += config.thumbnail_depth * height * width
    return per_position * positions


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each, taken in turn (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backend = resolve_backend(torch.device("cpu"), torch.float32).name
    print(
        f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, scan backend {backend}"
    )

    image = torch.rand(1, 3, *SIZE)
    networks = {
        name: SemiLLIE(c).eval() for name, c in (("compact", COMPACT), ("base", BASE), ("paper", PAPER))
    }
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for run in range(options.runs + 1):
            for name, network in networks.items():
                start = time.process_time()
                network(image)
                if run:
                    seconds[name].append(time.process_time() - start)
    print(f"{'network':10}{'parameters':>12}{'GMAC':>8}{'share of GMAC':>15}{'share of CPU time':>19}")
    macs = {}
    for name, network in networks.items():
        # With gradients on, though none is wanted: inference in bands of rows computes their borders twice.
        with FlopCounterMode(display=False) as counter:
            network.requires_grad_(False)(image)
        macs[name] = counter.get_total_flops() / 2 + scan_macs(network.config)
    for name, network in networks.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["paper"], strict=True))
        parameters = sum(p.numel() for p in network.parameters())
        print(
            f"{name:10}{parameters:12,}{macs[name] / 1e9:8.1f}{macs[name] / macs['paper']:15.3f}{ratio:19.3f}"
        )


if __name__ == "__main__":
    main()
