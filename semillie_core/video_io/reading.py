"""Reading video files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Values of ISO/IEC 23091-2 (H.273), which FFmpeg's are.
UNSPECIFIED = 2
BT709, BT601 = 1, 5
_HDR = {16: "PQ", 18: "HLG"}
_RGB = (0, UNSPECIFIED)
# Flags of libswscale, which PyAV has no names for before its version 18: bicubic and rounded accurately, and colours
# interpolated when they are read or written.
EXACT, FULL_CHROMA_OUT, FULL_CHROMA_IN = 0x4 | 0x40000, 0x2000, 0x4000
_HD_HEIGHT = 720
"""Rows from which a video that does not name its colours has those of high definition, as players take it."""
_DEFAULT_RATE = Fraction(25)


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file, what is wrong and what to do."""


class Picture(NamedTuple):
    """One picture of a video."""

    pixels: Tensor
    """``(3, H, W)`` float32 in [0, 1], RGB, upright. Values are the video's own, not linear ones."""
    time: int
    """When it is shown, in units of the video's ``time_base``; grows from picture to picture."""


class Video:
    """A video file. Iterating reads its pictures, from the first one each time.

    Args:
        path: Any file whose pictures FFmpeg's libraries decode.

    Raises:
        VideoError: PyAV is missing, the file is none of a video, or its pictures are of high dynamic range.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Pieces of the file that could not be decoded when it was last read."""
        self.count: int | None = None
        """Pictures in it, once all have been read."""
        with open_input(path) as container:
            stream = container.streams.best("video")
            # FFmpeg takes a photo for a video of one picture, and the cover of an album for that of its song.
            if stream is None or "attached_pic" in str(stream.disposition):
                raise VideoError(f"{path} has no video in it. Name a video file.")
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise VideoError(f"{path} is a picture, not a video. Brighten it with `semillie enhance`.")
            first = next(self._decode(container, stream), None)
            if first is None:
                raise VideoError(f"{path} has no picture that can be decoded. The file may be damaged.")
            self.time_base: Fraction = stream.time_base or 1 / _DEFAULT_RATE
            """Seconds per unit of time."""
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
            """Pictures per second, on average."""
            self.pixel_aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
            """Width of a pixel by its height, upright."""
            self.formats = frozenset(container.format.name.split(","))
            """FFmpeg's names of what the file may be called, such as ``mov`` and ``mp4``."""
        if first.color_trc in _HDR:
            raise VideoError(
                f"{path} is a video of high dynamic range ({_HDR[first.color_trc]}), whose values mean other light. "
                "Convert it to standard range (SDR, BT.709) first, as video editors export it."
            )
        self.rotation = round(first.rotation / 90) % 4
        """Quarter turns against the clock that make the decoded pictures upright."""
        decoded = first.height, first.width
        self.height, self.width = decoded[::-1] if self.rotation % 2 else decoded
        if self.rotation % 2:
            self.pixel_aspect = 1 / self.pixel_aspect
        self.bits = max(component.bits for component in first.format.components)
        """Bits per channel."""
        self.matrix = self._matrix(first)
        """How RGB becomes luma and chroma, by its number."""
        self.primaries = int(first.color_primaries)
        """Primary colours, by their number."""
        self.transfer = int(first.color_trc)
        """Transfer curve, by its number."""
        self.halved = first.format.name.startswith(("yuv420", "yuvj420", "nv12", "p010"))
        """Whether the colours have half of the resolution both ways, as nearly all videos' have."""

    def __iter__(self) -> Iterator[Picture]:
        from av.video.reformatter import VideoReformatter

        self.damaged, count, last = 0, 0, None
        reformatter = VideoReformatter()
        step = max(round(1 / self.rate / self.time_base), 1)
        with open_input(self.path) as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            for frame in self._decode(container, stream):
                upright = (frame.height, frame.width)[:: -1 if self.rotation % 2 else 1]
                if upright != (self.height, self.width):
                    raise VideoError(
                        f"The pictures of {self.path} change their size from {self.width} x {self.height} to "
                        f"{upright[1]} x {upright[0]}. Cut it there into two videos."
                    )
                # Sixteen bits also of eight: between its codes lie colours that brightening tells apart.
                rgb = reformatter.reformat(
                    frame,
                    format="rgb48le",
                    src_colorspace=self.matrix,
                    interpolation=EXACT | FULL_CHROMA_OUT,
                ).to_ndarray()
                pixels = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / 65535
                pixels = torch.rot90(pixels, self.rotation, (1, 2))
                time = frame.pts
                if last is not None and (time is None or time <= last):
                    time = last + step
                last = time or 0
                count += 1
                yield Picture(pixels.contiguous(), last)
        self.count = count

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded pictures; damaged pieces are counted and left out, as players do."""
        import av

        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            yield from frames

    @staticmethod
    def _matrix(frame: Any) -> int:
        if frame.format.is_rgb:
            return BT709
        named = int(frame.colorspace)
        return named if named not in _RGB else BT709 if frame.height >= _HD_HEIGHT else BT601


def open_input(path: Path) -> Any:
    """Open a file of pictures and sound.

    Raises:
        VideoError: It cannot be opened.
    """
    av = load_av()
    try:
        return av.open(str(path))
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}.") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} is no video that can be read, or it is damaged.") from error


def load_av() -> ModuleType:
    """PyAV.

    Raises:
        VideoError: It cannot be loaded.
    """
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        raise VideoError(
            f"Videos need PyAV, which cannot be loaded ({error}). Install it with: pip install av tqdm"
        ) from error
    av.logging.set_level(None)
    return av
