"""Writing video files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..files import atomic_write
from .reading import EXACT, FULL_CHROMA_IN, Picture, Video, VideoError, load_av, open_input

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of files that can be written, and FFmpeg's names of their kinds."""

_OF_THE_FILE = ("encoder", "major_brand", "minor_version", "compatible_brands", "duration")
"""Metadata that describe the file they are in."""
_LIMITED_RANGE = 1
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
"""What AAC knows, by the number of channels."""
_REFUSED = {"mp4": {"truehd"}, "mov": {"flac", "opus", "truehd"}, "matroska": set[str]()}
"""Sound that FFmpeg says it can write into a kind of file, and then does not."""


def write_video(target: Path, source: Video, pictures: Iterable[Picture], quality: int = 18) -> None:
    """Write pictures as H.264, with the sound, the metadata and the timing of the video they come from.

    Sound is copied as it is, or encoded as AAC where the target's kind of file does not take it; what nobody can decode
    is left out. Subtitles are copied where the kind stays the same. Pictures keep the source's depth (8 bits or 10),
    its colours and the resolution of these.

    Args:
        target: Ends in one of :data:`CONTAINERS`; written as a whole or not at all.
        source: Where the pictures come from.
        pictures: As many and as large as the source's, in [0, 1].
        quality: The encoder's constant rate factor: 0 is the best, 51 the worst, and 6 less about double the size.

    Raises:
        VideoError: PyAV lacks the encoder, or the libraries refuse to write such a file.
        OSError: The target cannot be written.
    """
    av = load_av()
    with atomic_write(target) as file:
        try:
            _write(file, target, source, pictures, quality)
        except av.error.FFmpegError as error:
            # What writing to the file raised is behind the libraries' own error.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or VideoError(f"{target} cannot be written: {error}.") from error


def _write(file: BinaryIO, target: Path, source: Video, pictures: Iterable[Picture], quality: int) -> None:
    import av

    kind = CONTAINERS[target.suffix.lower()]
    with open_input(source.path) as source_file, av.open(file, "w", format=kind) as output:
        try:
            stream = _video_stream(output, source, quality)
        except ValueError as error:
            raise VideoError(
                "This PyAV was built without the encoder libx264. Install the one of the index: pip install av"
            ) from error
        output.metadata.update({k: v for k, v in source_file.metadata.items() if k not in _OF_THE_FILE})
        tracks = _Tracks(source_file, output, source)
        output.start_encoding()
        last = None
        for frame in _frames(source, pictures, stream.codec_context.pix_fmt):
            output.mux(stream.encode(frame))
            output.mux(list(tracks.until(float(frame.pts * source.time_base))))
            last = frame
        rest = stream.encode(None)
        if rest and last is not None and last.duration:
            # None comes after the last picture that would end it. MP4 ends with what is decoded last.
            if kind == "matroska":
                final = next((packet for packet in rest if packet.pts == last.pts), rest[-1])
                final.duration = last.duration
            else:
                rest[-1].duration = last.pts + last.duration - rest[-1].pts
        output.mux([*rest, *tracks.until(float("inf"))])


def _video_stream(output: Any, source: Video, quality: int) -> Any:
    # An even number of rows and columns is what colours of half the resolution take.
    halved = source.halved and source.width % 2 == source.height % 2 == 0
    stream = output.add_stream("libx264", rate=source.rate, options={"crf": str(quality), "preset": "medium"})
    stream.width, stream.height = source.width, source.height
    stream.pix_fmt = ("yuv420p" if halved else "yuv444p") + ("10le" if source.bits > 8 else "")
    stream.sample_aspect_ratio = source.pixel_aspect
    stream.time_base = source.time_base
    context = stream.codec_context
    context.time_base = source.time_base
    context.colorspace, context.color_range = source.matrix, _LIMITED_RANGE
    # A video that names none is shown as what its matrix goes with.
    context.color_primaries = source.primaries
    context.color_trc = source.transfer
    return stream


