"""Batches, each sample a pure function of (seed, step, slot).

A slot is a position in the global batch. Because nothing else decides what a sample holds, an interrupted run resumes
with exactly the batches it would have seen, whatever the number of worker processes, and the ranks of a distributed run
that take every n-th slot see together what one process would.

A *frame* is a part of a photo that is shown whole to networks with a thumbnail; crops lie inside their frame. All
frames of a batch have one aspect ratio, so photos of any size mix in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .config import DataConfig
from .manifest import pairs_of, read_manifest, trained_on, unpaired_of
from .pairs import (
    DataError,
    Pair,
    differ_in_size,
    find_images,
    find_pairs,
    find_unpaired,
    named,
    to_float,
    upright_size,
)
from .photos import PhotoStore, short_digest
from .random import chance, integer, seeded, uniform
from .views import StrongView, darken, recolour, relight, resaturate

_PAIRED, _UNPAIRED, _FRACTION = 0, 1, 2
"""Streams of randomness."""
_WHOLE_BATCH = -1
"""Slot of what holds for all slots."""
_REASONS = 10
"""Rejected photos that the report names."""
_RELEASED_MARGIN = 280 / 256
"""The released trainer squashes pairs to 280 pixels for crops of 256."""


@dataclass(frozen=True)
class Batch:
    """Crops of pairs, with what is needed to place them in their frames."""

    low: Tensor
    """Dark crops, ``(B, 3, S, S)`` in [0, 1]."""
    high: Tensor
    """Reference crops, same shape."""
    thumbnail: Tensor
    """The dark frames at thumbnail size, ``(B, 3, h, w)``."""
    region: Tensor
    """Where the crops lie, ``(B, 4)`` as top, left, height, width in fractions of the frame."""


@dataclass(frozen=True)
class UnpairedBatch:
    """Two views of crops of dark photos, in the same place."""

    weak: Tensor
    """As photographed, ``(B, 3, S, S)`` in [0, 1]: what the teacher sees."""
    strong: Tensor
    """In another light and with more noise, same shape: what the student sees."""
    weak_thumbnail: Tensor
    """The weak frames at thumbnail size, ``(B, 3, h, w)``."""
    strong_thumbnail: Tensor
    """The strong frames at thumbnail size, same shape."""
    region: Tensor
    """Where the crops lie, as in :class:`Batch`."""
    pseudo: Tensor
    """Crops of the bank's pseudo-labels, ``(B, 3, S, S)``; zero where there is none."""
    has_pseudo: Tensor
    """Which samples have a pseudo-label, ``(B,)`` bool."""


@dataclass(frozen=True)
class StepData:
    """What one optimiser step learns from."""

    paired: Batch
    unpaired: UnpairedBatch | None


class StepShape(NamedTuple):
    """Sizes of a step's global batches."""

    paired: int
    """Crops of pairs."""
    unpaired: int
    """Crops of unpaired photos; 0 for none."""
    crop: int
    """Edge of the crops in pixels; 0 takes whole frames."""


def to_device(data: StepData, device: torch.device) -> StepData:
    """The same step with its tensors on a device."""

    def moved(batch: Any) -> Any:
        return type(batch)(
            **{f.name: getattr(batch, f.name).to(device, non_blocking=True) for f in fields(batch)}
        )

    return StepData(moved(data.paired), None if data.unpaired is None else moved(data.unpaired))


class _Placement(NamedTuple):
    """How one sample is cut from its photo."""

    top: int
    left: int
    height: int
    width: int
    flips: tuple[int, ...]
    turned: bool


