"""What the commands that enhance photos share."""

from __future__ import annotations

import argparse
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import UsageError
from ._files import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

    from ..inference import EnhanceControls
    from ..weights import SemiLLIEModel

AUTO, OFF = "auto", "off"
_MEMORY_SHARE = 0.8


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`make_enhancer` reads."""
    group = parser.add_argument_group("network and machine")
    group.add_argument(
        "--model",
        metavar="NAME_OR_FILE",
        help="a bundled model (see: semillie models) or a checkpoint file (default: semillie-compact)",
    )
    add_device_argument(group)
    group.add_argument(
        "--dtype",
        choices=(AUTO, "float32", "bfloat16", "float16"),
        default=AUTO,
        help="precision of the network. auto: float32, which gives the same photo everywhere; the others save memory "
        "on a GPU (default: auto)",
    )
    group.add_argument(
        "--tile",
        type=_tile,
        default=AUTO,
        metavar="auto|off|PX",
        help="work on square parts of PX pixels to save memory. auto: only if the whole photo would not fit. "
        "off: never (default: auto)",
    )


def add_look_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the arguments that :func:`chosen_controls` reads; returns their group."""
    look = parser.add_argument_group("look")
    look.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="from the photo (0) to the full effect (1, the default)",
    )
    look.add_argument(
        "--brightness",
        type=float,
        default=0.0,
        metavar="EV",
        help="exposure of the result in stops, -4 to 4 (default: 0)",
    )
    look.add_argument(
        "--saturation", type=float, default=1.0, metavar="X", help="colourfulness, 0 (grey) to 4 (default: 1)"
    )
    look.add_argument(
        "--protect-highlights",
        type=float,
        default=1.0,
        metavar="X",
        help="how far areas with light are kept from becoming white, and strong colours from losing their texture, "
        "0 to 1 (default: 1)",
    )
    look.add_argument(
        "--noise-reduction",
        type=float,
        default=1.0,
        metavar="X",
        help="how much of what may be noise is smoothed, the more the further it was brightened, 0 to 4 (default: 1)",
    )
    look.add_argument(
        "--also-well-lit",
        action="store_true",
        help="enhance photos that are lit well already, too (default: they stay nearly as they are)",
    )
    return look


def chosen_controls(args: argparse.Namespace) -> EnhanceControls:
    """The controls that the arguments ask for.

    Raises:
        UsageError: One is out of range.
    """
    from ..inference import EnhanceControls

    try:
        return EnhanceControls(
            args.strength,
            args.brightness,
            args.saturation,
            args.protect_highlights,
            noise_reduction=args.noise_reduction,
            keep_well_lit=not args.also_well_lit,
        )
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-')}") from error


def add_device_argument(group: argparse._ActionsContainer) -> None:
    """Add the argument for :func:`~semillie_core.devices.pick_device`."""
    group.add_argument(
        "--device",
        type=_device,
        default=AUTO,
        metavar="DEVICE",
        help="cpu, cuda, mps or xpu; cuda:1 and xpu:1 are the second of several. auto: an NVIDIA or AMD GPU, else an "
        "Apple GPU, else an Intel GPU, else the CPU (default: auto)",
    )


@dataclass(frozen=True)
class Enhancer:
    """A model on a device, ready for photos."""

    model: SemiLLIEModel
    controls: EnhanceControls
    tile: str | int
    """``"auto"``, ``"off"`` or an edge in pixels."""

    def __call__(self, pixels: Tensor, progress: Callable[[float], None]) -> Tensor:
        """Enhance a photo.

        Args:
            pixels: ``(C, H, W)`` in [0, 1].
            progress: Called with the fraction that is done.

        Returns:
            Same shape.
        """
        from ..inference import enhance

        return enhance(
            self.model,
            pixels[None],
            controls=self.controls,
            tile=self.edge(*pixels.shape[1:]),
            progress=lambda done, total, _: progress(done / total),
        ).image[0]

    def edge(self, height: int, width: int) -> int | None:
        """The edge of the tiles for a photo, ``None`` for none."""
        from ..inference.memory import free_memory, pick_tile

        if self.tile == AUTO:
            free = int(_MEMORY_SHARE * free_memory(self.model.device))
            return pick_tile(self.model.config, height, width, free)
        return self.tile if isinstance(self.tile, int) else None

    def describe(self) -> str:
        """The model and the device, for people."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"{self.model.name} ({self.model.parameter_count:,} parameters) on {self.model.device} in {dtype}"
        )


def make_enhancer(
    args: argparse.Namespace, load_reader: Callable[[], object], controls: EnhanceControls | None = None
) -> Enhancer:
    """Load the model that the arguments ask for.

    Args:
        args: The arguments.
        load_reader: Loads what the files are read with, or says what is missing.
        controls: Adjustments.

    Raises:
        UsageError: The reader is missing, there is no such model or device, or the model does not support the dtype.
    """
    import torch

    from ..devices import pick_device
    from ..inference import EnhanceControls
    from ..weights import bundled_models, load_model

    try:
        load_reader()
        name = args.model or next(iter(bundled_models()), None)
        if name is None:
            raise UsageError("No model ships with this copy of Semi-LLIE: name a checkpoint with --model.")
        dtype = torch.float32 if args.dtype == AUTO else getattr(torch, args.dtype)
        model = load_model(name).to(pick_device(args.device), dtype)
    except ValueError as error:  # As those of checkpoints and readers are, too.
        raise UsageError(str(error)) from error
    return Enhancer(model, controls or EnhanceControls(), args.tile)


def explain(photo: Path, error: Exception, more_memory: str = "Try --tile 256.") -> str:
    """Say why the work on a photo or video failed, and what helps if memory ran out; of a defect, say where it is."""
    from ..image_io import PhotoError
    from ..inference import is_out_of_memory
    from ..video_io import VideoError

    if isinstance(error, (PhotoError, VideoError)):
        is_video = isinstance(error, PhotoError) and photo.suffix.lower() in VIDEO_SUFFIXES
        return f"{error} Brighten a video with `semillie video`." if is_video else str(error)
    if is_out_of_memory(error):
        return f"{photo} needs more memory than there is. {more_memory}"
    if isinstance(error, OSError):
        return f"{photo}: {error}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{photo}: unexpected {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _device(value: str) -> str:
    if re.fullmatch(rf"{AUTO}|cpu|mps|(cuda|xpu)(:\d+)?", value) is None:
        raise argparse.ArgumentTypeError(
            f"{value!r} is neither {AUTO} nor cpu, cuda, cuda:N, mps, xpu or xpu:N"
        )
    return value


def _tile(value: str) -> str | int:
    if value in (AUTO, OFF):
        return value
    # 128 is inference.network_pass.MINIMUM_TILE, which cannot be imported before the arguments are known.
    if not value.isdigit() or int(value) < 128:
        raise argparse.ArgumentTypeError(f"{value!r} is neither auto, off nor a number of at least 128")
    return int(value)
