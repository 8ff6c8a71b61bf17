"""Camera RAW files are developed as they were exposed, and never taken for the preview in them."""

import struct
import sys

import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from semillie_core.image_io import PhotoError, photo_format, read_photo, result_format, write_photo

pytest.importorskip("pyvips", reason="photo files need the extra cli")

SIZE = (64, 96)


@pytest.fixture
def rawpy():
    return pytest.importorskip("rawpy", reason="camera RAW needs rawpy")


def colours(height=SIZE[0], width=SIZE[1]):
    """Linear light, smooth enough for what lies between the filters of a colour, and red where it is averaged."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([0.2 + 0.3 * x, 0.1 + 0.2 * y, 0.15 - 0.1 * x])


def grey_ramp(width, brightest):
    return torch.linspace(0.01, brightest, width).expand(3, SIZE[0], width)


def srgb(light):
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(1e-9) ** (1 / 2.4) - 0.055)


def assert_developed(pixels, light, atol=5e-4):
    """Near the edge of the picture there are fewer values of a colour to choose from."""
    inside = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(pixels[inside], srgb(light)[inside], atol=atol, rtol=0)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("neutral", [(1.0, 1.0, 1.0), (0.5, 1.0, 0.7)])
def test_raw_has_the_colours_of_the_camera(tmp_path, dng, neutral):
    (tmp_path / "a.dng").write_bytes(dng(colours(), neutral=neutral))
    photo = read_photo(tmp_path / "a.dng")
    assert (photo.format, photo.bit_depth, photo.is_grey) == ("raw", 16, False)
    assert photo.pixels.dtype == torch.float32
    assert_developed(photo.pixels, colours())


@pytest.mark.usefixtures("rawpy")
def test_without_the_cameras_white_balance_it_is_daylights(tmp_path, dng):
    (tmp_path / "a.dng").write_bytes(dng(colours(), tags={50728: None}))
    assert_developed(read_photo(tmp_path / "a.dng").pixels, colours())


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("brightest", [0.9, 0.9 / 4, 0.9 / 64])
def test_raw_is_as_bright_as_it_was_exposed(tmp_path, dng, brightest):
    (tmp_path / "a.dng").write_bytes(dng(grey_ramp(96, brightest)))
    assert_developed(read_photo(tmp_path / "a.dng").pixels, grey_ramp(96, brightest))


@pytest.mark.usefixtures("rawpy")
def test_sixteen_bits_of_raw_arrive(tmp_path, dng):
    (tmp_path / "a.dng").write_bytes(dng(grey_ramp(2000, 0.02)))
    photo = read_photo(tmp_path / "a.dng")
    assert len(photo.pixels[1, 20].unique()) > 500
    assert result_format(tmp_path / "a.dng") == "png"
    write_photo(tmp_path / "a.png", photo.pixels, like=photo)
    torch.testing.assert_close(read_photo(tmp_path / "a.png").pixels, photo.pixels)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_raw_is_upright(tmp_path, dng, orientation):
    (tmp_path / "a.dng").write_bytes(dng(colours(), orientation=orientation))
    upright = colours().transpose(1, 2) if orientation >= 5 else colours()
    if orientation in (2, 3, 6, 7):
        upright = upright.flip(2)
    if orientation in (3, 4, 7, 8):
        upright = upright.flip(1)
    assert_developed(read_photo(tmp_path / "a.dng").pixels, upright)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.tif", "a"])
def test_the_preview_is_not_the_photo(tmp_path, dng, name):
    (tmp_path / name).write_bytes(dng(colours()))
    photo = read_photo(tmp_path / name)
    assert photo.format == "raw"
    assert photo.pixels.shape == (3, *SIZE)


@pytest.mark.usefixtures("rawpy")
def test_raw_without_colours_is_grey(tmp_path, dng):
    light = grey_ramp(96, 0.5)
    tags = {50721: None, 50728: None}
    (tmp_path / "a.dng").write_bytes(
        dng(light, tags=tags, raw_tags={262: (3, (34892,)), 33421: None, 33422: None})
    )
    photo = read_photo(tmp_path / "a.dng")
    assert photo.is_grey
    assert_developed(photo.pixels, light)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("signature", [b"II*\0", b"IIRO", b"IIU\0"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_of_raw_is_kept_and_true_of_the_result(tmp_path, dng, signature, suffix):
    camera = {33434: (5, (0.02,)), 0xA001: (3, (65535,))}  # exposure, and another colour space than sRGB
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    content = dng(colours(), orientation=6, tags={0x8769: camera, 700: (1, xmp)})
    (tmp_path / "a").write_bytes(signature + content[4:])
    photo = read_photo(tmp_path / "a")
    assert photo.metadata.keys() == {"exif-data"}
    write_photo(tmp_path / f"a{suffix}", photo.pixels, like=photo)
    with Image.open(tmp_path / f"a{suffix}") as written:
        exif = written.getexif()
        assert (exif[271], exif[272], exif.get(274, 1)) == ("ACME", "Night 1", 1)
        assert exif.get_ifd(0x8769)[33434] == IFDRational(1, 50)
        assert exif.get_ifd(0x8769)[0xA001] == 1


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_raw_is_an_error(tmp_path, dng, part):
    content = dng(colours())
    (tmp_path / "a.dng").write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        PhotoError, match=r"a\.dng is a truncated, damaged or unusual RAW file \(.*Copy it again"
    ):
        read_photo(tmp_path / "a.dng")


@pytest.mark.usefixtures("rawpy")
def test_raw_that_libraw_does_not_know_is_an_error(tmp_path, dng):
    (tmp_path / "a.nef").write_bytes(b"plain text" * 100)
    (tmp_path / "b.dng").write_bytes(dng(colours(), raw_tags={259: (3, (52546,))}))  # a compression
    (tmp_path / "c.dng").write_bytes(dng(colours())[:300])
    for name in ("a.nef", "b.dng", "c.dng"):
        with pytest.raises(
            PhotoError, match=rf"{name} is no intact camera RAW file.*LibRaw \d.*pip install --upgrade rawpy"
        ):
            read_photo(tmp_path / name)


@pytest.mark.usefixtures("rawpy")
def test_raw_that_claims_more_pixels_than_memory_holds_is_refused(tmp_path, dng):
    (tmp_path / "a.dng").write_bytes(dng(colours(), raw_tags={256: (4, (60_000,)), 257: (4, (60_000,))}))
    with pytest.raises(
        PhotoError, match=r"a\.dng is a truncated, damaged or unusual RAW file \(Image too big"
    ):
        read_photo(tmp_path / "a.dng")


def test_libraw_without_memory_is_told_from_damage(tmp_path, dng, rawpy, monkeypatch):
    def imread(_file):
        raise rawpy.LibRawUnsufficientMemoryError(b"Unsufficient memory")

    (tmp_path / "a.dng").write_bytes(dng(colours()))
    monkeypatch.setattr(rawpy, "imread", imread)
    with pytest.raises(MemoryError, match="Unsufficient memory"):
        read_photo(tmp_path / "a.dng")


@pytest.mark.parametrize("name", ["a.dng", "a.tif"])
def test_missing_rawpy_names_what_to_install(tmp_path, dng, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / name).write_bytes(dng(colours()))
    with pytest.raises(PhotoError, match=rf"{name} is a camera RAW file.*pip install rawpy\. Or save"):
        read_photo(tmp_path / name)


def test_raw_is_known_by_its_name_or_its_first_bytes(tmp_path):
    for name, content, file_format in (
        ("a.ARW", b"II*\0", "raw"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", "raw"),
        ("a", b"FUJIFILMCCD-RAW 0201", "raw"),
        ("a", b"II*\0\x10\0\0\0CR\x02\0", "raw"),
        ("a", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw"),
        ("a.tif", b"II*\0\x08\0\0\0", "tiff"),
        ("a.dng", b"\xff\xd8\xff\xe0", "jpeg"),
    ):
        (tmp_path / name).write_bytes(content)
        assert photo_format(tmp_path / name) == file_format, name


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("count", [2, 10**9])
def test_directories_that_lead_nowhere_are_no_sensor_data(tmp_path, count):
    """The file is as good a TIFF as it was."""
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.tif", tiffinfo={330: 4})
    content = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHI", 330, 4, 1)
    assert entry in content
    (tmp_path / "a.tif").write_bytes(content.replace(entry, struct.pack("<HHI", 330, 4, count)))
    assert read_photo(tmp_path / "a.tif").format == "tiff"
