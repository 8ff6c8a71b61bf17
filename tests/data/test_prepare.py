"""Preparing data: layouts are recognised, pairs match by name, and no scene crosses from one split into another."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from semillie_core.data import DataError
from semillie_core.data.layouts import find_photos
from semillie_core.data.manifest import pairs_of, read_manifest, trained_on, write_manifest
from semillie_core.data.prepare import check_manifest, prepare
from semillie_core.data.scenes import agreement, fingerprint, similar
from training_scripts.prepare_data import main


def scene(seed, size=(96, 64)):
    """A picture with structure, different for every seed."""
    random = np.random.default_rng(seed)
    blocks = Image.fromarray(random.integers(40, 240, (12, 12, 3), dtype=np.uint8))
    return blocks.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def darker(image, factor, seed=0):
    pixels = np.asarray(image, float) * factor
    noise = np.random.default_rng(seed).normal(0, 1, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def pair(folder, name, seed, factor=0.2, *, low="low", high="high"):
    save(scene(seed), folder / high / f"{name}.png")
    return save(darker(scene(seed), factor, seed), folder / low / f"{name}.png")


def names(entries, split):
    return [pair.name for pair in pairs_of(entries, split)]


@pytest.mark.parametrize(
    ("files", "kind", "split", "pairs"),
    [
        (["our485/low/5.png", "our485/high/5.png"], "LOL v1", "train", ["our485/5"]),
        (["eval15/low/1.png", "eval15/high/1.png"], "LOL v1", "test", ["eval15/1"]),
        (
            ["Real_captured/Train/Low/low00001.png", "Real_captured/Train/Normal/normal00001.png"],
            "LOL v2",
            "train",
            ["Real_captured/Train/00001"],
        ),
        (
            ["Synthetic/Test/Low/r1.png", "Synthetic/Test/Normal/r1.png"],
            "LOL v2",
            "test",
            ["Synthetic/Test/r1"],
        ),
        (
            ["Training data/Huawei/low/7.jpg", "Training data/Huawei/high/7.jpg"],
            "LSRW",
            "train",
            ["Training data/Huawei/7"],
        ),
        (["Eval/Nikon/low/7.jpg", "Eval/Nikon/high/7.jpg"], "LSRW", "test", ["Eval/Nikon/7"]),
        (
            ["Dataset_Part1/2/1.JPG", "Dataset_Part1/2/2.JPG", "Dataset_Part1/Label/2.JPG"],
            "SICE",
            "",
            ["Dataset_Part1/2/1", "Dataset_Part1/2/2"],
        ),
        (
            ["labeled/input/sub/a.jpg", "labeled/GT/sub/a.png"],
            "labeled and unlabeled",
            "train",
            ["labeled/sub/a"],
        ),
        (["val/input/a.jpg", "val/GT/a.jpg"], "pairs", "val", ["val/a"]),
        (["low/a.png", "high/a.webp"], "pairs", "", ["a"]),
        (["a_low.png", "b.png"], "dark photos", "", []),
        (["unlabeled/input/a.png"], "labeled and unlabeled", "", []),
    ],
)
def test_layouts_are_recognised(tmp_path, files, kind, split, pairs):
    root = tmp_path / "set"
    for file in files:
        save(scene(0), root / file)
    (folder,) = find_photos(root)
    assert (folder.kind, folder.split) == (kind, split)
    assert [photo.name for photo in folder.photos if photo.high] == [f"set/{name}" for name in pairs]
    assert all(photo.high is None for photo in folder.photos) == (not pairs)
    assert folder.photos and not folder.dropped


def test_pairs_match_by_name_never_by_order(tmp_path):
    root = tmp_path / "set"
    for name in ("b", "c"):
        save(scene(0), root / "low" / f"{name}.png")
    for name in ("a", "b"):
        save(scene(0), root / "high" / f"{name}.png")
    (folder,) = find_photos(root)
    assert [(photo.low.name, photo.high.name) for photo in folder.photos] == [("b.png", "b.png")]
    assert {(path.name, reason) for path, reason in folder.dropped} == {
        ("c.png", "no reference of the same name"),
        ("a.png", "no dark photo of the same name"),
    }


def test_hidden_files_and_folders_hold_no_photos(tmp_path):
    root = tmp_path / ".set"
    pair(root, "a", 1)
    for side in ("low", "high"):
        (root / side / "._a.png").write_bytes(b"what macOS leaves there")
        save(scene(1, (24, 16)), root / side / ".thumbnails" / "a.png")
    save(darker(scene(2), 0.2), root / "night" / "b.png")
    save(darker(scene(2), 0.2).resize((24, 16)), root / "night" / ".thumbnails" / "b.png")
    found = find_photos(root)
    assert [photo.name for folder in found for photo in folder.photos] == [".set/a", ".set/night/b"]
    assert not any(folder.dropped for folder in found)


def test_what_cannot_be_used_is_reported_with_its_reason(tmp_path):
    root = tmp_path / "set"
    pair(root, "good", 1)
    save(scene(2), root / "high" / "bright.png")
    save(darker(scene(2), 1.05), root / "low" / "bright.png")
    save(scene(3), root / "high" / "size.png")
    save(darker(scene(3, (96, 60)), 0.2), root / "low" / "size.png")
    cut = pair(root, "cut", 4)
    cut.write_bytes(cut.read_bytes()[:300])
    save(darker(scene(9), 0.2), root / "night" / "alone.png")
    (root / "night" / "twin.png").write_bytes((root / "low" / "good.png").read_bytes())
    save(scene(5), root / "candidate" / "alone.png")
    save(scene(5), root / "test" / "input" / "x.png")
    save(darker(scene(6), 0.2), root / "beside.png")
    result = prepare([root], val=0)
    assert {(one.path.relative_to(root).as_posix(), one.reason) for one in result.dropped} == {
        ("low/bright.png", "not darker than its reference"),
        ("low/size.png", "size differs from its reference"),
        ("low/cut.png", "cannot be read"),
        ("night/twin.png", "same file as another dark photo"),
        ("candidate/alone.png", "pseudo-label or illumination map, not a photo"),
        ("test/input/x.png", "test photo without a reference"),
        ("beside.png", "beside folders of pairs, in none of them"),
    }
    assert result.counts()["train"] == {"scenes": 2, "pairs": 1, "unpaired": 1}
    page, record = result.to_markdown(), json.loads(result.to_json())
    for one in record["dropped"]:
        assert one["reason"] in page and one["path"] in page


def test_fingerprints_ignore_exposure_size_and_compression_and_tell_scenes_apart():
    encoded = io.BytesIO()
    darker(scene(0), 0.25).resize((72, 48)).save(encoded, "JPEG", quality=70)
    prints = [fingerprint(image) for image in (scene(0), Image.open(encoded), scene(1), scene(2))]
    assert [(i, j) for i, j, _ in similar(prints)] == [(0, 1)]
    black = fingerprint(Image.new("RGB", (50, 50)))
    assert not black.any() and not list(similar([black, black]))


def test_agreement_counts_pairs_of_one_scene():
    assert agreement(list("aabb"), list("xxyy")) == (1, 1)
    assert agreement(list("aaab"), list("xxyy")) == (pytest.approx(1 / 3), 0.5)


@pytest.fixture
def leaky(tmp_path):
    """Published splits with three leaks: a scene at another exposure, a recompressed dark photo, a copied file."""
    root = tmp_path / "LOL"
    for seed in range(8):
        pair(root / "our485", seed, seed)
    for seed in range(20, 23):
        held_out = pair(root / "eval15", seed, seed)
    pair(root / "our485", "again", 20, 0.35)
    stolen = Image.open(root / "eval15" / "low" / "21.png").resize((72, 48))
    (root / "night").mkdir()
    stolen.save(root / "night" / "recompressed.jpg", quality=75)
    (root / "night" / "copy.png").write_bytes(held_out.read_bytes())
    save(darker(scene(50), 0.2), root / "night" / "other.png")
    return root


def test_planted_leaks_are_found_and_leave_training(leaky, tmp_path):
    result = prepare([leaky], val=0)
    assert {one.path.name: one.reason for one in result.dropped} == {
        "again.png": "shows a scene of the test split",
        "recompressed.jpg": "shows a scene of the test split",
        "copy.png": "same file as another dark photo",
    }
    assert names(result.entries, "test") == [f"LOL/eval15/{seed}" for seed in range(20, 23)]
    write_manifest(tmp_path / "data.jsonl", result.entries)
    assert check_manifest(tmp_path / "data.jsonl") == ([], [])


def test_leaks_that_are_kept_are_listed_checked_and_refused_by_evaluation(leaky, tmp_path):
    result = prepare([leaky], val=0, keep_leaks=True)
    found = {leak.one.name for leak in result.leaks}
    assert found == {"again.png", "recompressed.jpg"}
    assert all(leak.splits == ("train", "test") for leak in result.leaks)
    manifest = tmp_path / "data.jsonl"
    write_manifest(manifest, result.entries)
    problems, leaks = check_manifest(manifest)
    assert not problems and {leak.one.name for leak in leaks} == found
    # Without its scenes, a manifest from elsewhere is checked by looks.
    bare = [{**json.loads(line), "scene": ""} for line in manifest.read_text(encoding="utf-8").splitlines()]
    manifest.write_text("\n".join(map(json.dumps, bare)), encoding="utf-8")
    _, leaks = check_manifest(manifest)
    assert {leak.one.name for leak in leaks} == found
    assert {leak.how for leak in leaks if leak.one.name == "recompressed.jpg"} == {"looks"}
    seen = trained_on(pairs_of(result.entries, "test"), result.entries)
    assert seen == {"LOL/eval15/20": "photo", "LOL/eval15/21": "scene"}


def test_splits_keep_scenes_whole_and_do_not_move_when_photos_join(tmp_path):
    root = tmp_path / "mine"
    for seed in range(30):
        for exposure in (0.1, 0.3):
            pair(root, f"{seed}-{exposure}", seed, exposure)
    once, again, other = (prepare([root], val=0.3, test=0.2, seed=seed) for seed in (1, 1, 2))
    assert once.entries == again.entries
    assert names(once.entries, "val") != names(other.entries, "val")
    shares = {split: names(once.entries, split) for split in ("train", "val", "test")}
    assert all(shares.values()) and sum(map(len, shares.values())) == 60
    scenes = [{name.split("/")[1].split("-")[0] for name in share} for share in shares.values()]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) == 30
    for seed in range(40, 50):
        pair(root, f"{seed}-x", seed)
    grown = prepare([root], val=0.3, test=0.2, seed=1)
    assert set(shares["val"]) <= set(names(grown.entries, "val"))
    assert set(shares["train"]) <= set(names(grown.entries, "train"))


def test_a_scene_list_is_the_truth_for_what_it_lists(tmp_path):
    root = tmp_path / "mine"
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 3)):
        pair(root, name, seed)
    save(scene(1).filter(ImageFilter.GaussianBlur(1)), root / "high" / "b.png")
    save(darker(scene(1), 0.3), root / "low" / "b.png")
    scenes = tmp_path / "scenes.csv"
    scenes.write_text("file,scene\na.png,1\nb.png,2\nc.png,1\n", encoding="utf-8")
    result = prepare([root], val=0, scenes=scenes)
    by_pair = {entry.pair.split("/")[1]: entry.scene for entry in result.entries}
    assert by_pair["a"] == by_pair["c"] != by_pair["b"]
    assert len(set(by_pair.values())) == 3
    assert result.scene_agreement == (0, 0)
    scenes.write_text("set,file,scene\nelsewhere,a.png,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="names none of the photos"):
        prepare([root], scenes=scenes)
    scenes.write_text("name\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="needs a header"):
        prepare([root], scenes=scenes)


def test_check_names_photos_that_changed_or_went(tmp_path):
    root = tmp_path / "mine"
    for seed in range(3):
        pair(root, str(seed), seed)
    write_manifest(tmp_path / "data.jsonl", prepare([root], val=0).entries)
    pair(root, "0", 7)
    (root / "low" / "1.png").unlink()
    problems, _ = check_manifest(tmp_path / "data.jsonl")
    assert len(problems) == 3
    assert sum("another sha256" in problem for problem in problems) == 2
    assert any("1.png: FileNotFoundError" in problem for problem in problems)


def test_command_writes_checks_and_refuses(leaky, tmp_path, capsys):
    output = tmp_path / "out" / "data.jsonl"
    arguments = [str(leaky), "--output", str(output), "--val", "0.2"]
    assert main(arguments) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "data.jsonl",
        "data.report.json",
        "data.report.md",
    ]
    assert "| LOL v1 |" in capsys.readouterr().out
    assert len(read_manifest(output)) == 25 - 2
    assert main(["--check", str(output)]) == 0
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--keep-leaks", "--force"]) == 0
    assert main(["--check", str(output)]) == 1
    assert "leak (scene" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere"), "--output", str(tmp_path / "x.jsonl")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(leaky)])


def test_real_dark_photos_are_recognised_after_recompression(shared_dir):
    paths = sorted((shared_dir / "data" / "dark_photos").glob("*.jpg"))[::3]
    known = 0
    for path in paths:
        photo = Image.open(path).convert("RGB")
        encoded = io.BytesIO()
        photo.resize((photo.width // 2, photo.height // 2)).save(encoded, "JPEG", quality=75)
        known += bool(list(similar([fingerprint(photo), fingerprint(Image.open(encoded))])))
    assert known >= 0.95 * len(paths)


def test_lol_is_grouped_as_people_did_and_its_splits_are_disjoint(shared_dir):
    sets = [shared_dir / "data" / name for name in ("lol_train", "lol_val", "lol_eval15")]
    result = prepare(sets, scenes=shared_dir / "data" / "lol_scenes.csv", workers=2)
    precision, recall = result.scene_agreement
    assert precision >= 0.99 and recall >= 0.99
    assert not result.dropped
    assert [count["pairs"] for count in result.counts().values()] == [289, 35, 15]
