"""Reading video files."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..dynamic_range import HIGH_RANGE, to_standard_range

# Values of ISO/IEC 23091-2 (H.273), which FFmpeg's are.
UNSPECIFIED = 2
BT709, BT601, BT2020 = 1, 5, 9
_DISPLAY_GAMMA = 2.4
"""Of a display of BT.709 (ITU-R BT.1886)."""
_OLDEST, _KNOWS_BT2020 = 17, 18
"""Versions of PyAV: the first that tells a picture's colours, and the first that knows BT.2020's matrix."""
_RGB = (0, UNSPECIFIED)
_DOLBY = (14, 15)
"""ICtCp and IPT, which are not R'G'B' behind a matrix."""
_MATRICES = (BT709, 4, BT601, 6, 7, BT2020)
"""Those that libswscale computes with."""
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
    """``(3, H, W)`` float32 in [0, 1], RGB, upright. Values are the video's own, not linear ones; of a video of high
    dynamic range those that standard range has for it."""
    time: int
    """When it is shown, in units of the video's ``time_base`` from its start; grows from picture to picture."""
    duration: int = 0
    """How long it is shown, in the same units; 0 if the file does not say. Of all but the last, the next one's time
    decides."""


class Video:
    """A video file. Iterating reads its pictures, from the first one each time.

    Args:
        path: Any file whose pictures FFmpeg's libraries decode.

    Raises:
        VideoError: PyAV is missing, the file is none of a video or in a coding that PyAV does not know, or its pictures
            are of high dynamic range and PyAV is too old for them.
    """

    def __init__(self, path: Path) -> None:
        av = load_av()
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
            self.start = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
            """Seconds on the file's own clock when its first picture or sound is due: recordings of broadcasts and of
            camcorders begin at any time of day."""
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
            """Pictures per second, on average."""
            self.pixel_aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
            """Width of a pixel by its height, upright."""
            seconds = Fraction(container.duration or 0, av.time_base)
            self.expected: int = stream.frames or round(seconds * self.rate)
            """About how many pictures it has, as far as the file says; 0 if it does not."""
            self.formats = frozenset(container.format.name.split(","))
            """FFmpeg's names of what the file may be called, such as ``mov`` and ``mp4``."""
        self._transfer, self._matrix = int(first.color_trc), _matrix_of(first)
        self.high_range = HIGH_RANGE.get(self._transfer, "")
        """``PQ`` or ``HLG`` if the file is of high dynamic range, from which the pictures are converted."""
        if self._matrix in _DOLBY:
            raise VideoError(
                f"{path} has colours of Dolby Vision, which only its own decoders read. Convert it to standard range "
                "(SDR, BT.709) first, as video editors export it."
            )
        if self._matrix not in _MATRICES:
            raise VideoError(
                f"{path} has colours of a kind that cannot be read (matrix {self._matrix} of ITU-T H.273). Convert it "
                "to BT.709 first, as video editors export it."
            )
        if self.high_range and _version(av) < _KNOWS_BT2020:
            raise VideoError(
                f"{path} is of high dynamic range ({self.high_range}), which needs PyAV {_KNOWS_BT2020} or newer "
                "(Python 3.11 or newer): pip install --upgrade av. Or convert it to standard range (SDR, BT.709) "
                "first, as video editors export it."
            )
        self.rotation, self.mirrored = _orientation_of(first)
        """Quarter turns against the clock that make the decoded pictures upright, and whether left and right are to be
        swapped before, as some phones ask for with the front camera."""
        decoded = first.height, first.width
        self.height, self.width = decoded[::-1] if self.rotation % 2 else decoded
        if self.rotation % 2:
            self.pixel_aspect = 1 / self.pixel_aspect
        self.bits = max(component.bits for component in first.format.components)
        """Bits per channel."""
        self.matrix = self._matrix
        """How RGB becomes luma and chroma, by its number."""
        self.primaries = int(first.color_primaries)
        """Primary colours, by their number."""
        self.transfer = self._transfer
        """Transfer curve, by its number."""
        if self.high_range:
            # What every player of standard range takes.
            self.bits, self.matrix, self.primaries, self.transfer = 8, BT709, BT709, BT709
        self.interlaced = bool(first.interlaced_frame)
        """Whether its pictures were taken as two fields, one after the other; they are read as whole ones."""
        self.halved = first.format.name.startswith(("yuv420", "yuvj420", "nv12", "p010"))
        """Whether the colours have half of the resolution both ways, as nearly all videos' have."""

    def __iter__(self) -> Iterator[Picture]:
        from av.video.reformatter import VideoReformatter

        self.damaged, count, last = 0, 0, None
        reformatter = VideoReformatter()
        step = max(round(1 / self.rate / self.time_base), 1)
        start = round(self.start / self.time_base)
        with open_input(self.path) as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            # Before they are deinterlaced, which takes for granted that all have one size.
            frames = map(self._of_one_size, self._decode(container, stream))
            for frame in _deinterlaced(frames, stream) if self.interlaced else frames:
                # Sixteen bits also of eight: between its codes lie colours that brightening tells apart.
                rgb = reformatter.reformat(
                    frame,
                    format="rgb48le",
                    src_colorspace=self._matrix,
                    interpolation=EXACT | FULL_CHROMA_OUT,
                ).to_ndarray()
                pixels = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / 65535
                if self.high_range:
                    pixels = to_standard_range(pixels, self._transfer) ** (1 / _DISPLAY_GAMMA)
                if self.mirrored:
                    pixels = pixels.flip(2)
                pixels = torch.rot90(pixels, self.rotation, (1, 2))
                time = None if frame.pts is None else frame.pts - start
                if last is not None and (time is None or time <= last):
                    time = last + step
                last = time or 0
                count += 1
                yield Picture(pixels.contiguous(), last, frame.duration or 0)
        self.count = count

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded pictures; damaged pieces are counted and left out, as players do."""
        import av

        if stream.codec_context is None:
            raise VideoError(self._unknown_coding)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            except av.error.DecoderNotFoundError as error:
                raise VideoError(self._unknown_coding) from error
            yield from frames

    def _of_one_size(self, frame: Any) -> Any:
        """The decoded picture itself."""
        height, width = (frame.height, frame.width)[:: -1 if self.rotation % 2 else 1]
        if (height, width) != (self.height, self.width):
            raise VideoError(
                f"The pictures of {self.path} change their size from {self.width} x {self.height} to "
                f"{width} x {height}. Cut it there into two videos."
            )
        return frame

    @property
    def _unknown_coding(self) -> str:
        return (
            f"The pictures of {self.path} are in a coding that this PyAV cannot decode, or they are encrypted. Convert "
            "the video to H.264 first, as video editors export it."
        )


def open_input(path: Path) -> Any:
    """Open a file of pictures and sound.

    Raises:
        VideoError: It cannot be opened.
    """
    av = load_av()
    try:
        # The whole path, since FFmpeg takes what stands before a colon for the name of a protocol. Old files name their
        # titles in other encodings than UTF-8.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}.") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} is no video that can be read, or it is damaged.") from error


def load_av() -> ModuleType:
    """PyAV.

    Raises:
        VideoError: It cannot be loaded, or is too old.
    """
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        raise VideoError(
            f"Videos need PyAV, which cannot be loaded ({error}). Install it with: pip install av tqdm"
        ) from error
    if _version(av) < _OLDEST:
        raise VideoError(
            f"Videos need PyAV {_OLDEST} or newer, and this is {av.__version__}. Update it with: "
            "pip install --upgrade av"
        )
    av.logging.set_level(None)
    return av


def _version(av: ModuleType) -> int:
    return int(av.__version__.split(".")[0])


def _matrix_of(frame: Any) -> int:
    """How a decoded picture's RGB became luma and chroma, as players take it where it does not say."""
    if frame.format.is_rgb:
        return BT709
    named = int(frame.colorspace)
    if named not in _RGB:
        return named
    if int(frame.color_trc) in HIGH_RANGE:
        return BT2020
    return BT709 if frame.height >= _HD_HEIGHT else BT601


def _orientation_of(frame: Any) -> tuple[int, bool]:
    """Quarter turns against the clock that make a decoded picture upright, and whether it is to be mirrored before."""
    # Of a matrix that is broken no angle comes.
    turns = round(frame.rotation / 90) if abs(frame.rotation) <= 180 else 0
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # Beside it are data of a kind that is newer than this PyAV.
        matrix = None
    mirrored = False
    if matrix is not None:
        (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
        mirrored = a * d < b * c
    # The angle is that of the way to the right, which mirroring turns round.
    return (turns + 2 * mirrored) % 4, mirrored


def _deinterlaced(frames: Iterator[Any], stream: Any) -> Iterator[Any]:
    """Whole pictures from decoded pairs of fields, one from each pair; others as they are."""
    import av

    graph = av.filter.Graph()
    places = graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(*places, graph.add("buffersink")).configure()
    for frame in itertools.chain(frames, [None]):
        graph.push(frame)
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                whole = graph.pull()
                # The filter counts in fields.
                fields = whole.time_base / stream.time_base
                whole.duration = round(whole.duration * fields)
                if whole.pts is not None:
                    whole.pts = round(whole.pts * fields)
                yield whole
