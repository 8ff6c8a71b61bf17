"""What ComfyUI and its registry read of the pack besides Python, checked without ComfyUI."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = ("transformers", "timm", "scipy", "matplotlib", "huggingface_hub", "torchvision", "pyvips", "tqdm")
LANGUAGES = ("en", "zh", "ja")


def toml(path: Path) -> dict:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))


def node_ids(repository: Path) -> set[str]:
    sources = (path.read_text(encoding="utf-8") for path in (repository / "nodes").glob("*.py"))
    return {found for source in sources for found in re.findall(r'node_id="(\w+)"', source)}


def test_what_the_nodes_import_of_the_core_is_light(repository: Path) -> None:
    imports = "semillie_core.inference, semillie_core.metrics, semillie_core.ram, semillie_core.weights"
    code = f"import sys, torch, numpy; before = set(sys.modules); import {imports}; " + (
        "new = set(sys.modules) - before; print(*sorted({name.split('.')[0] for name in new}));"
        # Which costs more than all else: benchmarks/node_import.py.
        "assert 'semillie_core.scan.operators' not in new"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert not set(HEAVY) & set(done.stdout.split())


def test_manager_requirements_are_the_package_dependencies(repository: Path) -> None:
    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[<>=!~ \[]", line)[0].lower() for line in lines}

    listed = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = names([line for line in listed if line and not line.startswith("#")])
    assert wanted == names(toml(repository / "pyproject.toml")["project"]["dependencies"])


def test_the_extra_of_the_compiled_scan_names_the_folder_it_is_in(repository: Path) -> None:
    project = toml(repository / "pyproject.toml")["project"]
    (requirement,) = project["optional-dependencies"]["native"]
    name, folder = requirement.split(" @ {root:uri}/")
    assert toml(repository / folder / "pyproject.toml")["project"]["name"] == name


def test_each_distribution_has_the_licence(repository: Path) -> None:
    assert (repository / "native" / "LICENSE").read_bytes() == (repository / "LICENSE").read_bytes()


def test_registry_entry_is_complete(repository: Path) -> None:
    project = toml(repository / "pyproject.toml")
    comfy = project["tool"]["comfy"]
    assert all(comfy[key] for key in ("PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"))
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", project["project"]["name"])
    assert "comfyui" not in project["project"]["name"].lower()
    assets = repository / "web" / "assets"
    with Image.open(assets / Path(comfy["Icon"]).name) as icon:
        assert icon.size[0] == icon.size[1] <= 400
    with Image.open(assets / Path(comfy["Banner"]).name) as banner:
        assert banner.size[0] * 9 == banner.size[1] * 21


def test_every_example_has_its_thumbnail_and_known_nodes(repository: Path) -> None:
    folder = repository / "example_workflows"
    workflows = sorted(folder.glob("*.json"))
    assert len(workflows) >= 5
    assert {path.stem for path in workflows} == {path.stem for path in folder.glob("*.jpg")}
    for path in workflows:
        types = {node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
        ours = {name for name in types if name.startswith("SemiLLIE_")}
        assert ours and ours <= node_ids(repository)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_cover_the_same_texts(repository: Path, language: str) -> None:
    def shape(entry: object) -> object:
        return {key: shape(value) for key, value in entry.items()} if isinstance(entry, dict) else bool(entry)

    def read(name: str) -> dict:
        return json.loads((repository / "locales" / name / "nodeDefs.json").read_text(encoding="utf-8"))

    assert set(read(language)) == node_ids(repository)
    assert shape(read(language)) == shape(read("en"))


def test_help_pages_and_their_pictures_exist(repository: Path) -> None:
    docs = repository / "web" / "docs"
    for node in node_ids(repository):
        for page in (docs / f"{node}.md", docs / node / "zh.md"):
            text = page.read_text(encoding="utf-8")
            (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
            assert (docs / picture).is_file()


def test_the_blueprint_stores_its_values_in_the_order_of_the_node(repository: Path) -> None:
    snapshot = json.loads((repository / "tests/comfyui/schema_snapshot.json").read_text(encoding="utf-8"))
    blueprint = json.loads((repository / "subgraphs/Low-Light Enhance.json").read_text(encoding="utf-8"))
    (graph,) = blueprint["definitions"]["subgraphs"]
    (enhance,) = [node for node in graph["nodes"] if node["type"] == "SemiLLIE_Enhance"]
    names = [socket["name"] for socket in enhance["inputs"] if "widget" in socket]
    inputs = snapshot["SemiLLIE_Enhance"]["inputs"]
    defaults = {name: default for name, (_, _, default) in inputs.items() if default is not None}
    assert list(zip(names, enhance["widgets_values"], strict=True)) == list(defaults.items())
