"""Photo files keep what they carry, and broken ones are refused by name."""

import base64
import builtins
import io
import os
import stat
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, features
from PIL.TiffImagePlugin import IFDRational

from semillie_core.colour import linear_to_srgb
from semillie_core.dynamic_range import to_standard_range
from semillie_core.image_io import (
    Photo,
    PhotoError,
    check_target,
    load_vips,
    photo_format,
    read_photo,
    result_format,
    side_by_side,
    write_photo,
)

pyvips = pytest.importorskip("pyvips", reason="photo files need the extra cli")

LOSSLESS = (".png", ".tif")
FORMATS = {".png": "png", ".jpg": "jpeg", ".webp": "webp", ".tif": "tiff"}
AVIF = pytest.param(
    ".avif", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="ACME"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(height=48, width=64):
    """A picture that lossy formats keep nearly as it is."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.7 - 0.4 * x * y])


def to_pil(pixels):
    return Image.fromarray((pixels * 255).round().byte().movedim(0, -1).numpy())


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_files_keep_every_value(tmp_path, suffix, bit_depth, channels):
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    values = (noise(21, 35, channels) * (2**bit_depth - 1)).round().numpy().astype(dtype)
    interpretation = (
        ("b-w" if bit_depth == 8 else "grey16") if channels < 3 else ("srgb" if bit_depth == 8 else "rgb16")
    )
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    pyvips.Image.new_from_array(values, interpretation=interpretation).write_to_file(str(source))

    photo = read_photo(source)
    assert photo.pixels.shape == (4 if channels in (2, 4) else 3, 21, 35)
    assert photo.pixels.dtype == torch.float32
    assert (photo.bit_depth, photo.is_grey, photo.format) == (bit_depth, channels < 3, FORMATS[suffix])
    write_photo(target, photo.pixels, like=photo)

    again = pyvips.Image.new_from_file(str(target))
    assert again.format == ("uchar" if bit_depth == 8 else "ushort")
    np.testing.assert_array_equal(again.numpy().reshape(values.shape), values)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_stay_close(tmp_path, suffix):
    write_photo(tmp_path / f"a{suffix}", smooth())
    photo = read_photo(tmp_path / f"a{suffix}")
    assert photo.format == FORMATS[suffix]
    torch.testing.assert_close(photo.pixels, smooth(), atol=0.03, rtol=0)


def test_webp_of_full_quality_is_lossless(tmp_path):
    pixels = (noise(4, 17, 19) * 255).round() / 255
    write_photo(tmp_path / "a.webp", pixels, quality=100)
    torch.testing.assert_close(read_photo(tmp_path / "a.webp").pixels, pixels)


def test_values_are_rounded_not_truncated(tmp_path):
    pixels = torch.tensor([99.6, 99.4, 300.0]).view(3, 1, 1) / 255
    write_photo(tmp_path / "a.png", pixels)
    assert np.asarray(Image.open(tmp_path / "a.png")).ravel().tolist() == [100, 99, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", AVIF])
def test_photos_become_upright_once(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = (
        {"lossless": True}
        if suffix == ".webp"
        else {"quality": 100, "subsampling": 0}
        if suffix == ".jpg"
        else {"quality": 100, "subsampling": "4:4:4", "speed": 10}
        if suffix == ".avif"
        else {}
    )
    to_pil(smooth()).save(tmp_path / f"in{suffix}", exif=exif, **options)
    upright = np.asarray(_transposed(to_pil(smooth()), orientation)).astype(np.float32) / 255

    photo = read_photo(tmp_path / f"in{suffix}")
    torch.testing.assert_close(photo.pixels.movedim(0, -1), torch.from_numpy(upright), atol=0.02, rtol=0)
    target = tmp_path / f"out{'.jpg' if suffix == '.avif' else suffix}"
    write_photo(target, photo.pixels, like=photo, quality=100)
    with Image.open(target) as written:
        assert written.getexif().get(274, 1) == 1
        assert (written.height, written.width) == tuple(photo.pixels.shape[1:])


def _transposed(image, orientation):
    """Undo an EXIF orientation as EXIF 2.3 (4.6.4 A) describes it."""
    steps = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    for step in steps[orientation]:
        image = image.transpose(step)
    return image


@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".jpg", ".tif"])
def test_exif_has_the_size_of_the_upright_photo(tmp_path, source, target):
    exif = Image.Exif()
    exif[0x8769] = {0xA002: 64, 0xA003: 48}
    plain = Photo(smooth(), "jpeg", metadata={"exif-data": exif.tobytes()})
    write_photo(tmp_path / f"a{source}", smooth(), like=plain)
    photo = read_photo(tmp_path / f"a{source}")
    turned = photo.pixels.transpose(1, 2)
    write_photo(tmp_path / f"b{target}", turned, like=photo)
    with Image.open(tmp_path / f"b{target}") as written:
        camera = written.getexif().get_ifd(0x8769)
        assert (camera[0xA002], camera[0xA003]) == written.size == (48, 64)


def save_with_metadata(path, built, icc):
    """Save the smooth picture as a camera or an editor would."""
    exif = Image.Exif()
    exif.load(built.tobytes())
    options = {"xmp": XMP}
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": info}
    elif path.suffix == ".tif":
        exif[700] = XMP
        options = {}
    elif path.suffix == ".avif":
        options["quality"] = 100
    to_pil(smooth()).save(path, exif=exif, icc_profile=icc, dpi=(300, 300), **options)


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif", AVIF])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
def test_profile_exif_and_xmp_are_kept(tmp_path, source, target):
    exif = Image.Exif()
    exif[271], exif[274] = "ACME", 6
    exif[0x8769] = {33434: IFDRational(1, 50), 36867: "2024:12:24 18:00:00"}
    exif[0x8825] = {1: "N", 2: (IFDRational(59), IFDRational(20), IFDRational(3, 10))}
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save_with_metadata(tmp_path / f"in{source}", exif, icc)

    photo = read_photo(tmp_path / f"in{source}")
    write_photo(tmp_path / f"out{target}", photo.pixels, like=photo)
    torch.testing.assert_close(read_photo(tmp_path / f"out{target}").pixels, photo.pixels, atol=0.04, rtol=0)
    with Image.open(tmp_path / f"out{target}") as written:
        written.load()
        found = written.getexif()
        assert written.info["icc_profile"] == icc
        assert found.get(271) == "ACME"
        assert found.get(274, 1) == 1
        camera, position = found.get_ifd(0x8769), found.get_ifd(0x8825)
        assert (camera[36867], float(camera[33434])) == ("2024:12:24 18:00:00", 0.02)
        assert (position[1], [float(x) for x in position[2]]) == ("N", [59, 20, 0.3])
        if not {".webp", ".avif"} & {source, target}:  # They have no resolution.
            assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    xmp = pyvips.Image.new_from_file(str(tmp_path / f"out{target}")).get("xmp-data")
    assert b'tiff:Make="ACME"' in xmp
    assert b'tiff:Orientation="1"' in xmp


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_exif_in_tiff_survives_a_second_round(tmp_path, bit_depth):
    exif = Image.Exif()
    exif[270], exif[271] = "night, odd length", "ACME"
    exif[0x8769] = {33434: IFDRational(1, 50), 0xA005: {1: "R98"}}
    photo = Photo(noise(4, 7, 5), "tiff", bit_depth, metadata={"exif-data": exif.tobytes()})
    for name in ("a.tif", "b.tif"):
        write_photo(tmp_path / name, photo.pixels, like=photo)
        photo = read_photo(tmp_path / name)
        found = Image.Exif()
        found.load(photo.metadata["exif-data"])
        assert (found[270], found[271]) == ("night, odd length", "ACME")
        assert dict(found.get_ifd(0x8769)) == {33434: IFDRational(1, 50)}
    assert photo.bit_depth == bit_depth
    torch.testing.assert_close(photo.pixels, noise(4, 7, 5), atol=0.51 / (2**bit_depth - 1), rtol=0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(("thumbnail", "note"), [(0, 65_400), (0, 200_000), (30_000, 40_000)])
def test_exif_too_large_for_the_format_loses_only_what_is_large(tmp_path, suffix, thumbnail, note):
    exif = Image.Exif()
    exif[271] = "ACME"
    exif[0x8769] = {36867: "2024:12:24 18:00:00", 37500: bytes(note)}
    exif[0x8825] = {1: "N", 2: (IFDRational(59), IFDRational(20), IFDRational(3, 10))}
    block = _with_thumbnail(exif.tobytes(), bytes(thumbnail)) if thumbnail else exif.tobytes()
    photo = Photo(smooth(), "tiff", metadata={"exif-data": block})
    write_photo(tmp_path / f"a{suffix}", photo.pixels, like=photo)
    with Image.open(tmp_path / f"a{suffix}") as written:
        found = written.getexif()
        camera = found.get_ifd(0x8769)
        assert (found[271], camera[36867], found.get_ifd(0x8825)[1]) == ("ACME", "2024:12:24 18:00:00", "N")
        assert (37500 in camera) == bool(thumbnail)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, at how the file begins
@pytest.mark.parametrize("text", ["© Jörg 夜".encode(), "© Jörg".encode("latin-1")])
@pytest.mark.parametrize(("source", "target"), [("jpg", "tif"), ("tif", "tif"), ("tif", "jpg")])
def test_text_in_exif_keeps_its_bytes(tmp_path, text, source, target):
    """It should be ASCII, and is what the camera or the program writes, mostly UTF-8."""
    artist, lens = b"artist " + text, b"lens " + text
    exif = Image.Exif()
    exif[315], exif[0x8769] = artist, {42036: "?" * len(lens)}
    block = exif.tobytes().replace(b"?" * len(lens), lens)
    photo = Photo(smooth(), "jpeg", metadata={"exif-data": block})
    write_photo(tmp_path / f"a.{source}", photo.pixels, like=photo)
    read = read_photo(tmp_path / f"a.{source}")
    write_photo(tmp_path / f"b.{target}", read.pixels, like=read)
    content = (tmp_path / f"b.{target}").read_bytes()
    assert artist in content
    assert lens in content


def test_text_in_exif_that_is_too_large_keeps_its_bytes(tmp_path):
    text = "© Jörg 夜".encode()
    exif = Image.Exif()
    exif[315] = text
    exif[0x8769] = {37500: bytes(100_000)}
    photo = Photo(smooth(), "tiff", metadata={"exif-data": exif.tobytes()})
    write_photo(tmp_path / "a.jpg", photo.pixels, like=photo)
    assert text in (tmp_path / "a.jpg").read_bytes()


# Twenty keywords.
IPTC = b"".join(b"\x1c\x02\x19\x00\x05k%04d" % number for number in range(20))
PHOTOSHOP = (
    b"Photoshop 3.0\0"
    b"8BIM\x04\x0a\x03odd\0\0\0\x01\x01\0"  # a resource with a name, of an odd length
    b"8BIM\x04\x04\0\0" + len(IPTC).to_bytes(4, "big") + IPTC
)


def keywords(path):
    """The IPTC of a file, found by Pillow."""
    with Image.open(path) as image:
        if image.format == "TIFF":
            return image.tag_v2.get(33723)
        return image.info.get("photoshop", {}).get(0x0404)


@pytest.mark.parametrize("target", ["jpg", "tif"])
@pytest.mark.parametrize("source", ["jpeg", "bytes", "undefined", "numbers"])
def test_keywords_are_kept(tmp_path, source, target):
    path, picture = tmp_path / "photo", to_pil(smooth())
    if source == "jpeg":
        stream = io.BytesIO()
        picture.save(stream, "JPEG")
        segment = b"\xff\xed" + (len(PHOTOSHOP) + 2).to_bytes(2, "big") + PHOTOSHOP
        path.write_bytes(stream.getvalue()[:2] + segment + stream.getvalue()[2:])
    else:
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory.tagtype[33723] = {"bytes": 1}.get(source, 7)
        directory[33723] = IPTC
        picture.save(path, "TIFF", tiffinfo=directory)
        if source == "numbers":  # of four bytes, as which Pillow does not write it
            undefined, numbers = (
                struct.pack("<HHI", 33723, *form) for form in ((7, len(IPTC)), (4, len(IPTC) // 4))
            )
            assert undefined in path.read_bytes()
            path.write_bytes(path.read_bytes().replace(undefined, numbers))
    photo = read_photo(path)
    result = tmp_path / f"result.{target}"
    write_photo(result, photo.pixels, like=photo)
    assert keywords(result) == IPTC
    again = tmp_path / f"again.{target}"
    write_photo(again, photo.pixels, like=read_photo(result))
    assert keywords(again) == IPTC
    torch.testing.assert_close(read_photo(again).pixels, photo.pixels, atol=0.03, rtol=0)


@pytest.mark.parametrize("stop", [14, 17, 20, 30, 40])
def test_a_damaged_block_of_keywords_does_not_cost_the_photo(tmp_path, stop):
    photo = Photo(smooth(), "jpeg", metadata={"iptc-data": PHOTOSHOP[:stop]})
    write_photo(tmp_path / "a.tif", photo.pixels, like=photo)
    read_photo(tmp_path / "a.tif")


def test_damaged_exif_does_not_cost_the_photo(tmp_path):
    exif = Image.Exif()
    exif[271] = "ACME"
    to_pil(smooth()).save(tmp_path / "a.tif", exif=exif)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = content.index((271).to_bytes(2, "little") + (2).to_bytes(2, "little"))
    content[at + 2 : at + 12] = b"\xff" * 10
    (tmp_path / "a.tif").write_bytes(content)
    photo = read_photo(tmp_path / "a.tif")
    write_photo(tmp_path / "b.tif", photo.pixels, like=photo)
    torch.testing.assert_close(read_photo(tmp_path / "b.tif").pixels, smooth(), atol=0.01, rtol=0)


def test_exif_that_can_be_read_but_not_written_does_not_cost_the_photo(tmp_path):
    built, exif = Image.Exif(), Image.Exif()
    built[0x8825] = {2: (IFDRational(59), IFDRational(20), IFDRational(3, 10))}
    exif.load(built.tobytes())
    to_pil(smooth()).save(tmp_path / "a.tif", exif=exif)
    content, fractions, bare = (tmp_path / "a.tif").read_bytes(), (2, 5, 3), (2, 1, 3)
    assert content.count(struct.pack("<HHI", *fractions)) == 1
    (tmp_path / "a.tif").write_bytes(
        content.replace(struct.pack("<HHI", *fractions), struct.pack("<HHI", *bare))
    )
    assert "exif-data" not in read_photo(tmp_path / "a.tif").metadata


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_tiff_is_written_without_damaged_exif(tmp_path):
    exif = Image.Exif()
    exif[270], exif[271] = "night", "ACME"
    exif[0x8769] = {33434: IFDRational(1, 50), 36867: "2024:12:24 18:00:00", 37500: b"maker's note"}
    exif[0x8825] = {1: "N", 2: (IFDRational(59), IFDRational(20), IFDRational(3, 10))}
    block, pixels = exif.tobytes(), noise(3, 5, 7)
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(block, np.uint8).copy()
        damaged[random.integers(6, len(block), 4)] = random.choice([0, 78, 255], 4)
        photo = Photo(pixels, "jpeg", metadata={"exif-data": damaged.tobytes()})
        write_photo(tmp_path / "a.tif", pixels, like=photo)
    header = block.index(b"II*\0") if b"II*\0" in block else block.index(b"MM\0*")
    for damaged in (block[:header] + b"??" + block[header + 2 :], block[: header + 4]):
        photo = Photo(pixels, "jpeg", metadata={"exif-data": damaged})
        write_photo(tmp_path / "a.tif", pixels, like=photo)
        written = read_photo(tmp_path / "a.tif")
        assert "exif-data" not in written.metadata
        torch.testing.assert_close(written.pixels, pixels, atol=0.51 / 255, rtol=0)


def png_chunk(kind, content):
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def png_with(*chunks):
    """The smooth picture as a PNG file with these chunks behind its header."""
    file = io.BytesIO()
    to_pil(smooth()).save(file, "PNG")
    content = file.getvalue()
    return content[:33] + b"".join(chunks) + content[33:]


LINEAR = png_chunk(b"gAMA", (100_000).to_bytes(4, "big"))
P3 = png_chunk(b"cICP", bytes([12, 13, 0, 1]))


def test_png_keeps_what_its_values_mean(tmp_path):
    primaries = png_chunk(b"cHRM", b"".join((1000 * value).to_bytes(4, "big") for value in range(31, 39)))
    standard = png_chunk(b"sRGB", b"\0")
    for chunks in ([LINEAR, primaries], [standard], [P3], [standard, LINEAR, primaries, P3]):
        (tmp_path / "a.png").write_bytes(png_with(*chunks))
        photo = read_photo(tmp_path / "a.png")
        write_photo(tmp_path / "b.png", photo.pixels, like=photo)
        content = (tmp_path / "b.png").read_bytes()
        assert all(content.count(chunk) == 1 for chunk in chunks)
        with Image.open(tmp_path / "b.png") as written:
            written.load()
            assert written.info.get("gamma") == (1.0 if LINEAR in chunks else None)
        again = read_photo(tmp_path / "b.png")
        assert again.png_chunks == photo.png_chunks
        torch.testing.assert_close(again.pixels, photo.pixels)
        write_photo(tmp_path / "b.webp", photo.pixels, like=photo)
        assert read_photo(tmp_path / "b.webp").png_chunks == b""


@pytest.mark.parametrize("target", [".jpg", ".webp", ".tif"])
def test_display_p3_that_png_names_by_a_number_becomes_a_profile(tmp_path, target):
    (tmp_path / "a.png").write_bytes(png_with(P3))
    photo = read_photo(tmp_path / "a.png")
    write_photo(tmp_path / f"b{target}", photo.pixels, like=photo)
    assert read_photo(tmp_path / f"b{target}").metadata["icc-profile-data"] == pyvips.Image.profile_load("p3")


def test_png_keeps_its_comments_to_the_byte(tmp_path):
    latin = png_chunk(b"tEXt", "Größe\0Jörg".encode("latin-1"))
    prompt = png_chunk(b"tEXt", b'prompt\0{"1": {"class_type": "SemiLLIEEnhance"}}')
    packed = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"night " * 99))
    unicode = png_chunk(b"iTXt", "Title\0\0\0de\0Titel\0夜".encode())
    content = png_with(latin, prompt)
    (tmp_path / "a.png").write_bytes(
        content[:-12] + packed + unicode + content[-12:]
    )  # Some behind the pixels.
    photo = read_photo(tmp_path / "a.png")
    write_photo(tmp_path / "b.png", photo.pixels, like=photo)
    content = (tmp_path / "b.png").read_bytes()
    assert all(content.count(chunk) == 1 for chunk in (latin, prompt, packed, unicode))
    with Image.open(tmp_path / "b.png") as written:
        written.load()
        assert written.text["Größe"] == "Jörg"
        assert written.text["Title"] == "夜"
    torch.testing.assert_close(read_photo(tmp_path / "b.png").pixels, photo.pixels)
    write_photo(tmp_path / "b.jpg", photo.pixels, like=photo)


def test_damaged_colour_chunks_are_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(png_with(P3[:-1] + b"?", LINEAR))
    assert read_photo(tmp_path / "a.png").png_chunks == LINEAR


def pq(light):
    """cd/m2 as a signal (SMPTE ST 2084)."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light):
    """cd/m2 of grey on a display of 1000 as a signal below 0.5 (ARIB STD-B67, system gamma 1.2)."""
    return np.sqrt(3 * (light / 1000) ** (1 / 1.2))


@pytest.mark.parametrize(("transfer", "curve"), [(16, pq), (18, hlg)])
def test_high_dynamic_range_becomes_srgb(tmp_path, transfer, curve):
    """White is 203 cd/m2, and light stays what it is."""
    shown = np.linspace(0.05, 0.55, 64)
    light = ((shown + 0.055) / 1.055) ** 2.4
    signal = np.round(curve(203 * light) * 65535).astype(np.uint16)
    pyvips.Image.new_from_array(np.tile(signal[None, :, None], (8, 1, 3)), interpretation="rgb16").pngsave(
        tmp_path / "plain.png"
    )
    text = png_chunk(b"tEXt", b"Title\0Night")
    data = (tmp_path / "plain.png").read_bytes()
    codes = png_chunk(b"cICP", bytes([9, transfer, 0, 1]))
    (tmp_path / "a.png").write_bytes(data[:33] + codes + LINEAR + text + data[33:])
    photo = read_photo(tmp_path / "a.png")
    assert (photo.bit_depth, photo.png_chunks) == (16, text)
    expected = torch.from_numpy(shown).float().expand(3, 8, 64)
    torch.testing.assert_close(photo.pixels, expected, atol=2e-3, rtol=0)


def test_high_dynamic_range_in_other_colours_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png_with(png_chunk(b"cICP", bytes([12, 16, 0, 1]))))
    with pytest.raises(PhotoError, match=r"a\.png has high dynamic range \(PQ\).*Save it"):
        read_photo(tmp_path / "a.png")


