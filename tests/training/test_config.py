"""Configs: YAML in and out, mistakes named, schedules and presets."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from semillie_core.training import OptimizerConfig, Phase, TeacherConfig, TrainConfig
from semillie_core.training.config import ConsistencyConfig
from semillie_core.training.options import describe, options, tooltip
from semillie_core.training.presets import PRESETS, preset
from semillie_core.training.schedules import consistency_weight, epoch, learning_rate, teacher_decay
from semillie_core.training.yaml_text import read_yaml
from training_scripts.train import read_config


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
        ({"seed": "three"}, "seed must be of the kind whole number"),
        ({"phases": [{"steps": 1}]}, r"phases\[0\]\.batch_size is required"),
        ({"data": {"sources": "here"}}, r"data\.sources must be a list"),
        ({"data": 3}, "data must have options of its own"),
        ({"network": {"embed_dim": 30}}, "embed_dim"),
        ({"runtime": {"amp": "int8"}}, "runtime.amp"),
        ({"runtime": {"threads": -1}}, "runtime.threads must be at least 0"),
        ({"data": {"pair_fraction": 0}}, "pair_fraction"),
        ({"phases": []}, "at least one phase"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"val_every": -1}, "val_every must be at least 0"),
        ({"consistency": {"ramp_steps": -1}}, "ramp_steps"),
        ({"init": "semillie-compact", "spandrel": "nafnet.pth"}, "init and spandrel both name a checkpoint"),
        (
            {"spandrel": "nafnet.pth", "runtime": {"checkpoint_blocks": True}},
            "works with Semi-LLIE networks only",
        ),
    ],
)
def test_config_mistakes_are_named(config, change, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig.from_dict({**config.to_dict(), **change})


def test_off_is_a_word_to_options_of_text_and_false_to_those_of_truth(config, tmp_path):
    path = tmp_path / "c.yaml"
    values = yaml.safe_dump({name: value for name, value in config.to_dict().items() if name != "runtime"})
    for words, amp, compiled in (
        ("{amp: off, compile: no}", "off", False),
        ("{amp: bf16, compile: On}", "bf16", True),
        ("{compile: true}", "off", True),
    ):
        path.write_text(f"{values}runtime: {words}\n")
        runtime = TrainConfig.from_yaml(path).runtime
        assert (runtime.amp, runtime.compile) == (amp, compiled)
    path.write_text(f"{values}runtime: {{compile: perhaps}}\n")
    with pytest.raises(
        ValueError, match=r"runtime\.compile must be of the kind true or false, got 'perhaps'"
    ):
        TrainConfig.from_yaml(path)


def test_what_is_no_text_is_no_config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"c\.yaml is not a text file"):
        TrainConfig.from_yaml(path)
    with pytest.raises(IsADirectoryError, match="name a config file"):
        TrainConfig.from_yaml(tmp_path)


def test_an_option_given_twice_is_named_with_its_lines(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\nloss:\n  ssim: 0.1\n  colour: 0.1\n  ssim: 0.2\n")
    with pytest.raises(ValueError, match=r"c\.yaml gives ssim in line 3 and again in line 5"):
        TrainConfig.from_yaml(path)
    with pytest.raises(ValueError, match="--set loss gives ssim in line 1"):
        read_config(None, "cpu_demo", ["loss={ssim: 1, ssim: 2}"])
    # What is merged in may be replaced.
    path.write_text("loss: &a {ssim: 0.1}\nteacher:\n  <<: *a\n  ssim: 3\n")
    assert read_yaml(path)["teacher"] == {"ssim": 3}
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"c\.yaml is not a YAML mapping"):
        TrainConfig.from_yaml(path)


def test_a_preset_given_as_a_file_is_told_from_one(tmp_path):
    with pytest.raises(ValueError, match=r"no config file cpu_demo.*--preset"):
        read_config(Path("cpu_demo"), None, [])


def test_numbers_without_a_dot_in_yaml_are_numbers(config):
    values = {**config.to_dict(), "optimizer": {"learning_rate": "1e-3"}}
    assert TrainConfig.from_dict(values).optimizer.learning_rate == 1e-3


def test_hash_ignores_where_and_how_a_run_computes(config):
    runtime = dataclasses.replace(config.runtime, threads=3, device="cpu")
    moved = dataclasses.replace(
        config,
        run_dir="elsewhere",
        runtime=runtime,
        data=dataclasses.replace(config.data, workers=2, cache_mib=5),
        checkpoint_every=7,
        pictures_every=7,
        val_every=7,
    )
    assert moved.sha256() == config.sha256()
    assert moved.differences(config.to_dict()) == []
    assert dataclasses.replace(config, seed=1).sha256() != config.sha256()
    silent = dataclasses.replace(config, val_every=0)
    assert silent.differences(config.to_dict()) == ["val_every is 0, was 'above 0'"]


def test_differences_are_named(config):
    optimizer = dataclasses.replace(config.optimizer, learning_rate=0.5)
    phases = (*config.phases, config.phases[0])
    found = dataclasses.replace(config, optimizer=optimizer, phases=phases).differences(config.to_dict())
    assert len(found) == 2
    assert found[0].startswith("phases is [")
    assert found[1] == f"optimizer.learning_rate is 0.5, was {config.optimizer.learning_rate}"


def test_learning_rate_warms_up_and_decays(config):
    rates = [learning_rate(config, step) for step in range(config.steps)]
    assert rates[0] == config.optimizer.learning_rate / 2
    assert max(rates) == config.optimizer.learning_rate
    assert rates[-1] == pytest.approx(config.optimizer.final_learning_rate)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_released_schedules(shared_dir, config):
    facts = json.loads((shared_dir / "fixtures" / "semillie_training_schedule.json").read_text())
    teacher = TeacherConfig(decay=0.996, warmup="released")
    for iteration, alpha in facts["ema_alpha_by_iteration"]:
        assert teacher_decay(teacher, iteration) == pytest.approx(alpha, abs=1e-6)
    optimizer = OptimizerConfig(learning_rate=2e-4, schedule="released", epoch_steps=7)
    run = dataclasses.replace(
        config,
        optimizer=optimizer,
        phases=(Phase(7 * 200, 1, 8),),
        consistency=ConsistencyConfig(weight=0.1),
    )
    for row in facts["schedule"]:
        step = (row["epoch"] - 1) * 7 + 3
        assert epoch(optimizer, step) == row["epoch"]
        assert learning_rate(run, step) == pytest.approx(row["lr_used"], rel=1e-9)
        weight = consistency_weight(run, step)
        assert weight == pytest.approx(row["consistency_weight_ram_trainer"], rel=1e-9)


def test_released_schedules_at_their_turns(config):
    optimizer = OptimizerConfig(learning_rate=2e-4, schedule="released", epoch_steps=7)
    run = dataclasses.replace(config, optimizer=optimizer, consistency=ConsistencyConfig(weight=0.1))
    rates = {number: learning_rate(run, (number - 1) * 7) for number in (1, 101, 102, 151, 152, 200)}
    assert rates == pytest.approx({1: 2e-4, 101: 2e-4, 102: 2e-5, 151: 2e-5, 152: 2e-6, 200: 2e-6})
    weights = [consistency_weight(run, (number - 1) * 7 + 6) for number in (1, 40, 100, 150)]
    assert weights == pytest.approx([0.1 * math.exp(-5 * 0.99**2), 0.1 * math.exp(-1.8), 0.1, 0.1])


def test_the_teacher_begins_with_the_student_and_remembers_ever_longer():
    gradual, released = TeacherConfig(decay=0.9), TeacherConfig(decay=0.9, warmup="released")
    assert [teacher_decay(gradual, step) for step in (0, 9, 1000)] == [2 / 11, 11 / 20, 0.9]
    assert [teacher_decay(released, step) for step in (0, 1, 4, 1000)] == [0, 0.5, 0.8, 0.9]


def test_released_schedules_need_the_length_of_an_epoch(config):
    with pytest.raises(ValueError, match=r"set optimizer\.epoch_steps"):
        OptimizerConfig(schedule="released")
    with pytest.raises(ValueError, match=r"set optimizer\.schedule to released and optimizer\.epoch_steps"):
        dataclasses.replace(config, official_compat=True)


def test_the_ramp_begins_with_the_first_unpaired_photos(config):
    ramp = dataclasses.replace(config.consistency, weight=0.2, ramp_steps=10)
    semi, pairs = Phase(20, 2, 32, 2), Phase(7, 2, 32)
    for before in ((), (pairs,), (pairs, pairs)):
        run = dataclasses.replace(config, consistency=ramp, phases=(*before, semi, pairs, semi))
        start = 7 * len(before)
        weights = [consistency_weight(run, start + step) for step in (0, 5, 10, 40)]
        assert weights == pytest.approx([0.2 * math.exp(-5), 0.2 * math.exp(-5 / 4), 0.2, 0.2])
    assert consistency_weight(dataclasses.replace(run, consistency=ConsistencyConfig(0.2, 0)), 14) == 0.2


def test_every_option_is_described_once():
    for option in options(TrainConfig):
        assert len(option.text) > 10, option.name
    assert "SSIM" in tooltip(TrainConfig, "loss.ssim")
    assert "phases[].crop" in describe(TrainConfig)
    with pytest.raises(KeyError):
        tooltip(TrainConfig, "loss.nothing")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    values = {"run_dir": "r", **preset(name)}
    values.setdefault("data", {})
    config = TrainConfig.from_dict(values)
    assert config.steps >= 60
    with pytest.raises(ValueError, match="no preset"):
        preset("nothing")


@pytest.mark.parametrize(
    "option",
    [
        "optimizer.gradient_clip=-1",
        "optimizer.learning_rate=-0.1",
        "optimizer.learning_rate=.nan",
        "optimizer.warmup_steps=-5",
        "consistency.weight=-1",
        "loss.ssim=.inf",
    ],
)
def test_amounts_that_would_train_uphill_are_refused(option):
    name, _, value = option.partition("=")
    section, field = name.split(".")
    number = float(value.replace(".nan", "nan").replace(".inf", "inf"))
    with pytest.raises(ValueError, match=re.escape(name)):
        TrainConfig.from_dict({**preset("cpu_demo"), section: {field: number}})
