"""What a run shows of itself: log, table, report, curves, pictures, progress, and the page of options."""

from __future__ import annotations

import csv
import json
import math
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from semillie_core.training import Result, TrainConfig, TrainingError, write_report
from semillie_core.training.journal import Journal, read_log
from semillie_core.training.pictures import GAP, write_grid
from semillie_core.training.report import curve
from training_scripts import options_page
from training_scripts.train import Bar, Lines, main, progress_display


def record(step, **scores):
    return {"step": step, "lr": 1e-3, "loss": 1 / step, "structure": 1 / step, "seconds": 0.1, **scores}


def scores(psnr):
    return {"val_psnr": psnr, "val_ssim": 0.5, "val_psnr_gt_mean": psnr + 1}


def run_folder(folder, records):
    config = {"phases": [{"steps": 10}]}
    (folder / "config.json").write_text(json.dumps(config))
    journal = Journal(folder, 0)
    for entry in records:
        journal.write(entry)
    journal.close()
    return folder


def test_the_table_says_what_the_log_says(tmp_path):
    records = [record(1), record(2, **scores(20.0))]
    run_folder(tmp_path, records)
    assert read_log(tmp_path) == records
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["val_psnr"] for row in rows] == ["", "20.0"]
    assert [float(row["loss"]) for row in rows] == [1.0, 0.5]


def test_a_resumed_log_drops_what_will_be_run_again_and_a_line_cut_short(tmp_path):
    run_folder(tmp_path, [record(1), record(2), record(3)])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    journal = Journal(tmp_path, 2)
    journal.write(record(3, again=1.0))
    journal.close()
    assert read_log(tmp_path) == [record(1), record(2), record(3, again=1.0)]


@pytest.mark.parametrize("line", ["null", "[1]", '{"loss": 1.0}', "{broken"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    run_folder(tmp_path, [record(1)])
    log = tmp_path / "log.jsonl"
    log.write_text(f"{line}\n{log.read_text()}")
    with pytest.raises(TrainingError, match=r"Line 1 of .*log\.jsonl is not a record"):
        read_log(tmp_path)


def test_the_report_marks_the_best_and_names_the_curves(tmp_path):
    report = write_report(
        run_folder(tmp_path, [record(1, **scores(18.0)), record(2, **scores(20.0)), record(3)])
    )
    text = report.read_text()
    assert "3 of 10 steps" in text
    assert "| **2** | **20**" in text
    assert "| 1 | 18 |" in text
    for name in ("loss", "terms", "validation-PSNR", "learning-rate"):
        assert f"curves/{name}.svg" in text
        ElementTree.fromstring((tmp_path / "curves" / f"{name}.svg").read_text())  # noqa: S314  (own file)


@pytest.mark.parametrize("psnr", [17.0, 19.0])
def test_scores_that_an_earlier_version_did_not_take_are_left_empty(tmp_path, psnr):
    reduced = {"val_psnr_noise_reduced": psnr + 2, "val_ssim_noise_reduced": 0.6}
    records = [record(1, **scores(18.0)), record(2, **scores(psnr), **reduced)]
    rows = [
        line.replace("**", "").split(" | ")
        for line in write_report(run_folder(tmp_path, records)).read_text().splitlines()
        if line.startswith("| ") and line.count("|") == 7
    ]
    assert rows[1][3:5] == ["", ""]
    assert [float(cell) for cell in rows[2][3:5]] == [psnr + 2, 0.6]
    table = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["val_psnr_noise_reduced"] for row in table] == ["", str(psnr + 2)]


@pytest.mark.parametrize("records", [[], [record(1)], [record(1, **scores(math.inf))]])
def test_a_report_is_written_however_little_there_is(tmp_path, records):
    assert write_report(run_folder(tmp_path, records)).is_file()


def test_long_curves_are_thinned_by_averaging():
    drawing = curve("loss", {"loss": [(step, float(step % 2)) for step in range(1000)]})
    points = drawing.split('points="')[1].split('"')[0].split()
    assert 300 < len(points) <= 400


def test_grids_hold_one_row_per_sample(tmp_path):
    batches = [torch.full((2, 3, 20, 40), value) for value in (-1.0, 0.5, 2.0)]
    write_grid(tmp_path / "p" / "grid.png", batches, height=10)
    with Image.open(tmp_path / "p" / "grid.png") as grid:
        assert grid.size == (3 * 20 + 2 * GAP, 2 * 10 + GAP)
        assert [grid.getpixel((x, 5))[0] for x in (5, 20 + GAP + 5, 2 * (20 + GAP) + 5)] == [0, 128, 255]


def test_lines_come_now_and_then_with_the_time_left(capsys):
    with Lines(10, every=5) as display:
        for step in range(1, 11):
            display(record(step, **(scores(21.0) if step == 7 else {})))
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["step 5", "step 7", "step 10"]
    assert "val_psnr 21" in shown[1]
    assert shown[2].endswith("left 0:00:00")


def test_a_bar_shows_scores_above_itself(capsys, monkeypatch):
    pytest.importorskip("rich")
    with Bar(3) as display:
        for step in range(1, 4):
            display(record(step, **(scores(21.0) if step == 2 else {})))
    shown = capsys.readouterr().out
    assert "val_psnr 21" in shown
    assert "3/3" in shown
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress_display(3, 1), Bar)
    monkeypatch.setitem(__import__("sys").modules, "rich", None)
    assert isinstance(progress_display(3, 1), Lines)


@pytest.mark.parametrize(("rank", "finished", "status"), [("0", True, 0), ("0", False, 130), ("1", True, 0)])
def test_one_of_several_processes_says_how_it_ended(tmp_path, capsys, monkeypatch, rank, finished, status):
    ending = Result(tmp_path / "best", tmp_path / "last", 21.5, 7, tmp_path / "report.md", finished)
    monkeypatch.setattr("training_scripts.train.train", lambda config, on_step: ending)
    monkeypatch.setenv("RANK", rank)
    assert main(["--preset", "cpu_demo"]) == status
    shown = capsys.readouterr()
    assert ("21.50 dB at step 7" in shown.out) == (rank == "0" and finished)
    assert ("same command continues" in shown.err) == (not finished)


def test_the_page_of_options_is_current():
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.text(), (
        "Run python -m training_scripts.options_page and commit docs/training_options.md."
    )


def test_help_describes_every_option(capsys):
    from semillie_core.training.options import options

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in options(TrainConfig):
        assert f"{option.name}  ({option.kind}, {option.default})" in shown
