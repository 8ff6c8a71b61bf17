"""``python -m training_scripts.evaluate`` from files to table and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from semillie_core.data import read_rgb
from semillie_core.inference import NETWORK_ALONE, enhance
from semillie_core.metrics import psnr
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import load_model, save_model
from training_scripts.evaluate import main


@pytest.fixture
def files(tmp_path):
    save_model(tmp_path / "tiny.safetensors", SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2)))
    random = np.random.default_rng(0)
    for folder in ("low", "high"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        high = random.integers(30, 220, (96, 192, 3), dtype=np.uint8)
        Image.fromarray(high).save(tmp_path / "high" / f"{name}.png")
        Image.fromarray(high // 5).save(tmp_path / "low" / f"{name}.png")
    return tmp_path


def run(files, *more):
    pairs = ["--pairs", str(files / "low"), str(files / "high")]
    return main(["--model", str(files / "tiny.safetensors"), *pairs, *more])


def test_table_and_json_hold_the_scores_of_the_model(files, capsys):
    assert run(files, "--json", str(files / "new" / "scores.json")) == 0
    values = json.loads((files / "new" / "scores.json").read_text(encoding="utf-8"))
    low, high = (read_rgb(files / side / "b.png").unsqueeze(0).float() / 255 for side in ("low", "high"))
    with torch.no_grad():
        expected = psnr(
            enhance(load_model(files / "tiny.safetensors"), low, controls=NETWORK_ALONE).image, high
        ).item()
    assert values["images"]["b"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert values["model"] == "tiny" and values["count"] == 2
    assert f"**{values['means']['psnr']['mean']:.2f}**" in capsys.readouterr().out
    assert [path.name for path in (files / "new").iterdir()] == ["scores.json"]


def test_the_network_alone_unless_controls_are_asked_for(files, capsys):
    network = SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2, downscale=4, thumbnail=16))
    save_model(files / "tiny.safetensors", network)
    lit = ["--pairs", str(files / "high"), str(files / "high"), "--json", str(files / "scores.json")]
    scores = []
    for flags in ([], ["--with-controls"]):
        assert run(files, *lit, *flags) == 0
        values = json.loads((files / "scores.json").read_text(encoding="utf-8"))
        assert values["with_controls"] == bool(flags)
        assert ("default controls" in capsys.readouterr().out) == bool(flags)
        scores.append(values["means"]["psnr"]["mean"])
    # An untrained network brightens; the controls leave photos that are lit well alone.
    assert scores[0] < 20
    assert float(scores[1]) > 60


def test_images_without_a_partner_are_named(files, capsys):
    Image.new("RGB", (192, 96)).save(files / "high" / "c_gt.png")
    assert run(files) == 0
    said = capsys.readouterr().out
    assert (
        f"1 images have no partner of the same name and are not scored: {files / 'high' / 'c_gt.png'}" in said
    )


def test_mistakes_are_one_line(files, capsys):
    assert run(files, "--tile", "7") == 1
    assert main(["--model", "nonsense", "--pairs", str(files / "low"), str(files / "high")]) == 1
    assert run(files, "--pairs", str(files / "low"), str(files / "nowhere")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "nonsense" in errors[1] and "nowhere" in errors[2]


def test_images_of_another_program(files, capsys):
    (files / "peer").mkdir()
    for name in ("a", "b"):
        Image.open(files / "high" / f"{name}.png").point(lambda v: v - 10).save(
            files / "peer" / f"{name}.bmp"
        )
    arguments = ["--outputs", str(files / "peer"), "--pairs", str(files / "low"), str(files / "high")]
    assert main([*arguments, "--json", str(files / "peer.json")]) == 0
    values = json.loads((files / "peer.json").read_text(encoding="utf-8"))
    assert values["model"] is None and values["outputs"] == str(files / "peer")
    for scores in values["images"].values():
        assert scores["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    (files / "peer" / "b.bmp").unlink()
    assert main(arguments) == 1
    assert "no result for b" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--model", "semillie-compact"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--json", "{files}"], "is a folder"),
        (["--json", "{files}/tiny.safetensors/scores.json"], "tiny.safetensors"),
        (["--device", "foo"], "no foo device"),
        (["--device", "cuda:99"], "no cuda:99 device"),
    ],
)
def test_what_cannot_be_is_refused_before_scoring(files, capsys, more, says):
    assert run(files, *(text.format(files=files) for text in more)) == 1
    said = capsys.readouterr().err
    assert says in said and "1/2" not in said
