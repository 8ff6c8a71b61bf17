"""The trainer: it learns, it resumes bit for bit, it refuses what it cannot do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image

from semillie_core.data import SourceConfig, TrainingData, UnpairedConfig, find_pairs
from semillie_core.data.pairs import read_levels, to_float
from semillie_core.inference import NOISE_REDUCTION_ALONE, enhance
from semillie_core.metrics import psnr, ssim
from semillie_core.network import SemiLLIE
from semillie_core.training import ConsistencyConfig, Phase, TrainConfig, TrainingError, train
from semillie_core.training.interrupts import interruptible
from semillie_core.training.journal import read_log
from semillie_core.training.pictures import write_grid
from semillie_core.training.validation import score_pairs
from semillie_core.weights import load_model, save_model

replace = dataclasses.replace


def validation_psnr(network, config):
    scores = score_pairs(network, find_pairs(config.data.val_low, config.data.val_high))
    return sum(score["psnr"] for score in scores) / len(scores)


def test_learns_and_exports_the_teacher(config):
    records = []
    result = train(replace(config, pictures_every=12), on_step=records.append)
    assert result.finished
    assert [r["step"] for r in records] == list(range(1, 25))
    scores = [r["val_psnr"] for r in records if "val_psnr" in r]
    assert result.best_psnr == max(scores) > validation_psnr(SemiLLIE(config.network).eval(), config) + 1
    model = load_model(result.best)
    assert validation_psnr(model.network, config) == pytest.approx(result.best_psnr, abs=1e-4)
    assert model.provenance["training_config_sha256"] == replace(config, pictures_every=12).sha256()
    assert read_log(result.best.parent) == records
    state = torch.load(result.best.parent / "state.pt", weights_only=True)
    last = load_model(result.last).network.state_dict()
    assert all(torch.equal(last[key], value) for key, value in state["teacher"].items())
    assert any(not torch.equal(state["student"][key], value) for key, value in state["teacher"].items())
    assert "2 validation pairs" in (result.best.parent / "data.txt").read_text().splitlines()
    report = result.report.read_text()
    assert "curves/loss.svg" in report
    assert "pictures/0000024.png" in report


def test_validation_scores_what_noise_reduction_leaves_where_the_losses_see_it(config):
    run = replace(config, phases=(Phase(2, 1, 16),), val_every=2)
    plain, reduced = [], []
    train(run, on_step=plain.append)
    learned = replace(run, run_dir=f"{run.run_dir}-reduced", loss=replace(run.loss, noise_reduced=0.5))
    result = train(learned, on_step=reduced.append)
    assert not any("noise_reduced" in name for name in plain[-1])
    pairs = find_pairs(run.data.val_low, run.data.val_high)
    network = load_model(result.last).network
    expected = []
    for pair in pairs:
        low, high = (to_float(read_levels(path))[None] for path in (pair.low, pair.high))
        image = enhance(network, low, controls=NOISE_REDUCTION_ALONE).image
        expected.append((psnr(image, high).item(), ssim(image, high).item()))
    means = [sum(column) / len(pairs) for column in zip(*expected, strict=True)]
    assert [reduced[-1][f"val_{name}_noise_reduced"] for name in ("psnr", "ssim")] == pytest.approx(
        means, abs=1e-4
    )
    assert reduced[-1]["val_psnr_noise_reduced"] != pytest.approx(reduced[-1]["val_psnr"], abs=1e-5)
    assert "| SSIM after noise reduction |" in result.report.read_text()


def test_semi_supervised_losses_fall(config):
    records = []
    phases = (Phase(40, 2, 32, 2),)
    train(replace(config, phases=phases), on_step=records.append)
    early, late = records[2:10], records[-8:]
    for name in ("structure", "perceptual"):
        before, after = (sum(r[name] for r in part) / len(part) for part in (early, late))
        assert after < before, name
    # What is asked for grows with the ramp, so compare the terms per unit of weight.
    weight = [0.2 * 2.718281828 ** (-5 * (1 - min(r["step"] - 1, 10) / 10) ** 2) for r in records]
    for name in ("consistency", "contrastive"):
        terms = [r[name] / w for r, w in zip(records, weight, strict=True)]
        assert sum(terms[-8:]) < sum(terms[2:10]), name


RUN = """
import sys
import torch
torch.set_num_threads(1)
from semillie_core.training import TrainConfig, train
if __name__ == "__main__":
    if len(sys.argv) > 2:
        torch.multiprocessing.set_start_method(sys.argv[2])
    train(TrainConfig.from_yaml(sys.argv[1]))
