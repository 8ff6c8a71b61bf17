"""Photos without a reference, method beside method, for judging with one's own eyes.

Every row is one photo: the input, classical baselines, and the models. Below each picture stand the mean L* and the
share of pixels that are clipped at white, so that blown highlights and grey mush can be found by number, too; the
closing lines name the photos in which a model clips most and lifts least.

    python -m benchmarks.contact_sheet PHOTOS --model semillie-compact --output sheet [--rows 10] [--width 360]

writes ``sheet-01.jpg``, ``sheet-02.jpg``, ... Needs scikit-image (extra ``dev``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.noise import clahe
from semillie_core.data import read_rgb
from semillie_core.data.pairs import IMAGE_SUFFIXES
from semillie_core.inference import enhance
from semillie_core.metrics.colour import rgb_to_lab
from semillie_core.weights import load_model

CAPTION = 14
WHITE = 254.5 / 255


def methods(models: list[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every column by name, ``(1, 3, H, W)`` to the same."""
    columns: dict[str, Callable[[Tensor], Tensor]] = {
        "input": lambda image: image,
        "gamma 0.45": lambda image: image**0.45,
        "gamma 0.45, then CLAHE": lambda image: clahe(image**0.45),
    }
    for name in models:
        model = load_model(name)
        columns[Path(name).stem] = lambda image, model=model: enhance(model, image).image
    return columns


def cell(image: Tensor, title: str, width: int) -> tuple[Image.Image, float, float]:
    """A captioned picture, with its mean L* and clipped share."""
    lightness = float(rgb_to_lab(image)[:, 0].mean())
    clipped = float((image.amax(1) >= WHITE).float().mean())
    height = round(image.shape[2] * width / image.shape[3])
    small = F.interpolate(image, (height, width), mode="bicubic", antialias=True).clamp(0, 1)[0]
    picture = Image.new("RGB", (width, height + CAPTION), "white")
    picture.paste(Image.fromarray((small * 255).round().byte().permute(1, 2, 0).numpy()))
    text = f"{title}  L* {lightness:.0f}  white {100 * clipped:.1f} %"
    ImageDraw.Draw(picture).text((2, height + 1), text, fill="black")
    return picture, lightness, clipped


def beside(pictures: list[Image.Image], *, down: bool) -> Image.Image:
    """Pictures in a row, or below each other."""
    sizes = [picture.size for picture in pictures]
    size = (
        (max(w for w, _ in sizes), sum(h for _, h in sizes))
        if down
        else (sum(w for w, _ in sizes), max(h for _, h in sizes))
    )
    sheet, offset = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (0, offset) if down else (offset, 0))
        offset += picture.height if down else picture.width
    return sheet


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--model", action="append", default=[], help="bundled name or file; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="sheets are this name, -NN.jpg")
    parser.add_argument("--rows", type=int, default=10, help="photos per sheet (default: %(default)s)")
    parser.add_argument("--width", type=int, default=360, help="of a picture (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=1024, help="work at this long side at most")
    options = parser.parse_args()
    columns = methods(options.model)
    paths = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    rows: list[Image.Image] = []
    scores: dict[str, list[tuple[str, float, float]]] = {name: [] for name in columns}
    for number, path in enumerate(paths, 1):
        image = read_rgb(path)[None].float() / 255
        scale = options.longest / max(image.shape[2:])
        if scale < 1:
            image = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)
        pictures = []
        for name, method in columns.items():
            title = path.name if name == "input" else name
            picture, lightness, clipped = cell(method(image), title, options.width)
            pictures.append(picture)
            scores[name].append((path.name, lightness, clipped))
        rows.append(beside(pictures, down=False))
        if len(rows) == options.rows or number == len(paths):
            page = options.output.with_name(f"{options.output.name}-{-(-number // options.rows):02d}.jpg")
            page.parent.mkdir(parents=True, exist_ok=True)
            beside(rows, down=True).save(page, quality=85)
            print(page)
            rows.clear()
    for name, seen in scores.items():
        mean = torch.tensor([[lightness, clipped] for _, lightness, clipped in seen]).mean(0)
        print(f"\n{name}: mean L* {mean[0]:.1f}, white {100 * mean[1]:.2f} % over {len(seen)} photos")
        most = sorted(seen, key=lambda row: -row[2])[:10]
        print("  most white:   " + ", ".join(f"{file} {100 * clipped:.1f} %" for file, _, clipped in most))
        darkest = sorted(seen, key=lambda row: row[1])[:10]
        print("  least bright: " + ", ".join(f"{file} L* {light:.0f}" for file, light, _ in darkest))


if __name__ == "__main__":
    main()
