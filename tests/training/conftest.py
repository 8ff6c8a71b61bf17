"""Generated photos and a small run for the training tests."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from semillie_core.data import DataConfig, SourceConfig, UnpairedConfig
from semillie_core.network import SemiLLIEConfig
from semillie_core.training import (
    ConsistencyConfig,
    LossConfig,
    OptimizerConfig,
    Phase,
    RuntimeConfig,
    TeacherConfig,
    TrainConfig,
)

SMALL = SemiLLIEConfig(
    embed_dim=32, depths=(1,), d_state=2, expand=1.0, downscale=4, thumbnail=16, thumbnail_depth=1
)


def save(image: torch.Tensor, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Six generated pairs, smooth coloured scenes and the same at a sixth of the light, and five more dark photos."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for index in range(11):
        size = (48, 64) if index < 9 else (70, 50)
        coarse = torch.rand(1, 3, 4, 6, generator=generator)
        high = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
        low = high / 6 + 0.01 * torch.randn(high.shape, generator=generator)
        if index < 6:
            save(high, folder / "high" / f"{index}.png")
            save(low, folder / "low" / f"{index}.png")
        else:
            save(low, folder / "night" / f"{index}.png")
    return folder


@pytest.fixture
def config(photos, tmp_path):
    """A semi-supervised run of a few seconds."""
    return TrainConfig(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(
            sources=(SourceConfig(str(photos / "low"), str(photos / "high")),),
            unpaired=(UnpairedConfig(str(photos / "night")),),
            val_low=str(photos / "validation" / "low"),
            val_high=str(photos / "validation" / "high"),
            synthetic=0.2,
            identity=0.1,
        ),
        network=SMALL,
        phases=(Phase(20, 2, 32, 2), Phase(4, 1, 0)),
        loss=LossConfig(perceptual=0.05),
        consistency=ConsistencyConfig(weight=0.2, ramp_steps=10, contrastive=1.0),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=2),
        teacher=TeacherConfig(decay=0.9),
        runtime=RuntimeConfig(threads=1),
        val_every=12,
        checkpoint_every=5,
    )


@pytest.fixture(scope="session", autouse=True)
def _validation_pairs(photos):
    """Two more pairs, of which nothing is in training."""
    generator = torch.Generator().manual_seed(1)
    for index in range(2):
        coarse = torch.rand(1, 3, 4, 6, generator=generator)
        high = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")[0]
        save(high, photos / "validation" / "high" / f"{index}.png")
        save(high / 6, photos / "validation" / "low" / f"{index}.png")
