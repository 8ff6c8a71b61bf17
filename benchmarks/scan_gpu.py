"""The four-direction scan on a GPU: fused Triton kernels against four copied sequences, and against the memory.

    python -m benchmarks.scan_gpu                           # on a GPU
    TRITON_INTERPRET=1 python -m benchmarks.scan_gpu        # a smoke test on the CPU, where triton is installed

What is compared runs in turn; each figure is the median over rounds, the first of which compiles and is not counted.
*fused* is this project's Triton backend. The baseline is mamba-ssm's kernel on four materialised sequences where that
package loads. Elsewhere it is the fused kernels on one materialised sequence, which is four scans of memory in order,
plus the copies that make four sequences of an image and one image of four outputs.

Bytes are counted from what the kernels read and write, not measured; a share above 1 means caches served some of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from semillie_core.network import PAPER
from semillie_core.scan import mamba, sequences, triton_scan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
Task = Callable[[], object]


def make_inputs(batch: int, size: int, channels: int, device: str) -> list[Tensor]:
    """Random features and parameters of the size that they have in the paper's network."""
    rank, states = (1, 2) if INTERPRETED else (PAPER.dt_rank, PAPER.d_state)
    tensors = (
        torch.randn(batch, size, size, channels),
        torch.randn(4, rank + 2 * states, channels) * channels**-0.5,
        torch.randn(4, channels, rank) * rank**-0.5,
        torch.randn(4, channels) - 4,
        -torch.arange(1.0, states + 1).repeat(4 * channels, 1),
        torch.ones(4 * channels),
    )
    return [t.to(device) for t in tensors]


def copied_forward(x: Tensor, *rest: object) -> tuple[Tensor, list[Tensor]]:
    """The baseline without mamba-ssm."""
    rows = sequences.split(x)
    y, saved = triton_scan.scan_2d_forward(rows[:, :1].contiguous(), *rest)  # type: ignore[arg-type]
    return sequences.merge(y.expand(-1, 4, -1, -1), *x.shape[1:3]), saved


def copied_backward(grad_y: Tensor, x: Tensor, *rest: object) -> tuple[Tensor, ...]:
    """Its backward pass."""
    rows, grads = sequences.split(x)[:, :1].contiguous(), sequences.split(grad_y)[:, :1].contiguous()
    grad_x, *others = triton_scan.scan_2d_backward(grads, rows, *rest)  # type: ignore[arg-type]
    return sequences.merge(grad_x.expand(-1, 4, -1, -1), *x.shape[1:3]), *others


def run(
    forward: Callable[..., tuple[Tensor, list[Tensor]]],
    backward: Callable[..., tuple[Tensor, ...]] | None,
    entry: Tensor,
    parameters: list[Tensor],
    grad_y: Tensor,
) -> None:
    """One pass as in the public function: features are computed in float32 and returned in their own dtype."""
    inputs = [entry.float(), *parameters]
    y, saved = forward(*inputs, backward is not None)
    y.to(entry.dtype)
    if backward is not None:
        backward(grad_y, *inputs, saved)[0].to(entry.dtype)


def seconds_of(task: Task, device: str) -> float:
    """Of one run."""
    if device == "cpu":
        start = time.perf_counter()
        task()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    task()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure(tasks: dict[str, Task], device: str, rounds: int) -> dict[str, float]:
    """Median seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            elapsed = seconds_of(task, device)
            if turn:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def traffic(tokens: int, channels: int, *, backward: bool, entry_bytes: int) -> int:
    """Bytes that the fused passes read and write, apart from states and parameters."""
    row, blocks = 4 * (PAPER.dt_rank + 2 * PAPER.d_state), -(-channels // triton_scan._CHANNEL_BLOCK)
    # The projection; chunk ends and outputs each read x once per pair of directions and every row once per channel
    # block; two partial outputs, written and added up.
    floats = channels + row + 2 * (2 * channels + blocks * row) + 2 * channels + 3 * channels
    if backward:
        # Adjoint ends; gradients, which read the following token's row too and write a row per channel block; the
        # sums of partial results; the two products of the projection's backward pass.
        floats += 2 * channels + blocks * row
        floats += 4 * channels + 2 * blocks * row + 2 * channels + blocks * row
        floats += 3 * channels + (blocks + 1) * row + 2 * row + 3 * channels
    return tokens * (4 * floats + (2 * channels * entry_bytes if entry_bytes < 4 else 0))


def compare(batch: int, size: int, channels: int, device: str, rounds: int) -> None:
    """One row per dtype of the features and pass."""
    tokens = batch * size * size
    source = torch.zeros(2**16 if INTERPRETED else 2**28, device=device)
    target = torch.empty_like(source)
    baseline = mamba if mamba.unavailable_reason() is None else None
    for dtype in (torch.float32, torch.bfloat16):
        x, *parameters = make_inputs(batch, size, channels, device)
        entry = x.to(dtype)
        given = (entry, parameters, torch.randn_like(x))

        slow = (
            (baseline.scan_2d_forward, baseline.scan_2d_backward)
            if baseline
            else (copied_forward, copied_backward)
        )
        fast = (triton_scan.scan_2d_forward, triton_scan.scan_2d_backward)
        for title, backward in (("forward", False), ("forward + backward", True)):
            tasks = {
                "copy": partial(target.copy_, source),
                "baseline": partial(run, slow[0], slow[1] if backward else None, *given),
                "fused": partial(run, fast[0], fast[1] if backward else None, *given),
            }
            seconds = measure(tasks, device, rounds)
            bandwidth = 8 * source.numel() / seconds["copy"]
            moved = traffic(tokens, channels, backward=backward, entry_bytes=entry.element_size())
            print(
                f"{batch:3} x {size}^2  {str(dtype).removeprefix('torch.'):9}{title:20}"
                f"{seconds['fused'] * 1e3:12.3f}{seconds['baseline'] / seconds['fused']:12.2f}"
                f"{moved / seconds['fused'] * 1e-9:12.1f}{moved / seconds['fused'] / bandwidth:12.2f}"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["1x256", "1x1024", "8x256"], metavar="BATCHxSIZE")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    reason = triton_scan.unavailable_reason()
    if reason is not None and not INTERPRETED:
        sys.exit(f"The Triton backend is not there: {reason}.")
    device, channels, rounds = "cuda", PAPER.d_inner, options.rounds
    cases = [tuple(map(int, case.split("x"))) for case in options.cases]
    if INTERPRETED:
        device, channels, rounds, cases = "cpu", 2, 1, [(1, 2)]
        triton_scan._CHUNK, triton_scan._CHANNEL_BLOCK = 4, 2  # the interpreter goes element by element
        print("Triton's interpreter: the figures mean nothing.")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    missing = mamba.unavailable_reason()
    print(
        f"baseline: {'mamba-ssm' if missing is None else f'fused kernels on copies (mamba-ssm: {missing})'}"
    )
    print(f"{'':41}{'fused, ms':>12}{'x baseline':>12}{'10^9 B/s':>12}{'of a copy':>12}")
    for batch, size in cases:
        compare(batch, size, channels, device, rounds)


if __name__ == "__main__":
    main()
