"""The example workflows as the prompts they must turn into, and how they are laid out.

``build_examples.py`` makes ``example_workflows/`` from this; the tests run these prompts and check that the shipped
files still convert to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from client import Prompt

ENHANCE = {
    # In the node's order: the blueprint stores them by position.
    "strength": 1.0,
    "brightness": 0.0,
    "saturation": 1.0,
    "protect_highlights": 1.0,
    "tiling": "auto",
    "images_per_pass": 1,
    "keep_well_lit": True,
    "steady_frames": 1,
    "noise_reduction": 1.0,
}
ENHANCE_VIDEO = {name: value for name, value in ENHANCE.items() if name != "images_per_pass"} | {
    "steady_frames": 24,
    "crf": 18,
}
TAG = {
    "threshold_mode": "per_tag",
    "threshold_offset": 0.0,
    "flat_threshold": 0.65,
    "language": "en",
    "exclude": "",
    "max_tags": 0,
    "include": "",
    "sort": "score",
    "separator": ", ",
    "underscores": False,
    "prefix": "",
    "suffix": "",
    "images_per_pass": 1,
}


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        prompt: What runs, in API format; node ids are numbers as text.
        layout: Node id to ``(x, y, width, height)``.
        titles: Node id to a title other than the node's own.
        note: Text of the note beside the graph.
        note_box: ``(x, y, width, height)`` of the note.
        saves: Ids of nodes that save or show pictures.
    """

    prompt: Prompt
    layout: dict[str, tuple[int, int, int, int]]
    note: str
    note_box: tuple[int, int, int, int]
    titles: dict[str, str] = field(default_factory=dict)
    saves: tuple[str, ...] = ()


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def _load() -> dict[str, Any]:
    return node("SemiLLIE_LoadModel", model_name="semillie-compact", dtype="auto")


QUICK = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="portrait"),
        "2": _load(),
        "3": node("SemiLLIE_Enhance", model=["2", 0], image=["1", 0], **ENHANCE),
        "4": node("SaveImage", images=["3", 0], filename_prefix="brightened"),
        "5": node("PreviewImage", images=["1", 0]),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 300),
        "4": (1190, 60, 440, 520),
        "5": (730, 60, 420, 500),
    },
    titles={"4": "After: saved in the output folder", "5": "Before"},
    note="## Brighten a dark photo\n\nPress **Run**. The network and the photo ship with Semi-LLIE, nothing "
    "is downloaded.\n\n**Your own photo:** double-click the canvas, add *Load Image*, and connect it to "
    "*Semi-LLIE Enhance* in place of *Sample Photo*.\n\nToo bright? Lower **strength** or "
    "**brightness**.",
    note_box=(40, 400, 290, 300),
    saves=("4",),
)

LARGE = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="meadow"),
        "2": _load(),
        "3": node(
            "SemiLLIE_Enhance",
            model=["2", 0],
            image=["1", 0],
            **ENHANCE | {"tiling": "384"},
        ),
        "4": node("SaveImage", images=["3", 0], filename_prefix="large"),
        "5": node("MaskToImage", mask=["3", 1]),
        "6": node("PreviewImage", images=["5", 0]),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 300),
        "4": (750, 60, 560, 400),
        "5": (380, 660, 320, 40),
        "6": (750, 510, 560, 400),
    },
    titles={"6": "Illumination: how much light was there"},
    note="## Large photos\n\nWith **tiling** the photo is computed in overlapping squares, so the "
    "network's memory does not grow with its size. All squares share one estimate of the light, so none "
    "shows.\n\n*auto* tiles only when the whole photo would not fit; 384 here is for show. When memory runs "
    "out anyway, the size is halved and the work goes on.\n\n**protect_highlights** keeps lamps and sky "
    "from turning white.\n\nThe lower picture is the illumination: white where nothing needed brightening. "
    "It is a mask that other nodes can use.",
    note_box=(40, 400, 290, 420),
    saves=("4", "6"),
)