"""


@pytest.fixture
def start(config, tmp_path, repository):
    def launch(name, config, *arguments, errors=None, **environment):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(replace(config, run_dir=str(tmp_path / name)).to_dict()))
        environment = {**os.environ, "PYTHONPATH": str(repository), **environment}
        command = [sys.executable, "-c", RUN, str(path), *arguments]
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=errors)

    return launch


def losses(folder):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_log(folder)]


def wait_for_steps(folder, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(read_log(folder)) < count:
        time.sleep(0.01)


def test_a_killed_run_continues_bit_for_bit(config, tmp_path, start):
    banked = replace(
        config,
        consistency=replace(config.consistency, bank_every=6),
        network=replace(config.network, drop_path_rate=0.2),
    )
    assert start("unbroken", banked).wait(timeout=240) == 0
    broken = start("broken", banked)
    wait_for_steps(tmp_path / "broken", 8)
    broken.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    assert broken.wait(timeout=60) != 0
    assert (tmp_path / "broken" / "state.pt").exists()
    assert start("broken", banked).wait(timeout=240) == 0

    for file in ("last.safetensors", "best.safetensors"):
        expected = load_model(tmp_path / "unbroken" / file).network.state_dict()
        actual = load_model(tmp_path / "broken" / file).network.state_dict()
        assert all(torch.equal(actual[key], value) for key, value in expected.items())
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_an_interrupt_leaves_a_checkpoint_of_the_step(config, tmp_path, start):
    process = start("run", replace(config, checkpoint_every=1000))
    wait_for_steps(tmp_path / "run", 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert 3 <= state["step"] == len(read_log(tmp_path / "run")) < config.steps


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no process groups")
def test_terminating_the_whole_group_leaves_a_checkpoint_with_workers_too(config, tmp_path, start):
    data = replace(config.data, workers=2)
    process = start("run", replace(config, checkpoint_every=1000, data=data))
    wait_for_steps(tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert 3 <= state["step"] == len(read_log(tmp_path / "run")) < config.steps


def test_worker_processes_need_not_be_forked(config, tmp_path, start):
    consistency = replace(config.consistency, bank_every=2, contrastive=0.0)
    short = replace(config, phases=(Phase(3, 2, 32, 2),), consistency=consistency)
    assert start("thread", short).wait(timeout=240) == 0
    spawned = replace(short, data=replace(config.data, workers=1))
    assert start("spawned", spawned, "spawn").wait(timeout=240) == 0
    assert losses(tmp_path / "spawned") == losses(tmp_path / "thread")


@pytest.mark.parametrize(("number", "breaks"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_only_a_second_ctrl_c_breaks_the_step(number, breaks):
    with interruptible() as interrupted:
        for other in (signal.SIGTERM, number):
            signal.raise_signal(other)
            assert interrupted.is_set()
        with pytest.raises(KeyboardInterrupt) if breaks else contextlib.nullcontext():
            signal.raise_signal(number)


def test_two_processes_see_what_one_does(config, tmp_path, start):
    # Adam makes whole steps of the rounding of gradients near zero, so the steps are small, and few: on some machines
    # the fifth parts by 3e-5 what agreed to 1e-7.
    optimizer = replace(config.optimizer, learning_rate=4e-4)
    shared = replace(config, optimizer=optimizer, phases=(Phase(4, 4, 32, 4),))
    assert start("one", shared).wait(timeout=240) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with (tmp_path / "errors.txt").open("w") as errors:
        both = [
            start("two", shared, errors=errors, RANK=str(rank), LOCAL_RANK=str(rank), **launch)
            for rank in range(2)
        ]
        assert [process.wait(timeout=240) for process in both] == [0, 0]
    said = (tmp_path / "errors.txt").read_text()
    # Gradients fit into PyTorch's buckets as they come, and none is looked for that is not there.
    assert "bucket view" not in said and "find_unused_parameters" not in said, said
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    for expected, actual in zip(one, two, strict=True):
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_run_folder_of_another_config_is_refused(config):
    short = replace(config, phases=(Phase(1, 1, 16),))
    train(short)
    with pytest.raises(TrainingError, match=r"another config \(seed is 5, was 0\)"):
        train(replace(short, seed=5))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_damaged_checkpoint_is_named_with_the_remedy(config, tmp_path):
    short = replace(config, phases=(Phase(1, 1, 16, 1),), val_every=0)
    train(short)
    path = tmp_path / "run" / "state.pt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    for damaged in (
        b"",
        b"text",
        bytes(1000),
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        b"\x80\x02}X",
    ):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"state\.pt is damaged .*Remove it .*last\.safetensors"):
            train(short)
    for other, lacks in (
        ({k: v for k, v in state.items() if k not in {"rng", "step"}}, "rng, step"),
        ([], "bank"),
    ):
        torch.save(other, path)
        with pytest.raises(TrainingError, match=rf"state\.pt is no checkpoint of a run: it lacks {lacks}"):
            train(short)
    torch.save({**state, "step": Hostile(tmp_path / "made_by_pickle")}, path)
    with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
        train(short)
    assert not (tmp_path / "made_by_pickle").exists()
    path.unlink()
    assert train(short).finished


def test_the_best_weights_are_those_that_the_run_knows_of_wherever_it_stops(config, monkeypatch):
    class CrashError(Exception):
        pass

    def crash(record):
        if record["step"] == 4:
            raise CrashError

    scores = iter((10.0, 20.0, 5.0, 5.0, 5.0))

    def validate(*_, **__):
        return {"val_psnr": next(scores), "val_ssim": 0.5, "val_psnr_gt_mean": 20.0}

    monkeypatch.setattr("semillie_core.training.trainer.validate", validate)
    run = replace(config, phases=(Phase(5, 1, 16, 1),), checkpoint_every=100)
    with pytest.raises(CrashError):
        train(replace(run, val_every=1), on_step=crash)
    # What was scored after the checkpoint is not scored again.
    result = train(replace(run, val_every=100))
    assert (result.best_psnr, result.best_step) == (20.0, 2)
    assert load_model(result.best).provenance["step"] == "2"


def test_a_run_goes_on_when_only_its_intervals_change(config, tmp_path):
    short = replace(config, phases=(Phase(4, 1, 16, 1),), val_every=4)
    train(replace(short, run_dir=str(tmp_path / "unbroken")))
    train(short, on_step=lambda record: record["step"] == 2)
    assert train(replace(short, val_every=1, checkpoint_every=1, pictures_every=1)).finished
    scores = ["val_psnr" in record for record in read_log(tmp_path / "run")]
    assert scores == [False, False, True, True]
    unbroken, continued = (
        [{name: value for name, value in record.items() if not name.startswith("val_")} for record in run]
        for run in (losses(tmp_path / "unbroken"), losses(tmp_path / "run"))
    )
    assert continued == unbroken


def test_a_run_of_a_version_with_fewer_options_goes_on(config, tmp_path):
    short = replace(config, phases=(Phase(2, 1, 16),))
    train(short)
    path = tmp_path / "run" / "state.pt"
    state = torch.load(path, weights_only=True)
    stored = json.loads(state["config"])
    del stored["data"]["light_colour_jitter"]
    del state["files"]
    torch.save({**state, "config": json.dumps(stored), "config_sha256": "another"}, path)
    assert train(short).finished
    stored["data"]["an_option_of_the_future"] = 1
    torch.save({**state, "config": json.dumps(stored)}, path)
    with pytest.raises(TrainingError, match=r"another version.*an_option_of_the_future"):
        train(short)


def test_a_run_on_other_files_is_refused(config, tmp_path, photos):
    for folder in ("low", "high", "night", "validation"):
        shutil.copytree(photos / folder, tmp_path / folder)
    save_model(tmp_path / "start.safetensors", SemiLLIE(config.network))
    data = replace(
        config.data,
        sources=(SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),),
        unpaired=(UnpairedConfig(str(tmp_path / "night")),),
        val_low=str(tmp_path / "validation" / "low"),
        val_high=str(tmp_path / "validation" / "high"),
    )
    short = replace(
        config, phases=(Phase(1, 1, 16),), data=data, init=str(tmp_path / "start.safetensors"), val_every=1
    )
    train(short)
    assert train(short).finished
    (tmp_path / "low" / "0.png").unlink()
    shutil.copy(tmp_path / "night" / "6.png", tmp_path / "night" / "new.png")
    shutil.copy(tmp_path / "high" / "1.png", tmp_path / "validation" / "low" / "0.png")
    shutil.copy(tmp_path / "high" / "2.png", tmp_path / "high" / "1.png")
    torch.manual_seed(1)
    save_model(tmp_path / "start.safetensors", SemiLLIE(config.network))
    with pytest.raises(TrainingError, match="run on other files") as caught:
        train(short)
    assert "2 gone" in str(caught.value) and "low/0.png" in str(caught.value)
    assert "1 new" in str(caught.value) and "night/new.png" in str(caught.value)
    assert "3 changed" in str(caught.value) and "start.safetensors" in str(caught.value)
    # Runs of versions that did not note their files go on.
    path = tmp_path / "run" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["files"]
    torch.save(state, path)
    assert train(short).finished


def test_an_exploding_loss_stops_the_run_and_keeps_the_checkpoint(config, tmp_path):
    train(replace(config, phases=(Phase(5, 2, 32),)))
    wild = replace(config.optimizer, learning_rate=1e12, gradient_clip=0.0, warmup_steps=0)
    explosive = replace(config, run_dir=str(tmp_path / "wild"), optimizer=wild)
    with pytest.raises(TrainingError, match="not finite"):
        train(explosive)
    log = [json.loads(line) for line in (tmp_path / "wild" / "log.jsonl").read_text().splitlines()]
    assert all(torch.isfinite(torch.tensor(record["loss"])) for record in log)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phases": (Phase(2, 3, 32),), "optimizer": {"accumulate": 2}}, "multiple of 2"),
        (
            {"phases": (Phase(2, 2, 32), Phase(2, 2, 10))},
            "crop of 10 pixels .* make it at least 11, or set loss.ssim",
        ),
        ({"data": {"unpaired": ()}}, "data.unpaired"),
        ({"data": {"unpaired": (), "unpaired_from_pairs": True}}, "data.pair_fraction must leave pairs out"),
        (
            {"data": {"unpaired": ()}, "phases": (Phase(2, 2, 32), Phase(2, 2, 32, 2))},
            "A phase asks for unpaired photos",
        ),
        (
            {"official_compat": True, "optimizer": {"schedule": "released", "epoch_steps": 5}},
            "name it in encoder, or set loss.perceptual",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_before_training(config, change, says):
    for name, value in change.items():
        inner = getattr(config, name)
        change[name] = replace(inner, **value) if isinstance(value, dict) else value
    with pytest.raises(TrainingError, match=says):
        train(replace(config, **change))


def test_a_validation_photo_too_small_to_score_is_refused_before_training(config, tmp_path):
    for folder in ("low", "high"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 10)).save(tmp_path / folder / "strip.png")
    data = replace(config.data, val_low=str(tmp_path / "low"), val_high=str(tmp_path / "high"))
    with pytest.raises(TrainingError, match=r"strip\.png is smaller than SSIM's window of 11 pixels"):
        train(replace(config, data=data))
    assert train(replace(config, data=data, val_every=0, phases=(Phase(1, 1, 16),))).finished


def test_the_released_arithmetic_needs_no_ram_without_semantic_losses(config):
    released = replace(
        config,
        official_compat=True,
        phases=(Phase(1, 1, 16, 1),),
        loss=replace(config.loss, perceptual=0.0),
        consistency=replace(config.consistency, contrastive=0.0),
        optimizer=replace(config.optimizer, schedule="released", epoch_steps=1),
        val_every=0,
    )
    assert train(released).finished


def test_unpaired_photos_without_weight_and_no_validation(config):
    without = replace(
        config,
        phases=(Phase(2, 2, 32, 2),),
        loss=replace(config.loss, perceptual=0.0),
        consistency=replace(config.consistency, weight=0.0),
        val_every=0,
    )
    records = []
    result = train(without, on_step=records.append)
    assert [record["consistency"] for record in records] == [0, 0]
    assert not any("val_psnr" in record for record in records)
    assert (result.best, result.best_step) == (result.last, -1)


def test_validation_photos_must_not_be_training_photos(config):
    data = replace(config.data, val_low=config.data.sources[0].low, val_high=config.data.sources[0].high)
    with pytest.raises(ValueError, match="among the training photos"):
        train(replace(config, data=data))


def test_the_command_trains_and_names_mistakes(config, tmp_path, capsys):
    from training_scripts.train import main

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert main([str(path), "--set", "phases=[{steps: 2, batch_size: 1, crop: 16}]", "--every", "1"]) == 0
    assert "Best validation PSNR" in capsys.readouterr().out
    assert main([str(path), "--set", "loss.nothing=1"]) == 1
    assert "loss.nothing" in capsys.readouterr().err
    assert main([str(path), "--set", "runtime.device=foo"]) == 1
    assert "no foo device" in capsys.readouterr().err
    assert main([]) == 1
    assert "--preset" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(path), "--every", "0"])
    assert "--every must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(path), "--sheets", str(tmp_path / "sheets")])
    assert "add --check" in capsys.readouterr().err


def test_a_check_shows_the_batches_that_training_would_see(config, tmp_path, capsys):
    from training_scripts.train import main

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert main([str(path), "--check"]) == 0
    said = capsys.readouterr().out
    assert "6 pairs used" in said and "2 validation pairs" in said
    assert "phase 2, step 20: 1 crops of" in said
    sheets = sorted((tmp_path / "run" / "check").iterdir())
    assert [sheet.name for sheet in sheets] == ["phase1-pairs.png", "phase1-unpaired.png", "phase2-pairs.png"]
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["check"]
    data = TrainingData(config.data, config.seed, config.network.thumbnail)
    batch, unpaired = data.paired(0, 2, 32), data.unpaired(0, 2, 32)
    for sheet, columns in zip(
        sheets, ([batch.low, batch.high], [unpaired.weak, unpaired.strong]), strict=False
    ):
        write_grid(tmp_path / "expected.png", columns)
        assert sheet.read_bytes() == (tmp_path / "expected.png").read_bytes()
    elsewhere = ["--check", "--sheets", str(tmp_path / "sheets"), "--set", f"run_dir={tmp_path / 'other'}"]
    assert main([str(path), *elsewhere]) == 0
    assert len(list((tmp_path / "sheets").iterdir())) == 3 and not (tmp_path / "other").exists()
    assert main([str(path), "--check", "--set", f"encoder={tmp_path / 'none.pth'}"]) == 1
    assert "none.pth does not exist" in capsys.readouterr().err
    assert main([str(path), "--check", "--set", "data.unpaired=[]"]) == 1
    assert "A phase asks for unpaired photos" in capsys.readouterr().err


def test_a_yaml_file_and_a_preset_combine(config, tmp_path):
    from training_scripts.train import read_config

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"seed": 7, "loss": {"ssim": 0.5}}))
    combined = read_config(path, "cpu_demo", ["consistency.weight=0.3"])
    assert (combined.seed, combined.loss.ssim, combined.loss.perceptual) == (7, 0.5, 0.05)
    assert combined.consistency == ConsistencyConfig(weight=0.3, ramp_steps=30)
    assert isinstance(combined, TrainConfig)
