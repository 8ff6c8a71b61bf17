"""What training photos come from, and how they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceConfig:
    """Two folders of pairs and how often to draw from them."""

    low: str
    """Folder of dark photos."""
    high: str
    """Folder of references with the same file stems."""
    weight: float = 1.0
    """Relative number of batches drawn from this source."""

    def __post_init__(self) -> None:
        _check_weight("data.sources", self.low, self.weight)


@dataclass(frozen=True)
class UnpairedConfig:
    """A folder of dark photos without references."""

    folder: str
    """Folder of dark photos."""
    weight: float = 1.0
    """Relative number of batches drawn from this source."""

    def __post_init__(self) -> None:
        _check_weight("data.unpaired", self.folder, self.weight)


@dataclass(frozen=True)
class StrongViewConfig:
    """How the student's view of an unlabelled photo differs from the teacher's."""

    kind: str = "camera"
    """``"camera"``: another exposure, another light and more sensor noise, in linear light, and a soft lens;
    ``"released"``: the released trainer's colour jitter, grey and blur."""
    exposure_ev: float = 1.0
    """Largest change of exposure in stops, either way (camera)."""
    white_balance: float = 0.1
    """Largest relative change of red and blue light (camera)."""
    noise: float = 0.5
    """Share of views with added shot and read noise (camera)."""
    blur: float = 0.3
    """Share of views that are softened (camera)."""

    def __post_init__(self) -> None:
        if self.kind not in ("camera", "released"):
            raise ValueError(f"strong.kind must be camera or released, got {self.kind!r}.")
        if not 0 <= self.exposure_ev < math.inf:
            raise ValueError(f"strong.exposure_ev must be at least 0 and finite, got {self.exposure_ev}.")
        # More than 1 would ask for negative light.
        for name in ("white_balance", "noise", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"strong.{name} must be in [0, 1], got {getattr(self, name)}.")


@dataclass(frozen=True)
class DataConfig:
    """Where a run's photos come from and how they become batches."""

    sources: tuple[SourceConfig, ...] = field(default_factory=tuple)
    """Pairs to learn from; photos of any size."""
    unpaired: tuple[UnpairedConfig, ...] = field(default_factory=tuple)
    """Dark photos without references, for the mean teacher."""
    manifest: str = ""
    """JSONL file of prepare_data; its training pairs and unpaired photos join the folders above."""
    val_low: str = ""
    """Folder of dark validation photos; empty takes the manifest's."""
    val_high: str = ""
    """Folder of their references; empty takes the manifest's."""
    pair_fraction: float = 1.0
    """Fraction of the training scenes whose references are used (of the pairs, where scenes are not known)."""
    unpaired_from_pairs: bool = False
    """Let the dark photos of the pairs that ``pair_fraction`` leaves out join the unpaired ones."""
    synthetic: float = 0.0
    """Fraction of batches whose dark image is simulated from the reference by the sensor model."""
    exposure_ev: tuple[float, float] = (-5.0, -1.5)
    """Range of simulated exposures, in stops."""
    uneven_light: float = 0.0
    """Share of simulations whose darkness varies over the frame, as between a lamp and the night around it."""
    backlit: float = 0.0
    """Share of simulations that leave the bright areas of the reference bright, as skies and windows are in photos of
    what stands before them."""
    camera: float = 0.0
    """Share of simulations softened as by demosaicing, and, independently, compressed as by JPEG."""
    identity: float = 0.0
    """Fraction of batches that show the reference itself and ask for no change."""
    frame_scale: float = 1.0
    """A frame is a random part of its photo whose edges are this fraction to all of the photo's."""
    exposure_jitter: float = 0.0
    """Exposure of dark photos is changed by up to this many stops either way, in linear light."""
    white_balance_jitter: float = 0.0
    """Largest relative change of the red and blue light of dark photos."""
    light_colour_jitter: float = 0.0
    """Largest relative change of the red and blue light of both photos of a pair, whose exposure stays."""
    saturation_jitter: float = 0.0
    """Colours of both photos of a pair move away from grey, or towards it, by up to a factor of 1 plus this."""
    geometry: str = "frame"
    """``"frame"`` crops without changing proportions; ``"released"`` squashes every photo to a square first, as the
    released trainer does."""
    strong: StrongViewConfig = StrongViewConfig()
    """The student's view of unlabelled photos."""
    cache_mib: int = 2048
    """Memory for decoded photos; what does not fit is decoded again when needed."""
    max_corrupt: int = 0
    """How many unreadable photos to skip, each named, before giving up."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares the next one in a thread."""
    pin_memory: bool = False
    """Page-locked batches, for faster copies to a GPU."""

    def __post_init__(self) -> None:
        if self.geometry not in ("frame", "released"):
            raise ValueError(f"data.geometry must be frame or released, got {self.geometry!r}.")
        if not 0 < self.pair_fraction <= 1:
            raise ValueError(f"data.pair_fraction must be in (0, 1], got {self.pair_fraction}.")
        if not 0 < self.frame_scale <= 1:
            raise ValueError(f"data.frame_scale must be in (0, 1], got {self.frame_scale}.")
        # More white-balance jitter than 1 would ask for negative light.
        for name in ("synthetic", "identity", "uneven_light", "backlit", "camera", "white_balance_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} must be in [0, 1], got {getattr(self, name)}.")
        if self.synthetic + self.identity > 1:
            raise ValueError("data.synthetic and data.identity must not exceed 1 together.")
        if bool(self.val_low) != bool(self.val_high):
            given, missing = ("val_low", "val_high") if self.val_low else ("val_high", "val_low")
            raise ValueError(
                f"data.{given} needs data.{missing}: validation compares photos of both folders."
            )
        for name in ("exposure_jitter", "light_colour_jitter", "saturation_jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"data.{name} must be at least 0 and finite, got {getattr(self, name)}.")
        if (
            len(self.exposure_ev) != 2
            or not -math.inf < self.exposure_ev[0] <= self.exposure_ev[1] < math.inf
        ):
            raise ValueError(
                f"data.exposure_ev must be two finite numbers, the lower one first, got {list(self.exposure_ev)}."
            )


def _check_weight(option: str, folder: str, weight: float) -> None:
    if not 0 < weight < math.inf:
        raise ValueError(
            f"{option}: the weight of {folder} must be above 0 and finite, got {weight}. "
            "Leave the folder out to draw nothing from it."
        )
