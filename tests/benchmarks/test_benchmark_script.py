"""``python -m training_scripts.benchmark`` on a network small enough for a test."""

from __future__ import annotations

import json

import pytest

from benchmarks import throughput
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import save_model
from training_scripts import benchmark


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(
        path, SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2, downscale=4, thumbnail=16))
    )
    return path


def test_a_training_step_against_the_loop(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        throughput,
        "available_backends",
        lambda: {b.name: "left out" for b in throughput.BACKENDS} | {"chunked": None},
    )
    arguments = ["--model", str(tiny), "--only", "training", "--crop", "32", "--batch", "1", "--repeats", "1"]
    assert benchmark.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert [case["backend"] for case in cases] == [throughput.LOOP, "chunked"]
    assert all(run["seconds"] > 0 for case in cases for run in case["runs"])
    assert "training step | chunked" in capsys.readouterr().out


def test_table_takes_ratios_within_rounds():
    def case(backend):
        return throughput.Case(throughput.TRAINING, backend, "m", "cpu", 1, 1024, 2, 64, 1)

    def runs(*seconds):
        return [throughput.Measurement(s, 10.0) for s in seconds]

    table = throughput.to_table({case(throughput.LOOP): runs(8, 80, 12), case("chunked"): runs(2, 10, 4)})
    # Rounds of 4, 8 and 3 times: the median is 4, and 4 images in 4 seconds (the medians) are 1 per second.
    assert table.splitlines()[-1] == "| training step | chunked | 1 | 10 | 4.0 | 1 |"


def test_the_loop_is_left_out_where_it_is_endless():
    works = [throughput.TRAINING, *throughput.PHOTOS]
    cases = throughput.make_cases("m", "cpu", 1, tile=1024, batch=1, crop=32, repeats=1, works=works)
    assert {c.work for c in cases if c.backend == throughput.LOOP} == {throughput.TRAINING, "512 x 512"}
    assert {c.work for c in cases if c.backend == "chunked"} == set(works)
    assert not any(c.backend == "triton" for c in cases)


def test_mistakes(tiny, tmp_path, capsys):
    assert benchmark.main(["--model", str(tiny), "--json", str(tmp_path)]) == 1
    assert "name a file in it" in capsys.readouterr().err
    assert benchmark.main(["--model", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["--crop", "0"])
