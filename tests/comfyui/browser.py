"""The real ComfyUI page in headless Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

FIT = """async () => {
    const canvas = window.app.canvas
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity]
    for (const node of window.app.graph.nodes) {
        const [x, y, width, height] = node.getBounding()
        left = Math.min(left, x), top = Math.min(top, y)
        right = Math.max(right, x + width), bottom = Math.max(bottom, y + height)
    }
    // Clear of the page's own bars on the left and at the top.
    const space = {x: 80, y: 120, width: innerWidth - 110, height: innerHeight - 150}
    const scale = Math.min(space.width / (right - left), space.height / (bottom - top), 1.2)
    canvas.ds.scale = scale
    canvas.ds.offset[0] = space.x / scale - left
    canvas.ds.offset[1] = space.y / scale - top
    canvas.setDirty(true, true)
    await new Promise(resolve => setTimeout(resolve, 500))
}"""

RUN = """async () => {
    const api = window.app.api
    return await new Promise((resolve) => {
        for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
            api.addEventListener(kind, (event) => resolve({kind, detail: event.detail}), {once: true})
        window.app.queuePrompt(0, 1)
    })
}"""


def chromium() -> str:
    """Path of the browser: ``SEMILLIE_CHROMIUM``, or the first of the usual names.

    Raises:
        RuntimeError: there is none.
    """
    candidates = (os.environ.get("SEMILLIE_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    for name in filter(None, candidates):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError(
        "no Chromium found: install one (Debian: apt-get install chromium) or set SEMILLIE_CHROMIUM"
    )


@contextlib.contextmanager
def comfy_page(server: Server, size: tuple[int, int] = (1680, 1050)) -> Iterator[Page]:
    """Open ComfyUI's page and wait until its nodes are known.

    The page object carries the list of uncaught errors as ``page.problems``.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(60_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.problems = problems  # type: ignore[attr-defined]
        page.goto(server.url)
        page.wait_for_function(
            "() => window.app?.graph && Object.keys(LiteGraph.registered_node_types).length > 50"
        )
        page.wait_for_timeout(500)
        try:
            yield page
        finally:
            browser.close()


def load_workflow(page: Page, workflow: dict[str, Any], name: str) -> None:
    """Open a workflow file's content."""
    page.evaluate(
        "async ([data, name]) => { await window.app.loadGraphData(data, true, true, name) }", [workflow, name]
    )
    page.wait_for_timeout(300)


def missing_types(page: Page) -> list[str]:
    """Node types of the open workflow that the page does not know."""
    found: list[str] = page.evaluate(
        "() => window.app.graph.nodes.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types))"
    )
    return found


def export(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the open workflow as ``(workflow, prompt)``: the file format and what would be queued."""
    both = page.evaluate("async () => await window.app.graphToPrompt()")
    return both["workflow"], both["output"]


def screenshot(page: Page, path: Path, **options: Any) -> None:
    """Save a picture of the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path), **options)
