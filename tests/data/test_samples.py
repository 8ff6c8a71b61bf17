"""The sample photos are what their README and their recipes say."""

import pytest
from PIL import Image

from semillie_core.data import read_rgb
from semillie_core.metrics import psnr
from training_scripts import make_samples

NAMES = [recipe.output for recipe in make_samples.RECIPES]


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_dark_and_named_in_the_readme(repository, name):
    with Image.open(repository / "samples" / name) as image:
        assert max(image.size) <= 1000
    assert read_rgb(repository / "samples" / name).float().mean() < 255 * 0.12
    assert f"`{name}`" in (repository / "samples" / "README.md").read_text(encoding="utf-8")


def test_samples_are_small(repository):
    files = [path for path in (repository / "samples").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_300_000


def test_references_show_the_same_scene_in_better_light(repository):
    pairs = [(recipe.output, recipe.reference) for recipe in make_samples.RECIPES if recipe.reference]
    assert pairs
    for dark, bright in pairs:
        low = read_rgb(repository / "samples" / dark).float()[None] / 255
        high = read_rgb(repository / "samples" / "reference" / bright).float()[None] / 255
        assert low.shape == high.shape
        gain = high.mean() / low.mean()
        assert gain > 2
        assert psnr((low * gain).clamp(0, 1), high) > psnr(low, high) + 5


def test_samples_can_be_made_again(tmp_path, capsys, repository):
    pytest.importorskip("skimage", reason="the source photos are in scikit-image")
    status = make_samples.main(
        ["--meadow", str(repository / "samples" / "meadow.jpg"), "--output", str(tmp_path)]
    )
    assert status == 0
    for name in ("coffee.png", "portrait.png"):
        made, kept = read_rgb(tmp_path / name), read_rgb(repository / "samples" / name)
        # Another machine rounds a few exposures to the neighbouring photon count.
        assert (made != kept).float().mean() < 0.01
    capsys.readouterr()


def test_missing_source_is_named(tmp_path, capsys):
    missing = tmp_path / "seeding.jpg"
    assert make_samples.main(["--meadow", str(missing), "--output", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert str(missing) in message
    assert "lomiri-wallpapers-16.04" in message
