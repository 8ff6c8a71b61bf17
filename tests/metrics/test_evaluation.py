"""Scoring an enhancer on files: right images, right numbers, honest about training images."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image

from semillie_core.data import find_pairs, read_rgb
from semillie_core.data.manifest import ManifestEntry, write_manifest
from semillie_core.metrics import exposure_error, loe, niqe, psnr, psnr_gt_mean, ssim
from semillie_core.metrics.evaluation import EvaluationError, evaluate, seen_in_training


@pytest.fixture
def pairs(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("low", "high"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        high = random.integers(30, 220, (96, 200, 3), dtype=np.uint8)
        Image.fromarray(high).save(tmp_path / "high" / f"{name}.png")
        Image.fromarray(high // 5).save(tmp_path / "low" / f"{name}.webp", lossless=True)
    return find_pairs(tmp_path / "low", tmp_path / "high")


def brighten(image):
    return image * 7


def load(path):
    return read_rgb(path).unsqueeze(0).float() / 255


def test_scores_are_those_of_the_metrics_on_each_image(pairs):
    seen = []
    result = evaluate(brighten, pairs, on_image=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(result.images) == ["a", "b", "c"]
    for pair in pairs:
        low, high = load(pair.low), load(pair.high)
        output = (7 * low).clamp(0, 1)
        assert output.max() == 1
        scores = result.images[pair.name]
        assert scores["psnr"] == pytest.approx(psnr(output, high).item())
        assert scores["ssim"] == pytest.approx(ssim(output, high).item())
        assert scores["niqe"] == pytest.approx(niqe(output).item())
        assert scores["loe"] == pytest.approx(loe(output, low).item())
        assert scores["exposure_ev"] == pytest.approx(exposure_error(output, high).item())
        assert scores["psnr_gt_mean"] == pytest.approx(psnr_gt_mean(output, high).item())
    mean = sum(scores["psnr"] for scores in result.images.values()) / 3
    assert result.means["psnr"].mean == pytest.approx(mean)
    assert result.means["psnr"].low <= mean <= result.means["psnr"].high
    assert list(result.means)[:2] == ["psnr", "ssim"]
    assert [name for name in result.means if "gt_mean" in name] == list(result.means)[-2:]


def test_markdown_and_json_agree(pairs):
    result = evaluate(brighten, pairs)
    table = result.to_markdown().splitlines()
    assert table[0].startswith("| image | PSNR ↑ |") and "PSNR, GT-mean" in table[0]
    assert len({line.count("|") for line in table}) == 1
    assert f"**{result.means['psnr'].mean:.2f}**" in table[5]
    assert f"**{result.means['exposure_ev'].mean:+.2f}**" in table[5]
    assert result.means["exposure_ev"].mean > 0
    values = json.loads(result.to_json())
    assert values["count"] == 3 and values["seen_in_training"] == []
    assert values["means"]["psnr"]["mean"] == result.means["psnr"].mean
    assert values["images"]["b"]["ssim"] == result.images["b"]["ssim"]


def test_perfect_and_single_results_still_give_json(pairs):
    perfect = {load(p.low).sum().item(): load(p.high) for p in pairs[:1]}
    result = evaluate(lambda image: perfect[image.sum().item()], pairs[:1])
    values = json.loads(result.to_json())
    assert values["images"]["a"]["psnr"] == "inf"
    assert values["means"]["ssim"] == {"mean": pytest.approx(1.0), "low": None, "high": None}
    assert "–" in result.to_markdown()


def entry(path, role, split, scene=""):
    content = path.read_bytes()
    name = "" if role == "unpaired" else f"{split}/{path.stem}"
    digest = hashlib.sha256(content).hexdigest()
    return ManifestEntry(path.absolute(), digest, len(content), 200, 96, role, split, name, scene)


def test_metrics_that_an_image_is_too_small_for_are_left_out(pairs):
    for path in (pairs[1].low, pairs[1].high):
        Image.new("RGB", (200, 10), (90, 60, 30)).save(path)
    result = evaluate(brighten, pairs)
    assert not {"ssim", "niqe", "ssim_gt_mean"} & result.means.keys()
    assert all(math.isfinite(scores["psnr"]) for scores in result.images.values())
    assert result.left_out.keys() == {"ssim", "niqe", "ssim_gt_mean"}
    assert "Without NIQE: b: NIQE needs at least two" in result.to_markdown()
    assert result.to_dict()["left_out"] == result.left_out


def test_training_images_are_refused_unless_allowed(pairs, tmp_path):
    manifest = tmp_path / "train.jsonl"
    sides = (("low", "paired-low"), ("high", "paired-high"))
    write_manifest(manifest, [entry(getattr(pairs[1], side), role, "train") for side, role in sides])
    with pytest.raises(EvaluationError, match=r"1 of the images or their scenes were trained on \(b\)"):
        evaluate(brighten, pairs, training_manifest=manifest)
    result = evaluate(brighten, pairs, training_manifest=manifest, allow_seen=True)
    assert result.seen_in_training == ("b",)
    assert "Not a test" in result.to_markdown()
    assert json.loads(result.to_json())["seen_in_training"] == ["b"]
    clean = evaluate(brighten, [pairs[0]], training_manifest=manifest)
    assert clean.seen_in_training == () and "Not a test" not in clean.to_markdown()
    manifest.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(EvaluationError, match="not a training manifest"):
        evaluate(brighten, pairs, training_manifest=manifest)


def test_photos_held_out_are_welcome_and_scenes_trained_on_are_not(pairs, tmp_path):
    manifest = tmp_path / "data.jsonl"
    entries = [
        entry(pairs[0].low, "unpaired", "train", "kitchen"),
        *(entry(getattr(pairs[1], side), f"paired-{side}", "val", "kitchen") for side in ("low", "high")),
        *(entry(getattr(pairs[2], side), f"paired-{side}", "val", "garden") for side in ("low", "high")),
    ]
    write_manifest(manifest, entries)
    assert seen_in_training(pairs, manifest) == ("a", "b")


def test_results_that_are_no_numbers_get_no_score(pairs):
    with pytest.raises(EvaluationError, match="a: the result holds NaN"):
        evaluate(lambda image: image * math.nan, pairs)


def test_wrong_input_is_named(pairs):
    with pytest.raises(EvaluationError, match="no pairs"):
        evaluate(brighten, [])
    with pytest.raises(EvaluationError, match=r"a: the result is .* 50.* the photo's size"):
        evaluate(lambda image: image[..., :50], pairs)
    Image.new("RGB", (200, 95)).save(pairs[0].low)
    with pytest.raises(EvaluationError, match=r"a\.webp.*200x95 and 200x96"):
        evaluate(brighten, pairs)