FRAMES = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="meadow-pan"),
        "2": _load(),
        "3": node(
            "SemiLLIE_Enhance",
            model=["2", 0],
            image=["1", 0],
            **ENHANCE | {"images_per_pass": 4, "steady_frames": 8},
        ),
        "4": node(
            "SaveAnimatedWEBP",
            images=["3", 0],
            filename_prefix="clip",
            fps=8.0,
            lossless=False,
            quality=90,
            method="default",
        ),
        "5": node("PreviewImage", images=["1", 0]),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 300),
        "4": (750, 60, 480, 420),
        "5": (750, 560, 480, 340),
    },
    titles={"5": "Frames before"},
    note="## A batch of frames\n\nAny batch of pictures goes through in one node; **images_per_pass** of "
    "them are computed at once, and the rest waits outside the GPU, so a long clip needs no more of the GPU's "
    "memory than a short one.\n\n**steady_frames** averages the exposure over about a second of frames, so that it "
    "does not pump as the camera moves, and grain over five, so that it does not flicker; 1 judges every frame by "
    "itself.\n\n**A video file** of any length: the "
    "template *Brighten a Video*.",
    note_box=(40, 400, 290, 400),
    saves=("4", "5"),
)

VIDEO = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="meadow-pan"),
        "2": _load(),
        "3": node("CreateVideo", images=["1", 0], fps=8.0, bit_depth=8),
        "4": node("SemiLLIE_EnhanceVideo", model=["2", 0], video=["3", 0], **ENHANCE_VIDEO),
        "5": node("SaveVideo", video=["4", 0], filename_prefix="video/bright", format="auto", codec="auto"),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 370, 290, 110),
        "3": (40, 190, 290, 130),
        "4": (380, 60, 360, 620),
        "5": (790, 60, 640, 620),
    },
    note="## Brighten a video\n\n**Your own video:** *Load Video* in place of *Sample Photo* and *Create Video*. It "
    "may be of any length: a few frames are in memory at a time, and the sound is kept.\n\n**steady_frames** "
    "averages the exposure over about a second of frames, so that it does not pump as the camera moves, and grain over "
    "five, so that it does not flicker.\n\nHDR, as phones record it, becomes standard range.",
    note_box=(40, 530, 290, 400),
    saves=("5",),
)

TAGS = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="coffee"),
        "2": _load(),
        "3": node("SemiLLIE_Enhance", model=["2", 0], image=["1", 0], **ENHANCE),
        "4": node("SemiLLIE_LoadRAM", model_name="efficientnet-lite0 (built in)", dtype="auto"),
        "5": node("SemiLLIE_RAMTag", ram_model=["4", 0], image=["1", 0], **TAG),
        "6": node("SemiLLIE_RAMTag", ram_model=["4", 0], image=["3", 0], **TAG),
        "7": node(
            "SemiLLIE_SemanticDrift",
            ram_model=["4", 0],
            before=["1", 0],
            after=["3", 0],
            threshold_offset=0.0,
            margin=0.05,
            exclude="",
        ),
        "8": node("PreviewImage", images=["3", 0]),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 300),
        "4": (40, 390, 290, 110),
        "5": (760, 60, 340, 520),
        "6": (1150, 60, 340, 520),
        "7": (1540, 60, 340, 320),
        "8": (380, 660, 320, 330),
    },
    titles={"5": "Tags of the dark photo", "6": "Tags of the brightened photo"},
    note="## What the network recognises, before and after\n\nA tagger names what is in the dark photo and "
    "in the brightened one, and *Semantic Drift* compares the two.\n\nThe built-in network knows 1000 "
    "objects and is not RAM. For **Recognize Anything** (4585 tags, English and Chinese) put "
    "*ram_plus_swin_large_14m.pth* into *models/rams* or run *Download RAM Weights* once, press **R**, and pick "
    "it in *Load RAM Model*.",
    note_box=(40, 570, 290, 340),
    saves=("8",),
)