def _frames(source: Video, pictures: Iterable[Picture], pixel_format: str) -> Iterator[Any]:
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    for picture in pictures:
        rgb = (picture.pixels.clamp(0, 1).permute(1, 2, 0) * 65535).round().to(torch.int32)
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(rgb.numpy().astype(np.uint16), format="rgb48le"),
            format=pixel_format,
            dst_colorspace=source.matrix,
            dst_color_range=_LIMITED_RANGE,
            interpolation=EXACT | FULL_CHROMA_IN,
        )
        frame.pts, frame.time_base, frame.duration = picture.time, source.time_base, picture.duration
        yield frame


class _Tracks:
    """Sound and subtitles on their way from one file to another."""

    def __init__(self, source: Any, output: Any, video: Video) -> None:
        self._start = video.start
        self._into, self._encoded = {}, set()
        self._last: dict[int, int] = {}
        """When the last packet of each sound began."""
        kind = output.format.name
        taken = output.supported_codecs - _REFUSED[kind]
        for stream in source.streams:
            # In a coding that nobody knows, as the second sound of some phones is.
            if stream.codec_context is None:
                continue
            if stream.type == "audio" and not stream.codec_context.sample_rate:  # Announced, and never there.
                continue
            if stream.type == "audio" and _codec_name(stream) not in taken:
                rate = stream.codec_context.sample_rate
                into = output.add_stream("aac", rate=rate if rate in _AAC_RATES else 48000)
                # Old kinds of files do not name the places of their channels, which the encoder must know.
                into.codec_context.layout = _LAYOUTS.get(stream.codec_context.layout.nb_channels, "stereo")
                self._encoded.add(stream.index)
            elif stream.type == "audio" or (stream.type == "subtitle" and kind in video.formats):
                into = output.add_stream_from_template(stream)
                layout = stream.codec_context.layout if stream.type == "audio" else None
                # MP4 must know them, too.
                if layout and layout.name.endswith(" channels") and layout.nb_channels in _LAYOUTS:
                    into.codec_context.layout = _LAYOUTS[layout.nb_channels]
            else:
                continue
            into.metadata.update(stream.metadata)
            self._into[stream.index] = into
        chosen = [stream for stream in source.streams if stream.index in self._into]
        self._packets = self._timed(source.demux(chosen)) if chosen else iter(())
        self._next = next(self._packets, None)

    def _timed(self, packets: Iterable[Any]) -> Iterator[Any]:
        """The packets with their times as they are in the new file: from its start, and growing."""
        for packet in packets:
            start, index = round(self._start / packet.time_base), packet.stream.index
            if packet.pts is not None:
                packet.pts -= start
            if packet.dts is not None:
                packet.dts -= start
                last = self._last.get(index)
                # Where recordings were joined the time goes back, as it does for the pictures.
                if packet.stream.type == "audio" and last is not None and packet.dts <= last:
                    packet.pts = packet.dts = last + max(packet.duration or 0, 1)
                self._last[index] = packet.dts
            yield packet

    def until(self, seconds: float) -> Iterator[Any]:
        """What is due by then, ready to be written."""
        while self._next is not None:
            packet = self._next
            time = packet.dts if packet.dts is not None else packet.pts
            # The last packet of each stream is empty and has no time.
            if packet.size and time is not None and float(time * packet.time_base) > seconds:
                return
            index, into = packet.stream.index, self._into[packet.stream.index]
            if index in self._encoded:
                with contextlib.suppress(ValueError):  # A damaged piece.
                    for frame in packet.decode():
                        yield from into.encode(frame)
                if not packet.size:
                    yield from into.encode(None)
            elif packet.size:
                packet.stream = into
                yield packet
            self._next = next(self._packets, None)


def _codec_name(stream: Any) -> str:
    """What a stream is encoded with; a decoder has a name of its own, such as ``mp3float``."""
    name: str = stream.codec_context.codec.canonical_name
    return name