def test_wide_gamut_values_and_profile_pass_unchanged(tmp_path):
    pixels = (smooth() * 255).round() / 255
    icc = pyvips.Image.profile_load("p3")
    assert icc != pyvips.Image.profile_load("srgb")
    to_pil(pixels).save(tmp_path / "in.png", icc_profile=icc)
    photo = read_photo(tmp_path / "in.png")
    torch.testing.assert_close(photo.pixels, pixels)
    write_photo(tmp_path / "out.png", photo.pixels, like=photo)
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == icc


def linear_grey_profile():
    """A monochrome ICC profile (ICC.1:2001-04) whose values are proportional to light."""
    white = b"XYZ " + bytes(4) + b"".join(round(65536 * x).to_bytes(4, "big") for x in (0.9642, 1, 0.8249))
    curve = b"curv" + bytes(8)
    start = 128 + 4 + 2 * 12
    tags = b"wtpt" + start.to_bytes(4, "big") + len(white).to_bytes(4, "big")
    tags += b"kTRC" + (start + len(white)).to_bytes(4, "big") + len(curve).to_bytes(4, "big")
    content = (2).to_bytes(4, "big") + tags + white + curve
    header = (128 + len(content)).to_bytes(4, "big") + bytes(4) + b"\x02\x10\0\0" + b"mntrGRAYXYZ "
    return (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + white[8:] + bytes(48) + content


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_values_keep_their_meaning_in_webp(tmp_path, channels):
    light = torch.tensor([0.0, 0.05, 0.2, 0.5, 1.0]).expand(3, 4, 5)
    pixels = torch.cat([light, torch.full((1, 4, 5), 0.6)])[:channels]
    photo = Photo(pixels, "tiff", 16, is_grey=True, metadata={"icc-profile-data": linear_grey_profile()})
    write_photo(tmp_path / "a.webp", pixels, like=photo, quality=100)
    written = read_photo(tmp_path / "a.webp")
    srgb = torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(written.pixels[:3], srgb, atol=0.02, rtol=0)
    torch.testing.assert_close(written.pixels[3:], pixels[3:])
    profile = written.metadata["icc-profile-data"]
    assert isinstance(profile, bytes)
    assert profile[16:20] == b"RGB "
    write_photo(tmp_path / "a.png", pixels, like=photo)
    assert read_photo(tmp_path / "a.png").metadata["icc-profile-data"] == linear_grey_profile()


def test_the_thumbnail_of_the_dark_photo_is_dropped(tmp_path):
    thumbnail = io.BytesIO()
    to_pil(smooth(12, 16)).save(thumbnail, "JPEG")
    exif = Image.Exif()
    exif[271] = "ACME"
    to_pil(smooth()).save(tmp_path / "plain.jpg", exif=_with_thumbnail(exif.tobytes(), thumbnail.getvalue()))
    photo = read_photo(tmp_path / "plain.jpg")
    write_photo(tmp_path / "out.jpg", photo.pixels, like=photo)
    assert thumbnail.getvalue() in (tmp_path / "plain.jpg").read_bytes()
    content = (tmp_path / "out.jpg").read_bytes()
    assert content.count(b"\xff\xd8\xff") == 1
    assert b"ACME" in content


def _with_thumbnail(exif, jpeg):
    """Append an IFD 1 with a JPEG thumbnail (EXIF 2.3, 4.5.8) to Pillow's EXIF block."""
    block = bytearray(exif[6:])
    order = "little" if block[:2] == b"II" else "big"
    ifd0 = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[ifd0 : ifd0 + 2], order)
    start = len(block)
    block[ifd0 + 2 + 12 * count : ifd0 + 6 + 12 * count] = start.to_bytes(4, order)
    entries = [(0x0103, 3, 6), (0x0201, 4, start + 2 + 36 + 4), (0x0202, 4, len(jpeg))]
    block += len(entries).to_bytes(2, order)
    for tag, kind, value in entries:
        size = 2 if kind == 3 else 4
        block += tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order)
        block += value.to_bytes(size, order).ljust(4, b"\0")
    return exif[:6] + bytes(block) + bytes(4) + jpeg


