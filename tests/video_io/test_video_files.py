"""Videos read and written: every picture in its place, upright, in its colours; the sound as it was."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="videos need PyAV, of the extra cli")

import av

from semillie_core.video_io import Picture, Video, VideoError, reading, write_video, writing

CORNERS = ((200, 30, 40), (20, 180, 60), (30, 40, 220), (128, 128, 128))
"""Top left, top right, bottom left, bottom right."""
LIMITED, FULL = 1, 2


def corners(height=48, width=64, brightness=1.0):
    """A picture whose quarters can be told apart."""
    image = np.zeros((height, width, 3))
    for (row, column), colour in zip(itertools.product((0, 1), repeat=2), CORNERS, strict=True):
        rows = slice(row * (height // 2), None if row else height // 2)
        columns = slice(column * (width // 2), None if column else width // 2)
        image[rows, columns] = colour
    return image * brightness


def make(
    path,
    images=None,
    *,
    times=None,
    time_base=Fraction(1, 25),
    pixels="yuv420p",
    matrix=1,
    span=LIMITED,
    primaries=1,
    transfer=1,
    named=True,
    codec="libx264",
    options=None,
    aspect=None,
    sound=None,
    metadata=None,
    language=None,
):
    """Encode images of (H, W, 3) in 0 to 255 nearly without loss, and a tone."""
    images = [corners(brightness=1 - 0.1 * i) for i in range(4)] if images is None else images
    with av.open(str(path), "w") as container:
        options = ({"crf": "1"} if codec == "libx264" else {}) | (options or {})
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.time_base = pixels, time_base
        context = stream.codec_context
        context.time_base = time_base
        if aspect:
            stream.sample_aspect_ratio = aspect
        if named:
            context.colorspace, context.color_range = matrix, span
            context.color_primaries, context.color_trc = primaries, transfer
        tone = container.add_stream(sound, rate=48000) if sound else None
        if language:
            tone.metadata["language"] = language
        container.metadata.update(metadata or {})
        for index, image in enumerate(images):
            deep = (image * 257).round().astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(deep, format="rgb48le").reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range=span
            )
            frame.pts = times[index] if times else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            for index in range(8):
                wave = (np.sin(np.arange(1024) / 20)[None] * 8000).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                samples.sample_rate, samples.pts = 48000, index * 1024
                container.mux(tone.encode(samples))
            container.mux(tone.encode(None))
    return Path(path)


def turned(path, matrix):
    """Write the display matrix of a phone held another way into an MP4."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd")
    assert data[start + 4] == 0
    data[start + 44 : start + 80] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


