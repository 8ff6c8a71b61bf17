"""Make the README's picture of before and after from the sample photos.

Reads    the photos in samples/.
Writes   docs/images/before_after.jpg, or --output.
Exits    0 done, 2 wrong arguments.

    python -m training_scripts.make_pictures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from semillie_core.data import read_rgb
from semillie_core.inference import enhance
from semillie_core.weights import load_model

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = ("coffee.png", "portrait.png", "meadow.jpg", "rocket.jpg")
CELL = (260, 390)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.make_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="semillie-compact", help="bundled model or checkpoint file")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "images" / "before_after.jpg")
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    pairs = []
    for name in PHOTOS:
        before = read_rgb(REPOSITORY / "samples" / name)[None].float() / 255
        after = enhance(model, before).image
        pairs.append(torch.cat([_cell(before), _cell(after)], dim=2))
    rows = [torch.cat(pairs[i : i + 2], dim=2) for i in range(0, len(pairs), 2)]
    sheet = torch.cat(rows, dim=1).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.numpy()).save(options.output, quality=88)
    print(options.output)
    return 0


def _cell(image: torch.Tensor) -> torch.Tensor:
    """Scale and crop ``(1, 3, H, W)`` to one cell, ``(3, *CELL)``."""
    height, width = image.shape[2:]
    scale = max(CELL[0] / height, CELL[1] / width)
    size = (round(height * scale), round(width * scale))
    resized = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)[0]
    top, left = (size[0] - CELL[0]) // 2, (size[1] - CELL[1]) // 2
    return resized[:, top : top + CELL[0], left : left + CELL[1]]


if __name__ == "__main__":
    sys.exit(main())
