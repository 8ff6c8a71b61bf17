"""Batches: a function of seed, step and slot; pairs stay pairs; memory and corruption stay bounded."""

from __future__ import annotations

import colorsys
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from semillie_core.colour import linear_to_srgb, luma, srgb_to_linear
from semillie_core.data import (
    DataConfig,
    DataError,
    SourceConfig,
    StepShape,
    StrongViewConfig,
    TrainingData,
    UnpairedConfig,
    find_pairs,
    steps,
    views,
)
from semillie_core.data.manifest import write_manifest
from semillie_core.data.photos import PhotoStore, short_digest
from semillie_core.data.prepare import prepare
from semillie_core.data.random import seeded
from semillie_core.data.views import StrongView, _turn_hue, blur, darken, recolour, relight, resaturate
from semillie_core.network.thumbnail import sample_region

replace = dataclasses.replace


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs and dark photos of several sizes and both orientations, some smaller than the crops."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 60), (60, 40), (50, 50), (20, 30), (80, 50)]):
        high = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write(folder / "high" / f"{index}.png", high)
        write(folder / "low" / f"{index}.png", high // 6)
        write(folder / "night" / f"{index}.png", high // 5)
    return folder


@pytest.fixture
def config(folder):
    return DataConfig(
        sources=(SourceConfig(str(folder / "low"), str(folder / "high")),),
        unpaired=(UnpairedConfig(str(folder / "night")),),
        synthetic=0.3,
        uneven_light=0.5,
        backlit=0.4,
        camera=0.5,
        identity=0.2,
        frame_scale=0.6,
        exposure_jitter=0.5,
        white_balance_jitter=0.1,
        light_colour_jitter=0.3,
        saturation_jitter=0.5,
    )


def tensors(batch):
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))


