"""Weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

BUNDLED_FOLDER = Path(__file__).parent / "bundled"

DEFAULT_ORDER = ("semillie-compact", "semillie-base")


def bundled_models() -> dict[str, Path]:
    """Name to file of every bundled checkpoint, the default one first."""
    files = {path.stem: path for path in BUNDLED_FOLDER.glob("*.safetensors")}
    known = [name for name in DEFAULT_ORDER if name in files]
    return {name: files[name] for name in [*known, *sorted(files.keys() - set(known))]}
