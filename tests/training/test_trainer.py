"""The trainer: it learns, it resumes bit for bit, it refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from semillie_core.data import DataError, PairSampler, SamplingConfig, SourceConfig, find_pairs
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.training import LossConfig, Phase, TrainConfig, TrainingError, train
from semillie_core.training.trainer import learning_rate, loss_parts
from semillie_core.weights import load_model

NETWORK = SemiLLIEConfig(
    embed_dim=32, depths=(1,), d_state=2, expand=1.0, downscale=4, thumbnail=16, thumbnail_depth=1
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six generated pairs: smooth coloured scenes and the same at a sixth of the light."""
    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    for index in range(6):
        coarse = torch.rand(1, 3, 4, 6, generator=generator)
        high = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")[0]
        low = (high / 6 + 0.01 * torch.randn(high.shape, generator=generator)).clamp(0, 1)
        for name, image in (("high", high), ("low", low)):
            path = folder / name / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return folder


@pytest.fixture
def config(photos, tmp_path):
    source = SourceConfig(str(photos / "low"), str(photos / "high"))
    return TrainConfig(
        run_dir=str(tmp_path / "run"),
        data=SamplingConfig((source,), synthetic=0.2, identity=0.1),
        val_low=source.low,
        val_high=source.high,
        network=NETWORK,
        phases=(Phase(20, 2, 32), Phase(4, 1, 0)),
        learning_rate=2e-3,
        warmup_steps=2,
        val_every=12,
        checkpoint_every=5,
    )


def test_learns_and_exports_the_averaged_weights(config):
    records = []
    result = train(config, on_step=records.append)
    assert [r["step"] for r in records] == list(range(1, 25))
    scores = [r["val_psnr"] for r in records if "val_psnr" in r]
    untrained = SemiLLIE(NETWORK).eval()
    from semillie_core.data import read_rgb
    from semillie_core.training.trainer import validate

    pairs = [(read_rgb(p.low), read_rgb(p.high)) for p in find_pairs(config.val_low, config.val_high)]
    assert result.best_psnr == max(scores) > validate(untrained, pairs)["val_psnr"] + 1
    model = load_model(result.best)
    assert validate(model.network, pairs)["val_psnr"] == pytest.approx(result.best_psnr, abs=1e-4)
    assert model.provenance["training_config_sha256"] == config.sha256()
    logged = [json.loads(line) for line in (result.best.parent / "log.jsonl").read_text().splitlines()]
    assert logged == records


RUN = """
import sys, yaml
import torch
torch.set_num_threads(1)
from semillie_core.training import TrainConfig, train
train(TrainConfig.from_yaml(sys.argv[1]))
"""


def test_a_killed_run_continues_bit_for_bit(config, tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}

    def start(name):
        path = tmp_path / f"{name}.yaml"
        values = dataclasses.replace(config, run_dir=str(tmp_path / name)).to_dict()
        path.write_text(yaml.safe_dump(values))
        return subprocess.Popen([sys.executable, "-c", RUN, str(path)], env=environment)

    assert start("unbroken").wait(timeout=240) == 0
    broken = start("broken")
    log = tmp_path / "broken" / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= 8):
        time.sleep(0.01)
    broken.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    assert broken.wait(timeout=60) != 0
    assert (tmp_path / "broken" / "state.pt").exists()
    assert start("broken").wait(timeout=240) == 0

    for file in ("last.safetensors", "best.safetensors"):
        expected = load_model(tmp_path / "unbroken" / file).network.state_dict()
        actual = load_model(tmp_path / "broken" / file).network.state_dict()
        assert all(torch.equal(actual[key], value) for key, value in expected.items())

    def losses(name):
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    assert losses("broken") == losses("unbroken")


def test_a_run_folder_of_another_config_is_refused(config):
    short = dataclasses.replace(config, phases=(Phase(1, 1, 16),))
    train(short)
    with pytest.raises(TrainingError, match="another config"):
        train(dataclasses.replace(short, learning_rate=1e-4))