def colour_at(pixels, row, column):
    """Colour of a quarter's middle, 0 to 255."""
    height, width = pixels.shape[1:]
    return pixels[:, height * (1 + 2 * row) // 4, width * (1 + 2 * column) // 4] * 255


def later(path, target, seconds):
    """The same in another kind of file, on a clock that shows so many seconds more."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        into = [output.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size:
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
                packet.stream = into[packet.stream.index]
                output.mux(packet)
    return target


def packets(path, kind):
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        if not streams:
            return []
        return [
            (packet.stream.index, packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(streams)
            if packet.size
        ]


def copied(source, target, **options):
    """Write a video's own pictures."""
    video = Video(source)
    write_video(target, video, video, **options)
    return Video(target)


@pytest.mark.parametrize("span", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_colours_are_those_that_were_encoded(tmp_path, matrix, span):
    if matrix == 9 and int(av.__version__.split(".")[0]) < 18:
        pytest.skip("PyAV knows BT.2020's matrix from version 18 on")
    source = make(tmp_path / "a.mp4", matrix=matrix, span=span, transfer=13)
    for video in (Video(source), copied(source, tmp_path / "b.mp4", quality=1)):
        assert (video.matrix, video.primaries, video.transfer) == (matrix, 1, 13)
        first = next(iter(video)).pixels
        for (row, column), colour in zip(itertools.product((0, 1), repeat=2), CORNERS, strict=True):
            expected = torch.tensor(colour, dtype=torch.float32)
            torch.testing.assert_close(colour_at(first, row, column), expected, atol=3.0, rtol=0)


@pytest.mark.parametrize(("height", "matrix"), [(48, 5), (720, 1)])
def test_a_video_that_names_no_colours_has_those_that_players_take(tmp_path, height, matrix):
    source = make(tmp_path / "a.mp4", [corners(height)] * 2, matrix=matrix, named=False)
    video = Video(source)
    assert (video.matrix, video.primaries, video.transfer) == (matrix, 2, 2)
    expected = torch.tensor(CORNERS[0], dtype=torch.float32)
    torch.testing.assert_close(colour_at(next(iter(video)).pixels, 0, 0), expected, atol=2.5, rtol=0)
    assert copied(source, tmp_path / "b.mp4").matrix == matrix


def test_shadows_keep_what_lies_between_codes(tmp_path):
    """A step of luma is 1.16 steps of RGB: rounded to those, half of them would be off by a quarter and more."""
    levels = torch.arange(1, 9) * 255 / 219
    video = Video(make(tmp_path / "a.mkv", [np.full((48, 64, 3), float(v)) for v in levels], codec="ffv1"))
    luma = torch.tensor([0.2126, 0.7152, 0.0722])
    found = torch.stack([picture.pixels.mean((1, 2)) @ luma for picture in video]) * 255
    torch.testing.assert_close(found, levels, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("pixels", "bits", "written"),
    [("yuv420p", 8, "yuv420p"), ("yuv420p10le", 10, "yuv420p10le"), ("yuv444p", 8, "yuv444p")],
)
def test_depth_and_resolution_of_colours_stay(tmp_path, pixels, bits, written):
    source = make(tmp_path / "a.mp4", pixels=pixels)
    video = copied(source, tmp_path / "b.mp4")
    assert (Video(source).bits, video.bits) == (bits, bits)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == written


def test_an_odd_number_of_rows_or_columns_is_kept(tmp_path):
    source = make(tmp_path / "a.mkv", [corners(47, 63)] * 2, codec="ffv1", pixels="yuv420p")
    video = copied(source, tmp_path / "b.mp4")
    assert (video.height, video.width) == (47, 63)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_every_picture_is_shown_when_it_was(tmp_path, suffix):
    times = [0, 40, 45, 300]
    source = make(tmp_path / f"a{suffix}", times=times, time_base=Fraction(1, 1000))
    video, copy = Video(source), copied(source, tmp_path / f"b{suffix}")
    seconds = [[picture.time * v.time_base for picture in v] for v in (video, copy)]
    assert seconds[0] == [Fraction(time, 1000) for time in times]
    assert seconds[1] == seconds[0]
    assert video.count == copy.count == 4
    for ours, theirs in zip(copy, video, strict=True):
        assert (ours.pixels - theirs.pixels).abs().mean() < 0.02


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("times", [[0], [0, 40, 80]])
def test_the_last_picture_is_shown_as_long_as_it_was(tmp_path, suffix, times):
    """As a screen is on which nothing happens any more."""
    short = make(tmp_path / "a.mkv", [corners()] * len(times), times=times, time_base=Fraction(1, 1000))
    source = tmp_path / "b.mkv"
    with av.open(str(short)) as pictures, av.open(str(source), "w") as output:
        into = output.add_stream_from_template(pictures.streams.video[0])
        for packet in pictures.demux(video=0):
            if packet.size:
                packet.duration = 5000 if packet.pts == times[-1] else 40
                packet.stream = into
                output.mux(packet)
    copied(source, tmp_path / f"c{suffix}")
    with av.open(str(tmp_path / f"c{suffix}")) as container:
        assert container.duration / av.time_base == pytest.approx(5 + times[-1] / 1000, abs=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_recording_starts_at_once_whatever_its_clock_showed(tmp_path, suffix):
    source = later(make(tmp_path / "a.mp4", sound="aac"), tmp_path / "a.ts", 5000)
    copied(source, tmp_path / f"b{suffix}")
    apart = []
    for path in (source, tmp_path / f"b{suffix}"):
        video, sound = ([time for _, time, _ in packets(path, kind)] for kind in ("video", "audio"))
        apart.append(min(video) - sound[0])
    assert 0 <= sound[0] <= min(video) < Fraction(1, 10)
    assert float(apart[1]) == pytest.approx(float(apart[0]), abs=0.002)
    assert float(max(video) - min(video)) == pytest.approx(3 / 25, abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_recordings_that_were_joined_go_on_one_after_the_other(tmp_path, suffix):
    part = later(make(tmp_path / "a.mp4", sound="aac"), tmp_path / "a.ts", 1)
    (tmp_path / "joined.ts").write_bytes(2 * part.read_bytes())
    copied(tmp_path / "joined.ts", tmp_path / f"b{suffix}")
    assert len(packets(tmp_path / f"b{suffix}", "video")) == 8
    sound = [time for _, time, _ in packets(tmp_path / f"b{suffix}", "audio")]
    assert len(sound) == 2 * len(packets(part, "audio"))
    assert np.diff(np.array(sound, float)) == pytest.approx(1024 / 48000, abs=0.002)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [
        ((0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30), -1),
        ((0, -65536, 0, 65536, 0, 0, 0, 64 << 16, 1 << 30), 1),
        ((-65536, 0, 0, 0, -65536, 0, 64 << 16, 48 << 16, 1 << 30), 2),
    ],
    ids=["clockwise", "against the clock", "upside down"],
)
def test_pictures_of_a_phone_held_another_way_are_upright(tmp_path, matrix, turns):
    plain = make(tmp_path / "a.mp4", aspect=Fraction(4, 3))
    upright = torch.rot90(next(iter(Video(plain))).pixels, turns, (1, 2))
    source = turned(plain, matrix)
    for video in (Video(source), copied(source, tmp_path / "b.mp4")):
        assert (video.height, video.width) == upright.shape[1:]
        assert video.pixel_aspect == (Fraction(4, 3) if turns == 2 else Fraction(3, 4))
        pixels = next(iter(video)).pixels
        for row, column in itertools.product((0, 1), repeat=2):
            torch.testing.assert_close(
                colour_at(pixels, row, column), colour_at(upright, row, column), atol=4.0, rtol=0
            )
    assert Video(tmp_path / "b.mp4").rotation == 0


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((-65536, 0, 0, 0, 65536, 0, 64 << 16, 0, 1 << 30), lambda pixels: pixels.flip(2)),
        ((65536, 0, 0, 0, -65536, 0, 0, 48 << 16, 1 << 30), lambda pixels: pixels.flip(1)),
        ((0, 65536, 0, 65536, 0, 0, 0, 0, 1 << 30), lambda pixels: pixels.transpose(1, 2)),
        ((0,) * 9, lambda pixels: pixels),
    ],
    ids=["left and right", "up and down", "rows and columns", "broken"],
)
def test_mirrored_pictures_are_shown_as_players_do(tmp_path, matrix, upright):
    plain = make(tmp_path / "a.mp4")
    expected = upright(next(iter(Video(plain))).pixels)
    video = Video(turned(plain, matrix))
    assert (video.height, video.width) == expected.shape[1:]
    assert torch.equal(next(iter(video)).pixels, expected)


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "aac"), (".mkv", "flac"), (".mov", "pcm_s16le")])
def test_sound_and_metadata_are_kept(tmp_path, suffix, sound):
    source = make(tmp_path / f"a{suffix}", sound=sound, metadata={"title": "Night walk"})
    target = tmp_path / f"b{suffix}"
    copied(source, target)
    assert packets(source, "audio")
    assert packets(target, "audio") == packets(source, "audio")
    with av.open(str(target)) as container:
        assert {k.lower(): v for k, v in container.metadata.items()}["title"] == "Night walk"


