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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of each ComfyUI together, for ``--dist loadgroup``.

    Those of none go with the older one, which has none of the page's.
    """
    for item in items:
        if item.path.parent == Path(__file__).parent:
            callspec = getattr(item, "callspec", None)
            channel = callspec.params.get("server", "floor") if callspec else "floor"
            item.add_marker(pytest.mark.xdist_group(channel))


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
