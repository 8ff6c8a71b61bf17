"""The pack as a user gets it: made by the registry's own tool, unpacked into ``custom_nodes``."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

from client import Server
from engine import REPOSITORY, Engine, build_comfy_cli

PACK_NAME = "semi-llie"
PROBE = Path(__file__).parent / "probe"


def copy_tree(target: Path) -> Path:
    """Copy what git has, or would add, of this working tree into a repository of its own."""
    target.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    subprocess.run(["git", "add", "-A"], cwd=target, check=True)
    return target


def comfy_cli(*arguments: str, tree: Path) -> str:
    """Run the registry's tool in a copy of the tree and return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [build_comfy_cli(), "--skip-prompt", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        env={
            **{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tree.parent)},
            **{"DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200"},
        },
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def make_zip(tree: Path) -> Path:
    """Pack a copy of the tree."""
    comfy_cli("node", "pack", tree=tree)
    return tree / "node.zip"


def server_with(engine: Engine, base: Path, pack: Path) -> Server:
    """Lay out a server that has the packed nodes, the probe nodes and one extra model folder; not started yet."""
    server = Server(engine, base, ("--extra-model-paths-config", str(base / "paths.yaml")))
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(base / "custom_nodes" / PACK_NAME)
    shutil.copytree(PROBE, base / "custom_nodes" / "probe")
    (base / "elsewhere").mkdir()
    (base / "paths.yaml").write_text(
        f"mine:\n    base_path: {base}\n    semillie: elsewhere\n", encoding="utf-8"
    )
    return server
