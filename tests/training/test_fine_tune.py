"""Fine-tuning a loaded model on a user's own photos."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys

import numpy as np
import pytest
import torch

from semillie_core.data import read_rgb
from semillie_core.inference import NETWORK_ALONE, NOISE_REDUCTION_ALONE, enhance
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.training import FineTuneOptions, LossConfig, Phase, fine_tune
from semillie_core.training.journal import read_log
from semillie_core.weights import SemiLLIEModel, load_model
from training_scripts import fine_tune as script

fine_tune_module = sys.modules[fine_tune.__module__]

SMALL = SemiLLIEConfig(
    embed_dim=32, depths=(1,), d_state=2, expand=1.0, downscale=4, thumbnail=16, thumbnail_depth=1
)
OPTIONS = FineTuneOptions(steps=6, learning_rate=2e-3, batch_size=1, crop=32, contrastive=0.0)


@pytest.fixture
def model():
    torch.manual_seed(1)
    network = SemiLLIE(SMALL).eval().requires_grad_(False)
    return SemiLLIEModel(
        network, "small", {"file": "small.safetensors", "licence": "Apache-2.0", "data": "my photos"}
    )


@pytest.fixture
def dark():
    generator = torch.Generator().manual_seed(2)
    return [0.1 * torch.rand(3, *size, generator=generator) for size in ((48, 64), (70, 50), (33, 32))]


def weights(model):
    return torch.cat([value.flatten() for value in model.network.state_dict().values()])


def test_pairs_teach_what_results_should_be(model, dark, tmp_path):
    def error(tuned):
        with torch.no_grad():
            return sum(float((tuned.network(x[None]).image[0] - y).abs().mean()) for x, y in pairs)

    pairs = [(photo, (6 * photo).clamp(0, 1)) for photo in dark]
    before = weights(model).clone()
    options = FineTuneOptions(steps=40, learning_rate=2e-3, batch_size=2, crop=32, contrastive=0.0)
    result = fine_tune(model, dark, tmp_path, pairs=pairs, options=options)
    assert error(result.model) < 0.7 * error(model)
    assert torch.equal(weights(model), before)
    assert len(result.losses) == 40


def test_without_pairs_the_look_stays(model, dark, tmp_path):
    result = fine_tune(model, dark, tmp_path, options=OPTIONS)
    with torch.no_grad():
        change = [
            (result.model.network(x[None]).image - model.network(x[None]).image).abs().mean() for x in dark
        ]
    assert not torch.equal(weights(result.model), weights(model))
    assert max(change) < 0.05
    about = result.model.provenance
    assert (about["licence"], about["data"], about["fine_tuned_from"]) == ("Apache-2.0", "my photos", "small")


def test_own_results_take_the_place_of_references_without_their_noise(model, dark, tmp_path):
    result = fine_tune(model, dark, tmp_path, options=OPTIONS)
    for index, photo in enumerate(dark):
        # Photos are learned from in eight bits.
        seen = (photo * 255).round()[None] / 255
        own, alone = (
            enhance(model, seen, controls=c).image[0] for c in (NOISE_REDUCTION_ALONE, NETWORK_ALONE)
        )
        reference = read_rgb(result.run / "photos" / "after" / f"{index:05d}.png") / 255
        torch.testing.assert_close(reference, own, atol=0.6 / 255, rtol=0)
        assert (reference - alone).abs().max() > 1 / 255


def test_interrupted_anywhere_it_ends_as_an_unbroken_run(model, dark, tmp_path):
    class CancelError(Exception):
        pass

    def cancel_at(step):
        def progress(done, total, preview):
            assert total == 6
            if done == step:
                raise CancelError

        return progress

    whole = fine_tune(model, dark, tmp_path / "whole", options=OPTIONS)
    for step in (0, 1, 4):
        with pytest.raises(CancelError):
            fine_tune(model, dark, tmp_path / "parts", options=OPTIONS, progress=cancel_at(step))
    (folder,) = (tmp_path / "parts").iterdir()
    assert read_log(folder)[-1]["step"] == 4
    parts = fine_tune(model, dark, tmp_path / "parts", options=OPTIONS)
    assert torch.equal(weights(parts.model), weights(whole.model))
    assert parts.losses == whole.losses


def test_it_can_be_stopped_inside_a_photo(model, dark, tmp_path):
    class CancelError(Exception):
        pass

    told = []

    def cancel():
        # Each photo is told of before it is worked on.
        if len(told) == 2:
            raise CancelError

    with pytest.raises(CancelError):
        fine_tune(
            model, dark, tmp_path, options=OPTIONS, progress=lambda *state: told.append(state), check=cancel
        )
    assert [file.name for file in tmp_path.rglob("*.png")] == ["00000.png"]
    assert len(fine_tune(model, dark, tmp_path, options=OPTIONS, check=lambda: None).losses) == 6


def test_it_goes_on_in_the_same_folder_by_another_name(model, dark, tmp_path, monkeypatch):
    first = fine_tune(model, dark, tmp_path / "runs", options=OPTIONS)
    monkeypatch.chdir(tmp_path)
    again = fine_tune(model, dark, "runs", options=OPTIONS)
    assert again.run == first.run


def test_the_same_again_returns_at_once_and_anything_else_is_another_run(model, dark, tmp_path):
    steps = []
    first = fine_tune(model, dark, tmp_path, options=OPTIONS)
    again = fine_tune(model, dark, tmp_path, options=OPTIONS, progress=lambda done, *_: steps.append(done))
    assert not any(steps)
    assert again.run == first.run
    assert torch.equal(weights(again.model), weights(first.model))
    others = [
        fine_tune(model, dark[:2], tmp_path, options=OPTIONS),
        fine_tune(model, dark, tmp_path, options=FineTuneOptions(**{**vars(OPTIONS), "seed": 1})),
        fine_tune(first.model, dark, tmp_path, options=OPTIONS),
    ]
    assert len({first.run, *(other.run for other in others)}) == 4
    assert others[1].losses != first.losses


def test_a_run_is_named_by_everything_that_decides_its_result(model, tmp_path, monkeypatch):
    wide, other = np.zeros((2, 40, 60, 3), np.uint8), SemiLLIE(SMALL)
    upright = wide.reshape(2, 60, 40, 3)
    changes = [
        {},
        {"folder": tmp_path / "other"},
        {"name": "another"},
        {"start": other},
        {"photos": [[*upright], [], []]},
        {"photos": [[wide[0]], [wide[1]], []]},
        {"photos": [[], [*wide], []]},
        {"options": dataclasses.replace(OPTIONS, consistency=0.1)},
        {"encoder": "ram.pth"},
    ]
    given = {
        "folder": tmp_path,
        "name": "small",
        "start": model.network,
        "photos": [[*wide], [], []],
        "options": OPTIONS,
        "encoder": "",
    }
    runs = [fine_tune_module._run_folder(**given | change) for change in changes]
    assert fine_tune_module._run_folder(**given) == runs[0]
    monkeypatch.setattr(fine_tune_module, "_LOSS", LossConfig())
    assert len({*runs, fine_tune_module._run_folder(**given)}) == len(changes) + 1


def test_options_reach_the_run(model, dark, tmp_path):
    options = FineTuneOptions(
        steps=30, learning_rate=1e-3, batch_size=3, crop=48, consistency=0.7, contrastive=0.2, seed=9
    )
    config = fine_tune_module._config(tmp_path, model, options, "ram.pth", "cpu")
    assert config.phases == (Phase(30, 3, 48, 3),)
    assert (config.consistency.weight, config.consistency.ramp_steps, config.consistency.contrastive) == (
        0.7,
        0,
        0.2,
    )
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps) == (1e-3, 3)
    assert config.teacher.decay == pytest.approx(1 - 10 / 30)
    assert (config.seed, config.encoder, config.loss) == (9, "ram.pth", fine_tune_module._LOSS)
    # What the bundled weights were trained with.
    assert (config.loss.detail, config.loss.noise_reduced) == (1.0, 0.5)
    alone = fine_tune_module._config(tmp_path, model, dataclasses.replace(options, consistency=0), "", "cpu")
    assert alone.phases == (Phase(30, 3, 48, 0),)


@pytest.mark.parametrize(("share", "expected"), [(math.inf, [1, 3, 6]), (1e-9, [1, 6])])
def test_a_preview_changes_nothing_and_comes_now_and_then(dark, tmp_path, monkeypatch, share, expected):
    torch.manual_seed(1)
    network = SemiLLIE(dataclasses.replace(SMALL, depths=(2,), drop_path_rate=0.9))
    model, pictures = SemiLLIEModel(network, "dropping"), []
    unseen = fine_tune(model, dark, tmp_path / "unseen", options=OPTIONS)
    monkeypatch.setattr(fine_tune_module, "_PREVIEWS", 2)
    monkeypatch.setattr(fine_tune_module, "_PREVIEW_SHARE", share)
    seen = fine_tune(
        model,
        dark,
        tmp_path / "seen",
        options=OPTIONS,
        progress=lambda done, _, p: pictures.append((done, p)),
    )
    assert torch.equal(weights(seen.model), weights(unseen.model))
    assert [done for done, _ in pictures if done] == [1, 2, 3, 4, 5, 6]
    assert [done for done, picture in pictures if picture is not None] == expected


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"),
    [
        (96, 0.0, [1, *range(4, 97, 4)]),
        (96, 1.0, [1, 20, 40, 60, 80, 96]),
        (96, 100.0, [1, 96]),
        (10, 0.1, [1, 3, 5, 7, 9, 10]),
        (10, 1.0, [1, 10]),
        (1, 1.0, [1]),
    ],
)
def test_previews_leave_nearly_all_of_the_time_to_steps(monkeypatch, steps, seconds, expected):
    now, shown = [0.0], []
    monkeypatch.setattr(fine_tune_module, "perf_counter", lambda: now[0])
    previews = fine_tune_module._Previews(steps)
    for step in range(1, steps + 1):
        now[0] += 1
        if previews.due(step):
            with previews.timed():
                now[0] += seconds
            shown.append(step)
    assert shown == expected


def test_it_works_where_gradients_are_off_and_leaves_randomness_alone(model, dark, tmp_path):
    outside = fine_tune(model, dark, tmp_path / "outside", options=OPTIONS)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():
        network = SemiLLIE(SMALL)
        network.load_state_dict(model.network.state_dict())
        inside = fine_tune(SemiLLIEModel(network, "small"), dark, tmp_path / "inside", options=OPTIONS)
    assert torch.equal(weights(inside.model), weights(outside.model))
    torch.manual_seed(5)
    fine_tune(model, dark, tmp_path / "third", options=OPTIONS)
    assert torch.equal(torch.rand(3), expected)


def test_ctrl_c_ends_after_a_checkpoint(model, dark, tmp_path):
    def press(done, total, preview):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, dark, tmp_path, options=OPTIONS, progress=press)
    steps = []
    fine_tune(model, dark, tmp_path, options=OPTIONS, progress=lambda done, *_: steps.append(done))
    assert next(step for step in steps if step) == 3


def test_the_script_writes_a_model_and_goes_on_where_it_stopped(photos, tmp_path, capsys):
    output = tmp_path / "mine.safetensors"
    call = [
        str(photos / "night"),
        "--pairs",
        str(photos / "low"),
        str(photos / "high"),
        "--output",
        str(output),
    ]
    call += [
        "--steps",
        "2",
        "--crop",
        "32",
        "--batch-size",
        "1",
        "--contrastive",
        "0",
        "--runs",
        str(tmp_path),
    ]
    assert script.main(call) == 0
    tuned = load_model(output)
    assert tuned.provenance["fine_tuned_from"] == "semillie-compact"
    assert script.main(call) == 1
    assert "--force" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.pt")}
    assert script.main([*call, "--force"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.pt")} == before
    assert script.main([*call, "--output", str(tmp_path / "x.pth")]) == 1
    assert "x.pth must end in .safetensors" in capsys.readouterr().err
    assert script.main([*call, "--force", "--device", "foo"]) == 1
    assert "no foo device" in capsys.readouterr().err
    assert script.main([str(tmp_path / "nothing"), *call[1:], "--force"]) == 1
    assert "nothing" in capsys.readouterr().err


def test_previews_show_before_and_after(model, dark, tmp_path):
    pictures = []
    fine_tune(model, dark, tmp_path, options=OPTIONS, progress=lambda done, total, p: pictures.append(p))
    shown = [picture for picture in pictures if picture is not None]
    assert shown[0] is pictures[-6] and shown[-1] is pictures[-1]
    assert shown[-1].shape == (3, 48, 128)
    torch.testing.assert_close(shown[-1][:, :, :64], dark[0], atol=1 / 255, rtol=0)


def test_contrast_changes_what_is_learned(model, dark, tmp_path):
    with_it = FineTuneOptions(**{**vars(OPTIONS), "contrastive": 1.0, "steps": 2})
    without = FineTuneOptions(**{**vars(OPTIONS), "steps": 2})
    results = [fine_tune(model, dark, tmp_path, options=options) for options in (with_it, without)]
    assert not torch.equal(weights(results[0].model), weights(results[1].model))
    assert "contrastive" in read_log(results[0].run)[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dark": []}, "no dark photo"),
        ({"dark": [torch.rand(3, 20, 64)]}, "Dark photo 1 has 64x20 pixels"),
        ({"dark": [torch.rand(3, 48, 48), torch.full((3, 48, 48), torch.nan)]}, "Dark photo 2 has values"),
        ({"dark": [torch.rand(1, 48, 48)]}, "must have shape"),
        ({"pairs": [(torch.rand(3, 48, 48), torch.rand(3, 48, 50))]}, "Pair 1.*48x48 and 50x48"),
    ],
)
def test_photos_that_cannot_be_used_are_named(model, dark, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(model, **{"dark": dark, **change}, folder=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"crop": 31},
        {"learning_rate": 0.0},
        {"learning_rate": 0.2},
        {"consistency": -1.0},
        {"contrastive": -1.0},
    ],
)
def test_options_out_of_range_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=name):
        FineTuneOptions(**change)