REPORT = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="coffee"),
        "2": _load(),
        "3": node("SemiLLIE_Enhance", model=["2", 0], image=["1", 0], **ENHANCE),
        "4": node("SemiLLIE_SamplePhoto", photo="coffee (well lit)"),
        "5": node("SemiLLIE_LowLightReport", image=["1", 0], reference=["4", 0]),
        "6": node("SemiLLIE_LowLightReport", image=["3", 0], reference=["4", 0]),
        "7": node("PreviewImage", images=["3", 0]),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 300),
        "4": (40, 390, 290, 80),
        "5": (760, 60, 420, 460),
        "6": (1230, 60, 420, 460),
        "7": (760, 600, 420, 330),
    },
    titles={
        "4": "How it should look",
        "5": "Report on the dark photo",
        "6": "Report on the brightened photo",
    },
    note="## Low-light report\n\nWhat is wrong with a photo, in words and numbers: darkness, noise, "
    "clipping, colour cast. The histogram has dark on the left and bright on the right.\n\nThe **reference** "
    "is optional. With one, the report adds how close the photo comes to it: PSNR, SSIM and colour "
    "difference.",
    note_box=(40, 540, 290, 300),
    saves=("5", "6", "7"),
)

TUNE = Example(
    prompt={
        "1": node("SemiLLIE_SamplePhoto", photo="meadow-pan"),
        "2": _load(),
        "3": node(
            "SemiLLIE_Enhance",
            model=["2", 0],
            image=["1", 0],
            **ENHANCE | {"brightness": 0.5, "saturation": 1.3},
        ),
        "4": node(
            "SemiLLIE_FineTune",
            model=["2", 0],
            dark_images=["1", 0],
            pairs_before=["1", 0],
            pairs_after=["3", 0],
            steps=16,
            learning_rate=0.0002,
            batch_size=2,
            crop_size=64,
            consistency=0.3,
            contrastive=0.05,
            seed=0,
        ),
        "5": node("SemiLLIE_SamplePhoto", photo="meadow"),
        "6": node("SemiLLIE_Enhance", model=["4", 0], image=["5", 0], **ENHANCE),
        "7": node("PreviewImage", images=["6", 0]),
        "8": node("SemiLLIE_SaveModel", model=["4", 0], filename_prefix="semillie/my-semillie"),
        "9": node("LossGraphNode", loss=["4", 1], filename_prefix="loss"),
    },
    layout={
        "1": (40, 60, 290, 80),
        "2": (40, 210, 290, 110),
        "3": (380, 60, 320, 560),
        "4": (750, 60, 360, 560),
        "5": (380, 700, 320, 80),
        "6": (750, 700, 360, 520),
        "7": (1160, 700, 480, 520),
        "8": (1160, 60, 480, 120),
        "9": (1160, 250, 480, 370),
    },
    titles={"3": "The look to learn", "6": "Enhance with what was learned"},
    note="## Fine-tune on your own photos\n\nThe frames of a clip, brightened and with more colour, show the network "
    "what you want; it learns to do so by itself, without changed settings.\n\n**Your own photos:** *Load Image "
    "(from Folder)* in place of the clip. **Your own look:** anything that makes the wanted picture in place of "
    "*The look to learn*, or nothing: without pairs the network keeps its look and learns your photos' light and "
    "noise.\n\n16 steps on small cut-outs are for show. Start with **200** and **crop_size 128**. Cancelled, it "
    "goes on when you press Run again.",
    note_box=(40, 400, 290, 520),
    saves=("7", "9"),
)

EXAMPLES = {
    "Brighten a Dark Photo": QUICK,
    "Large Photo in Tiles": LARGE,
    "Brighten a Video": VIDEO,
    "Batch of Video Frames": FRAMES,
    "Tags Before and After": TAGS,
    "Low-Light Report": REPORT,
    "Fine-Tune on Your Own Photos": TUNE,
}