@pytest.mark.parametrize("geometry", ["frame", "released"])
@pytest.mark.parametrize("crop", [24, 0])
def test_batches_depend_on_seed_step_and_slot_alone(config, crop, geometry):
    config = replace(config, geometry=geometry)
    one, two = (TrainingData(config, 3, 16) for _ in range(2))
    one.paired(0, 4, crop), one.unpaired(0, 4, crop)
    for kind in ("paired", "unpaired"):
        expected = getattr(one, kind)(7, 4, crop)
        assert same(expected, getattr(two, kind)(7, 4, crop))
        shares = [getattr(two, kind)(7, 4, crop, range(rank, 4, 2)) for rank in range(2)]
        for whole, even, odd in zip(*map(tensors, (expected, *shares)), strict=True):
            assert torch.equal(whole[0::2], even)
            assert torch.equal(whole[1::2], odd)
        other = getattr(TrainingData(config, 4, 16), kind)(7, 4, crop)
        assert not all(
            a.shape == b.shape and torch.equal(a, b)
            for a, b in zip(*map(tensors, (expected, other)), strict=True)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_in_processes_changes_nothing(config, workers):
    data = TrainingData(replace(config, workers=workers), 0, 16)
    before = torch.get_rng_state()
    loaded = list(steps(data, lambda step: StepShape(2, 2 * (step % 2), 24), 3, 7))
    # The network's random depth draws from it: a resumed run must find it as an unbroken one does.
    assert torch.equal(torch.get_rng_state(), before)
    assert [step.unpaired is None for step in loaded] == [False, True, False, True]
    for number, step in enumerate(loaded, 3):
        assert same(step.paired, data.paired(number, 2, 24))
        assert step.unpaired is None or same(step.unpaired, data.unpaired(number, 2, 24))


def test_crops_and_references_lie_on_the_same_place(folder):
    source = SourceConfig(str(folder / "high"), str(folder / "high"))
    data = TrainingData(DataConfig((source,), frame_scale=0.5), 0, 16)
    for step in range(8):
        batch = data.paired(step, 3, 24)
        assert torch.equal(batch.low, batch.high)
        assert batch.low.shape == (3, 3, 24, 24)
        assert (batch.region[:, :2] >= 0).all()
        assert (batch.region[:, :2] + batch.region[:, 2:] <= 1 + 1e-6).all()
        assert max(batch.thumbnail.shape[2:]) <= 16


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """A pair and a dark photo whose red grows downwards and green to the right, which tells where a pixel lies."""
    folder = tmp_path_factory.mktemp("ramps")
    y, x = np.mgrid[:40, :60]
    picture = np.stack([4 * y + 20, 3 * x + 20, 0 * x + 100], axis=2).astype(np.uint8)
    for side in ("low", "high", "night"):
        write(folder / side / "a.png", picture)
    return DataConfig(
        (SourceConfig(str(folder / "low"), str(folder / "high")),),
        unpaired=(UnpairedConfig(str(folder / "night")),),
        strong=StrongViewConfig(noise=0, blur=0),
    )


def test_thumbnail_and_region_tell_what_a_crop_shows(ramps):
    data = TrainingData(replace(ramps, frame_scale=0.8), 0, 64)
    for step in range(12):
        pairs, night = data.paired(step, 2, 24), data.unpaired(step, 2, 24)
        for crop, thumbnail, region in (
            (pairs.low, pairs.thumbnail, pairs.region),
            (night.weak, night.weak_thumbnail, night.region),
            (night.strong, night.strong_thumbnail, night.region),
        ):
            torch.testing.assert_close(sample_region(thumbnail, region, (24, 24)), crop, atol=0.03, rtol=0)


def test_every_orientation_and_every_part_of_a_photo_is_shown(ramps):
    data = TrainingData(ramps, 0, 0)
    for kind, name in (("paired", "low"), ("unpaired", "weak")):
        whole = [getattr(getattr(data, kind)(step, 2, 0), name) for step in range(30)]
        # Which way red and green grow, and whether the photo stands upright.
        seen = {
            (*(image[:2, -1, -1] - image[:2, 0, 0]).sign().tolist(), image.shape[1] > image.shape[2])
            for batch in whole
            for image in batch
        }
        assert len(seen) == 8
        # Frames of half the photo, and crops of the whole photo: the least red and green say where they begin.
        for frame_scale, crop in ((0.5, 0), (1.0, 12)):
            parts = TrainingData(replace(ramps, frame_scale=frame_scale), 0, 0)
            shown = [
                getattr(getattr(parts, kind)(step, 2, crop), name)[:, :2] * 255 - 20 for step in range(30)
            ]
            first = torch.cat([part.amin((2, 3)) for part in shown]).round()
            last = torch.cat([part.amax((2, 3)) for part in shown])
            assert all(len(starts.unique()) > 5 for starts in first.T)
            assert first.amin(0).max() < 15
            assert (torch.tensor([4 * 39, 3 * 59]) - last.amax(0)).max() < 15


def test_a_frame_smaller_than_the_crop_is_widened_not_enlarged(ramps):
    data = TrainingData(replace(ramps, frame_scale=0.1), 0, 0)
    crops = torch.cat([data.paired(step, 1, 24).low for step in range(8)]) * 255
    for colour in crops[:, :2].unbind(1):
        for axis in (1, 2):
            steps = {round(float(step), 1) for step in colour.diff(dim=axis).abs().unique()}
            assert steps <= {0, 3, 4}


def test_enlarged_photos_stay_in_range_and_thumbnails_are_never_enlarged(tmp_path):
    board = np.kron(np.indices((4, 5)).sum(0) % 2, np.ones((3, 3))).astype(np.uint8) * 255
    for side in ("low", "high"):
        write(tmp_path / side / "a.png", board)
    data = TrainingData(DataConfig((SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)), 0, 64)
    enlarged, whole = data.paired(0, 2, 24), data.paired(0, 2, 0)
    assert (enlarged.low.min(), enlarged.low.max()) == (0, 1)
    assert sorted(whole.thumbnail.shape[2:]) == [12, 15]


def test_sources_are_drawn_by_their_weights(tmp_path):
    for level in (40, 200):
        write(tmp_path / str(level) / "a.png", np.full((16, 16, 3), level, np.uint8))
    rare, common = str(tmp_path / "40"), str(tmp_path / "200")
    config = DataConfig(
        (SourceConfig(rare, rare, 1.0), SourceConfig(common, common, 4.0)),
        unpaired=(UnpairedConfig(rare, 1.0), UnpairedConfig(common, 4.0)),
    )
    data = TrainingData(config, 0, 0)
    for kind, name in (("paired", "low"), ("unpaired", "weak")):
        bright = [getattr(getattr(data, kind)(step, 1, 8), name).mean() > 0.5 for step in range(200)]
        assert sum(bright) / 200 == pytest.approx(0.8, abs=0.08)


def test_dark_photos_are_simulated_or_the_reference_itself_by_their_shares(tmp_path):
    for side, level in (("low", 7), ("high", 180)):
        write(tmp_path / side / "a.png", np.full((16, 16, 3), level, np.uint8))
    pairs = SourceConfig(str(tmp_path / "low"), str(tmp_path / "high"))
    data = TrainingData(DataConfig((pairs,), synthetic=0.5, identity=0.2, exposure_ev=(-1.0, -1.0)), 0, 0)
    kinds = []
    for step in range(200):
        batch = data.paired(step, 1, 8)
        if torch.equal(batch.low, batch.high):
            kinds.append("identity")
        elif batch.low.unique().numel() == 1:
            kinds.append("photo")
        else:
            kinds.append("synthetic")
            assert batch.low.mean() == pytest.approx(0.51, abs=0.05)  # half of the reference's light
    shares = [kinds.count(kind) / 200 for kind in ("synthetic", "identity", "photo")]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.08)


