"""What the registry's own tool says of the pack and makes of it, and what loading it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from engine import prepare
from packing import PACK_NAME, comfy_cli

pytestmark = pytest.mark.engine

HEAVY = {"transformers", "timm", "scipy", "matplotlib", "huggingface_hub", "torchvision"}

IMPORT_ALONE = """
import asyncio, importlib.util, json, sys
root, pack = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, root)
from comfy.cli_args import args
args.cpu = True
import folder_paths
import comfy.model_management, comfy.model_patcher, comfy.utils, server
from comfy_api.latest import io
for name in [name for name in sys.modules if name.split(".")[0] in %r]:
    del sys.modules[name]
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("a pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = sys.modules["a pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
asyncio.run(extension.on_load())
nodes = asyncio.run(extension.get_node_list())
print(json.dumps([len(nodes), sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""


def test_registry_tool_accepts_the_pack(tree: Path) -> None:
    said = comfy_cli("node", "validate", tree=tree)
    assert "All validation checks passed" in said
    assert "warning" not in said.lower(), said


def test_archive_holds_what_a_user_needs_and_nothing_else(pack: Path) -> None:
    with zipfile.ZipFile(pack) as archive:
        names = archive.namelist()
        size = sum(info.compress_size for info in archive.infolist())
    for needed in (
        *("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE"),
        *("nodes/enhance.py", "semillie_core/weights/bundled/semillie-compact.safetensors"),
        *("samples/portrait.png", "example_workflows/Brighten a Dark Photo.jpg"),
        *("web/docs/SemiLLIE_Enhance.md", "locales/zh/nodeDefs.json", "subgraphs/Low-Light Enhance.json"),
    ):
        assert needed in names
    top = {name.split("/")[0] for name in names}
    assert not top & {
        "tests",
        "training_scripts",
        "benchmarks",
        "docs",
        ".ci",
        ".git",
        "runs",
        "results",
        "native",
    }
    assert not [name for name in names if name.endswith((".so", ".dll", ".dylib", ".pyc"))]
    assert size < 40e6


def test_loading_the_pack_imports_nothing_heavy(pack: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path / PACK_NAME)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE % HEAVY, prepare("current").root, tmp_path / PACK_NAME],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count, loaded = json.loads(done.stdout.splitlines()[-1])
    assert count == 11
    assert not HEAVY & set(loaded)
