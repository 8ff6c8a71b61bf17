"""A real ComfyUI per session and version, with the pack as the registry would install it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from client import Server
from engine import CHANNELS, prepare
from packing import copy_tree, make_zip, server_with


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this working tree as a git repository of its own."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def pack(tree: Path) -> Path:
    """The archive that the registry's own tool makes of this working tree."""
    return make_zip(tree)


@pytest.fixture(scope="session", params=list(CHANNELS))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pack: Path
) -> Iterator[Server]:
    """A running server with the packed nodes and the probe nodes, of each supported end of versions."""
    running = server_with(prepare(request.param), tmp_path_factory.mktemp(request.param), pack).start()
    yield running
    running.stop()