def test_a_dark_photo_that_was_stored_sideways_fits_its_upright_reference(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    write(tmp_path / "high" / "a.png", upright)
    exif = Image.Exif()
    exif[0x112] = 6
    (tmp_path / "low").mkdir()
    Image.fromarray(np.rot90(upright)).save(tmp_path / "low" / "a.png", exif=exif)
    data = TrainingData(DataConfig((SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)), 0, 16)
    for step in range(4):
        batch = data.paired(step, 2, 24)
        assert torch.equal(batch.low, batch.high)


def test_dark_photos_of_16_bits_keep_their_levels(tmp_path):
    dark = np.linspace(0, 1300, 48 * 64).astype(np.uint16).reshape(48, 64)
    for side in ("low", "high"):
        write(tmp_path / side / "a.png", dark)
    data = TrainingData(DataConfig((SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)), 0, 16)
    low = data.paired(0, 1, 0).low
    assert len(low.unique()) > 1000
    assert low.max() == pytest.approx(1300 / 65535)


def test_photos_of_mixed_proportions_share_a_batch(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("wide", (400, 600)), ("square", (256, 256))):
        for side in ("low", "high"):
            write(tmp_path / side / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    low, high = str(tmp_path / "low"), str(tmp_path / "high")
    data = TrainingData(DataConfig((SourceConfig(low, high),), unpaired=(UnpairedConfig(low),)), 0, 64)
    shapes = set()
    for step in range(12):
        for thumbnail in (data.paired(step, 4, 256).thumbnail, data.unpaired(step, 4, 256).weak_thumbnail):
            shapes.add(tuple(thumbnail.shape[2:]))
    assert {(43, 64), (64, 43)} <= shapes


def test_both_views_of_an_unpaired_photo_lie_on_the_same_place(config):
    still = StrongViewConfig(exposure_ev=0, white_balance=0, noise=0, blur=0)
    data = TrainingData(replace(config, strong=still), 0, 16)
    for step in range(4):
        batch = data.unpaired(step, 2, 24)
        assert torch.equal(batch.weak, batch.strong)
        assert torch.equal(batch.weak_thumbnail, batch.strong_thumbnail)
    for option in ("exposure_ev", "white_balance", "noise", "blur"):
        alone = replace(config, strong=replace(still, **{option: 1.0}))
        moved = TrainingData(alone, 0, 16).unpaired(0, 2, 24)
        assert not torch.equal(moved.weak, moved.strong), option
    moved = TrainingData(config, 0, 16).unpaired(0, 2, 24)
    assert moved.strong.min() >= 0 and moved.strong.max() <= 1


def test_pseudo_labels_are_cut_like_their_photos(config):
    data = TrainingData(config, 0, 16)
    data.pseudo_labels = lambda path: data.photos.read(path).float() / 255 if path.stem != "0" else None
    for step in range(6):
        batch = data.unpaired(step, 3, 16)
        for weak, label, present in zip(batch.weak, batch.pseudo, batch.has_pseudo, strict=True):
            assert torch.equal(label, weak if present else torch.zeros_like(weak))


def test_proportions_are_kept_unless_released_geometry_is_asked_for(tmp_path):
    disc = np.zeros((60, 120, 3), np.uint8)
    y, x = np.mgrid[:60, :120]
    disc[(y - 30) ** 2 + (x - 60) ** 2 < 20**2] = 255
    for name in ("low", "high", "night"):
        write(tmp_path / name / "disc.png", disc)
    base = DataConfig(
        (SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),),
        unpaired=(UnpairedConfig(str(tmp_path / "night")),),
    )

    def sides(image):
        lit = image[0] > 0.5
        return lit.any(1).sum().item(), lit.any(0).sum().item()

    rows, columns = sides(TrainingData(base, 0, 0).paired(0, 1, 0).high[0])
    assert rows == columns == 39
    squashed = TrainingData(replace(base, geometry="released"), 0, 0).unpaired(0, 1, 60)
    rows, columns = sides(squashed.weak[0])
    assert rows == 39 and 18 <= columns <= 21


def test_pairs_of_the_released_geometry_are_turned_one_by_one(tmp_path):
    quarters = np.array([[0, 80], [160, 240]], np.uint8)
    for name, size in (("wide", (40, 60)), ("square", (50, 50))):
        picture = np.kron(quarters, np.ones((size[0] // 2, size[1] // 2), np.uint8))
        for side in ("low", "high"):
            write(tmp_path / side / f"{name}.png", np.stack([picture] * 3, 2))
    pairs = (SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)
    data = TrainingData(DataConfig(pairs, geometry="released"), 0, 16)
    batch = data.paired(0, 80, 24)
    assert torch.equal(batch.low, batch.high)
    means = torch.nn.functional.adaptive_avg_pool2d(batch.low[:, 0], 2).flatten(1)
    orientations = {tuple(order) for order in means.argsort(1).tolist()}
    assert len(orientations) == 8
    # The photo is squashed to 280 / 256 of the crop.
    torch.testing.assert_close(batch.region[:, 2:], torch.full((80, 2), 24 / 26))
    assert batch.thumbnail.shape == (80, 3, 16, 16)
    seen = torch.nn.functional.adaptive_avg_pool2d(batch.thumbnail[:, 0], 2).flatten(1)
    assert torch.equal(seen.argsort(1), means.argsort(1))


def test_the_released_geometry_squashes_as_pillow_does(folder):
    night = UnpairedConfig(str(folder / "night"))
    pairs = (SourceConfig(str(folder / "low"), str(folder / "high")),)
    data = TrainingData(DataConfig(pairs, unpaired=(night,), geometry="released"), 0, 0)
    squashed = []
    for path in data.unpaired_photos:
        with Image.open(path) as photo:
            # Upright photos are held in landscape.
            level = photo if photo.width >= photo.height else photo.transpose(Image.Transpose.TRANSPOSE)
            small = np.array(level.resize((24, 24), Image.Resampling.LANCZOS), np.float32) / 255
        squashed.append(torch.from_numpy(small).permute(2, 0, 1))
    for view in data.unpaired(0, 8, 24).weak:
        assert any(torch.equal(view, expected) for expected in squashed)


def test_a_fraction_keeps_whole_scenes_and_frees_the_rest(config, folder):
    data = TrainingData(replace(config, pair_fraction=0.4, unpaired_from_pairs=True), 0, 0)
    assert sum(map(len, data._pairs)) == 2
    freed = [path for path in data.unpaired_photos if path.parent.name == "low"]
    assert len(freed) == 3
    assert not {path.stem for path in freed} & {pair.name for pair in data._pairs[0]}
    chosen = set()
    for seed in range(5):
        few = TrainingData(replace(config, pair_fraction=0.01), seed, 0)
        assert [path.parent.name for path in few.unpaired_photos] == ["night"] * 5
        assert few.report[0].endswith("1 pairs used, 4 left out by pair_fraction")
        chosen.add(few._pairs[0][0].name)
    assert len(chosen) > 1


def test_decoded_photos_stay_within_their_memory(folder):
    paths = [pair.high for pair in find_pairs(folder / "low", folder / "high")]
    store = PhotoStore(cache_bytes=15_000)
    for _ in range(2):
        for path in paths:
            assert store.read(path) is not None
    assert 0 < store._held <= 15_000
    assert store._held == sum(photo.nbytes for photo in store._cache.values())


def test_what_was_used_last_stays_in_memory_and_a_huge_photo_drives_out_nothing(folder, tmp_path):
    paths = [folder / "high" / f"{index}.png" for index in range(3)]
    write(tmp_path / "huge.png", np.zeros((100, 100, 3), np.uint8))
    store = PhotoStore(cache_bytes=15_000)  # two photos
    first, second = store.read(paths[0]), store.read(paths[1])
    assert store.read(paths[0]) is first
    store.read(paths[2])
    store.read(tmp_path / "huge.png")
    assert store.read(paths[0]) is first
    assert store.read(paths[1]) is not second


def test_unreadable_photos_are_named_and_skipped_up_to_a_limit(config, folder, tmp_path):
    for name in ("good", "cut"):
        write(tmp_path / "night" / f"{name}.png", np.full((40, 40, 3), 9, np.uint8))
    whole = (tmp_path / "night" / "cut.png").read_bytes()
    (tmp_path / "night" / "cut.png").write_bytes(whole[: len(whole) // 2])
    broken = replace(config, unpaired=(UnpairedConfig(str(tmp_path / "night")),))
    data = TrainingData(replace(broken, max_corrupt=1), 0, 0)
    with pytest.warns(UserWarning, match=r"cut\.png.*skipped from now on"):
        for step in range(4):
            assert data.unpaired(step, 2, 24).weak.shape == (2, 3, 24, 24)
    assert [path.name for path in data.photos.corrupt] == ["cut.png"]
    strict = TrainingData(broken, 0, 0)
    with pytest.raises(DataError, match=r"cut\.png"):
        for step in range(8):
            strict.unpaired(step, 2, 24)


@pytest.mark.filterwarnings("ignore:Cannot read")
def test_a_source_without_any_photo_that_decodes_ends_the_run(config, tmp_path):
    for side in ("low", "high"):
        write(tmp_path / side / "a.png", np.full((40, 40, 3), 9, np.uint8))
    whole = (tmp_path / "low" / "a.png").read_bytes()
    (tmp_path / "low" / "a.png").write_bytes(whole[: len(whole) // 2])
    pairs = (SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)
    with pytest.raises(DataError, match=r"no readable photo left(.|\n)*low/a\.png"):
        TrainingData(DataConfig(pairs, max_corrupt=9), 0, 0).paired(0, 1, 24)
    night = replace(config, unpaired=(UnpairedConfig(str(tmp_path / "low")),), max_corrupt=9)
    with pytest.raises(DataError, match="no readable photo left"):
        TrainingData(night, 0, 0).unpaired(0, 1, 24)


def test_the_report_counts_what_is_used_and_names_what_is_not(tmp_path):
    photo = np.zeros((40, 60, 3), np.uint8)
    for index in range(4):
        write(tmp_path / "low" / f"{index}.png", photo)
        write(tmp_path / "high" / f"{index}.png", photo)
    for index in range(30):
        write(tmp_path / "high" / f"{index}_gt.png", photo)
    (tmp_path / "low" / "1.png").write_bytes(b"junk")
    (tmp_path / "low" / "3.png").write_bytes((tmp_path / "low" / "3.png").read_bytes()[:20])
    source = SourceConfig(str(tmp_path / "low"), str(tmp_path / "high"))
    report = TrainingData(DataConfig((source,), max_corrupt=2), 0, 0).report
    assert report[0] == f"{source.low}: 2 pairs used, 0 left out by pair_fraction"
    assert "30 photos have no partner" in report[1]
    assert "0_gt.png" in report[1] and "and 20 more" in report[1]
    assert report[2].startswith("2 photos cannot be used")
    assert "1.png" in report[2] and "3.png" in report[2]


@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_pairs_of_different_size_are_refused(tmp_path, size):
    write(tmp_path / "low" / "a.png", np.zeros((*size, 3), np.uint8))
    write(tmp_path / "high" / "a.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        TrainingData(DataConfig((SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),)), 0, 0)


@pytest.mark.parametrize("trained", ["low", "high", "night"])
def test_validation_photos_that_are_copies_of_training_photos_are_refused(config, folder, tmp_path, trained):
    rng = np.random.default_rng(5)
    for side in ("low", "high"):
        for name in ("a", "b"):
            write(tmp_path / side / f"{name}.png", rng.integers(0, 256, (80, 50, 3), dtype=np.uint8))
    held_out = replace(config, val_low=str(tmp_path / "low"), val_high=str(tmp_path / "high"))
    assert len(TrainingData(held_out, 0, 0).validation()) == 2
    side = tmp_path / ("high" if trained == "high" else "low")
    (side / "b.png").write_bytes((folder / trained / "4.png").read_bytes())
    with pytest.raises(DataError, match=rf"1 validation photos are among.*b\.png is .*{trained}/4\.png"):
        TrainingData(held_out, 0, 0).validation()


def test_digests_tell_ends_and_sizes_apart_and_follow_a_manifest(folder, tmp_path):
    path = tmp_path / "a"
    seen = set()
    for content in (b"", b"a", b"a" * 200_000, b"a" * 199_999 + b"b", b"b" + b"a" * 199_999, b"a" * 199_999):
        path.write_bytes(content)
        seen.add(short_digest(path))
    assert len(seen) == 6
    found = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for side in ("low", "high"):
            shutil.copytree(folder / side, tmp_path / place / side)
        write_manifest(tmp_path / place / "m.jsonl", prepare([tmp_path / place], val=0.0).entries)
        data = TrainingData(DataConfig(manifest=str(tmp_path / place / "m.jsonl")), 0, 0)
        found.append(data.digests([]))
    assert found[0] == found[1]
    assert "low/0.png" in found[0]


def test_sizes_of_validation_pairs_are_checked_at_once(config, tmp_path):
    write(tmp_path / "low" / "a.png", np.zeros((8, 8, 3), np.uint8))
    write(tmp_path / "high" / "a.png", np.zeros((8, 9, 3), np.uint8))
    held_out = replace(config, val_low=str(tmp_path / "low"), val_high=str(tmp_path / "high"))
    with pytest.raises(DataError, match="differ in size: 8x8 and 9x8"):
        TrainingData(held_out, 0, 0).validation()


def test_released_strong_view_has_the_released_statistics():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    view = StrongView(StrongViewConfig("released"))
    draws, grey, untouched, blurred = 1500, 0, 0, 0
    for i in range(draws):
        generator = seeded(i)
        frame = view.of_frame(image, generator)
        grey += bool((frame[0] == frame[1]).all())
        untouched += bool(torch.equal(frame, image))
        blurred += not torch.equal(view.of_crop(image, generator), image)
    # Jitter with 0.8, grey with 0.2, and half of the crops blurred, 0.406 of those by a kernel of one pixel.
    assert grey / draws == pytest.approx(0.2, abs=0.035)
    assert untouched / draws == pytest.approx(0.2 * 0.8, abs=0.035)
    assert blurred / draws == pytest.approx(0.5 * (1 - 0.406), abs=0.045)


def test_hue_turns_like_colorsys():
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    turned = _turn_hue(image, 0.2)
    for y in range(5):
        for x in range(7):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            expected = colorsys.hsv_to_rgb((h + 0.2) % 1, s, v)
            assert turned[:, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_relighting_is_exact_in_linear_light():
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    changed = relight(image, 1.0, 0.0, seeded(5))
    ratio = srgb_to_linear(changed) / srgb_to_linear(image)
    assert ratio.std() < 1e-4
    assert 0.5 <= ratio.mean() <= 2
    assert torch.equal(relight(image, 0.0, 0.0, seeded(5)), image)
    assert linear_to_srgb(srgb_to_linear(image)).allclose(image, atol=1e-6)


def test_both_photos_of_a_pair_are_recoloured_alike_and_keep_their_exposure(folder):
    random = torch.Generator().manual_seed(0)
    high = torch.rand(3, 8, 8, generator=random) * 0.6 + 0.1
    low = high * 0.3
    grey = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]
    seen = []
    for number in range(20):
        pair = recolour(low, high, 0.5, seeded(number))
        ratios = [srgb_to_linear(a) / srgb_to_linear(b) for a, b in zip(pair, (low, high), strict=True)]
        gains = ratios[0].mean((1, 2))
        torch.testing.assert_close(ratios[0], gains[:, None, None].expand(3, 8, 8), rtol=1e-3, atol=0)
        torch.testing.assert_close(ratios[1], ratios[0], rtol=1e-3, atol=0)
        light = [float((srgb_to_linear(image) * grey).sum(0).mean()) for image in (high, pair[1])]
        assert light[1] == pytest.approx(light[0], rel=1e-3)
        seen += [gains[0] / gains[1], gains[2] / gains[1]]
    assert recolour(low, torch.zeros_like(high), 0.5, seeded(0))[0].mean() > low.mean() / 2
    assert 1 / 1.5 <= min(seen) < 0.8
    assert 1.2 < max(seen) <= 1.5
    # The references of a batch change with it, and what shows a reference as it is still does.
    source = SourceConfig(str(folder / "high"), str(folder / "high"))
    plain, jittered = (
        TrainingData(DataConfig((source,), light_colour_jitter=j), 0, 16).paired(0, 3, 24) for j in (0.0, 0.5)
    )
    assert torch.equal(jittered.low, jittered.high)
    assert not torch.allclose(jittered.high.mean((2, 3)), plain.high.mean((2, 3)), atol=0.02)


def test_saturation_changes_alike_in_both_photos_of_a_pair(folder):
    low, high = torch.rand(3, 8, 8) * 0.1 + 0.1, torch.rand(3, 8, 8) * 0.2 + 0.4
    seen = []
    for i in range(20):
        factors = []
        for before, after in zip((low, high), resaturate(low, high, 1.0, seeded(i)), strict=True):
            light, changed = (srgb_to_linear(image)[None] for image in (before, after))
            torch.testing.assert_close(luma(changed), luma(light), rtol=1e-3, atol=1e-5)
            colour, other = light - luma(light), changed - luma(changed)
            factors.append(float((colour * other).sum() / colour.square().sum()))
            torch.testing.assert_close(other, factors[-1] * colour, rtol=1e-2, atol=1e-4)
        assert factors[0] == pytest.approx(factors[1], rel=1e-2)
        seen.append(factors[1])
    assert 0.5 <= min(seen) < 0.7
    assert 1.5 < max(seen) <= 2
    source = SourceConfig(str(folder / "low"), str(folder / "high"))
    plain, jittered = (
        TrainingData(DataConfig((source,), saturation_jitter=j), 0, 16).paired(0, 3, 24) for j in (0.0, 1.0)
    )
    for name in ("low", "high"):
        assert not torch.allclose(getattr(jittered, name), getattr(plain, name), atol=0.01)


def test_simulated_darkness_is_dark_and_uneven_where_asked(config):
    bright = torch.full((3, 60, 60), 0.8)
    even = replace(config, uneven_light=0.0, backlit=0.0, camera=0.0)
    uneven = replace(even, uneven_light=1.0)
    spreads = []
    for kind in (even, uneven):
        dark = torch.stack([darken(bright, kind, seeded(i)) for i in range(20)])
        assert dark.mean() < 0.55
        spreads.append(torch.nn.functional.avg_pool2d(dark, 20).std((2, 3)).mean())
    assert spreads[1] > 4 * spreads[0]


def test_simulated_darkness_has_the_noise_and_the_light_of_a_camera(config, monkeypatch):
    even = replace(config, uneven_light=0.0, backlit=0.0, camera=0.0, exposure_ev=(-3.0, -2.0))
    seen = []
    for i in range(12):
        dark = darken(torch.full((3, 24, 24), 0.8), even, seeded(i))
        assert dark.std((1, 2)).min() > 1e-3
        light = srgb_to_linear(dark).mean((1, 2))
        seen += [light[0] / light[1], light[2] / light[1]]
    assert 0.8 < min(seen) < 0.93
    assert 1.07 < max(seen) < 1.2
    # It softens and compresses, each by itself.
    reference, camera = torch.rand(3, 24, 24), replace(even, camera=1.0)
    plain, both = darken(reference, even, seeded(0)), darken(reference, camera, seeded(0))
    monkeypatch.setattr(views, "_recompress", lambda image, quality: image)
    softened = darken(reference, camera, seeded(0))
    assert softened.diff(dim=2).abs().mean() < 0.9 * plain.diff(dim=2).abs().mean()
    assert 0 < (both - softened).abs().mean() < 0.1


def test_the_light_of_a_view_changes_in_red_and_blue_on_their_own():
    image = torch.full((3, 4, 4), 0.4)
    seen = []
    for i in range(30):
        gains = (srgb_to_linear(relight(image, 0.0, 0.2, seeded(i))) / srgb_to_linear(image)).mean((1, 2))
        assert gains[1] == pytest.approx(1, abs=1e-4)
        seen.append(gains[[0, 2]])
    red, blue = torch.stack(seen).T
    for gains in (red, blue):
        assert 0.8 - 1e-3 <= gains.min() < 0.9
        assert 1.1 < gains.max() <= 1.2 + 1e-3
    assert (red - blue).abs().max() > 0.1


def test_strong_views_are_noisy_soft_and_relit_by_their_options():
    image = torch.rand(3, 16, 16) * 0.4 + 0.2
    still = StrongViewConfig(exposure_ev=0, white_balance=0, noise=0, blur=0)
    noisy, soft, relit = (
        StrongView(replace(still, **{name: 1.0})) for name in ("noise", "blur", "exposure_ev")
    )
    assert noisy.of_crop(image, seeded(0)).sub(image).abs().mean() > 1e-3
    assert soft.of_crop(image, seeded(0)).diff(dim=2).abs().mean() < 0.9 * image.diff(dim=2).abs().mean()
    ratio = srgb_to_linear(relit.of_frame(image, seeded(0))) / srgb_to_linear(image)
    assert ratio.std() < 1e-4 and abs(ratio.mean() - 1) > 0.05
    for view in (noisy, soft):
        assert torch.equal(view.of_frame(image, seeded(0)), image)


def test_released_jitter_has_the_released_reach():
    view = StrongView(StrongViewConfig("released"))
    steps = torch.tensor([0.2, 0.3]).repeat(2).expand(3, 2, 4)
    coloured = torch.tensor([0.3, 0.2, 0.2]).view(3, 1, 1).expand(3, 2, 2)
    brightness, contrast, hues = [], [], []
    for i in range(300):
        grey = view.of_frame(steps, seeded(i))[0, 0]
        brightness.append(float(grey.mean()) / 0.25)
        contrast.append(float(grey[1] - grey[0]) / float(grey.mean()) / 0.4)
        pixel = view.of_frame(coloured, seeded(i))[:, 0, 0]
        if pixel.max() - pixel.min() > 1e-3:
            hues.append((colorsys.rgb_to_hsv(*pixel.tolist())[0] + 0.5) % 1 - 0.5)
    for factors in (brightness, contrast):
        assert 0.5 - 1e-2 <= min(factors) < 0.6
        assert 1.4 < max(factors) <= 1.5 + 1e-2
    assert -0.25 - 1e-3 <= min(hues) < -0.2
    assert 0.2 < max(hues) <= 0.25 + 1e-3


def test_backlight_darkens_what_is_dim_and_spares_what_is_bright(config):
    scene = torch.cat([torch.full((3, 30, 60), 0.3), torch.full((3, 30, 60), 0.95)], dim=1)
    backlit = replace(config, uneven_light=1.0, backlit=1.0, camera=0.0, exposure_ev=(-4.0, -3.0))
    for i in range(10):
        dark = darken(scene, backlit, seeded(i))
        assert dark[:, :20].mean() < 0.12
        assert dark[:, 40:].mean() > 0.85


def test_blur_keeps_the_mean_of_a_constant_and_nothing_with_radius_zero():
    image = torch.full((3, 9, 9), 0.3)
    torch.testing.assert_close(blur(image, 0.8), image)
    noise = torch.rand(3, 9, 9)
    assert torch.equal(blur(noise, 1.0, 0), noise)
    for sigma in (0.4, 0.9):
        expected = gaussian_filter(noise.numpy(), sigma, radius=2, mode="mirror", axes=(1, 2))
        torch.testing.assert_close(blur(noise, sigma), torch.from_numpy(expected), atol=1e-6, rtol=0)