def test_cmyk_becomes_srgb(tmp_path):
    to_pil(smooth()).convert("CMYK").save(tmp_path / "in.jpg", quality=95)
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.pixels.shape == (3, 48, 64)
    # Inks differ from light, but what is brighter and redder stays so.
    assert photo.pixels[0, :, -1].mean() > photo.pixels[0, :, 0].mean() + 0.2
    write_photo(tmp_path / "out.jpg", photo.pixels, like=photo)
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.mode == "RGB"
        assert b"RGB " in written.info["icc_profile"][:20]


def test_palette_and_one_bit_pictures_are_read(tmp_path):
    to_pil(smooth()).quantize(16).save(tmp_path / "palette.png")
    assert read_photo(tmp_path / "palette.png").pixels.shape == (3, 48, 64)
    Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / "bit.png")
    torch.testing.assert_close(read_photo(tmp_path / "bit.png").pixels, torch.eye(9).expand(3, 9, 9))


def test_alpha_is_put_on_white_where_the_format_has_none(tmp_path):
    pixels = torch.zeros(4, 32, 32)
    pixels[3, :, 16:] = 1
    write_photo(tmp_path / "a.jpg", pixels)
    result = read_photo(tmp_path / "a.jpg").pixels
    assert result[:, :, :8].min() > 0.98
    assert result[:, :, 24:].max() < 0.02


