"""What RAM and RAM++ cost at full size: time and memory per image against a plain eager implementation.

    python -m benchmarks.ram                        # RAM on the CPU: tagging, gradients
    python -m benchmarks.ram --variant ram_plus
    python -m benchmarks.ram --device cuda
    python -m benchmarks.ram --load FOLDER          # loading a 5.6 GB training checkpoint written to FOLDER

Weights are random: time and memory do not depend on them. Every line is measured in a process of its own. Memory is
the peak above what was there before the call, so the weights are not counted except when loading. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import ram_eager
from semillie_core.ram import RAM, RAM_PLUS_SWIN_L, RAM_SWIN_L, RAMConfig, RAMEncoder, load_ram

CONFIGS = {"ram": RAM_SWIN_L, "ram_plus": RAM_PLUS_SWIN_L}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def random_model(config: RAMConfig, device: str, dtype: torch.dtype) -> RAM:
    """A full-size model with small random weights, never held twice."""
    with torch.device("meta"):
        model = RAM(config).to(dtype).requires_grad_(False)
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        if name.endswith(
            ("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight", "reweight_scale")
        ):
            parameter.fill_(1)
        else:
            parameter.normal_(std=0.02)
    return model


def status(field: str) -> int:
    """Bytes in a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(call: Callable[[], object], runs: int, device: str) -> tuple[float, float]:
    """Median seconds (CPU time on the CPU) after one warm-up, and peak GiB above the start."""
    seconds = []
    for run in range(runs + 1):
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
            before, clock = status("VmRSS"), time.process_time
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, clock = torch.cuda.memory_allocated(), time.perf_counter
        start = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        if run:
            seconds.append(clock() - start)
        peak = status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
        if not run:
            first = peak - before
    return statistics.median(seconds), max(first, peak - before) / 2**30


def tag_case(options: argparse.Namespace, dtype: str, eager: bool) -> tuple[float, float]:
    """Logits of a batch."""
    config = CONFIGS[options.variant]
    model = random_model(config, options.device, DTYPES[dtype])
    images = torch.rand(options.batch, 3, config.image_size, config.image_size)
    images = images.to(options.device, DTYPES[dtype])
    state = dict(model.state_dict())

    @torch.inference_mode()
    def ours() -> Tensor:
        return model(images)

    @torch.inference_mode()
    def plain() -> Tensor:
        return ram_eager.tag_logits(state, config, ram_eager.image_embeds(state, config, images))

    return measure(plain if eager else ours, options.runs, options.device)


def gradient_case(options: argparse.Namespace, dtype: str, checkpointing: bool) -> tuple[float, float]:
    """Features and logits of a batch, and the gradient to the images."""
    encoder = RAMEncoder(random_model(CONFIGS[options.variant], options.device, DTYPES[dtype]))
    encoder.network.checkpointing = checkpointing
    images = torch.rand(options.batch, 3, 256, 256, device=options.device, requires_grad=True)

    def call() -> None:
        features = encoder.encode(images, logits=True)
        parts = [*features.maps, features.tokens, features.logits]
        torch.autograd.grad(sum(part.float().square().mean() for part in parts), images)

    return measure(call, options.runs, options.device)


def load_case(options: argparse.Namespace, dtype: str, _: bool) -> tuple[float, float]:
    """Load the checkpoint at ``options.load``: the first time it also writes its compact copy."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = status("VmRSS"), time.process_time()
    load_ram(options.load, dtype=DTYPES[dtype])
    return time.process_time() - start, (status("VmHWM") - before) / 2**30


CASES = {"tag": tag_case, "gradient": gradient_case, "load": load_case}


def write_checkpoint(config: RAMConfig, path: Path) -> int:
    """Write a training checkpoint like the published ones: unneeded modules and two moments per weight.

    Returns:
        Bytes of the tensors tagging needs, in float32.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in RAM(config).state_dict().items()}
    state = {name: torch.full(shape, 0.01) for name, shape in shapes.items()}
    needed = sum(tensor.numel() for tensor in state.values())
    everything = needed
    if config.variant == "ram":
        everything = 469_148_785
        state |= {f"text_decoder.{i}": torch.zeros((everything - needed) // 600) for i in range(600)}
    moments = torch.zeros(everything // 1000)
    optimizer = {i: {"exp_avg": moments.clone(), "exp_avg_sq": moments.clone()} for i in range(1000)}
    torch.save({"model": state, "optimizer": {"state": optimizer}, "config": {}, "epoch": 4}, path)
    return 4 * needed


def isolated(case: str, options: argparse.Namespace, dtype: str, flag: bool) -> tuple[float, float]:
    """Run a case in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_isolated, (case, options, dtype, flag))


def _isolated(case: str, options: argparse.Namespace, dtype: str, flag: bool) -> tuple[float, float]:
    torch.set_num_threads(options.threads)
    return CASES[case](options, dtype, flag)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=CONFIGS, default="ram")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, help="default: fp32 and bf16, on a GPU also fp16"
    )
    parser.add_argument("--batch", type=int, default=1, help="images per call (default: 1)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each after a warm-up (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--load", type=Path, metavar="FOLDER", help="measure loading instead; needs 7 GB there"
    )
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("This benchmark reads peak memory from Linux's /proc.")
    where = platform.machine() if options.device == "cpu" else torch.cuda.get_device_name()
    print(
        f"{CONFIGS[options.variant].display_name}, {where}, torch {torch.__version__}, {options.threads} thread(s)"
    )

    if options.load:
        options.load = options.load / f"benchmark_{options.variant}.pth"
        needed = write_checkpoint(CONFIGS[options.variant], options.load) / 2**30
        print(f"checkpoint of {options.load.stat().st_size / 2**30:.2f} GiB, {needed:.2f} GiB needed in fp32")
        for dtype in options.dtypes or ("fp32", "bf16"):
            size = needed * DTYPES[dtype].itemsize / 4
            for time_ in ("first", "second"):
                seconds, peak = isolated("load", options, dtype, False)
                print(
                    f"{dtype}, {time_} time: {seconds:5.1f} s CPU, peak {peak:.2f} GiB = {peak / size:.2f} x needed"
                )
        for path in options.load.parent.glob(f"{options.load.stem}.*"):
            path.unlink()
        return

    dtypes = options.dtypes or (("fp32", "bf16") if options.device == "cpu" else ("fp32", "bf16", "fp16"))
    print(f"{'per image, batch ' + str(options.batch):34}{'seconds':>9}{'peak GiB':>10}")
    for case, names in (("tag", ("this", "eager")), ("gradient", ("all kept", "checkpointed"))):
        for dtype in dtypes:
            for flag, name in enumerate(names):
                seconds, peak = isolated(case, options, dtype, bool(flag))
                line = f"{case}, {dtype}, {name}"
                print(f"{line:34}{seconds / options.batch:9.3f}{peak / options.batch:10.3f}", flush=True)


if __name__ == "__main__":
    main()
