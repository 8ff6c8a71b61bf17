"""Semi-LLIE Enhance Video."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from ..semillie_core.inference import EnhanceControls
from ..semillie_core.inference.video import enhance_video, measure_video
from ..semillie_core.video_io import Picture, Video, VideoError, load_av, write_video
from . import _runtime
from ._look import keep_well_lit_input, look_inputs, noise_reduction_input, tiling_input
from ._types import LoadedModel, SemiLLIEModelType

log = logging.getLogger(__name__)

_PARTS, _PARTS_OF_LIGHT = 1000, 50
"""Of the progress, and those of seeing how the light is, which is taken for a twentieth of the work."""


class EnhanceVideo(io.ComfyNode):
    """Brightens a video with a loaded network, a few frames in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_EnhanceVideo",
            display_name="Semi-LLIE Enhance Video",
            category="video",
            description="Brightens a dark video of any length: a few frames are in memory at a time. Sound and timing "
            "are kept; exposure does not pump, and grain does not flicker.",
            search_aliases=[
                *("brighten", "night", "dark video", "low light", "clip", "underexposed", "llie"),
                *("暗光视频", "视频提亮", "夜景视频", "暗い動画", "動画を明るく"),
            ],
            inputs=[
                SemiLLIEModelType.Input("model", tooltip="From Load Semi-LLIE Model."),
                io.Video.Input(
                    "video",
                    tooltip="From Load Video. HDR (HLG, PQ) becomes standard range. A trimmed video, or one that "
                    "nodes made, is held in memory as a whole.",
                ),
                *look_inputs(),
                noise_reduction_input(),
                keep_well_lit_input(),
                io.Int.Input(
                    "steady_frames",
                    default=24,
                    min=1,
                    max=240,
                    tooltip="The exposure is averaged over about this many frames, so that it does not pump when the "
                    "camera moves, and grain over five, so that it does not flicker; cuts are noticed. A second's "
                    "worth is a good value. 1 enhances every frame by itself. Default: 24.",
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=51,
                    advanced=True,
                    tooltip="Quality of the H.264 encoder: 0 is the best, 51 the worst, and 6 less is about twice the "
                    "size. Save Video keeps it as it is unless told to encode anew. Default: 18.",
                ),
                tiling_input(),
            ],
            outputs=[
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="The brightened video, H.264 with the sound of the original, for Save Video. It lies in "
                    "ComfyUI's folder for temporary files.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        video: Any,
        strength: float,
        brightness: float,
        saturation: float,
        protect_highlights: float,
        steady_frames: int,
        crf: int,
        tiling: str,
        noise_reduction: float = 1.0,
        keep_well_lit: bool = True,
    ) -> io.NodeOutput:
        """Enhance the video."""
        controls = EnhanceControls(
            strength,
            brightness,
            saturation,
            protect_highlights,
            noise_reduction=noise_reduction,
            keep_well_lit=keep_well_lit,
        )

        def enhanced(pictures: Iterable[Picture], expected: int, size: tuple[int, int]) -> Iterator[Picture]:
            tile = _runtime.load_and_pick_tile(tiling, model, *size, 1)
            show = _Progress()
            steady = None
            if steady_frames > 1:
                steady = measure_video(model.model, show.light(pictures, expected), steady_frames)
                expected = len(steady.shots)
            return show.pictures(
                enhance_video(
                    model.model,
                    pictures,
                    steady,
                    controls=controls,
                    tile=tile,
                    check=mm.throw_exception_if_processing_interrupted,
                    out_of_memory=_runtime.ran_out_of_memory,
                ),
                expected,
            )

        file = _whole_file(video)
        return io.NodeOutput(_in_memory(video, enhanced) if file is None else _from_file(file, enhanced, crf))


_Enhance = Callable[[Iterable[Picture], int, tuple[int, int]], Iterator[Picture]]


def _whole_file(video: Any) -> Video | None:
    """The file that a video is all of, if there is one and it can be read picture by picture.

    Raises:
        VideoError: There is one, and its pictures cannot be read.
    """
    if not isinstance(video, InputImpl.VideoFromFile) or not isinstance(video.get_stream_source(), str):
        return None
    try:
        load_av()
    except VideoError as error:
        # An older ComfyUI may have an older PyAV, which its own nodes can do with.
        log.warning(
            "Semi-LLIE Enhance Video: %s. Until then the whole video is held in memory.",
            str(error).rstrip("."),
        )
        return None
    # Before its length is asked for: a broken file is to be told in our words.
    file = Video(Path(video.get_stream_source()))
    # Not every ComfyUI says what a trimmed one is trimmed to.
    try:
        whole = InputImpl.VideoFromFile(str(file.path)).get_duration() == video.get_duration()
    except ValueError:  # The file says neither how long it is nor how fast.
        whole = False
    return file if whole else None


def _from_file(source: Video, enhance: _Enhance, crf: int) -> Any:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    # MP4 whatever the source is: Save Video copies what is in it into one.
    target = folder / f"semillie_{uuid.uuid4().hex}.mp4"
    write_video(target, source, enhance(source, source.expected, (source.height, source.width)), crf)
    return InputImpl.VideoFromFile(str(target))


def _in_memory(video: Any, enhance: _Enhance) -> Any:
    components = video.get_components()
    images = components.images
    _runtime.check_images("video", images)
    pictures = [Picture(_runtime.colour(image[None])[0], time) for time, image in enumerate(images)]
    result = torch.empty((*images.shape[:3], 3))
    for picture in enhance(pictures, len(pictures), tuple(images.shape[1:3])):
        result[picture.time] = picture.pixels.movedim(0, -1)
    return InputImpl.VideoFromComponents(
        type(components)(images=result, audio=components.audio, frame_rate=components.frame_rate)
    )


class _Progress:
    """Progress over the pictures of a video, which are read twice."""

    def __init__(self) -> None:
        self._show = _runtime.Progress()
        self._start = 0

    def light(self, pictures: Iterable[Picture], expected: int) -> Iterator[Picture]:
        """Pass on the pictures whose light is measured."""
        self._start = _PARTS_OF_LIGHT
        for index, picture in enumerate(pictures):
            self._show(_PARTS_OF_LIGHT * min(index, expected) // max(expected, 1), _PARTS)
            yield picture

    def pictures(self, pictures: Iterable[Picture], expected: int) -> Iterator[Picture]:
        """Pass on finished pictures, and show them."""
        left = _PARTS - self._start
        for index, picture in enumerate(pictures, 1):
            self._show(self._start + left * min(index, expected) // max(expected, 1), _PARTS, picture.pixels)
            yield picture