def test_format_follows_the_content_not_the_name(tmp_path):
    to_pil(smooth()).save(tmp_path / "a.png", "JPEG")
    assert read_photo(tmp_path / "a.png").format == "jpeg"


HEIC = zlib.decompress(
    base64.b64decode(
        "eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYHxeG5qSSIDBChmpOQUQdkMBZnJJQxowCQzJx9siIsDAxMDI4jF+BpCA4E9UAwI"
        "mLTgImZAbJGZmZcG5oFkRYGcVLAyoJqMsmRDBiRBRpAS14pMsHK+gsySXAaoSka2zIKiAiD7aWZBcj6QLgXqdWZkBglNACuS+8Dw"
        "5++PHwwM/MwJQB0SDow8jP//gxQwg1Qwg5DcLiaHRKCkphMjI5rMAoVG1mmv1s169kBxwYEGBgaeBpBwSxJQNZsL48Hig51AO4ST"
        "83OK8pJzKoCivAxsQCUMIpnFBalQ3zpAsUZyTiLIYRIQtzMIgOj////fAIUBkL4ADQuBgsyKTJBGZg4ODiDFmVmUXwJ0DoNkZkEu"
        "LE4YgX5vZGJmbWkDcqQyi1LToBJ8ySnFyeBYANlRm5uSCIouaw3G9Zwn4iUuKG/e/y+p/7PMg6Tlwi+U0ldpXeVff4v3VPKTfi5/"
        "Q+sFn6eu3K+aI/Xi9E9jxZyGx/rTpoaeAGpng4S+ry+DFpDHwcDEyA92KisQqzEKgQILFCIQFzg6+7oyMAAAGF55HA=="
    )
)
"""24 x 16 pixels, left (40, 30, 20) and right (20, 40, 60), to be turned by a quarter clockwise; from ACME."""


