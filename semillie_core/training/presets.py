"""Named starting points of a run: everything but the run folder and, for most, the data."""

from __future__ import annotations

import copy
from typing import Any

from ..network import BASE, COMPACT, PAPER

# No simulated darkness: pairs whose noise is not the camera's own taught the compact network to leave noise in (the
# card of semillie-compact has the figures).
_DATA = {"identity": 0.01, "frame_scale": 0.6}

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "network": PAPER.to_dict(),
        "official_compat": True,
        "data": {"geometry": "released", "strong": {"kind": "released"}},
        "phases": [{"steps": 200_000, "batch_size": 8, "crop": 256, "unpaired": 8}],
        "loss": {"ssim": 0.0, "gradient": 0.1, "illumination": 0.0, "perceptual": 0.1},
        "consistency": {"weight": 0.1, "contrastive": 1.0, "contrastive_form": "ratio", "logits": True},
        "optimizer": {
            "name": "adamp",
            "learning_rate": 2e-4,
            "schedule": "released",
            "epoch_steps": 1000,
            "weight_decay": 1e-4,
            "gradient_clip": 0.0,
        },
        "teacher": {"decay": 0.996, "warmup": "released"},
        "val_every": 1000,
        "checkpoint_every": 1000,
        "seed": 2022,
    },
    "semillie_base": {
        "network": BASE.to_dict(),
        "data": {**_DATA, "light_colour_jitter": 0.5, "saturation_jitter": 1.0},
        "phases": [
            {"steps": 60_000, "batch_size": 8, "crop": 128, "unpaired": 8},
            {"steps": 30_000, "batch_size": 4, "crop": 256, "unpaired": 4},
        ],
        "loss": {"detail": 1.0, "noise_reduced": 0.5},
        "consistency": {"ramp_steps": 20_000},
        "optimizer": {"learning_rate": 4e-4, "warmup_steps": 500},
        "runtime": {"amp": "bf16"},
        "val_every": 2000,
        "checkpoint_every": 500,
    },
    "compact": {
        "network": {**COMPACT.to_dict(), "drop_path_rate": 0.0},
        "data": _DATA,
        "phases": [
            {"steps": 10_000, "batch_size": 4, "crop": 128},
            {"steps": 2000, "batch_size": 4, "crop": 128, "unpaired": 2},
        ],
        "loss": {"detail": 1.0, "noise_reduced": 0.5},
        "optimizer": {"learning_rate": 8e-4, "weight_decay": 1e-3},
        "val_every": 500,
        "checkpoint_every": 100,
    },
    "cpu_demo": {
        "run_dir": "runs/cpu_demo",
        "network": {
            **COMPACT.to_dict(),
            "embed_dim": 32,
            "depths": [1, 1],
            "d_state": 4,
            "thumbnail": 32,
            "thumbnail_depth": 1,
        },
        "data": {
            "sources": [{"low": "samples", "high": "samples/reference"}],
            "unpaired": [{"folder": "samples"}],
            "synthetic": 0.5,
            "exposure_ev": [-4.5, -2.0],
            "frame_scale": 0.6,
        },
        "phases": [{"steps": 60, "batch_size": 2, "crop": 96, "unpaired": 2}],
        "loss": {"perceptual": 0.05},
        "consistency": {"ramp_steps": 30},
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 10},
        "teacher": {"decay": 0.95},
        "checkpoint_every": 20,
        "pictures_every": 20,
    },
}

PRESETS = {
    "paper": "the released recipe (arXiv 2409.16604): AdamP, squashed crops, RAM losses; name RAM's file in encoder",
    "semillie_base": "the large network that ships, with this project's losses and data, for a GPU",
    "compact": "the small network that ships, for a CPU or any GPU",
    "cpu_demo": "a minute on a CPU with the sample photos: shows that everything works",
}
"""What each preset is for."""


def preset(name: str) -> dict[str, Any]:
    """The plain values of a preset, to be completed and given to :meth:`TrainConfig.from_dict`.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in _PRESETS:
        raise ValueError(f"There is no preset {name!r}. Known: {', '.join(PRESETS)}.")
    return copy.deepcopy(_PRESETS[name])
