"""The pack on the real ComfyUI page in headless Chromium, with both renderers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blueprint import NAME, blueprint
from browser import FIT, RUN, comfy_page, export, load_workflow, missing_types, screenshot
from client import Prompt, Server
from engine import REPOSITORY
from examples import EXAMPLES

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("server", ["current"], indirect=True)]

SHOTS = Path(os.environ.get("SEMILLIE_SHOTS", REPOSITORY / ".cache" / "shots"))
RENDERERS = {"canvas": False, "nodes-2.0": True}


@pytest.fixture(scope="module", params=RENDERERS)
def page(request: pytest.FixtureRequest, server: Server) -> Iterator:
    """The page with the classic renderer, then with Nodes 2.0."""
    server.write_settings({"Comfy.VueNodes.Enabled": RENDERERS[request.param]})
    with comfy_page(server) as opened:
        opened.renderer = request.param
        yield opened


def without_titles(prompt: Prompt) -> Prompt:
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_opens_whole_and_means_the_tested_prompt(page, name: str) -> None:
    path = REPOSITORY / "example_workflows" / f"{name}.json"
    load_workflow(page, json.loads(path.read_text(encoding="utf-8")), name)
    assert missing_types(page) == []
    _, prompt = export(page)
    assert without_titles(prompt) == EXAMPLES[name].prompt
    assert page.problems == []


def test_example_runs_from_the_page(page) -> None:
    name = "Brighten a Dark Photo"
    path = REPOSITORY / "example_workflows" / f"{name}.json"
    load_workflow(page, json.loads(path.read_text(encoding="utf-8")), name)
    outcome = page.evaluate(RUN)
    assert outcome["kind"] == "execution_success", outcome
    page.wait_for_timeout(1000)
    page.evaluate(FIT)
    screenshot(page, SHOTS / f"run-{page.renderer}.png")
    assert page.problems == []


def test_typing_dark_photo_finds_the_node(page) -> None:
    page.evaluate("async () => await window.app.loadGraphData({nodes: [], links: [], version: 0.4})")
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_timeout(800)
    page.keyboard.type("dark photo")
    page.get_by_text("Semi-LLIE Enhance").first.wait_for(timeout=15_000)
    screenshot(page, SHOTS / f"search-{page.renderer}.png")
    page.keyboard.press("Escape")


def test_help_panel_shows_the_page_and_its_picture(page) -> None:
    name = "Brighten a Dark Photo"
    path = REPOSITORY / "example_workflows" / f"{name}.json"
    load_workflow(page, json.loads(path.read_text(encoding="utf-8")), name)
    page.evaluate("() => window.app.canvas.selectItems([window.app.graph.getNodeById(3)])")
    page.locator('[data-testid="info-button"]').first.click()
    page.get_by_text("What to turn").first.wait_for(timeout=15_000)
    loaded = page.wait_for_function(
        "() => [...document.images].some(i => i.src.includes('SemiLLIE_Enhance.jpg') && i.naturalWidth > 50)"
    )
    assert loaded
    screenshot(page, SHOTS / f"help-{page.renderer}.png")
    page.evaluate("() => window.app.canvas.deselectAll()")


def test_blueprint_works_between_other_nodes(page, server: Server) -> None:
    shipped = json.loads((REPOSITORY / "subgraphs" / f"{NAME}.json").read_text(encoding="utf-8"))
    assert shipped == blueprint()
    load_workflow(page, shipped, NAME)
    page.evaluate(
        """() => {
            const graph = window.app.graph
            const subgraph = graph.nodes[0]
            const photo = LiteGraph.createNode('SemiLLIE_SamplePhoto')
            const save = LiteGraph.createNode('SaveImage')
            graph.add(photo)
            graph.add(save)
            photo.connect(0, subgraph, 0)
            subgraph.connect(0, save, 0)
            photo.pos = [-360, 0]
            save.pos = [360, 0]
        }"""
    )
    assert missing_types(page) == []
    _, prompt = export(page)
    kinds = sorted(node["class_type"] for node in prompt.values())
    assert kinds == ["SaveImage", "SemiLLIE_Enhance", "SemiLLIE_LoadModel", "SemiLLIE_SamplePhoto"]
    run = server.run(prompt)
    assert run.status == "execution_success", run.error
    page.evaluate(FIT)
    screenshot(page, SHOTS / f"blueprint-{page.renderer}.png")
    assert page.problems == []