@pytest.fixture
def avif():
    """``avif(picture, **options) -> content``."""
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")

    def encode(picture, **options):
        file = io.BytesIO()
        picture.save(file, "AVIF", speed=10, **options)
        return file.getvalue()

    return encode


def test_results_of_formats_that_are_not_written(tmp_path, avif):
    path, picture = tmp_path / "a.avif", to_pil(smooth())
    path.write_bytes(avif(picture))
    assert (photo_format(path), result_format(path)) == ("avif", "jpeg")
    assert read_photo(path).format == "avif"
    picture.putalpha(100)
    path.write_bytes(avif(picture))
    assert result_format(path) == "png"
    torch.testing.assert_close(read_photo(path).pixels[3], torch.full((48, 64), 100 / 255), atol=0.02, rtol=0)
    path.write_bytes(HEIC)
    assert (photo_format(path), result_format(path)) == ("heic", "jpeg")
    path.write_bytes(HEIC[:60] + bytes(40))
    assert result_format(path) == "jpeg"
    write_photo(tmp_path / "a.webp", smooth())
    assert result_format(tmp_path / "a.webp") == "webp"
    assert result_format(tmp_path / "none.avif") is None


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_is_white_where_it_is_white(tmp_path, bits):
    values = np.linspace(0, 65535, 32, dtype=np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    image = pyvips.Image.new_from_array(values, interpretation="rgb16")
    try:
        content = image.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True, effort=0)
    except pyvips.Error:
        pytest.skip("this libvips does not write AVIF")
    (tmp_path / "a.avif").write_bytes(content)
    photo = read_photo(tmp_path / "a.avif")
    assert (photo.bit_depth, result_format(tmp_path / "a.avif")) == (16, "png")
    assert (photo.pixels.min(), photo.pixels.max()) == (0, 1)
    expected = torch.from_numpy(values.astype(np.float32)).movedim(-1, 0) / 65535
    torch.testing.assert_close(photo.pixels, expected, atol=2**-bits, rtol=0)


