"""The supervised training loop."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Batch, PairSampler, find_pairs, read_rgb
from ..files import atomic_write
from ..losses import gradient_loss, structure_loss
from ..metrics import psnr, ssim
from ..network import SemiLLIE
from ..weights import save_model
from .config import LossConfig, TrainConfig

ILLUMINATION_POOL = 16


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    best: Path
    """Averaged weights with the highest validation PSNR, safetensors."""
    last: Path
    """Averaged weights of the last step, safetensors."""
    best_psnr: float
    """Mean validation PSNR of ``best`` in dB."""
    best_step: int
    """Step of ``best``."""


def train(config: TrainConfig, *, on_step: Callable[[dict[str, Any]], None] | None = None) -> Result:
    """Train a network on pairs, keeping the averaged weights that do best on the validation pairs.

    The run can be stopped at any moment; started again with the same config it continues from its last checkpoint, on
    the CPU bit for bit as if it had never stopped.

    Args:
        config: The run.
        on_step: Called with every log record (step, loss parts, learning rate, seconds; validation scores when
            there are some).

    Returns:
        Where the weights are and how good they are.

    Raises:
        TrainingError: The run folder belongs to another config, or the loss is no longer finite.
        DataError: A folder or file of the data cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    state_file = run / "state.pt"

    torch.manual_seed(config.seed)
    network = SemiLLIE(config.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.99)
    )
    step, best_psnr, best_step = 0, -math.inf, -1
    if state_file.is_file():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        if state["config_sha256"] != config.sha256():
            raise TrainingError(
                f"{run} holds a run with another config. Choose another run_dir or remove it."
            )
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        step, best_psnr, best_step = state["step"], state["best_psnr"], state["best_step"]
        _truncate_log(run / "log.jsonl", step)
    with atomic_write(run / "config.json") as file:
        file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")

    sampler = PairSampler(config.data, config.seed, config.network.thumbnail)
    validation = [(read_rgb(p.low), read_rgb(p.high)) for p in find_pairs(config.val_low, config.val_high)]
    metadata = {"training_config_sha256": config.sha256(), "run": run.name}

    def log(record: dict[str, Any]) -> None:
        with (run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if on_step is not None:
            on_step(record)

    def checkpoint() -> None:
        state = {
            "config_sha256": config.sha256(),
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "step": step,
            "best_psnr": best_psnr,
            "best_step": best_step,
        }
        with atomic_write(state_file) as file:
            torch.save(state, file)

    def batch_of(index: int) -> Batch | None:
        seen = 0
        for phase in config.phases:
            seen += phase.steps
            if index < seen:
                return sampler.batch(index, phase.batch_size, phase.crop)
        return None

    network.train()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(batch_of, step)
        while step < config.steps:
            started = time.perf_counter()
            batch = upcoming.result()
            assert batch is not None  # noqa: S101  (step < config.steps)
            upcoming = pool.submit(batch_of, step + 1)
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            frame = network.estimate_frame(batch.thumbnail)
            prediction = network(batch.low, frame, batch.region)
            parts = loss_parts(prediction.image, prediction.illumination, batch.high, config)
            loss = torch.stack(list(parts.values())).sum()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"The loss at step {step} is not finite. Lower learning_rate and start again."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
            _update_average(average, network, min(config.ema_decay, (1 + step) / (10 + step)))

            record: dict[str, Any] = {"step": step, "lr": rate, "loss": float(loss.detach())}
            record |= {name: float(part.detach()) for name, part in parts.items()}
            record["seconds"] = round(time.perf_counter() - started, 3)
            last = step == config.steps
            if step % config.val_every == 0 or last:
                scores = validate(average, validation)
                record |= scores
                if scores["val_psnr"] > best_psnr:
                    best_psnr, best_step = scores["val_psnr"], step
                    save_model(run / "best.safetensors", average, {**metadata, "step": str(step)})
            log(record)
            if step % config.checkpoint_every == 0 or last:
                save_model(run / "last.safetensors", average, {**metadata, "step": str(step)})
                checkpoint()
    return Result(run / "best.safetensors", run / "last.safetensors", best_psnr, best_step)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def loss_parts(image: Tensor, illumination: Tensor, target: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """Every weighted term of the loss by name."""
    weights: LossConfig = config.loss
    parts = {"structure": structure_loss(image, target)}
    if weights.ssim:
        parts["ssim"] = weights.ssim * (1 - ssim(image, target).mean())
    if weights.gradient:
        parts["gradient"] = weights.gradient * gradient_loss(image, target)
    if weights.illumination and config.network.thumbnail:
        pooled = [F.avg_pool2d(t, ILLUMINATION_POOL, ceil_mode=True) for t in (illumination, target)]
        parts["illumination"] = weights.illumination * structure_loss(pooled[0], pooled[1])
    return parts


@torch.no_grad()
def validate(network: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean plain PSNR (dB) and SSIM over whole photos."""
    scores = []
    for low, high in pairs:
        output = network(low[None].float() / 255).image.clamp(0, 1)
        target = high[None].float() / 255
        scores.append((float(psnr(output, target)), float(ssim(output, target))))
    return {
        "val_psnr": sum(p for p, _ in scores) / len(scores),
        "val_ssim": sum(s for _, s in scores) / len(scores),
    }


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.dim() < 2 or name.endswith(("A_logs", "dt_projs_bias"))
        (free if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, current in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        kept.lerp_(current, 1 - decay)


def _truncate_log(path: Path, step: int) -> None:
    """Drop records of steps that will be run again."""
    if not path.is_file():
        return
    records = [
        line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step
    ]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in records).encode())
