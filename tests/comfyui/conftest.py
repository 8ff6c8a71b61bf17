"""A real ComfyUI per session and version, with the pack as the registry would install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from client import Server
from engine import CHANNELS, REPOSITORY, build_comfy_cli, prepare

PACK_NAME = "semi-llie"
PROBE = Path(__file__).parent / "probe"


@pytest.fixture(scope="session")
def pack_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that the registry's own tool makes of this working tree."""
    copy = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy / name)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    subprocess.run(["git", "add", "-A"], cwd=copy, check=True)
    environment = {
        **{"PATH": "/usr/bin:/bin", "HOME": str(copy.parent)},
        **{"DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200"},
    }
    packed = subprocess.run(
        [build_comfy_cli(), "--skip-prompt", "node", "pack"],
        cwd=copy,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert packed.returncode == 0, packed.stdout + packed.stderr
    return copy / "node.zip"


@pytest.fixture(scope="session", params=list(CHANNELS))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pack_zip: Path
) -> Iterator[Server]:
    """A running server with the packed nodes and the probe nodes, of each supported end of versions."""
    base = tmp_path_factory.mktemp(request.param)
    yielded = Server(prepare(request.param), base, ("--extra-model-paths-config", str(base / "paths.yaml")))
    with zipfile.ZipFile(pack_zip) as archive:
        archive.extractall(base / "custom_nodes" / PACK_NAME)
    shutil.copytree(PROBE, base / "custom_nodes" / "probe")
    (base / "elsewhere").mkdir()
    (base / "paths.yaml").write_text(
        f"mine:\n    base_path: {base}\n    semillie: elsewhere\n", encoding="utf-8"
    )
    yielded.start()
    yield yielded
    yielded.stop()