def test_colours_that_avif_names_by_numbers(tmp_path, avif):
    path = tmp_path / "a.avif"
    content = bytearray(avif(to_pil(smooth())))
    at = content.index(b"colrnclx") + 8
    path.write_bytes(content)
    plain = read_photo(path).pixels
    for primaries, transfer in ((1, 13), (12, 13), (9, 16), (9, 18)):
        content[at : at + 4] = bytes([0, primaries, 0, transfer])
        path.write_bytes(content)
        if transfer == 13:
            profile = read_photo(path).metadata.get("icc-profile-data")
            assert profile == (pyvips.Image.profile_load("p3") if primaries == 12 else None)
        else:
            expected = linear_to_srgb(to_standard_range(plain, transfer))
            torch.testing.assert_close(read_photo(path).pixels, expected)


def test_avif_that_cannot_be_read(tmp_path, avif, monkeypatch):
    path, frames = tmp_path / "a.avif", [to_pil(smooth()), to_pil(1 - smooth())]
    path.write_bytes(avif(frames[0], save_all=True, append_images=frames[1:]))
    with pytest.raises(PhotoError, match=r"a\.avif holds a sequence of pictures"):
        read_photo(path)
    content = avif(frames[0])
    for part in (0.5, 0.9):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(PhotoError, match=r"a\.avif is a truncated.*\(heif: "):
            read_photo(path)
    path.write_bytes(content)
    monkeypatch.setattr(pyvips, "type_find", lambda *_: 0)
    with pytest.raises(PhotoError, match=r"a\.avif is an AVIF file.*pip install 'pyvips\[binary\]'"):
        read_photo(path)


def test_what_a_damaged_file_says_stops_no_other(tmp_path, avif):
    """libvips quotes it, pyvips cannot decode the quotation, and would meet it again at every photo that follows."""
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "a.avif").write_bytes(avif(to_pil(smooth()), exif=exif).replace(b"irot", b"\xfdrot"))
    with pytest.raises(PhotoError, match=r"a\.avif is a truncated, damaged or unusual AVIF file .*xfdrot"):
        read_photo(tmp_path / "a.avif")
    write_photo(tmp_path / "b.png", smooth())
    read_photo(tmp_path / "b.png")


