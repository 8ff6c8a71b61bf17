"""Write ``example_workflows/``, ``subgraphs/`` and the pictures of help pages and README, with the real page.

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

from blueprint import write_blueprint
from browser import FIT, RUN, comfy_page, export, load_workflow, screenshot
from client import Server, first_picture
from engine import REPOSITORY, prepare
from examples import EXAMPLES, Example
from packing import copy_tree, make_zip, server_with
from PIL import Image, ImageDraw, ImageOps, ImageSequence
from playwright.sync_api import Page

THUMBNAIL = (768, 480)

HELP_PICTURES = {
    "Brighten a Dark Photo": ("SemiLLIE_SamplePhoto", "SemiLLIE_LoadModel", "SemiLLIE_Enhance"),
    "Brighten a Video": ("SemiLLIE_EnhanceVideo",),
    "Tags Before and After": ("SemiLLIE_LoadRAM", "SemiLLIE_RAMTag", "SemiLLIE_SemanticDrift"),
    "Low-Light Report": ("SemiLLIE_LowLightReport",),
    "Fine-Tune on Your Own Photos": ("SemiLLIE_FineTune", "SemiLLIE_SaveModel"),
}

README_PICTURES = {
    "Brighten a Dark Photo": "comfyui-brighten",
    "Low-Light Report": "comfyui-report",
}

BOX = """(kind) => {
    const nodes = window.app.graph.nodes.filter(n => n.type === kind)
    const [x, y, width, height] = nodes[nodes.length - 1].getBounding()
    const ds = window.app.canvas.ds
    const convert = (at) => ds.convertOffsetToCanvas(at)
    const [left, top] = convert([x, y])
    const [right, bottom] = convert([x + width, y + height])
    const canvas = document.getElementById('graph-canvas').getBoundingClientRect()
    return {x: left + canvas.x - 8, y: top + canvas.y - 8, width: right - left + 16, height: bottom - top + 16}
}"""

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

SHOTS = Path(tempfile.gettempdir()) / "semillie-shots"


def tidy(workflow: dict[str, Any]) -> dict[str, Any]:
    """Drop what changes from run to run and says nothing."""
    workflow["extra"] = {}
    for entry in workflow["nodes"]:
        entry["properties"] = {
            key: value for key, value in entry["properties"].items() if key in ("Node name for S&R",)
        }
    return workflow


def build(page: Page, name: str, example: Example) -> None:
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
    screenshot(page, SHOTS / f"{name}.png")
    page.wait_for_timeout(5000)  # until the page has taken its "Job completed" away
    for kind in HELP_PICTURES.get(name, ()):
        photograph_node(page, kind)


def photograph_node(page: Page, kind: str) -> None:
    """Save the picture of a node for its help page."""
    picture = SHOTS / f"{kind}.png"
    screenshot(page, picture, clip=page.evaluate(BOX, kind))
    target = REPOSITORY / "web" / "docs" / "images" / f"{kind}.jpg"
    target.parent.mkdir(exist_ok=True)
    with Image.open(picture) as file:
        file.convert("RGB").save(target, quality=88, optimize=True)


def readme_pictures(server: Server, names: list[str]) -> None:
    """Photograph finished examples with the Nodes 2.0 renderer."""
    server.write_settings({"Comfy.VueNodes.Enabled": True})
    for name, file in README_PICTURES.items():
        if name not in names:
            continue
        with comfy_page(server, (1680, 820)) as page:
            path = REPOSITORY / "example_workflows" / f"{name}.json"
            load_workflow(page, json.loads(path.read_text(encoding="utf-8")), name)
            server.forget()
            page.evaluate(RUN)
            page.wait_for_timeout(6000)
            page.evaluate(FIT)
            screenshot(page, SHOTS / f"{file}.png")
            with Image.open(SHOTS / f"{file}.png") as picture:
                target = REPOSITORY / "docs" / "images" / f"{file}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.convert("RGB").save(target, quality=88, optimize=True)


def thumbnails(server: Server, names: list[str]) -> None:
    """Draw the pictures of the template browser from what the examples saved."""

    def rows(image: Image.Image) -> Image.Image:
        return ImageOps.fit(image.convert("RGB"), THUMBNAIL, Image.Resampling.LANCZOS)

    def split(before: Image.Image, after: Image.Image) -> Image.Image:
        left, right = rows(before), rows(after)
        middle = THUMBNAIL[0] // 2
        right.paste(left.crop((0, 0, middle, THUMBNAIL[1])), (0, 0))
        ImageDraw.Draw(right).line((middle, 0, middle, THUMBNAIL[1]), fill="white", width=3)
        return right

    def sample(name: str) -> Image.Image:
        return Image.open(REPOSITORY / "samples" / name)

    def result(name: str, node: str, index: int = 0) -> Image.Image:
        return first_picture(server.saved(server.run(EXAMPLES[name].prompt), node)[index])

    def strip() -> Image.Image:
        clip = result("Batch of Video Frames", "4")
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(clip)]
        picture = Image.new("RGB", THUMBNAIL)
        width, height = THUMBNAIL[0] // 2, THUMBNAIL[1] // 2
        for place, frame in enumerate(frames[:: max(1, len(frames) // 4)][:4]):
            box = (place % 2 * width, place // 2 * height)
            picture.paste(ImageOps.fit(frame, (width - 2, height - 2)), box)
        return picture

    def charts() -> Image.Image:
        picture, height = Image.new("RGB", THUMBNAIL), THUMBNAIL[1] // 2
        for place, node in enumerate(("5", "6")):
            chart = result("Low-Light Report", node).convert("RGB")
            picture.paste(chart.resize((THUMBNAIL[0], height - 2)), (0, place * height))
        return picture

    halves = {
        "Brighten a Dark Photo": ("portrait.png", "4"),
        "Large Photo in Tiles": ("meadow.jpg", "4"),
        "Brighten a Video": ("clips/meadow-pan.webp", "5"),
        "Tags Before and After": ("coffee.png", "8"),
        "Fine-Tune on Your Own Photos": ("meadow.jpg", "7"),
    }
    drawn = {"Batch of Video Frames": strip, "Low-Light Report": charts}
    for name in names:
        if name in halves:
            before, node = halves[name]
            picture = split(sample(before), result(name, node))
        else:
            picture = drawn[name]()
        picture.save(REPOSITORY / "example_workflows" / f"{name}.jpg", quality=85, optimize=True)


def main(names: list[str]) -> None:
    """Build the named examples, or all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = names or list(EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        pack = make_zip(copy_tree(Path(folder) / "tree"))
        server = server_with(prepare("current"), Path(folder) / "base", pack).start()
        try:
            for name in names:
                with comfy_page(server) as page:
                    build(page, name, EXAMPLES[name])
            with comfy_page(server) as page:
                page.evaluate("""async () => {
                    await window.app.loadApiJson({1: {class_type: 'SemiLLIE_DownloadModel',
                        inputs: {weights: 'RAM++ (3.0 GB)'}}}, 'download')
                }""")
                page.evaluate(FIT)
                photograph_node(page, "SemiLLIE_DownloadModel")
            write_blueprint()
            thumbnails(server, names)
            readme_pictures(server, names)
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
