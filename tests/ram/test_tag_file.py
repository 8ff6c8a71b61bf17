"""Tagging many photos into a file that can be added to."""

from __future__ import annotations

import csv
import json
import os
import sys

import pytest
from PIL import Image

import semillie_core.ram.tag_file as tag_file
from semillie_core.data import read_rgb
from semillie_core.ram import TagFileError, TagOptions, load_efficientnet_lite0, tag_into_file, write_tag_csv
from training_scripts import tag_images as script

data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def model():
    return load_efficientnet_lite0()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in (
        ("coffee.png", data.coffee()),
        ("cat.png", data.chelsea()),
        ("rocket.png", data.rocket()),
    ):
        Image.fromarray(image).save(folder / name)
    return sorted(folder.iterdir())


def read(path):
    return read_rgb(path).float() / 255


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_names_that_are_no_unicode_are_kept(model, photos, tmp_path):
    odd = photos[0].rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    target, table = tmp_path / "tags.jsonl", tmp_path / "tags.csv"
    options = TagOptions(max_tags=1)
    assert tag_into_file(model, [odd], target, options, read=read).tagged == 1
    assert tag_into_file(model, [odd], target, options, read=read).kept == 1
    assert lines(target)[0]["path"] == str(odd)
    write_tag_csv(target, table)
    assert b"caf\xe9.png" in table.read_bytes()


def test_unchanged_photos_are_left_out(model, photos, tmp_path):
    target, options = tmp_path / "tags.jsonl", TagOptions(max_tags=1)
    seen = []

    def watched(path):
        seen.append(path.name)
        return read(path)

    first = tag_into_file(model, photos[:2], target, options, read=watched, batch_size=2)
    assert (first.tagged, first.kept, first.failures) == (2, 0, ())
    Image.fromarray(data.astronaut()).save(photos[0])
    second = tag_into_file(model, photos, target, options, read=watched, batch_size=2)
    assert (second.tagged, second.kept) == (2, 1)
    assert seen == ["cat.png", "coffee.png", "cat.png", "rocket.png"]
    records = {record["path"]: record for record in lines(target)}
    assert records.keys() == {str(path) for path in photos}
    assert records[str(photos[1])]["text"] == "espresso"
    assert "cat" not in records[str(photos[0])]["text"]
    assert 0.5 <= records[str(photos[1])]["tags"][0]["score"] <= 1
    # Naming fewer photos takes none away.
    third = tag_into_file(model, photos[:1], target, options, read=watched)
    assert (third.tagged, third.kept) == (0, 1) and len(lines(target)) == 3


def test_batches_give_the_same_tags(model, photos, tmp_path):
    for size in (1, 3):
        tag_into_file(model, photos, tmp_path / f"{size}.jsonl", TagOptions(), read=read, batch_size=size)
    one, three = (
        [[tag["index"] for tag in record["tags"]] for record in lines(tmp_path / f"{size}.jsonl")]
        for size in (1, 3)
    )
    assert one == three


def test_an_interrupted_call_continues(model, photos, tmp_path, monkeypatch):
    target, options = tmp_path / "tags.jsonl", TagOptions()
    real = tag_file.tag_images

    def stop_at_the_second(*arguments, **keywords):
        if target.stat().st_size:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(tag_file, "tag_images", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        tag_into_file(model, photos, target, options, read=read, batch_size=1)
    monkeypatch.setattr(tag_file, "tag_images", real)
    with target.open("ab") as file:
        file.write(b'{"path": "torn')
    result = tag_into_file(model, photos, target, options, read=read, batch_size=1)
    assert (result.tagged, result.kept) == (2, 1)
    assert [record["path"] for record in lines(target)] == [str(path) for path in photos]


def test_other_options_and_other_files_are_refused(model, photos, tmp_path):
    target = tmp_path / "tags.jsonl"
    tag_into_file(model, photos[:1], target, TagOptions(), read=read)
    before = target.read_bytes()
    with pytest.raises(TagFileError, match="other options"):
        tag_into_file(model, photos, target, TagOptions(max_tags=2), read=read)
    assert target.read_bytes() == before
    target.write_text('{"step": 1}\n')
    with pytest.raises(TagFileError, match="line 1, holds no tags"):
        tag_into_file(model, photos, target, TagOptions(), read=read)


def test_command(photos, tmp_path, capsys):
    pytest.importorskip("pyvips")
    broken = photos[0].with_name("broken.png")
    broken.write_bytes(b"no photo")
    arguments = [
        str(broken.parent),
        "--output",
        str(tmp_path / "out" / "t.jsonl"),
        "--csv",
        str(tmp_path / "t.csv"),
    ]
    assert script.main([*arguments, "--max-tags", "1"]) == 1
    shown = capsys.readouterr()
    assert "3 photos tagged, 0 were there already" in shown.out and "broken.png" in shown.err
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {str(path) for path in photos}
    assert all(len(row["sha256"]) == 64 for row in rows) and "espresso" in [row["text"] for row in rows]
    broken.unlink()
    assert script.main([*arguments, "--max-tags", "1"]) == 0
    assert "0 photos tagged, 3 were there already" in capsys.readouterr().out
    assert script.main(arguments) == 2
    assert "other options" in capsys.readouterr().err


def test_csv_of_no_tags(tmp_path):
    (tmp_path / "x.jsonl").write_text("[]\n")
    with pytest.raises(TagFileError):
        write_tag_csv(tmp_path / "x.jsonl", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