def test_sound_that_goes_on_after_the_pictures_and_begins_before_them_is_kept(tmp_path):
    source = make(tmp_path / "a.mkv", [corners()], times=[90], time_base=Fraction(1, 1000), sound="flac")
    copied(source, tmp_path / "b.mkv")
    assert packets(tmp_path / "b.mkv", "audio") == packets(source, "audio")


def test_subtitles_stay_in_a_file_of_the_same_kind(tmp_path):
    text = tmp_path / "a.srt"
    text.write_text("1\n00:00:00,000 --> 00:00:00,100\nHush\n\n2\n00:00:00,100 --> 00:00:00,140\nOwl\n")
    plain, source = make(tmp_path / "plain.mkv"), tmp_path / "a.mkv"
    with (
        av.open(str(plain)) as pictures,
        av.open(str(text)) as words,
        av.open(str(source), "w") as output,
    ):
        tracks = [container.streams[0] for container in (pictures, words)]
        into = [output.add_stream_from_template(track) for track in tracks]
        for container, track, target in zip((pictures, words), tracks, into, strict=True):
            for packet in container.demux(track):
                if packet.size:
                    packet.stream = target
                    output.mux(packet)
    copied(source, tmp_path / "b.mkv")
    assert len(packets(source, "subtitle")) == 2
    assert packets(tmp_path / "b.mkv", "subtitle") == packets(source, "subtitle")
    copied(source, tmp_path / "b.mp4")
    assert packets(tmp_path / "b.mp4", "subtitle") == []