class TrainingData:
    """Training batches and validation pairs of a :class:`DataConfig`.

    Args:
        config: What to draw.
        seed: Decides every batch together with step and slot.
        thumbnail: Long side of the frames' thumbnails in pixels; 0 for networks without one.

    Raises:
        DataError: A folder or file cannot be used, there are no pairs, or a folder holds a photo that the
            manifest lists for test.
    """

    def __init__(self, config: DataConfig, seed: int, thumbnail: int) -> None:
        self.config, self.seed, self.thumbnail = config, seed, thumbnail
        self.photos = PhotoStore(config.cache_mib << 20, config.max_corrupt)
        self.report: list[str] = []
        """What was found and what was left out, in words."""
        self.pseudo_labels: Callable[[Path], Tensor | None] | None = None
        """Looks up an unpaired photo's pseudo-label, ``(3, H, W)`` float in landscape orientation; must pickle."""
        self._pairs: list[list[Pair]] = []
        self._pair_weights: list[float] = []
        self._manifest = read_manifest(config.manifest) if config.manifest else []
        left_out: list[Path] = []
        sources = [(s.low, find_pairs(s.low, s.high), s.weight) for s in config.sources]
        sources.append((config.manifest, pairs_of(self._manifest, "train"), 1.0))
        names, spares = [], []
        for name, pairs, weight in sources:
            if not pairs:
                continue
            kept, spare = self._share(pairs)
            names.append(name)
            spares.append(len(spare))
            self._pairs.append(kept)
            self._pair_weights.append(weight)
            left_out += [pair.low for pair in spare]
        self._unpaired: list[list[Path]] = []
        self._unpaired_weights: list[float] = []
        folders = [(u.folder, find_images(u.folder), u.weight) for u in config.unpaired]
        folders.append((config.manifest, unpaired_of(self._manifest), 1.0))
        if config.unpaired_from_pairs:
            folders.append(("dark photos of left-out pairs", left_out, 1.0))
        folders = [folder for folder in folders if folder[1]]
        for _, paths, weight in folders:
            self._unpaired.append(paths)
            self._unpaired_weights.append(weight)
        if not self._pairs:
            raise DataError(
                "There are no pairs to learn from: name folders in data.sources, or a manifest in data.manifest."
            )
        self._sizes: dict[Path, tuple[int, int]] = {}
        """Height and width in landscape."""
        for photo_list in self._unpaired:
            photo_list[:] = [path for path in photo_list if self._measure(path)]
        for pair_list in self._pairs:
            pair_list[:] = [pair for pair in pair_list if self._measure_pair(pair)]
        if not all(self._pairs) or not all(self._unpaired):
            raise self._nothing_left()
        self._refuse_photos_of_test()
        # Counted when they have been looked at.
        for name, kept, count in zip(names, self._pairs, spares, strict=True):
            self.report.append(f"{name}: {len(kept)} pairs used, {count} left out by pair_fraction")
        for (name, _, _), paths in zip(folders, self._unpaired, strict=True):
            self.report.append(f"{name}: {len(paths)} unpaired photos")
        for source in config.sources:
            if alone := find_unpaired(source.low, source.high):
                self.report.append(
                    f"{source.low}: {len(alone)} photos have no partner of the same name and are left out: "
                    f"{named(alone)}"
                )
        if self.photos.corrupt:
            reasons = list(self.photos.corrupt.values())
            self.report.append(f"{len(reasons)} photos cannot be used: " + " ".join(reasons[:_REASONS]))

    @property
    def unpaired_photos(self) -> list[Path]:
        """Every unpaired photo."""
        return [path for source in self._unpaired for path in source]

    def validation(self) -> list[Pair]:
        """The validation pairs.

        Raises:
            DataError: The folders or a photo cannot be used, a pair differs in size, or a photo is in training, too.
        """
        if self.config.val_low:
            pairs = find_pairs(self.config.val_low, self.config.val_high)
            known = trained_on(pairs, self._manifest) if self._manifest else {}
            if known:
                raise DataError(
                    f"{len(known)} validation photos of {self.config.val_low} or their scenes are in the train split "
                    f"of {self.config.manifest}: {', '.join(list(known)[:5])}. Leave out data.val_low and val_high to "
                    "validate on the manifest's own."
                )
        else:
            pairs = pairs_of(self._manifest, "val")
        for pair in pairs:
            low, high = upright_size(pair.low), upright_size(pair.high)
            if low != high:
                raise DataError(differ_in_size(pair, low, high))
        copies = self._trained_copies([path for pair in pairs for path in (pair.low, pair.high)])
        if copies:
            raise DataError(
                f"{len(copies)} validation photos are among the training photos: "
                + ", ".join(f"{path} is {copy}" for path, copy in list(copies.items())[:5])
                + ". Take them out of one of the two."
            )
        return pairs

    def digests(self, validation: Sequence[Pair]) -> dict[str, str]:
        """A digest of every photo in use, training's and some validation pairs', by its path as the config has it.

        Photos of the manifest have their path below it, so that it can move with them.
        """
        pairs = [*(pair for source in self._pairs for pair in source), *validation]
        paths = {*(path for pair in pairs for path in (pair.low, pair.high)), *self.unpaired_photos}
        listed = {entry.path for entry in self._manifest}
        folder = Path(self.config.manifest).absolute().parent
        return {
            (Path(os.path.relpath(path, folder)) if path in listed else path).as_posix(): short_digest(path)
            for path in sorted(paths)
        }

    def _refuse_photos_of_test(self) -> None:
        """Evaluation asks the manifest what was trained on, and cannot know what joins from folders."""
        known = {entry.sha256 for entry in self._manifest if entry.split == "train"}
        tested = {
            entry.sha256: entry.bytes
            for entry in self._manifest
            if entry.split == "test" and entry.sha256 not in known
        }
        sizes = set(tested.values())
        trained = [path for source in self._pairs for pair in source for path in (pair.low, pair.high)]
        found = [
            path
            for path in (*trained, *self.unpaired_photos)
            if path.stat().st_size in sizes and _sha256(path).hex() in tested
        ]
        if found:
            raise DataError(
                f"{len(found)} training photos are in the test split of {self.config.manifest}: {named(found, 5)}. "
                "Take them out of data.sources and data.unpaired."
            )

    def _trained_copies(self, paths: Sequence[Path]) -> dict[Path, Path]:
        """Of some files those that training has, too, by content, with where it has them."""
        trained = [path for source in self._pairs for pair in source for path in (pair.low, pair.high)]
        # Few files share their size with another, so few are read.
        sizes = {path: path.stat().st_size for path in (*trained, *self.unpaired_photos)}
        wanted = {path.stat().st_size for path in paths}
        digests = {_sha256(path): path for path, size in sizes.items() if size in wanted}
        known = set(sizes.values())
        copies = {path: digests.get(_sha256(path)) for path in paths if path.stat().st_size in known}
        return {path: copy for path, copy in copies.items() if copy is not None}

    def paired(self, step: int, size: int, crop: int, slots: Sequence[int] | None = None) -> Batch:
        """The pairs of a step.

        Args:
            step: Number of the optimiser step, from 0.
            size: Crops in the global batch.
            crop: Their edge in pixels; 0 takes whole frames.
            slots: Which of them to make; all by default.
        """
        common = seeded(self.seed, _PAIRED, step, _WHOLE_BATCH)
        pairs = self._pairs[_draw(self._pair_weights, common)]
        kind, scale = uniform(common), uniform(common, self.config.frame_scale, 1.0)
        turned = chance(common, 0.5)
        first = self._sizes[self._pick_pair(pairs, step, 0)[0].low]
        shape = self._common_shape(first, scale)
        samples = []
        for slot in range(size) if slots is None else slots:
            pair, low8, high8, generator = self._pick_pair(pairs, step, slot)
            place = self._place(self._sizes[pair.low], first, scale, crop, turned, generator)
            target, edge = (None, crop) if crop else (shape, 0)
            if self.config.geometry == "released":
                edge = round(crop * _RELEASED_MARGIN)
            high = _oriented(self._cut(high8, place, edge, target), place)
            if kind < self.config.synthetic:
                low = darken(high, self.config, generator)
            elif kind < self.config.synthetic + self.config.identity:
                low = high
            else:
                low = relight(
                    _oriented(self._cut(low8, place, edge, target), place),
                    self.config.exposure_jitter,
                    self.config.white_balance_jitter,
                    generator,
                )
            if self.config.saturation_jitter:
                low, high = resaturate(low, high, self.config.saturation_jitter, generator)
            if self.config.light_colour_jitter:
                low, high = recolour(low, high, self.config.light_colour_jitter, generator)
            window, region = self._window(low, crop, generator)
            samples.append((low[window], high[window], self._shrink(low, shape, place), region))
        return Batch(*(torch.stack(column) for column in zip(*samples, strict=True)))

    def unpaired(self, step: int, size: int, crop: int, slots: Sequence[int] | None = None) -> UnpairedBatch:
        """The unpaired photos of a step; arguments as :meth:`paired`.

        Raises:
            DataError: There are none.
        """
        if not self._unpaired:
            raise DataError(
                "There are no unpaired photos: name folders in data.unpaired, or a manifest that has some."
            )
        common = seeded(self.seed, _UNPAIRED, step, _WHOLE_BATCH)
        paths = self._unpaired[_draw(self._unpaired_weights, common)]
        scale, turned = uniform(common, self.config.frame_scale, 1.0), chance(common, 0.5)
        first = self._sizes[self._pick_unpaired(paths, step, 0)[0]]
        shape = self._common_shape(first, scale)
        view = StrongView(self.config.strong)
        samples = []
        for slot in range(size) if slots is None else slots:
            path, photo, generator = self._pick_unpaired(paths, step, slot)
            place = self._place(self._sizes[path], first, scale, crop, turned, generator)
            target = shape if not crop else None
            if self.config.geometry == "released":
                place = place._replace(flips=(), turned=False)
            weak = _oriented(self._cut(photo, place, crop, target), place)
            window, region = self._window(weak, crop, generator)
            strong = view.of_frame(weak, generator)
            label = None if self.pseudo_labels is None else self.pseudo_labels(path)
            if label is None:
                pseudo = torch.zeros_like(weak[window])
            else:
                pseudo = _oriented(self._cut(label, place, crop, target), place)[window]
            samples.append(
                (
                    weak[window],
                    view.of_crop(strong[window], generator),
                    self._shrink(weak, shape, place),
                    self._shrink(strong, shape, place),
                    region,
                    pseudo,
                    torch.tensor(label is not None),
                )
            )
        return UnpairedBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))

    def _share(self, pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        """Split pairs into the fraction to use and the rest, chosen by the seed and whole scenes at a time."""
        scenes = sorted({pair.scene or pair.name for pair in pairs})
        order = torch.randperm(len(scenes), generator=seeded(self.seed, _FRACTION)).tolist()
        count = max(1, round(self.config.pair_fraction * len(scenes)))
        chosen = {scenes[i] for i in order[:count]}
        kept = [pair for pair in pairs if (pair.scene or pair.name) in chosen]
        return kept, [pair for pair in pairs if (pair.scene or pair.name) not in chosen]

    def _measure(self, path: Path) -> tuple[int, int] | None:
        size = self.photos.size(path)
        if size is not None:
            self._sizes[path] = (min(size), max(size))
        return size

    def _measure_pair(self, pair: Pair) -> bool:
        low, high = self._measure(pair.low), self._measure(pair.high)
        if low is None or high is None:
            return False
        # Upright: one turned by a quarter against the other shows other pixels in the same place.
        if low != high:
            self.photos.reject(pair.low, differ_in_size(pair, low, high))
            return False
        return True

    def _nothing_left(self) -> DataError:
        reasons = "\n  ".join(list(self.photos.corrupt.values())[:_REASONS])
        return DataError(f"A source of training photos has no readable photo left:\n  {reasons}")

    def _pick_pair(
        self, pairs: list[Pair], step: int, slot: int
    ) -> tuple[Pair, Tensor, Tensor, torch.Generator]:
        generator = seeded(self.seed, _PAIRED, step, slot)
        while True:
            pair = pairs[integer(generator, len(pairs))]
            low, high = self.photos.read(pair.low), self.photos.read(pair.high)
            if low is not None and high is not None:
                return pair, low, high, generator
            if all({p.low, p.high} & self.photos.corrupt.keys() for p in pairs):
                raise self._nothing_left()

    def _pick_unpaired(self, paths: list[Path], step: int, slot: int) -> tuple[Path, Tensor, torch.Generator]:
        generator = seeded(self.seed, _UNPAIRED, step, slot)
        while True:
            path = paths[integer(generator, len(paths))]
            photo = self.photos.read(path)
            if photo is not None:
                return path, photo, generator
            if all(p in self.photos.corrupt for p in paths):
                raise self._nothing_left()

    def _frame_shape(self, size: tuple[int, int], aspect: tuple[int, int], scale: float) -> tuple[int, int]:
        """The largest frame of an aspect ratio inside a photo, times ``scale``."""
        if self.config.geometry == "released":
            return size
        ratio = aspect[0] / aspect[1]
        height = min(size[0], size[1] * ratio)
        return max(1, round(height * scale)), max(1, min(size[1], round(height / ratio * scale)))

    def _common_shape(self, first: tuple[int, int], scale: float) -> tuple[int, int]:
        """What the frames of a batch have in common: the size of the first one, or a square of its height."""
        height, width = self._frame_shape(first, first, scale)
        return (height, height) if self.config.geometry == "released" else (height, width)

    def _place(
        self,
        size: tuple[int, int],
        aspect: tuple[int, int],
        scale: float,
        crop: int,
        turned: bool,
        generator: torch.Generator,
    ) -> _Placement:
        height, width = self._frame_shape(size, aspect, scale)
        if self.config.geometry == "frame":
            # Rather a larger frame than an enlarged one.
            height, width = max(height, min(crop, size[0])), max(width, min(crop, size[1]))
        top, left = integer(generator, size[0] - height + 1), integer(generator, size[1] - width + 1)
        flips = tuple(axis for axis in (1, 2) if chance(generator, 0.5))
        if self.config.geometry == "released":
            # Squares fit a batch in any orientation.
            turned = chance(generator, 0.5)
        return _Placement(top, left, height, width, flips, turned)

    def _cut(self, photo: Tensor, frame: _Placement, crop: int, shape: tuple[int, int] | None) -> Tensor:
        """The frame of a photo in [0, 1], at least as large as the crop, or resized to ``shape``.

        In the released geometry the whole photo as a square with the crop's edge, or resized to ``shape``; by Lanczos
        to 8 bits, as released, where the photo has 8 bits.
        """
        part = photo[:, frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        size = part.shape[1:]
        if shape is not None:
            wanted = shape
        elif self.config.geometry == "released":
            wanted = (crop, crop)
        else:
            grow = max(crop / size[0], crop / size[1], 1.0)
            wanted = (max(crop, round(size[0] * grow)), max(crop, round(size[1] * grow)))
        if self.config.geometry == "released" and part.dtype == torch.uint8:
            part = _lanczos(part, wanted)
        image = part if part.is_floating_point() else to_float(part)
        if wanted == tuple(image.shape[1:]):
            return image
        return F.interpolate(image[None], wanted, mode="bicubic", antialias=True).clamp(0, 1)[0]

    def _window(
        self, image: Tensor, crop: int, generator: torch.Generator
    ) -> tuple[tuple[slice, ...], Tensor]:
        height, width = image.shape[1:]
        edges = (crop or height, crop or width)
        top, left = integer(generator, height - edges[0] + 1), integer(generator, width - edges[1] + 1)
        window = (slice(None), slice(top, top + edges[0]), slice(left, left + edges[1]))
        region = [top / height, left / width, edges[0] / height, edges[1] / width]
        return window, torch.tensor(region)

    def _shrink(self, image: Tensor, shape: tuple[int, int], place: _Placement) -> Tensor:
        """A frame's thumbnail; all frames of a batch get the same size."""
        if not self.thumbnail:
            return image.new_zeros(3, 1, 1)
        scale = min(1.0, self.thumbnail / max(shape))
        size = [max(1, round(edge * scale)) for edge in shape]
        # Not by the frame's own proportions: a square one fits a batch of either orientation.
        if place.turned:
            size.reverse()
        return F.interpolate(image[None], size, mode="area")[0]


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _draw(weights: list[float], generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator))


def _lanczos(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(3, H, W)`` uint8 to a height and width, by Pillow and in 8 bits as the released trainer."""
    picture = Image.fromarray(levels.permute(1, 2, 0).numpy())
    resized = np.array(picture.resize(size[::-1], Image.Resampling.LANCZOS))
    return torch.from_numpy(resized).permute(2, 0, 1)


def _oriented(image: Tensor, place: _Placement) -> Tensor:
    image = image.flip(place.flips)
    return image.transpose(1, 2) if place.turned else image


class _Steps(Dataset[StepData]):
    """The batches of a rank by step number."""

    def __init__(self, data: TrainingData, shape: Callable[[int], StepShape], rank: int, world: int) -> None:
        self.data, self.shape, self.rank, self.world = data, shape, rank, world

    def __getitem__(self, step: int) -> StepData:
        sizes = self.shape(step)
        paired = self.data.paired(step, sizes.paired, sizes.crop, range(self.rank, sizes.paired, self.world))
        unpaired = None
        if sizes.unpaired:
            unpaired = self.data.unpaired(
                step, sizes.unpaired, sizes.crop, range(self.rank, sizes.unpaired, self.world)
            )
        return StepData(paired, unpaired)


def _leave_process_group(worker: int) -> None:
    """Signals to the run's group, by a launcher or a terminal, are the run's to answer: it still needs its workers."""
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)


def steps(
    data: TrainingData,
    shape: Callable[[int], StepShape],
    start: int,
    stop: int,
    *,
    rank: int = 0,
    world: int = 1,
) -> Iterator[StepData]:
    """Batches of the steps ``start`` to ``stop``, prepared ahead in worker processes or a thread.

    Args:
        data: Where they come from; its config says how many workers.
        shape: Sizes of a step's global batches; must pickle where worker processes are not forked.
        start: First step.
        stop: One past the last.
        rank: Number of this process among those that share the global batches.
        world: How many there are.
    """
    dataset = _Steps(data, shape, rank, world)
    if data.config.workers:
        yield from DataLoader(
            dataset,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=data.config.workers,
            pin_memory=data.config.pin_memory,
            worker_init_fn=_leave_process_group,
            # Its own, unused: by default one draw comes from the generator that the network's random depth uses.
            generator=torch.Generator(),
        )
        return
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(dataset.__getitem__, start) if start < stop else None
        for step in range(start, stop):
            assert upcoming is not None  # noqa: S101
            current = upcoming.result()
            upcoming = pool.submit(dataset.__getitem__, step + 1) if step + 1 < stop else None
            yield current
