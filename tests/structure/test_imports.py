"""What may import what, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "transformers",
    "timm",
    "scipy",
    "matplotlib",
    "huggingface_hub",
    "av",
    "pyvips",
    "rawpy",
    "tqdm",
    "yaml",
    "skimage",
}
COMFY = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "nodes",
    "server",
    "execution",
}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of absolute imports anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", ["semillie_core", "training_scripts"])
def test_comfyui_is_imported_by_the_nodes_only(repository, folder):
    found = {str(path): names for path in sources(repository / folder) if (names := imported(path) & COMFY)}
    assert found == {}


@pytest.mark.parametrize("folder", ["semillie_core", "nodes"])
def test_the_pack_works_under_any_folder_name(repository, folder):
    absolute = {"semillie_core", "nodes", "training_scripts"}
    found = {
        str(path): names for path in sources(repository / folder) if (names := imported(path) & absolute)
    }
    assert found == {}


def test_training_scripts_and_nodes_do_not_meet(repository):
    for path in sources(repository / "training_scripts"):
        assert "nodes" not in imported(path), path


@pytest.mark.parametrize("module", ["semillie_core", "semillie_core.weights", "semillie_core.inference"])
def test_importing_the_core_loads_nothing_heavy(repository, module):
    code = f"import sys, {module}; print('\\n'.join(m.split('.')[0] for m in sys.modules))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True
        ).stdout.split()
    )
    if module == "semillie_core":
        assert "torch" not in loaded
    # torch may load some of these by itself.
    by_torch = set(
        subprocess.run(
            [sys.executable, "-c", "import sys, torch, safetensors.torch; print('\\n'.join(sys.modules))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    )
    assert (loaded & HEAVY) - by_torch == set()
