"""Image files as training and scoring see them: upright, in full depth, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from semillie_core.data import DataError, find_images, read_rgb
from semillie_core.data.pairs import read_levels, to_float, upright_size
from semillie_core.data.prepare import prepare

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PHOTO),
        (2, PHOTO[:, ::-1]),
        (3, PHOTO[::-1, ::-1]),
        (4, PHOTO[::-1]),
        (5, PHOTO.swapaxes(0, 1)),
        (6, np.rot90(PHOTO, -1)),
        (7, np.rot90(PHOTO, 2).swapaxes(0, 1)),
        (8, np.rot90(PHOTO)),
    ],
)
def test_photos_are_upright(tmp_path, suffix, orientation, upright):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PHOTO).save(path, exif=exif, lossless=True, quality=100, subsampling=0)
    levels = read_levels(path)
    assert levels.dtype == torch.uint8
    difference = levels.permute(1, 2, 0).int() - torch.from_numpy(upright.astype(np.int32))
    assert difference.abs().max() <= (20 if suffix == "jpg" else 0)
    assert upright_size(path) == levels.shape[1:]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colours", [1, 3])
def test_16_bits_are_kept(tmp_path, suffix, colours):
    pyvips = pytest.importorskip("pyvips")
    levels = np.random.default_rng(1).integers(0, 65536, (5, 7, colours), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    kind = "grey16" if colours == 1 else "rgb16"
    pyvips.Image.new_from_array(levels).copy(interpretation=kind).write_to_file(str(path))
    read = read_levels(path)
    expected = torch.from_numpy(levels.astype(np.int32)).permute(2, 0, 1).expand(3, -1, -1)
    assert read.dtype == torch.uint16
    assert torch.equal(read.int(), expected)
    torch.testing.assert_close(to_float(read), expected.float() / 65535)
    assert torch.equal(read_rgb(path), (expected.float() / 257).round().byte())


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_other_samples_are_refused_by_name(tmp_path, kind, mode):
    Image.fromarray(np.full((4, 4), 0.5, kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif: its samples are of type {mode}: save it with 8 or 16"):
        read_levels(tmp_path / "a.tif")


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for read in (read_levels, upright_size):
        with pytest.raises(DataError, match=r"a\.png"):
            read(tmp_path / "a.png")


def test_prepared_photos_are_measured_upright_and_in_full_depth(tmp_path):
    scene = np.kron(np.random.default_rng(2).integers(8000, 60000, (6, 4)), np.ones((8, 8))).astype(np.uint16)
    exif = Image.Exif()
    exif[0x112] = 6
    for side in ("low", "high"):
        (tmp_path / "set" / side).mkdir(parents=True)
    # 8 bits would clip at 255, and make the dark photo white.
    Image.fromarray(scene // 8).save(tmp_path / "set" / "low" / "a.png")
    eight = Image.fromarray(np.rot90(scene >> 8).astype(np.uint8))
    eight.save(tmp_path / "set" / "high" / "a.png", exif=exif)
    found = prepare([tmp_path / "set"], val=0.0)
    assert [(entry.width, entry.height) for entry in found.entries] == [(32, 48), (32, 48)]
    assert found.dropped == []


def test_hidden_files_are_no_photos(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves")
    assert find_images(tmp_path) == [tmp_path / "a.png"]


def test_a_file_that_is_no_image_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("text")
    for read in (read_levels, upright_size):
        with pytest.raises(DataError, match=r"a\.jpg: it is damaged or of no known format\. Replace it"):
            read(path)
