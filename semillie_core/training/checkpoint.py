"""The file that a run resumes from, and what must not have changed since it was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.pairs import named
from ..files import atomic_write
from .config import TrainConfig
from .errors import TrainingError

_PARTS = {
    "config",
    "student",
    "teacher",
    "optimizer",
    "scaler",
    "rng",
    "step",
    "best_psnr",
    "best_step",
    "bank",
}


def write_state(path: Path, config: TrainConfig, state: Mapping[str, Any]) -> None:
    """Write what a run resumes from.

    Raises:
        OSError: The file cannot be written.
    """
    about = {"config_sha256": config.sha256(), "config": json.dumps(config.to_dict())}
    with atomic_write(path) as file:
        torch.save({**about, **state}, file)


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote.

    Raises:
        TrainingError: The file is damaged or something else.
        OSError: It cannot be opened.
    """
    weights = path.parent / "last.safetensors"
    remedy = f"Remove it to start over, or train on in a new run_dir with init set to {weights}."
    with path.open("rb") as file:
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of damaged files PyTorch raises what its parsers happen to meet
            raise TrainingError(f"{path} is damaged ({type(error).__name__}). {remedy}") from error
    missing = sorted(_PARTS - set(state if isinstance(state, dict) else ()))
    if missing:
        raise TrainingError(f"{path} is no checkpoint of a run: it lacks {', '.join(missing)}. {remedy}")
    return state


def check_same_run(
    state: Mapping[str, Any], config: TrainConfig, files: Mapping[str, str], folder: Path
) -> None:
    """Refuse to go on with another run.

    Args:
        state: What :func:`read_state` gives.
        config: The config to go on with.
        files: Digests of the files to go on with, by path.
        folder: The run folder, for messages.

    Raises:
        TrainingError: Another config began the run, or other files.
    """
    try:
        changed = config.differences(json.loads(state["config"]))
    except (TypeError, ValueError) as error:
        changed = [f"it is of another version: {error}"]
    if changed:
        raise TrainingError(
            f"{folder} holds a run with another config ({'; '.join(changed)}). Choose another run_dir or remove it."
        )
    # Earlier versions did not note the files.
    if changed := _changed_files(state.get("files", files), files):
        raise TrainingError(
            f"{folder} holds a run on other files: {'; '.join(changed)}. Put them back, choose another run_dir or "
            "remove it."
        )


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the files of two runs, in words."""
    kinds = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [name for name in before if now.get(name, before[name]) != before[name]],
    }
    return [f"{len(names)} {kind} ({named(names, 5)})" for kind, names in kinds.items() if names]


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that training on a device draws from, by kind of device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type in ("cuda", "xpu"):
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go back to a :func:`random_state`, as far as it was taken on the same kind of device."""
    torch.set_rng_state(state["cpu"])
    if device.type not in state:
        return
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device).set_rng_state(state[device.type], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])