def test_an_exploding_loss_stops_the_run(config):
    with pytest.raises(TrainingError, match="not finite"):
        train(dataclasses.replace(config, learning_rate=1e12, gradient_clip=1e12, warmup_steps=0))


def test_batches_depend_on_the_step_alone(config):
    one, two = (PairSampler(config.data, seed=3, thumbnail=16) for _ in range(2))
    one.batch(0, 2, 32)
    for a, b in zip(vars(one.batch(7, 2, 32)).values(), vars(two.batch(7, 2, 32)).values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.batch(8, 2, 32).low, one.batch(7, 2, 32).low)


def test_crops_and_references_lie_on_the_same_place(photos):
    same = SamplingConfig((SourceConfig(str(photos / "high"), str(photos / "high")),))
    sampler = PairSampler(same, seed=0, thumbnail=16)
    for step in range(6):
        batch = sampler.batch(step, 3, 24)
        assert torch.equal(batch.low, batch.high)
        assert batch.low.shape == (3, 3, 24, 24)
        assert (batch.region[:, :2] >= 0).all()
        assert (batch.region[:, :2] + batch.region[:, 2:] <= 1 + 1e-6).all()


def test_every_loss_term_reaches_the_network(config):
    torch.manual_seed(0)
    network = SemiLLIE(NETWORK)
    target = torch.rand(1, 3, 32, 32)
    prediction = network(target / 6)
    parts = loss_parts(prediction.image, prediction.illumination, target, config)
    assert set(parts) == {"structure", "ssim", "gradient", "illumination"}
    for name, part in parts.items():
        network.zero_grad()
        part.backward(retain_graph=True)
        assert network.estimator.global_gain.bias.grad.abs().sum() > 0, name
    none = dataclasses.replace(config, loss=LossConfig(0, 0, 0))
    assert set(loss_parts(prediction.image, prediction.illumination, target, none)) == {"structure"}


def test_learning_rate_warms_up_and_decays(config):
    rates = [learning_rate(config, step) for step in range(config.steps)]
    assert rates[0] == config.learning_rate / 2
    assert max(rates) == config.learning_rate
    assert rates[-1] == pytest.approx(config.final_learning_rate)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_config_survives_yaml(config, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert TrainConfig.from_yaml(path) == config
    assert TrainConfig.from_yaml(path).sha256() == config.sha256()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rates": 1}, "learning_rates"),
        ({"loss": {"ssin": 1}}, r"loss\.ssin"),
        ({"seed": "three"}, "seed must be int"),
        ({"phases": [{"steps": 1}]}, r"phases\[0\]\.batch_size is required"),
        ({"data": {"sources": "here"}}, r"data\.sources must be a list"),
        ({"data": 3}, "must be a mapping"),
        ({"network": {"embed_dim": 30}}, "embed_dim"),
    ],
)
def test_config_mistakes_are_named(config, change, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig.from_dict({**config.to_dict(), **change})


def test_numbers_without_a_dot_in_yaml_are_numbers(config):
    assert TrainConfig.from_dict({**config.to_dict(), "learning_rate": "1e-3"}).learning_rate == 1e-3


def test_pairs_are_found_by_name(tmp_path):
    pixel = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    for name in ("low/b.png", "low/a.webp", "low/x.png", "high/a.jpg", "high/b.png", "high/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixel.save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    assert [p.name for p in find_pairs(tmp_path / "low", tmp_path / "high")] == ["a", "b"]
    with pytest.raises(DataError, match="does not exist"):
        find_pairs(tmp_path / "nowhere", tmp_path / "high")
    pixel.save(tmp_path / "low/a.png")
    with pytest.raises(DataError, match="share the name"):
        find_pairs(tmp_path / "low", tmp_path / "high")


def test_the_command_trains_and_names_mistakes(config, tmp_path, capsys):
    from training_scripts.train import main

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert main([str(path), "--set", "phases=[{steps: 2, batch_size: 1, crop: 16}]", "--every", "1"]) == 0
    assert "Best validation PSNR" in capsys.readouterr().out
    assert main([str(path), "--set", "loss.nothing=1"]) == 1
    assert "loss.nothing" in capsys.readouterr().err
