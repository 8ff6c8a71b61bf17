"""The manifest: what is written is read back, mistakes are named, and training and validation take their photos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from semillie_core.data import DataConfig, DataError, SourceConfig, TrainingData, UnpairedConfig
from semillie_core.data.manifest import ManifestEntry, pairs_of, read_manifest, unpaired_of, write_manifest


@pytest.fixture
def entries(tmp_path):
    made = []

    def photo(name, role, split, pair="", scene=""):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        level = 20 if "low" in name else 120
        Image.fromarray(np.full((32, 40, 3), level + len(made), np.uint8)).save(path)
        made.append(ManifestEntry(path, f"{len(made):064x}", 9, 40, 32, role, split, pair, scene))

    for split, pair, scene in (
        ("train", "a", "s"),
        ("train", "b", "s"),
        ("train", "d", "u"),
        ("val", "c", "t"),
    ):
        photo(f"{pair}-low", "paired-low", split, pair, scene)
        photo(f"{pair}-high", "paired-high", split, pair, scene)
    photo("nächtens-low", "unpaired", "train")
    return made


def test_what_is_written_is_read_back_and_moves_with_its_photos(entries, tmp_path):
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, entries)
    assert read_manifest(manifest) == entries
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["data.jsonl"]
    first = json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])
    assert first["path"] == "photos/a-low.png"
    (tmp_path / "moved").mkdir()
    for name in ("photos", "data.jsonl"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    moved = read_manifest(tmp_path / "moved" / "data.jsonl")
    assert all(entry.path.is_file() for entry in moved)
    assert [pair.name for pair in pairs_of(moved, "train")] == ["a", "b", "d"]
    assert pairs_of(moved, "train")[0].scene == "s"
    assert [path.name for path in unpaired_of(moved)] == ["nächtens-low.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "dark"}, "role must be one of"),
        ({"split": "dev"}, "split must be one of"),
        ({"sha256": "12"}, "64 hexadecimal"),
        ({"width": True}, "width must be a positive number"),
        ({"bytes": 0}, "bytes must be a positive number"),
        ({"path": None}, "path must be text"),
        ({"pair": ""}, "need the field pair"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"role": "unpaired"}, "unpaired ones must not have it"),
    ],
)
def test_a_line_that_does_not_fit_is_named(entries, tmp_path, change, message):
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, entries)
    lines = manifest.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    manifest.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=rf"Line 2 of .*data\.jsonl.*{message}"):
        read_manifest(manifest)


def test_lines_that_are_no_entries_are_named_and_digests_may_be_in_capitals(entries, tmp_path):
    manifest = tmp_path / "data.jsonl"
    entries = [dataclasses.replace(entry, sha256="ab" + entry.sha256[2:]) for entry in entries]
    write_manifest(manifest, [dataclasses.replace(entry, sha256=entry.sha256.upper()) for entry in entries])
    assert read_manifest(manifest) == entries
    lines = manifest.read_text(encoding="utf-8").splitlines()
    without = {key: value for key, value in json.loads(lines[1]).items() if key != "height"}
    for line, message in ((json.dumps(without), "field 'height' is missing"), ("[1]", "it is not an object")):
        manifest.write_text("\n".join([lines[0], line]), encoding="utf-8")
        with pytest.raises(DataError, match=f"Line 2 of .*{message}"):
            read_manifest(manifest)


def test_manifests_without_sense_are_refused(entries, tmp_path):
    manifest = tmp_path / "data.jsonl"
    with pytest.raises(DataError, match="Cannot read manifest"):
        read_manifest(manifest)
    manifest.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="lists no photo"):
        read_manifest(manifest)
    write_manifest(manifest, entries[1:])
    with pytest.raises(DataError, match="'a' of split train has only its paired-high"):
        read_manifest(manifest)
    write_manifest(manifest, [*entries, entries[0]])
    with pytest.raises(DataError, match="'a' has two photos of role paired-low"):
        read_manifest(manifest)


def test_validation_on_copies_of_the_training_photos_is_refused(entries, tmp_path):
    hashed = [
        dataclasses.replace(entry, sha256=hashlib.sha256(entry.path.read_bytes()).hexdigest())
        for entry in entries
    ]
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, hashed)
    for pair, side in (("a", "low"), ("a", "high"), ("c", "low"), ("c", "high")):
        copy = tmp_path / pair / side / "copied.png"
        copy.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "photos" / f"{pair}-{side}.png", copy)

    def validated(pair):
        folders = {f"val_{side}": str(tmp_path / pair / side) for side in ("low", "high")}
        return TrainingData(DataConfig(manifest=str(manifest), **folders), 0, 0).validation()

    assert [pair.name for pair in validated("c")] == ["copied"]
    with pytest.raises(DataError, match=r"1 validation photos of .* are in the train split of .*data\.jsonl"):
        validated("a")


def test_training_on_copies_of_the_test_photos_is_refused(entries, tmp_path):
    photos = tmp_path / "photos"
    for name in ("seen", "new"):
        for side in ("low", "high"):
            # Files of one size.
            Image.new("RGB", (40, 30), (len(name), len(side), 9)).save(photos / f"{name}-{side}.bmp")
    tested = [
        ManifestEntry(path, hashlib.sha256(content).hexdigest(), len(content), 40, 30, role, "test", "seen")
        for path, role in ((photos / "seen-low.bmp", "paired-low"), (photos / "seen-high.bmp", "paired-high"))
        for content in [path.read_bytes()]
    ]
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, [*entries, *tested])
    for name in ("seen", "new"):
        for side in ("low", "high"):
            copy = tmp_path / name / side / "copied.bmp"
            copy.parent.mkdir(parents=True)
            shutil.copy(photos / f"{name}-{side}.bmp", copy)

    def load(name, unpaired):
        low, high = (str(tmp_path / name / side) for side in ("low", "high"))
        joined = {"unpaired": (UnpairedConfig(low),)} if unpaired else {"sources": (SourceConfig(low, high),)}
        return TrainingData(DataConfig(manifest=str(manifest), **joined), 0, 0)

    for unpaired in (False, True):
        load("new", unpaired)
        with pytest.raises(DataError, match=r"training photos are in the test split of .*copied\.bmp"):
            load("seen", unpaired)
    # What the manifest itself has in both is for evaluation to refuse.
    leaked = [dataclasses.replace(tested[0], role="unpaired", split="train", pair="")]
    write_manifest(manifest, [*entries, *tested, *leaked])
    assert len(TrainingData(DataConfig(manifest=str(manifest)), 0, 0).unpaired_photos) == 2


def test_training_takes_pairs_scenes_unpaired_and_validation_from_a_manifest(entries, tmp_path):
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, entries)
    config = DataConfig(manifest=str(manifest))
    data = TrainingData(config, 0, 0)
    assert [pair.name for pair in data.validation()] == ["c"]
    assert [path.name for path in data.unpaired_photos] == ["nächtens-low.png"]
    assert data.paired(0, 4, 16).low.shape == (4, 3, 16, 16)
    assert data.unpaired(0, 2, 16).weak.shape == (2, 3, 16, 16)
    for seed in range(6):
        half = TrainingData(dataclasses.replace(config, pair_fraction=0.5, unpaired_from_pairs=True), seed, 0)
        freed = sorted(path.stem for path in half.unpaired_photos if path.stem != "nächtens-low")
        # Scenes stay whole: both pairs of scene s, or the one of scene u.
        assert freed in (["a-low", "b-low"], ["d-low"])
