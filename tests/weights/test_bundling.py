"""The command that puts a run's weights into the package."""

from __future__ import annotations

import json

import pytest

from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.training.config import TrainConfig
from semillie_core.weights import file_sha256, load_model, save_model
from training_scripts import bundle_weights


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    network = SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2))
    save_model(folder / "best.safetensors", network, {"step": "5", "training_config_sha256": "ab"})
    config = TrainConfig.from_dict({"run_dir": str(folder), "data": {}})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def test_provenance_without_this_machine(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle_weights, "BUNDLED_FOLDER", tmp_path)
    assert bundle_weights.main([str(run), "mine", "--data", "some photos"]) == 0
    provenance = load_model(tmp_path / "mine.safetensors").provenance
    assert provenance["data"] == "some photos" and provenance["step"] == "5"
    assert str(run) not in provenance["training_config"] and "runtime" not in provenance["training_config"]
    assert "step 5" in capsys.readouterr().out


def test_the_last_step_can_be_taken_instead_of_the_best(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_weights, "BUNDLED_FOLDER", tmp_path)
    best = load_model(run / "best.safetensors")
    save_model(run / "last.safetensors", best.network, {"step": "9", "training_config_sha256": "ab"})
    assert bundle_weights.main([str(run), "mine", "--weights", "last.safetensors", "--data", "x"]) == 0
    assert load_model(tmp_path / "mine.safetensors").provenance["step"] == "9"


def test_the_hash_that_doctor_compares_is_that_of_the_new_weights(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_weights, "BUNDLED_FOLDER", tmp_path)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  mine.safetensors\n{'1' * 64}  other.safetensors\n")
    assert bundle_weights.main([str(run), "mine", "--data", "x"]) == 0
    hashed = file_sha256(tmp_path / "mine.safetensors")
    assert sums.read_text() == f"{'1' * 64}  other.safetensors\n{hashed}  mine.safetensors\n"


def test_no_run(tmp_path, capsys):
    assert bundle_weights.main([str(tmp_path), "mine", "--data", "x"]) == 1
    assert "best.safetensors" in capsys.readouterr().err


def test_a_run_without_validation_is_told_which_weights_it_has(tmp_path, capsys):
    assert bundle_weights.main([str(tmp_path), "mine", "--data", "x"]) == 1
    assert "--weights" in capsys.readouterr().err
