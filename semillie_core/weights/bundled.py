"""Weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

BUNDLED_FOLDER = Path(__file__).parent / "bundled"

DEFAULT = "semillie-compact"


def bundled_models() -> dict[str, Path]:
    """Name to file of every bundled checkpoint, the default one first."""
    files = {path.stem: path for path in BUNDLED_FOLDER.glob("*.safetensors")}
    return {name: files[name] for name in sorted(files, key=lambda name: (name != DEFAULT, name))}
