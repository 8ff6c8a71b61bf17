"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with parity fixtures and research data (environment variable SEMILLIE_SHARED)."""
    path = Path(os.environ.get("SEMILLIE_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "fixtures").is_dir():
        pytest.skip(f"parity fixtures and data not found at {path}; set SEMILLIE_SHARED to their folder")
    return path


@pytest.fixture(scope="session")
def parity(shared_dir: Path):
    """``parity(name) -> (metadata, tensors)`` of one parity fixture."""
    from safetensors.torch import load_file

    def load(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
        folder = shared_dir / "fixtures"
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"parity fixture {name} is not in {folder}")
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), load_file(path)

    return load


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def dng() -> Callable[..., bytes]:
    """A camera's RAW file with a picture in it.

    ``dng(light, orientation=1, neutral=(1, 1, 1), tags={}, raw_tags={}) -> content``: ``light`` is ``(3, H, W)`` in
    [0, 1], linear, with the primaries of sRGB, which the sensor has, too. Grey looks ``neutral`` to it. The first
    picture in the file is a small, white preview. Tags are added to those of the file or of the sensor's data, or,
    where they are ``None``, left out.
    """
    return _dng


_BLACK, _WHITE = 600, 60_600
_XYZ_TO_SRGB = (
    3.2404542,
    -1.5371385,
    -0.4985314,
    -0.9692660,
    1.8760108,
    0.0415560,
    0.0556434,
    -0.2040259,
    1.0572252,
)
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
_CODES = {_BYTE: "B", _ASCII: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "I", _SIGNED_RATIONAL: "i"}


def _dng(
    light: torch.Tensor,
    orientation: int = 1,
    neutral: Sequence[float] = (1, 1, 1),
    tags: dict[int, Any] | None = None,
    raw_tags: dict[int, Any] | None = None,
) -> bytes:
    seen = light * torch.tensor(neutral).view(3, 1, 1)
    mosaic = seen[1].clone()
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = seen[0, 0::2, 0::2], seen[2, 1::2, 1::2]
    levels = (mosaic * (_WHITE - _BLACK) + _BLACK).round().int().flatten().tolist()
    height, width = mosaic.shape
    raw = _picture(width, height, 32803, 1, 16, struct.pack(f"<{len(levels)}H", *levels)) | {
        33421: (_SHORT, (2, 2)),  # CFARepeatPatternDim
        33422: (_BYTE, (0, 1, 1, 2)),  # CFAPattern
        50714: (_SHORT, (_BLACK,)),
        50717: (_SHORT, (_WHITE,)),
    }
    file = _picture(16, 12, 2, 3, 8, b"\xff" * 16 * 12 * 3) | {
        254: (_LONG, (1,)),  # a smaller copy
        271: (_ASCII, b"ACME\0"),
        272: (_ASCII, b"Night 1\0"),
        274: (_SHORT, (orientation,)),
        330: raw | (raw_tags or {}),
        50706: (_BYTE, (1, 4, 0, 0)),  # DNGVersion
        50708: (_ASCII, b"ACME Night 1\0"),
        50721: (_SIGNED_RATIONAL, _XYZ_TO_SRGB),  # ColorMatrix1
        50728: (_RATIONAL, neutral),  # AsShotNeutral
        50778: (_SHORT, (21,)),  # CalibrationIlluminant1: D65
    }
    return b"II*\0\x08\0\0\0" + _directory(file | (tags or {}), 8)


def _picture(width: int, height: int, kind: int, samples: int, bits: int, content: bytes) -> dict[int, Any]:
    """The tags of an uncompressed picture in one strip."""
    return {
        256: (_LONG, (width,)),
        257: (_LONG, (height,)),
        258: (_SHORT, (bits,) * samples),
        259: (_SHORT, (1,)),
        262: (_SHORT, (kind,)),
        273: content,
        277: (_SHORT, (samples,)),
        278: (_LONG, (height,)),
        279: (_LONG, (len(content),)),
    }


def _directory(tags: dict[int, Any], start: int) -> bytes:
    """A TIFF directory at ``start``, and behind it what it points to: values, bytes, or a directory."""
    tags = {tag: value for tag, value in sorted(tags.items()) if value is not None}
    entries, behind = struct.pack("<H", len(tags)), b""
    for tag, value in tags.items():
        place = start + 2 + 12 * len(tags) + 4 + len(behind)
        kind, values = value if isinstance(value, tuple) else (_LONG, (place,))
        numbers = values
        if kind in (_RATIONAL, _SIGNED_RATIONAL):
            numbers = [number for value in values for number in (round(value * 10**6), 10**6)]
        content = struct.pack(f"<{len(numbers)}{_CODES[kind]}", *numbers)
        if isinstance(value, dict):
            behind += _directory(value, place)
        elif isinstance(value, bytes):
            behind += value
        elif len(content) > 4:
            behind += content
            content = struct.pack("<I", place)
        behind += bytes(len(behind) % 2)
        entries += struct.pack("<HHI4s", tag, kind, len(values), content)
    return entries + bytes(4) + behind
