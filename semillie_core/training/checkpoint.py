"""The file that a run resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def read_state(path: Path) -> dict[str, Any]:
    """What a run wrote to resume from.

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