def test_heic_without_a_decoder_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(HEIC)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    try:
        photo = read_photo(tmp_path / "a.heic")
    except PhotoError as error:
        assert "a.heic is a HEIC file" in str(error)
        assert "pip install pillow_heif" in str(error)
    else:
        assert photo.pixels.shape == (3, 24, 16)
    monkeypatch.setattr(pyvips, "type_find", lambda *_: 0)
    with pytest.raises(PhotoError, match=r"a\.heic is a HEIC file.*pip install pillow_heif"):
        read_photo(tmp_path / "a.heic")


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (10, 3), (8, 4), (8, 1)])
def test_heic_through_pillow_heif(tmp_path, monkeypatch, bits, channels):
    """What that package gives: an array that is upright, its 10 bits the upper ones of 16, and EXIF as it was."""
    exif = Image.Exif()
    exif[271], exif[274] = "ACME", 6
    icc = pyvips.Image.profile_load("p3")
    dtype, unused = (np.uint8, 0) if bits == 8 else (np.uint16, 16 - bits)
    values = (noise(24, 16, channels) * (2**bits - 1)).round()
    array = (values.numpy().astype(dtype) << unused).squeeze()

    def open_heif(content, convert_hdr_to_8bit):
        assert content == HEIC
        assert not convert_hdr_to_8bit
        info = {"exif": exif.tobytes(), "icc_profile": icc, "xmp": XMP, "bit_depth": bits}
        return SimpleNamespace(__array_interface__=array.__array_interface__, info=info)

    monkeypatch.setattr(pyvips, "type_find", lambda *_: 0)
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(open_heif=open_heif))
    (tmp_path / "a.heic").write_bytes(HEIC)
    photo = read_photo(tmp_path / "a.heic")
    expected = values.movedim(-1, 0) / (2**bits - 1)
    torch.testing.assert_close(photo.pixels, expected.expand(max(3, channels), -1, -1))
    assert (photo.format, photo.bit_depth, photo.is_grey) == ("heic", 8 if bits == 8 else 16, channels == 1)
    write_photo(tmp_path / "a.jpg", photo.pixels, like=photo)
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.size == (16, 24)
        assert (written.getexif()[271], written.getexif()[274]) == ("ACME", 1)
        if channels >= 3:  # No JPEG has one colour channel and a profile of three.
            assert written.info["icc_profile"] == icc


def test_heic_is_decoded(tmp_path):
    pytest.importorskip("pillow_heif", reason="HEIC needs pillow_heif where libvips has no HEVC")
    (tmp_path / "a.heic").write_bytes(HEIC)
    photo = read_photo(tmp_path / "a.heic")
    upper, lower = torch.tensor([40, 30, 20]) / 255, torch.tensor([20, 40, 60]) / 255
    torch.testing.assert_close(photo.pixels[:, :8].mean((1, 2)), upper, atol=0.02, rtol=0)
    torch.testing.assert_close(photo.pixels[:, 16:].mean((1, 2)), lower, atol=0.02, rtol=0)
    (tmp_path / "a.heic").write_bytes(HEIC[:-80])
    with pytest.raises(PhotoError, match=r"a\.heic is a truncated, damaged or unusual HEIC file"):
        read_photo(tmp_path / "a.heic")


def test_the_format_is_seen_without_reading_the_file(tmp_path):
    for suffix, file_format in FORMATS.items():
        write_photo(tmp_path / f"a{suffix}", smooth())
        (tmp_path / f"a{suffix}").rename(tmp_path / "a")
        assert photo_format(tmp_path / "a") == file_format
    (tmp_path / "a").write_bytes(b"GIF89a")
    assert photo_format(tmp_path / "a") is None
    assert photo_format(tmp_path) is None
    assert photo_format(tmp_path / "none.jpg") is None


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".JFIF"])
def test_other_endings_of_jpeg(tmp_path, suffix):
    write_photo(tmp_path / f"a{suffix}", smooth())
    assert read_photo(tmp_path / f"a{suffix}").format == "jpeg"


def test_targets_are_checked_without_a_trace(tmp_path):
    check_target(tmp_path / "a.png", 2, 100_000)
    for name, size, message in (
        ("a.gif", (2, 2), "should end in one of"),
        ("a.webp", (16_384, 2), "WEBP has at most 16383 pixels per side, the photo is 2 x 16384"),
        ("a.jpg", (2, 65_501), "JPEG has at most 65500 pixels"),
        ("none/a.jpg", (2, 2), "cannot be written"),
    ):
        with pytest.raises(PhotoError, match=message):
            check_target(tmp_path / name, *size)
    assert list(tmp_path.iterdir()) == []
    write_photo(tmp_path / "a.webp", noise(3, 1, 16_383))
    write_photo(tmp_path / "a.jpg", noise(3, 1, 65_500))
    for name, size in (("a.webp", 16_384), ("a.jpg", 65_501)):
        with pytest.raises(PhotoError, match="cannot be encoded"):
            write_photo(tmp_path / name, noise(3, 1, size))


def test_names_that_look_like_options_are_names(tmp_path):
    path = tmp_path / "a[page=3].png"
    write_photo(path, smooth())
    assert read_photo(path).pixels.shape == (3, 48, 64)


def test_a_changed_file_is_read_anew(tmp_path):
    for level in (0.0, 1.0):
        write_photo(tmp_path / "a.png", torch.full((3, 4, 4), level))
        assert read_photo(tmp_path / "a.png").pixels.unique().tolist() == [level]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_files_are_errors(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    write_photo(path, noise(3, 128, 128))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(PhotoError, match="truncated, damaged") as error:
        read_photo(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"plain text", "is not a PNG, JPEG, WebP, TIFF, AVIF, HEIC or camera RAW file"),
        (b"GIF89a" + bytes(20), "is not a PNG, JPEG, WebP, TIFF, AVIF, HEIC or camera RAW file"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "is not a PNG, JPEG, WebP, TIFF, AVIF, HEIC or camera RAW file",
        ),
        (b"\xff\xd8\xff\xe0", "truncated, damaged"),
    ],
)
def test_files_that_are_no_photos_are_refused(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=message) as error:
        read_photo(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(PhotoError, match="does not exist"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(PhotoError, match=r"is a folder|cannot be read"):
        read_photo(tmp_path)


def test_several_pictures_floats_and_other_colour_spaces_are_refused(tmp_path):
    frames = [to_pil(smooth()), to_pil(1 - smooth())]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(PhotoError, match="holds 2 pictures"):
        read_photo(tmp_path / "clip.webp")
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(PhotoError, match="holds 2 pictures"):
        read_photo(tmp_path / "pages.tif")
    image = pyvips.Image.new_from_array(noise(8, 8, 3).numpy())
    image.write_to_file(str(tmp_path / "float.tif"))
    with pytest.raises(PhotoError, match="samples of type float"):
        read_photo(tmp_path / "float.tif")
    to_pil(smooth()).convert("LAB").save(tmp_path / "lab.tif")
    with pytest.raises(PhotoError, match=r"unusual TIFF|colour space"):
        read_photo(tmp_path / "lab.tif")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_ycbcr_in_tiff_is_not_taken_for_rgb(tmp_path, compression):
    to_pil(smooth()).convert("YCbCr").save(tmp_path / "a.tif", compression=compression)
    with pytest.raises(PhotoError, match=r"a\.tif has its colours as YCbCr .* Save it as RGB"):
        read_photo(tmp_path / "a.tif")


def test_jpeg_in_tiff_is_read(tmp_path):
    to_pil(smooth()).convert("YCbCr").save(tmp_path / "a.tif", compression="jpeg", quality=95)
    torch.testing.assert_close(read_photo(tmp_path / "a.tif").pixels, smooth(), atol=0.03, rtol=0)


def test_a_small_file_of_more_pixels_than_memory_holds_is_refused(tmp_path):
    rows = zlib.compressobj()
    edge = 2**15 + 1
    row = bytes(1 + (edge + 7) // 8)
    content = b"".join(rows.compress(row) for _ in range(edge)) + rows.flush()
    header = edge.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])  # one bit per pixel

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    )
    assert path.stat().st_size < 2**20
    with pytest.raises(PhotoError, match="says it has 32769 x 32769 pixels"):
        read_photo(path)


