"""Which photos show the same scene, told from the photos themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CELLS = 16
SAME_SCENE = 0.85
"""Similarity from which two photos count as showing one scene."""
_BLOCK = 2048

Key = TypeVar("Key", bound=Hashable)


def fingerprint(image: Image.Image) -> NDArray[np.float32]:
    """What a photo looks like, whatever its exposure, size and compression.

    The ranks of the brightness steps between neighbours in a 16 x 16 thumbnail of log brightness, centred and with norm
    1. The product of two fingerprints is therefore Spearman's rank correlation of the two photos' brightness steps: 1
    for the same photo, about 0 for different scenes.

    Args:
        image: Any mode that converts to grey.

    Returns:
        ``(480,)`` float32; zero for a photo of one colour, which resembles nothing.
    """
    cells = np.asarray(image.convert("L").resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float64)
    light = np.log1p(cells)
    steps = np.concatenate([np.diff(light, axis=0).ravel(), np.diff(light, axis=1).ravel()])
    _, place, count = np.unique(steps, return_inverse=True, return_counts=True)
    # Equal steps share their mean rank: in the order of their place, they would make all dark corners alike.
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    ranks -= ranks.mean()
    norm = np.linalg.norm(ranks)
    return (ranks / norm if norm else ranks).astype(np.float32)


def similar(
    prints: Sequence[NDArray[np.float32]], threshold: float = SAME_SCENE
) -> Iterator[tuple[int, int, float]]:
    """Index pairs ``i < j`` of fingerprints at least this similar, with the similarity."""
    if not prints:
        return
    table = np.stack(prints)
    for top in range(0, len(table), _BLOCK):
        rows = table[top : top + _BLOCK]
        for left in range(top, len(table), _BLOCK):
            products = rows @ table[left : left + _BLOCK].T
            for i, j in zip(*np.nonzero(products >= threshold), strict=True):
                if top + i < left + j:
                    yield int(top + i), int(left + j), float(products[i, j])


class Groups(Generic[Key]):
    """Things that belong together because chains of links connect them."""

    def __init__(self, members: Iterable[Key]) -> None:
        self._parent: dict[Key, Key] = {member: member for member in members}

    def of(self, member: Key) -> Key:
        """One member that stands for the group."""
        root = member
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def link(self, one: Key, other: Key) -> None:
        """Join two groups."""
        self._parent[self.of(one)] = self.of(other)


def agreement(found: Sequence[Any], truth: Sequence[Any]) -> tuple[float, float]:
    """Precision and recall of the statement "these two show one scene" over all pairs; NaN without such a pair."""
    _, a = np.unique(np.asarray(found, dtype=str), return_inverse=True)
    _, b = np.unique(np.asarray(truth, dtype=str), return_inverse=True)

    def together(labels: NDArray[Any]) -> float:
        _, counts = np.unique(labels, return_counts=True)
        return float((counts * (counts - 1) // 2).sum())

    both = together(a.astype(np.int64) * (len(b) + 1) + b)
    said, true = together(a), together(b)
    return both / said if said else float("nan"), both / true if true else float("nan")
