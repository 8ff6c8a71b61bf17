"""The shipped examples, run as they are, and what the server serves of the pack besides nodes."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import torch
from client import Server, first_picture
from engine import REPOSITORY
from examples import EXAMPLES, QUICK
from packing import PACK_NAME
from PIL import Image

from semillie_core.inference import enhance
from semillie_core.weights import load_model

pytestmark = pytest.mark.engine

LANGUAGES = ("en", "zh", "ja")


def files_below(*folders: Path) -> dict[Path, int]:
    """Every file with the time of its last change."""
    return {
        path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_shipped_and_writes_only_pictures(server: Server, name: str) -> None:
    pack, home = server.base / "custom_nodes", server.base / "home"
    before = files_below(pack, home, server.engine.root)
    server.forget()
    run = server.run(EXAMPLES[name].prompt)
    assert run.status == "execution_success", run.error
    for node in EXAMPLES[name].saves:
        for path in server.saved(run, node):
            assert np.asarray(first_picture(path).convert("L")).std() > 1
    assert files_below(pack, home, server.engine.root) == before


def test_the_first_example_brightens_its_photo_as_the_core_does(server: Server) -> None:
    (path,) = server.saved(server.run(QUICK.prompt), "4")
    saved = np.asarray(Image.open(path)).astype(np.float64)
    with Image.open(REPOSITORY / "samples" / "portrait.png") as file:
        dark = np.asarray(file.convert("RGB")).astype(np.float32)
    image = torch.from_numpy(dark / 255).movedim(-1, 0).unsqueeze(0)
    expected = enhance(load_model("semillie-compact"), image).image[0].movedim(0, -1).numpy() * 255
    assert np.abs(saved - np.floor(expected)).max() <= 1
    assert saved.mean() > 2 * dark.mean()


def test_templates_come_with_thumbnails(server: Server) -> None:
    assert sorted(server.get("/api/workflow_templates")[PACK_NAME]) == sorted(EXAMPLES)
    for name in EXAMPLES:
        quoted = urllib.parse.quote(name)
        address = f"/api/workflow_templates/custom_nodes.{PACK_NAME}/{quoted}"
        try:
            workflow = server.get_bytes(f"{address}.json")
        except urllib.error.HTTPError:
            address = f"/api/workflow_templates/{PACK_NAME}/{quoted}"
            workflow = server.get_bytes(f"{address}.json")
        assert json.loads(workflow)["nodes"]
        assert server.get_bytes(f"{address}.jpg")[:2] == b"\xff\xd8"


def own_nodes(server: Server) -> dict[str, dict]:
    return {
        name: info
        for name, info in server.get("/object_info").items()
        if info["python_module"] == f"custom_nodes.{PACK_NAME}"
    }


def test_every_node_has_help_pages(server: Server) -> None:
    for name in own_nodes(server):
        for page in (f"{name}.md", f"{name}/zh.md"):
            text = server.get_bytes(f"/extensions/{PACK_NAME}/docs/{page}").decode()
            assert text.startswith("# ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_and_tooltip_is_translated(server: Server, language: str) -> None:
    translated = server.get("/i18n")[language]["nodeDefs"]
    for name, info in own_nodes(server).items():
        entry = translated[name]
        assert entry["display_name"] and entry["description"]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert set(entry.get("inputs", {})) == set(inputs)
        for key, text in entry.get("inputs", {}).items():
            assert text["name"] and text["tooltip"], key
        assert set(entry["outputs"]) == {str(index) for index in range(len(info["output"]))}
        if language == "en":
            assert entry["display_name"] == info["display_name"]
            assert entry["description"] == info["description"]
            tooltips = {key: options[1]["tooltip"] for key, options in inputs.items()}
            assert {key: text["tooltip"] for key, text in entry.get("inputs", {}).items()} == tooltips


def test_every_input_and_output_has_a_tooltip_and_widgets_state_their_default(server: Server) -> None:
    for name, info in own_nodes(server).items():
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        for key, options in inputs.items():
            assert options[1]["tooltip"], (name, key)
            if "default" in options[1]:
                assert "Default:" in options[1]["tooltip"], (name, key)
        assert all(info["output_tooltips"]), name


def test_node_ids_and_inputs_stay_what_saved_workflows_expect(server: Server) -> None:
    """A change here breaks saved workflows: make it deliberately, with a line in the changelog."""
    seen = {}
    for name, info in sorted(own_nodes(server).items()):
        inputs = {}
        for group in ("required", "optional"):
            for key in info["input_order"].get(group, []):
                kind, options = info["input"][group][key]
                default = options.get("default")
                # What a menu lists depends on the files at hand.
                kind = "COMBO" if isinstance(kind, list) else kind
                inputs[key] = [group, kind, default]
        outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
        seen[name] = {"inputs": inputs, "outputs": outputs, "lists": info["output_is_list"]}
    snapshot = Path(__file__).with_name("schema_snapshot.json")
    assert seen == json.loads(snapshot.read_text(encoding="utf-8")), json.dumps(seen, indent=1)


def test_the_node_a_user_looks_for_is_found(server: Server) -> None:
    aliases = own_nodes(server)["SemiLLIE_Enhance"]["search_aliases"]
    assert {"dark photo", "night", "brighten", "exposure", "low light", "去暗"} <= set(aliases)


def test_blueprint_is_offered(server: Server) -> None:
    entries = [entry for entry in server.get("/global_subgraphs").values() if PACK_NAME in str(entry["info"])]
    assert [entry["name"] for entry in entries] == ["Low-Light Enhance"]