def test_animated_png_is_refused(tmp_path):
    frames = [to_pil(smooth()), to_pil(1 - smooth())]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=[*frames[1:], *frames])
    with pytest.raises(PhotoError, match="holds 4 pictures"):
        read_photo(tmp_path / "clip.png")
    (tmp_path / "still.png").write_bytes(png_with(png_chunk(b"acTL", bytes([0, 0, 0, 1, 0, 0, 0, 0]))))
    assert read_photo(tmp_path / "still.png").pixels.shape == (3, 48, 64)


@pytest.mark.parametrize("big_tiff", [False, True])
def test_smaller_copies_inside_tiff_do_not_count(tmp_path, big_tiff):
    values = (smooth().movedim(0, -1) * 255).round().byte().numpy()
    pyvips.Image.new_from_array(values, interpretation="srgb").tiffsave(
        str(tmp_path / "a.tif"), pyramid=True, tile=True, tile_width=16, tile_height=16, bigtiff=big_tiff
    )
    assert pyvips.Image.new_from_file(str(tmp_path / "a.tif")).get("n-pages") > 1
    torch.testing.assert_close(read_photo(tmp_path / "a.tif").pixels, smooth(), atol=0.51 / 255, rtol=0)


@pytest.mark.parametrize(("mode", "order"), [("RGB", "little"), ("I;16B", "big")])
def test_a_thumbnail_before_the_photo_is_passed_over(tmp_path, mode, order):
    pages = [Image.new(mode, (4, 3)), Image.new(mode, (16, 12))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    with pytest.raises(PhotoError, match="holds 2 pictures"):
        read_photo(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    entry = b"".join(number.to_bytes(size, order) for number, size in ((254, 2), (4, 2), (1, 4)))
    at = content.index(entry) + len(entry)
    content[at : at + 4] = (1).to_bytes(4, order)
    (tmp_path / "a.tif").write_bytes(content)
    assert read_photo(tmp_path / "a.tif").pixels.shape == (3, 12, 16)


def test_unknown_endings_and_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(PhotoError, match="should end in one of"):
        write_photo(tmp_path / "a.gif", smooth())
    with pytest.raises(ValueError, match="quality must be between 1 and 100"):
        write_photo(tmp_path / "a.jpg", smooth(), quality=0)
    with pytest.raises(ValueError, match="pixels must be"):
        write_photo(tmp_path / "a.jpg", smooth()[None])
    with pytest.raises(ValueError, match="pixels must be floating point"):
        write_photo(tmp_path / "a.jpg", (255 * smooth()).byte())
    broken = smooth()
    broken[0, 1, 2] = float("nan")
    with pytest.raises(ValueError, match="pixels holds NaN"):
        write_photo(tmp_path / "a.jpg", broken)
    assert list(tmp_path.iterdir()) == []


def test_failed_writes_leave_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_photo(path, smooth())
    before = path.read_bytes()
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(_descriptor, failure=failure):
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises((PhotoError, KeyboardInterrupt)):
                write_photo(path, 1 - smooth())
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(PhotoError, match="cannot be written"):
        write_photo(tmp_path / "nowhere" / "a.png", smooth())


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_new_files_get_the_usual_permissions(tmp_path):
    write_photo(tmp_path / "a.png", smooth())
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~mask


def test_missing_pyvips_names_the_command_that_installs_it(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_pyvips(name, *args, **kwargs):
        if name == "pyvips":
            raise ModuleNotFoundError("No module named 'pyvips'")
        return real_import(name, *args, **kwargs)

    load_vips.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_pyvips)
    with pytest.raises(PhotoError, match=r"pip install 'pyvips\[binary\]' tqdm$"):
        read_photo(tmp_path / "a.png")


def test_side_by_side_keeps_both_and_separates_them():
    before, after = torch.zeros(3, 5, 400), torch.full((3, 5, 400), 0.5)
    picture = side_by_side(before, after)
    assert picture.shape == (3, 5, 804)
    assert torch.equal(picture[:, :, :400], before)
    assert torch.equal(picture[:, :, 404:], after)
    assert picture[:, :, 400:404].min() == 1


def test_photo_prints_without_its_pixels():
    assert len(repr(Photo(smooth(), "png"))) < 120