def test_what_describes_the_kind_of_file_stays_with_it(tmp_path):
    copied(make(tmp_path / "a.mp4"), tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert not {"major_brand", "compatible_brands"} & {name.lower() for name in container.metadata}


@pytest.mark.parametrize(("name", "sound"), [("a.mkv", "pcm_u8"), ("a.avi", "adpcm_ms")])
def test_sound_that_a_kind_of_file_does_not_take_becomes_aac(tmp_path, name, sound):
    source = make(tmp_path / name, sound=sound)
    copied(source, tmp_path / "b.mp4")

    def waves(path):
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=0))
            assert {frame.sample_rate for frame in frames} == {48000}
            start = float(frames[0].pts * frames[0].time_base)
            samples = [frame.to_ndarray().astype(np.float64).mean(0) for frame in frames]
            return start, container.streams.audio[0].codec_context.name, np.concatenate(samples)

    start, codec, wave = waves(tmp_path / "b.mp4")
    assert (codec, start) == ("aac", pytest.approx(0, abs=0.03))
    assert len(wave) == pytest.approx(8 * 1024, abs=1600)
    # A sine, which `make` shares out between two channels.
    assert wave.std() == pytest.approx(8000 / 2**15 / 2, rel=0.1)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_sound_whose_channels_have_no_places_is_copied(tmp_path, suffix):
    source = make(tmp_path / f"a{suffix}", sound="pcm_s16le")
    copied(source, tmp_path / "b.mp4")
    ours, theirs = (
        b"".join(data for _, _, data in packets(path, "audio")) for path in (tmp_path / "b.mp4", source)
    )
    assert ours == theirs != b""


