"""Randomness that depends on nothing but what it is for."""

from __future__ import annotations

import hashlib
import struct

import torch


def seeded(*numbers: int) -> torch.Generator:
    """A generator for one purpose, independent of every other combination of numbers."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def chance(generator: torch.Generator, probability: float) -> bool:
    """True with the given probability; always draws, so that what follows does not depend on it."""
    return uniform(generator) < probability


def integer(generator: torch.Generator, count: int) -> int:
    """A whole number in [0, count)."""
    return int(torch.randint(count, (), generator=generator))
