"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
