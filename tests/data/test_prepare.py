"""Preparing data: layouts are recognised, pairs match by name, and no scene crosses from one split into another."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from semillie_core.data import DataError, scenes
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


def test_names_that_may_mean_two_photos_pair_none_and_links_back_end_the_search(tmp_path):
    root = tmp_path / "set"
    for file in ("low/low1.png", "low/1_low.png", "low/low2.png", "high/normal1.png", "high/normal2.png"):
        save(scene(0), root / file)
    (root / "high" / "back").symlink_to(root)
    (root / "up").symlink_to(root)
    (folder,) = find_photos(root)
    assert [(photo.low.name, photo.high.name) for photo in folder.photos] == [("low2.png", "normal2.png")]


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
    pair(root, "half", 7)
    (root / "high" / "half.png").write_bytes(b"junk")
    pair(root, "same", 8)
    (root / "low" / "same.png").write_bytes((root / "high" / "same.png").read_bytes())
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
        ("high/half.png", "cannot be read"),
        ("low/half.png", "reference cannot be read"),
        ("low/same.png", "not darker than its reference"),
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


def test_similar_photos_are_found_among_many(monkeypatch):
    prints = [fingerprint(scene(seed)) for seed in (0, 1, 2, 0, 3, 1, 4)]
    expected = [(0, 3), (1, 5)]
    assert [(i, j) for i, j, _ in similar(prints)] == expected
    monkeypatch.setattr(scenes, "_BLOCK", 2)
    assert sorted((i, j) for i, j, _ in similar(prints)) == expected


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


def test_what_a_layout_calls_train_is_never_tested_on_and_dark_photos_alone_are_never_held_out(tmp_path):
    root = tmp_path / "mine"
    for seed in range(12):
        pair(root / "train", str(seed), seed)
        pair(root / "other", str(20 + seed), 20 + seed)
        save(darker(scene(40 + seed), 0.2), root / "night" / f"{seed}.png")
    entries = prepare([root], val=0.3, test=0.4).entries
    assert sum(entry.role == "unpaired" for entry in entries) == 12
    assert {entry.role for entry in entries if entry.split != "train"} == {"paired-low", "paired-high"}
    held_out = {split: {name.split("/")[1] for name in names(entries, split)} for split in ("val", "test")}
    assert held_out == {"val": {"train", "other"}, "test": {"other"}}


def test_a_tenth_is_held_out_unless_the_layout_has_a_validation_split(tmp_path):
    for seed in range(40):
        pair(tmp_path / "plain", str(seed), seed)
    assert 0 < len(names(prepare([tmp_path / "plain"]).entries, "val")) < 12
    for seed in range(40, 43):
        pair(tmp_path / "plain" / "val", str(seed), seed)
    split = prepare([tmp_path / "plain"])
    assert names(split.entries, "val") == [f"plain/val/{seed}" for seed in range(40, 43)]


def test_dark_photos_that_show_a_held_out_scene_leave(tmp_path):
    root = tmp_path / "mine"
    for seed in range(8):
        pair(root / "pairs", str(seed), seed)
        save(darker(scene(seed, (72, 48)), 0.3), root / "night" / f"{seed}.png")
    result = prepare([root], val=0.4)
    held_out = {name.rsplit("/", 1)[1] for name in names(result.entries, "val")}
    assert held_out
    assert {entry.path.stem for entry in result.entries if entry.role == "unpaired"} == {
        str(seed) for seed in range(8)
    } - held_out
    assert {one.path.stem: one.reason for one in result.dropped} == dict.fromkeys(
        held_out, "shows a scene of the val split"
    )


def test_a_photo_that_is_there_twice_stays_where_it_counts_most(tmp_path):
    root = tmp_path / "mine"
    held_out, paired = pair(root / "val", "a", 1), pair(root / "train", "b", 2)
    pair(root / "train", "c", 3)
    (root / "train" / "low" / "d.png").write_bytes(held_out.read_bytes())
    save(scene(1), root / "train" / "high" / "d.png")
    (root / "afar").mkdir()
    (root / "afar" / "b.png").write_bytes(paired.read_bytes())
    result = prepare([root], val=0)
    assert {one.path.relative_to(root).as_posix(): one.reason for one in result.dropped} == {
        "train/low/d.png": "same file as another dark photo",
        "afar/b.png": "same file as another dark photo",
    }
    assert names(result.entries, "train") == ["mine/train/b", "mine/train/c"]
    assert names(result.entries, "val") == ["mine/val/a"]


@pytest.mark.parametrize(
    "change", [{"similarity": 0}, {"similarity": 1.1}, {"val": -0.1}, {"val": 0.5, "test": 0.5}, {"test": 1}]
)
def test_settings_without_sense_are_refused(tmp_path, change):
    pair(tmp_path / "mine", "a", 1)
    with pytest.raises(DataError, match=r"similarity must|val and test are"):
        prepare([tmp_path / "mine"], **change)


def test_folders_of_one_name_are_refused(tmp_path):
    for place in ("here", "there"):
        pair(tmp_path / place / "set", "a", 1)
    with pytest.raises(DataError, match="same name"):
        prepare([tmp_path / "here" / "set", tmp_path / "there" / "set"])


def test_photos_of_one_reference_show_one_scene_whatever_a_list_says(tmp_path):
    root = tmp_path / "set"
    for folder, name in (("train", "a"), ("train", "c"), ("test", "b")):
        pair(root / folder, name, ord(name))
    (root / "train" / "high" / "a.png").write_bytes((root / "test" / "high" / "b.png").read_bytes())
    listed = tmp_path / "scenes.csv"
    listed.write_text("file,scene\na.png,1\nb.png,2\n", encoding="utf-8")
    result = prepare([root], val=0, scenes=listed)
    assert [(one.path.name, one.reason) for one in result.dropped] == [
        ("a.png", "shows a scene of the test split")
    ]


def test_a_scene_list_is_the_truth_for_what_it_lists(tmp_path):
    root = tmp_path / "mine"
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 3)):
        pair(root, name, seed)
    save(scene(1).filter(ImageFilter.GaussianBlur(1)), root / "high" / "b.png")
    save(darker(scene(1), 0.3), root / "low" / "b.png")
    listed = tmp_path / "scenes.csv"
    listed.write_text("file,scene\na.png,1\nb.png,2\nc.png,1\n", encoding="utf-8")
    result = prepare([root], val=0, scenes=listed)
    by_pair = {entry.pair.split("/")[1]: entry.scene for entry in result.entries}
    assert by_pair["a"] == by_pair["c"] != by_pair["b"]
    assert len(set(by_pair.values())) == 3
    assert result.scene_agreement == (0, 0)
    # A photo that the list leaves out goes by its looks.
    save(darker(scene(1), 0.4, 5), root / "low" / "e.png")
    save(scene(1).filter(ImageFilter.GaussianBlur(0.5)), root / "high" / "e.png")
    listed.write_text("file,scene\na.png,1\nc.png,1\n", encoding="utf-8")
    by_pair = {e.pair.split("/")[1]: e.scene for e in prepare([root], val=0, scenes=listed).entries}
    assert by_pair["e"] == by_pair["a"] == by_pair["c"] != by_pair["d"]
    listed.write_text("file,scene\na.png,1\na.png,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="gives mine/a several scenes: 1, 2"):
        prepare([root], scenes=listed)
    listed.write_text("set,file,scene\nelsewhere,a.png,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="names none of the photos"):
        prepare([root], scenes=listed)
    listed.write_text("name\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="needs a header"):
        prepare([root], scenes=listed)


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
    lines = (tmp_path / "data.jsonl").read_text(encoding="utf-8").splitlines()
    turned = [
        json.dumps(json.loads(line) | {"width": 64, "height": 96}) for line in lines if "/2.png" in line
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(turned), encoding="utf-8")
    problems, _ = check_manifest(tmp_path / "data.jsonl")
    assert [problem.rpartition(": ")[2] for problem in problems] == [
        "bytes, width or height differ from the entry"
    ] * 2


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
