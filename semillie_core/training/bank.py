"""The best pseudo-label that the teacher has ever made of each unpaired photo.

The idea of the reliable bank of Semi-UIR (CVPR 2023), Semi-LLIE's ancestor, with a score that can be computed without a
reference or a learned judge: NIQE. Labels live in the run's folder, never inside the data, under the hash of the
photo's content.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pairs import to_float
from ..files import atomic_write
from ..metrics import niqe
from .students import LARGEST_WHOLE, enhance_photo

NIQE_LEAST = (96, 192)
"""Sides of the smallest photo that NIQE can score."""


class PseudoLabelBank:
    """Pseudo-labels by photo, kept only if better than what was there.

    A refresh writes new files beside the old ones; :meth:`drop_replaced` removes those once a checkpoint knows the
    new ones. So a run that stops in between resumes with exactly the labels it had.

    Args:
        folder: Where the labels are.
        photos: All unpaired photos.
    """

    def __init__(self, folder: Path, photos: Sequence[Path]) -> None:
        self.folder = folder
        self._keys = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in photos}
        self._entries: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def state(self) -> dict[str, tuple[str, float]]:
        """File name and score by photo hash, for a checkpoint."""
        return dict(self._entries)

    def restore(self, state: dict[str, tuple[str, float]]) -> None:
        """Go back to a checkpoint's labels."""
        self._entries = {key: (name, score) for key, (name, score) in state.items()}
        self.drop_replaced()

    def drop_replaced(self) -> None:
        """Remove files that no photo refers to."""
        if not self.folder.is_dir():
            return
        current = {name for name, _ in self._entries.values()}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in current:
                path.unlink(missing_ok=True)  # another process may be at it, too

    def lookup(self, path: Path) -> Tensor | None:
        """The label of a photo, ``(3, H, W)`` float in [0, 1]; ``None`` where there is none."""
        entry = self._entries.get(self._keys[path])
        if entry is None:
            return None
        return safetensors.torch.load_file(self.folder / entry[0])["image"].float()

    def refresh(
        self, label: Callable[[Path], Tensor | None], step: int, *, rank: int = 0, world: int = 1
    ) -> dict[str, tuple[str, float]]:
        """Offer the teacher's present output for the photos that this process owns.

        Args:
            label: Makes a photo's pseudo-label ``(3, H, W)``; ``None`` for a photo that cannot be read.
            step: Optimiser step, part of the new files' names.
            rank: This process.
            world: Number of processes; photos are owned by hash.

        Returns:
            The changed entries, to be given to every process's :meth:`accept`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        changed = {}
        for path, key in self._keys.items():
            if int(key[:8], 16) % world != rank:
                continue
            image = label(path)
            if image is None:
                continue
            score = _score(image)
            if score < self._entries.get(key, ("", math.inf))[1]:
                name = f"{key[:32]}-{step}.safetensors"
                with atomic_write(self.folder / name) as file:
                    file.write(safetensors.torch.save({"image": image.half().contiguous()}))
                changed[key] = (name, score)
        return changed

    def accept(self, changed: dict[str, tuple[str, float]]) -> None:
        """Use new labels from now on."""
        self._entries |= changed


def _score(image: Tensor) -> float:
    """NIQE, lower is better; infinite for photos that it cannot judge."""
    short, long = sorted(image.shape[1:])
    if short < NIQE_LEAST[0] or long < NIQE_LEAST[1]:
        return math.inf
    score = float(niqe(image[None]))
    return score if math.isfinite(score) else math.inf


@torch.no_grad()
def make_label(teacher: nn.Module, photo: Tensor) -> Tensor:
    """What the teacher makes of a whole photo, of a large one at a half, a quarter, ... of its size.

    Args:
        teacher: Put into evaluation mode.
        photo: ``(3, H, W)``, levels as read from a file.

    Returns:
        ``(3, H, W)`` float32 in [0, 1], on the CPU.
    """
    device = next(teacher.parameters()).device
    image, size = to_float(photo)[None], photo.shape[1:]
    while image.shape[2] * image.shape[3] > LARGEST_WHOLE:
        image = F.interpolate(image, scale_factor=0.5, mode="area")
    label = enhance_photo(teacher.eval(), image.to(device)).clamp(0, 1)
    if label.shape[2:] != size:
        label = F.interpolate(label, size, mode="bilinear")
    return label[0].cpu()
