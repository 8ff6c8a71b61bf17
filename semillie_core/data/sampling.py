"""Batches for supervised training, each a pure function of (seed, step).

Because nothing but the step number decides what a batch holds, an interrupted run resumes with exactly the batches it
would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..network.thumbnail import make_thumbnail
from .pairs import find_pairs, read_rgb
from .sensor import simulate_low_light


@dataclass(frozen=True)
class SourceConfig:
    """Two folders of pairs and how often to draw from them."""

    low: str
    """Folder of dark photos."""
    high: str
    """Folder of references with the same file stems."""
    weight: float = 1.0
    """Relative number of batches drawn from this source."""


@dataclass(frozen=True)
class SamplingConfig:
    """What training batches are made of."""

    sources: tuple[SourceConfig, ...] = field(default_factory=tuple)
    """Where pairs come from; all photos of one source must have the same size up to a quarter turn."""
    synthetic: float = 0.0
    """Fraction of batches whose dark image is simulated from the reference by the sensor model."""
    exposure_ev: tuple[float, float] = (-5.0, -1.5)
    """Range of simulated exposures, in stops."""
    identity: float = 0.0
    """Fraction of batches that show the reference itself and ask for no change."""


@dataclass(frozen=True)
class Batch:
    """Crops of photos, with what is needed to place them in their frames."""

    low: Tensor
    """Dark crops, ``(B, 3, S, S)`` in [0, 1]."""
    high: Tensor
    """Reference crops, same shape."""
    thumbnail: Tensor
    """The dark frames at thumbnail size, ``(B, 3, h, w)``."""
    region: Tensor
    """Where the crops lie, ``(B, 4)`` as top, left, height, width in fractions of the frame."""


class PairSampler:
    """Draw batches from photos held in memory as uint8.

    Args:
        config: What to draw.
        seed: Decides every batch together with the step.
        thumbnail: Long side of the frames' thumbnails in pixels; 0 for networks without one.

    Raises:
        DataError: A folder or file cannot be used.
        ValueError: There is no source.
    """

    def __init__(self, config: SamplingConfig, seed: int, thumbnail: int) -> None:
        if not config.sources:
            raise ValueError("sampling.sources is empty: name at least one pair of folders.")
        self.config, self.seed, self.thumbnail = config, seed, thumbnail
        self._photos: list[list[tuple[Tensor, Tensor]]] = []
        for source in config.sources:
            photos = [
                (read_rgb(pair.low), read_rgb(pair.high)) for pair in find_pairs(source.low, source.high)
            ]
            self._photos.append([(_landscape(low), _landscape(high)) for low, high in photos])
        self._weights = torch.tensor([source.weight for source in config.sources], dtype=torch.float64)

    def batch(self, step: int, size: int, crop: int) -> Batch:
        """The batch of a step.

        Args:
            step: Number of the optimiser step, from 0.
            size: Number of crops.
            crop: Their edge in pixels; 0 takes whole photos.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        photos = self._photos[int(torch.multinomial(self._weights, 1, generator=generator))]
        kind = float(torch.rand((), generator=generator))
        turned = bool(torch.rand((), generator=generator) < 0.5)
        lows, highs, thumbnails, regions = [], [], [], []
        for index in torch.randint(len(photos), (size,), generator=generator).tolist():
            low8, high8 = photos[index]
            high = high8.float() / 255
            if kind < self.config.synthetic:
                low = self._darken(high, generator)
            elif kind < self.config.synthetic + self.config.identity:
                low = high
            else:
                low = low8.float() / 255
            flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
            low, high = low.flip(flips), high.flip(flips)
            if turned:
                low, high = low.transpose(1, 2), high.transpose(1, 2)
            height, width = low.shape[1:]
            edge_h, edge_w = (min(crop, height), min(crop, width)) if crop else (height, width)
            top = int(torch.randint(height - edge_h + 1, (), generator=generator))
            left = int(torch.randint(width - edge_w + 1, (), generator=generator))
            lows.append(low[:, top : top + edge_h, left : left + edge_w])
            highs.append(high[:, top : top + edge_h, left : left + edge_w])
            thumbnails.append(make_thumbnail(low[None], self.thumbnail or 1)[0])
            regions.append([top / height, left / width, edge_h / height, edge_w / width])
        return Batch(torch.stack(lows), torch.stack(highs), torch.stack(thumbnails), torch.tensor(regions))

    def _darken(self, high: Tensor, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        return simulate_low_light(
            high,
            exposure_ev=uniform(*self.config.exposure_ev),
            full_well_electrons=10 ** uniform(3.3, 4.3),
            read_noise_electrons=uniform(1.0, 6.0),
            white_balance_gains=[uniform(0.85, 1.15), 1.0, uniform(0.85, 1.15)],
            generator=generator,
        )


def _landscape(image: Tensor) -> Tensor:
    return image if image.shape[2] >= image.shape[1] else image.transpose(1, 2).contiguous()