@pytest.mark.parametrize("sound", ["flac", "libopus"])
def test_sound_that_is_refused_when_it_is_written_becomes_aac(tmp_path, sound):
    copied(make(tmp_path / "a.mkv", sound=sound), tmp_path / "b.mov")
    with av.open(str(tmp_path / "b.mov")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_sound_in_an_unknown_coding_is_left_out(tmp_path):
    """As the second sound of some phones is, which has the first one's in three dimensions."""
    source = make(tmp_path / "a.mov", sound="pcm_s16le")
    source.write_bytes(source.read_bytes().replace(b"sowt", b"apac"))
    assert copied(source, tmp_path / "b.mp4").expected == 4
    assert packets(tmp_path / "b.mp4", "audio") == []


def test_mp3_is_copied(tmp_path):
    """Its decoder has another name."""
    source = make(tmp_path / "a.avi", sound="libmp3lame")
    copied(source, tmp_path / "b.mp4")
    ours, theirs = ([data for _, _, data in packets(tmp_path / name, "audio")] for name in ("b.mp4", "a.avi"))
    assert ours == theirs


def test_tracks_keep_their_language(tmp_path):
    source = make(tmp_path / "a.mkv", sound="flac", language="deu")
    for suffix in (".mkv", ".mp4"):
        copied(source, tmp_path / f"b{suffix}")
        with av.open(str(tmp_path / f"b{suffix}")) as container:
            assert container.streams.audio[0].language == "deu"


PYAV = int(av.__version__.split(".")[0])
high_range = pytest.mark.skipif(PYAV < 18, reason="PyAV knows BT.2020's matrix from version 18 on")
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def pq(light):
    """cd/m2 as a signal (SMPTE ST 2084)."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light):
    """cd/m2 on a display of 1000 as a signal (ARIB STD-B67, system gamma 1.2)."""
    display = light / 1000
    brightness = np.maximum(display @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
    scene = display * brightness ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
    )


def of_high_range(path, light, curve, transfer):
    """A video of light in shares of white, ``(H, W, 3)``, BT.709."""
    signal = curve(np.clip(light @ TO_BT2020.T * 203, 0, None))
    return make(path, [signal * 255], pixels="yuv444p10le", matrix=9, primaries=9, transfer=transfer)


@high_range
@pytest.mark.parametrize(("curve", "transfer", "name"), [(pq, 16, "PQ"), (hlg, 18, "HLG")])
def test_high_dynamic_range_becomes_standard_range(tmp_path, curve, transfer, name):
    """Up to the shoulder the light stays what it was, so what BT.1886 shows is known."""
    expected = corners() / 255 * 0.88
    source = of_high_range(tmp_path / "a.mp4", expected**2.4, curve, transfer)
    video = Video(source)
    assert video.high_range == name
    for read in (video, copied(source, tmp_path / "b.mp4", quality=1)):
        assert (read.bits, read.matrix, read.primaries, read.transfer) == (8, 1, 1, 1)
        pixels = next(iter(read)).pixels
        for row, column in itertools.product((0, 1), repeat=2):
            found = colour_at(pixels, row, column)
            wanted = torch.tensor(expected[12 + 24 * row, 16 + 32 * column] * 255, dtype=torch.float32)
            torch.testing.assert_close(found, wanted, atol=3.0, rtol=0)
    assert not Video(tmp_path / "b.mp4").high_range


@high_range
@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_highlights_of_high_dynamic_range_keep_their_texture_and_hue(tmp_path, curve, transfer):
    stops = np.exp2(np.linspace(-4, np.log2(1000 / 203), 64))
    white, lamp = np.ones(3), np.array([1.0, 0.5, 0.25])
    light = np.concatenate([np.tile(stops[None, :, None] * colour, (24, 1, 1)) for colour in (white, lamp)])
    pixels = next(iter(Video(of_high_range(tmp_path / "a.mp4", light, curve, transfer)))).pixels
    for row in (12, 36):
        brightest = pixels[0, row]
        assert (brightest.diff() > 0).all()
        assert brightest[-1] == pytest.approx(1, abs=0.01)
    shown = pixels[:, 36] ** 2.4
    torch.testing.assert_close(
        shown / shown[0], torch.tensor(lamp)[:, None].expand(3, 64).float(), atol=0.03, rtol=0
    )
    # A white sheet is white still.
    sheet = int(np.abs(stops - 1).argmin())
    assert 0.92 < pixels[0, 12, sheet] < 0.97


@high_range
def test_colours_beyond_the_gamut_lose_saturation_alone(tmp_path):
    purest = np.zeros((48, 64, 3))
    purest[..., 1] = pq(np.array(100.0)) * 255
    source = make(tmp_path / "a.mp4", [purest], pixels="yuv444p10le", matrix=9, primaries=9, transfer=16)
    red, green, blue = (next(iter(Video(source))).pixels[:, 24, 32] ** 2.4).tolist()
    brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert brightness == pytest.approx(100 / 203 * 0.6780, rel=0.05)
    assert green > 3 * max(red, blue)
    assert min(red, blue) < 0.005


def test_high_dynamic_range_and_an_old_pyav(tmp_path, monkeypatch):
    source = make(tmp_path / "a.mp4", pixels="yuv420p10le", matrix=9, transfer=18)
    monkeypatch.setattr(av, "__version__", "17.1.0")
    with pytest.raises(VideoError, match=r"high dynamic range \(HLG\).*pip install --upgrade av"):
        Video(source)


@pytest.mark.parametrize("matrix", [14, 15])
def test_colours_of_dolby_vision_are_refused(tmp_path, monkeypatch, matrix):
    source = make(tmp_path / "a.mp4")
    monkeypatch.setattr(reading, "_matrix_of", lambda frame: matrix)
    with pytest.raises(VideoError, match=r"Dolby Vision.*Convert it to standard range"):
        Video(source)


def test_interlaced_pictures_become_whole_ones(tmp_path):
    """Something bright moves: its edges are combs where two fields show it in two places."""
    pictures = []
    for index in range(8):
        picture = np.full((48, 64, 3), 20.0)
        for field in (0, 1):
            start = 8 + 4 * index + 2 * field
            picture[field::2, start : start + 12] = 220
        pictures.append(picture)
    kinds = {"fields": {"flags": "+ilme+ildct", "x264-params": "interlaced=1"}, "whole": {}}
    sources = {
        name: make(tmp_path / f"{name}.mp4", pictures, pixels="yuv444p", options=options)
        for name, options in kinds.items()
    }
    combs = {}
    for name, source in sources.items():
        video = Video(source)
        assert video.interlaced == (name == "fields")
        read = list(video)
        assert [picture.time * video.time_base * 25 for picture in read] == list(range(8))
        combs[name] = max(float(p.pixels[:, 1:-1].sub(p.pixels[:, :-2]).abs().mean()) for p in read)
    assert combs["whole"] > 0.04
    assert combs["fields"] < combs["whole"] / 4
    assert not copied(sources["fields"], tmp_path / "copy.mp4").interlaced


def test_interlaced_pictures_that_change_their_size_are_refused(tmp_path):
    """The filter would cut the larger ones, and read beyond the smaller ones."""
    options = {"flags": "+ilme+ildct", "x264-params": "interlaced=1"}
    parts = [
        make(tmp_path / f"{height}.ts", [corners(height, width)] * 3, options=options)
        for height, width in ((48, 64), (96, 128))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match="change their size from 64 x 48 to 128 x 96"):
        list(Video(tmp_path / "both.ts"))


def test_metadata_in_an_old_encoding_stop_nothing(tmp_path):
    source = make(tmp_path / "a.avi", codec="mpeg4", metadata={"title": "cafXs"})
    source.write_bytes(source.read_bytes().replace(b"cafXs", b"caf\xe9s"))
    copied(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.metadata["title"] == "caf\N{REPLACEMENT CHARACTER}s"


@pytest.mark.parametrize("name", ["夜 ü%d#?.mp4", "12:30.mp4", "-x.mp4"])
def test_any_name_can_be_read(tmp_path, monkeypatch, name):
    if sys.platform == "win32" and set(name) & set(":?"):
        pytest.skip("no name there")
    make(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert copied(Path(name), Path("b.mp4")).expected == 4


def test_pictures_in_an_unknown_coding_are_refused(tmp_path):
    source = make(tmp_path / "a.mp4")
    source.write_bytes(source.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match=r"a\.mp4 are in a coding that this PyAV cannot decode.*Convert"):
        Video(source)


def test_colours_that_are_not_computed_with_are_refused(tmp_path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.colorspace = 8
        frame = av.VideoFrame.from_ndarray(corners().astype(np.uint8), format="rgb24")
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"matrix 8 of ITU-T H\.273.*Convert it to BT\.709"):
        Video(source)


def test_what_is_no_video_is_refused(tmp_path, repository):
    (tmp_path / "notes.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "song.mkv"), "w") as container:
        tone = container.add_stream("flac", rate=48000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        samples.sample_rate = 48000
        container.mux([*tone.encode(samples), *tone.encode(None)])
    for path, says in {
        tmp_path / "missing.mp4": "cannot be read: No such file",
        tmp_path / "notes.mp4": "no video that can be read, or it is damaged",
        tmp_path / "empty.mp4": "no video that can be read, or it is damaged",
        tmp_path / "song.mkv": "no video in it",
        repository / "samples" / "meadow.jpg": "a picture, not a video",
        repository / "samples" / "coffee.png": "a picture, not a video",
    }.items():
        with pytest.raises(VideoError, match=says):
            Video(path)


def test_damaged_pieces_are_counted_and_left_out(tmp_path):
    source = make(
        tmp_path / "a.mkv",
        [corners(brightness=1 - 0.05 * i) for i in range(6)],
        codec="mjpeg",
        pixels="yuvj420p",
    )
    data = source.read_bytes()
    third = packets(source, "video")[2][2]
    assert data.count(third) == 1
    source.write_bytes(data.replace(third, bytes(len(third))))
    video = Video(source)
    for _ in range(2):
        times = [picture.time for picture in video]
        assert (video.count, video.damaged) == (5, 1)
    assert [time * video.time_base * 25 for time in times] == pytest.approx([0, 1, 3, 4, 5], abs=0.1)


def test_a_video_without_a_sound_picture_is_refused(tmp_path):
    source = make(tmp_path / "a.mkv", codec="mjpeg", pixels="yuvj420p")
    data = source.read_bytes()
    for _, _, packet in packets(source, "video"):
        data = data.replace(packet, bytes(len(packet)))
    source.write_bytes(data)
    with pytest.raises(VideoError, match="no picture that can be decoded"):
        Video(source)


def test_pictures_that_change_their_size_are_refused(tmp_path):
    small = make(tmp_path / "small.mkv", codec="mjpeg", pixels="yuvj420p")
    large = make(tmp_path / "large.mkv", [corners(96, 128)] * 2, codec="mjpeg", pixels="yuvj420p")
    with av.open(str(tmp_path / "both.mkv"), "w") as output:
        into = None
        for offset, path in enumerate((small, large)):
            with av.open(str(path)) as container:
                track = container.streams.video[0]
                into = into or output.add_stream_from_template(track)
                for packet in container.demux(track):
                    if packet.size:
                        packet.pts += offset * 1000
                        packet.dts += offset * 1000
                        packet.stream = into
                        output.mux(packet)
    video = Video(tmp_path / "both.mkv")
    with pytest.raises(VideoError, match=r"from 64 x 48 to 128 x 96\. Cut it there"):
        list(video)
    assert video.count is None


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_the_earlier_file(tmp_path, error):
    source, target = make(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    target.write_bytes(b"earlier")
    video = Video(source)

    def pictures():
        yield from itertools.islice(video, 2)
        raise error

    with pytest.raises(type(error)):
        write_video(target, video, pictures())
    assert target.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    class Disk(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 3000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(writing, "atomic_write", lambda _: contextlib.nullcontext(Disk()))
    generator = np.random.default_rng(0)
    source = make(tmp_path / "a.mp4", [generator.integers(0, 256, (48, 64, 3)) * 1.0 for _ in range(9)])
    video = Video(source)
    with pytest.raises(OSError, match="No space left"):
        write_video(tmp_path / "b.mp4", video, video, quality=1)


def test_times_that_are_missing_or_go_back_are_mended(tmp_path, monkeypatch):
    source = make(tmp_path / "a.mp4", [corners()] * 5)
    video = Video(source)
    given = iter([0, 512, 512, None, 4000])

    class Frame:
        def __init__(self, frame):
            self.frame, self.pts, self.duration = frame, next(given), frame.duration
            self.height, self.width = frame.height, frame.width

    class Reformatter:
        def reformat(self, frame, **options):
            return real().reformat(frame.frame, **options)

    from av.video import reformatter

    real = reformatter.VideoReformatter
    decode = Video._decode
    monkeypatch.setattr(Video, "_decode", lambda *args: map(Frame, decode(*args)))
    monkeypatch.setattr(reformatter, "VideoReformatter", Reformatter)
    assert [picture.time for picture in video] == [0, 512, 1024, 1536, 4000]


def test_pictures_outside_the_range_are_cut_off(tmp_path):
    video = Video(make(tmp_path / "a.mp4", [corners()]))
    ramp = torch.linspace(-0.5, 1.5, 64).expand(3, 48, 64)
    write_video(tmp_path / "b.mp4", video, [Picture(ramp, 0)], quality=1)
    pixels = next(iter(Video(tmp_path / "b.mp4"))).pixels
    torch.testing.assert_close(pixels, ramp.clamp(0, 1), atol=0.03, rtol=0)


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match="pip install av"):
        Video(tmp_path / "a.mp4")


def test_an_old_pyav_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(VideoError, match=r"PyAV 17 or newer, and this is 16\.1\.0.*pip install --upgrade av"):
        Video(tmp_path / "a.mp4")
