"""Small RAM and RAM++ models with random weights."""

from __future__ import annotations

import importlib.util
import json
import zlib

import pytest
import torch

from semillie_core.ram import RAM, RAMConfig, Vocabulary


def _config_of(config: dict, variant: str = "ram") -> RAMConfig:
    """Our config from the description in a parity fixture."""
    decoder = config["q2l"]
    return RAMConfig(
        variant=variant,
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        window_size=config["window_size"],
        embed_dim=config["embed_dim"],
        depths=config["depths"],
        num_heads=config["num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        projection_dim=config["proj_dim"],
        num_tags=config["num_class"],
        descriptions_per_tag=config.get("descriptions_per_class", 1),
        decoder_dim=decoder["hidden_size"],
        decoder_heads=decoder["num_attention_heads"],
        decoder_layers=decoder["num_hidden_layers"],
        decoder_mlp_dim=decoder["intermediate_size"],
    )


def _fill(model: RAM) -> RAM:
    """Key-seeded weights: the rule of the full-size probe fixtures."""
    for key, parameter in model.named_parameters():
        value = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()))
        )
        if key == "label_embed":
            value /= value.norm(dim=-1, keepdim=True)
        elif key.endswith("relative_position_bias_table"):
            value *= 0.5
        elif key == "reweight_scale":
            value = parameter.detach()
        elif value.dim() == 1:
            value = 1 + 0.1 * value if "norm" in key.lower() and key.endswith("weight") else 0.05 * value
        elif key != "wordvec_proj.weight":
            value /= value[0].numel() ** 0.5
        parameter.data.copy_(value)
    return model.requires_grad_(False)


def _probe_image(size: int, b: float = 0.0) -> torch.Tensor:
    """The probe picture of the fixtures, ``(3, size, size)`` float32 in [0, 1]."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    red = 0.5 + 0.4 * torch.sin(x / 17 + b) * torch.cos(y / 11)
    green = 0.5 + 0.35 * torch.cos(x / 29 + y / 23 + b)
    blue = ((1.1 * x + 0.3 * y + 31 * b) % 256) / 255
    return torch.stack([red, green, blue]).float()


_TINY = {
    "ram": RAMConfig(
        image_size=64,
        window_size=4,
        embed_dim=8,
        depths=(2, 2, 2),
        num_heads=(2, 2, 4),
        projection_dim=16,
        num_tags=6,
        decoder_dim=16,
        decoder_heads=2,
        decoder_mlp_dim=24,
    ),
    # Odd on purpose: uneven depths, a window of 3, three decoder layers.
    "ram_plus": RAMConfig(
        variant="ram_plus",
        image_size=96,
        window_size=3,
        embed_dim=8,
        depths=(1, 2, 3, 2),
        num_heads=(1, 2, 2, 4),
        projection_dim=16,
        num_tags=6,
        descriptions_per_tag=5,
        decoder_dim=16,
        decoder_heads=4,
        decoder_layers=3,
        decoder_mlp_dim=24,
    ),
}

_VOCABULARY = Vocabulary(
    english=("cat", "dog", "cat food", "street light", "Street Art", "car"),
    chinese=("猫", "狗", "猫粮", "路灯", "街头艺术", "汽车"),
    thresholds=(0.5, 0.6, 0.4, 1.0, 0.3, 0.7),
)


@pytest.fixture(params=["ram", "ram_plus"])
def tiny(request) -> RAM:
    """A tiny model of each variant."""
    return _fill(RAM(_TINY[request.param]))


@pytest.fixture(scope="session")
def tiny_configs() -> dict[str, RAMConfig]:
    """Sizes of the tiny models."""
    return _TINY


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Names of the tiny models' six tags; one threshold means never."""
    return _VOCABULARY


@pytest.fixture(scope="session")
def config_of():
    """``config_of(description, variant="ram")``: our config from a parity fixture's."""
    return _config_of


@pytest.fixture(scope="session")
def fill():
    """``fill(model)``: key-seeded weights."""
    return _fill


@pytest.fixture(scope="session")
def probe_image():
    """``probe_image(size, b=0)``: the probe picture of the fixtures."""
    return _probe_image


@pytest.fixture(scope="session")
def eager(repository):
    """The plainly written baseline, ``benchmarks/ram_eager.py``."""
    spec = importlib.util.spec_from_file_location("ram_eager", repository / "benchmarks" / "ram_eager.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def facts(shared_dir):
    """``facts(name) -> dict`` of one JSON fixture."""

    def load(name: str) -> dict:
        path = shared_dir / "fixtures" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"fixture {name}.json is not in {path.parent}")
        return json.loads(path.read_text(encoding="utf-8"))

    return load
