"""Write ``example_workflows/``, ``subgraphs/`` and the pictures of the help pages, with the real ComfyUI page.

Run it in the environment that ``engine.py`` prepares, after changing ``examples.py`` or the nodes::

    <environment>/bin/python tests/comfyui/build_examples.py [name ...]

Each workflow is opened from its prompt, laid out, run, saved with a note beside it, and photographed.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from browser import FIT, RUN, comfy_page, export, screenshot
from engine import REPOSITORY, prepare
from examples import EXAMPLES, Example
from packing import copy_tree, make_zip, server_with
from PIL import Image

THUMBNAIL = (640, 400)

LAY_OUT = """async ([prompt, layout, titles, note, noteBox, name]) => {
    await window.app.loadApiJson(prompt, name)
    const graph = window.app.graph
    for (const [id, box] of Object.entries(layout)) {
        const node = graph.getNodeById(Number(id)) ?? graph.getNodeById(id)
        node.pos = [box[0], box[1]]
        node.setSize([box[2], box[3]])
        if (titles[id]) node.title = titles[id]
    }
    const text = LiteGraph.createNode('MarkdownNote')
    text.pos = [noteBox[0], noteBox[1]]
    text.setSize([noteBox[2], noteBox[3]])
    text.title = 'Read me'
    text.color = '#232'
    text.bgcolor = '#353'
    graph.add(text)
    text.widgets[0].value = note
    text.setSize([noteBox[2], noteBox[3]])
}"""

log = logging.getLogger("examples")


def tidy(workflow: dict[str, Any]) -> dict[str, Any]:
    """Drop what changes from run to run and says nothing."""
    workflow["extra"] = {}
    for entry in workflow["nodes"]:
        entry["properties"] = {
            key: value for key, value in entry["properties"].items() if key in ("Node name for S&R",)
        }
    return workflow


def build(page: Any, name: str, example: Example) -> None:
    """Write one workflow and its thumbnail."""
    boxes = {key: list(box) for key, box in example.layout.items()}
    page.evaluate(
        LAY_OUT, [example.prompt, boxes, example.titles, example.note, list(example.note_box), name]
    )
    page.wait_for_timeout(500)
    workflow, _ = export(page)
    target = REPOSITORY / "example_workflows" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(tidy(workflow), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    outcome = page.evaluate(RUN)
    if outcome["kind"] != "execution_success":
        raise RuntimeError(f"{name}: {outcome}")
    page.wait_for_timeout(1500)
    page.evaluate(FIT)
    page.wait_for_timeout(500)
    picture = Path(tempfile.gettempdir()) / f"{name}.png"
    screenshot(page, picture)
    log.info("%s: %s", name, picture)


def main(names: list[str]) -> None:
    """Build the named examples, or all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        pack = make_zip(copy_tree(Path(folder) / "tree"))
        server = server_with(prepare("current"), Path(folder) / "base", pack).start()
        try:
            for name in names or list(EXAMPLES):
                with comfy_page(server) as page:
                    build(page, name, EXAMPLES[name])
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
