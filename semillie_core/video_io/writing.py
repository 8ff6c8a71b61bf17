"""Writing video files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..files import atomic_write
from .reading import EXACT, FULL_CHROMA_IN, Picture, Video, VideoError, load_av, open_input

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of files that can be written, and FFmpeg's names of their kinds."""

_USUAL, _TAKES_ALL = ".mp4", ".mkv"
_OF_THE_FILE = ("encoder", "major_brand", "minor_version", "compatible_brands", "duration")
"""Metadata that describe the file they are in."""
_LIMITED_RANGE = 1


def fitting_suffix(source: Video) -> str:
    """The ending of a file for what becomes of a video: its own, or one whose kind of file takes its sound."""
    own = source.path.suffix.lower()
    if own in CONTAINERS:
        return own
    with load_av().open(io.BytesIO(), "w", format=CONTAINERS[_USUAL]) as container:
        return _USUAL if source.sound <= container.supported_codecs else _TAKES_ALL


def write_video(target: Path, source: Video, pictures: Iterable[Picture], quality: int = 18) -> None:
    """Write pictures as H.264, with the sound, the metadata and the timing of the video they come from.

    Sound is copied as it is; so are subtitles where the kind of file stays the same. Pictures keep the source's depth
    (8 bits or 10), its colours and the resolution of these.

    Args:
        target: Ends in one of :data:`CONTAINERS`; written as a whole or not at all.
        source: Where the pictures come from.
        pictures: As many and as large as the source's, in [0, 1].
        quality: The encoder's constant rate factor: 0 is the best, 51 the worst, and 6 less about double the size.

    Raises:
        VideoError: The target's kind of file does not take the sound.
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
    with open_input(source.path) as tracks, av.open(file, "w", format=kind) as output:
        stream = _video_stream(output, source, quality)
        output.metadata.update({k: v for k, v in tracks.metadata.items() if k not in _OF_THE_FILE})
        try:
            copies = _Copies(tracks, output, subtitles=kind in source.formats)
            output.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{target}: the sound of {source.path} ({', '.join(sorted(source.sound))}) cannot be kept in a file of "
                "this kind. Let the output end in .mkv, or convert the sound first."
            ) from error
        for frame in _frames(source, pictures, stream.codec_context.pix_fmt):
            output.mux(stream.encode(frame))
            output.mux(list(copies.until(float(frame.pts * source.time_base))))
        output.mux([*stream.encode(None), *copies.until(float("inf"))])


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
        frame.pts, frame.time_base = picture.time, source.time_base
        yield frame


class _Copies:
    """Sound and subtitles on their way from one file to another, as they are."""

    def __init__(self, tracks: Any, output: Any, *, subtitles: bool) -> None:
        kinds = ("audio", "subtitle") if subtitles else ("audio",)
        chosen = [stream for stream in tracks.streams if stream.type in kinds]
        self._into = {stream.index: output.add_stream_from_template(stream) for stream in chosen}
        self._packets = tracks.demux(chosen) if chosen else iter(())
        self._next = next(self._packets, None)

    def until(self, seconds: float) -> Iterator[Any]:
        """The packets that are due by then."""
        while self._next is not None:
            packet = self._next
            # The last packet of each stream is empty and has no time.
            if packet.size:
                time = packet.dts if packet.dts is not None else packet.pts
                if time is not None and float(time * packet.time_base) > seconds:
                    return
                packet.stream = self._into[packet.stream.index]
                yield packet
            self._next = next(self._packets, None)
