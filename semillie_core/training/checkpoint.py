"""The file that a run resumes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
