"""Make the dark sample photos in ``samples/`` from free photos and the sensor model.

Reads    photos of scikit-image (extra ``dev``) and one of Debian's package ``lomiri-wallpapers-16.04``;
         ``samples/README.md`` names author and licence of each.
Writes   samples/, or --output; the same on every run.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

    python -m training_scripts.make_samples
    python -m training_scripts.make_samples --meadow seeding_by_Clements_Engelhardt.jpg --output samples-again
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from semillie_core.colour import linear_to_srgb, srgb_to_linear
from semillie_core.data import read_rgb
from semillie_core.data.sensor import simulate_low_light

REPOSITORY = Path(__file__).resolve().parent.parent
MEADOW = Path("/usr/share/backgrounds/seeding_by_Clements_Engelhardt.jpg")


@dataclass(frozen=True)
class Recipe:
    """How one sample is made."""

    source: str
    """File in scikit-image's data folder; empty for the meadow."""
    output: str
    """File name of the dark photo."""
    exposure_ev: float
    full_well_electrons: float
    read_noise_electrons: float
    seed: int
    width: int | None = None
    """Width in pixels; ``None`` keeps the source's."""
    reference: str | None = None
    """File name of the well-lit version, where it ships too."""


RECIPES = (
    Recipe("coffee.png", "coffee.png", -4.0, 8000, 3.0, 1, reference="coffee.jpg"),
    Recipe("", "meadow.jpg", -3.5, 12000, 3.0, 2, width=900, reference="meadow.jpg"),
    Recipe("astronaut.png", "portrait.png", -4.5, 16000, 4.0, 3),
    Recipe("rocket.jpg", "rocket.jpg", -3.0, 16000, 3.0, 4),
)

CLIP = "clips/meadow-pan.webp"
CLIP_FRAMES, CLIP_WIDTH, CLIP_HEIGHT = 12, 384, 216


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.make_samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--meadow", type=Path, default=MEADOW, help="the meadow's source photo (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "samples", help="folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    skimage = find_spec("skimage")
    if skimage is None or skimage.origin is None:
        print("error: scikit-image is not installed; run pip install -e '.[dev]'.", file=sys.stderr)
        return 1
    if not options.meadow.is_file():
        print(
            f"error: there is no {options.meadow}. Install Debian's package lomiri-wallpapers-16.04, or unpack it and "
            "point --meadow at its file seeding_by_Clements_Engelhardt.jpg.",
            file=sys.stderr,
        )
        return 1
    data = Path(skimage.origin).parent / "data"
    for folder in ("reference", "clips"):
        (options.output / folder).mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        bright = read_rgb(data / recipe.source if recipe.source else options.meadow).float() / 255
        if recipe.width:
            bright = _resize(bright, recipe.width)
        generator = torch.Generator().manual_seed(recipe.seed)
        _write([_darken(bright, recipe, generator)], options.output / recipe.output)
        if recipe.reference:
            _write([bright], options.output / "reference" / recipe.reference)
        if not recipe.source:
            _write([_darken(view, recipe, generator) for view in _pan(bright)], options.output / CLIP)
    return 0


def _darken(bright: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    return simulate_low_light(
        bright,
        exposure_ev=recipe.exposure_ev,
        full_well_electrons=recipe.full_well_electrons,
        read_noise_electrons=recipe.read_noise_electrons,
        generator=generator,
    )


def _pan(image: Tensor) -> list[Tensor]:
    """Views from the upper left to the lower right of a photo."""
    fractions = [index / (CLIP_FRAMES - 1) for index in range(CLIP_FRAMES)]
    corners = [
        (round(part * (image.shape[1] - CLIP_HEIGHT)), round(part * (image.shape[2] - CLIP_WIDTH)))
        for part in fractions
    ]
    return [image[:, top : top + CLIP_HEIGHT, left : left + CLIP_WIDTH] for top, left in corners]


def _resize(image: Tensor, width: int) -> Tensor:
    """Reduce ``(3, H, W)`` sRGB in linear light."""
    height = round(image.shape[1] * width / image.shape[2])
    linear = F.interpolate(srgb_to_linear(image)[None], (height, width), mode="bicubic", antialias=True)[0]
    return linear_to_srgb(linear.clamp(0, 1))


def _write(frames: list[Tensor], path: Path) -> None:
    pictures = [Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy()) for frame in frames]
    options = {"quality": 92, "subsampling": 0, "optimize": True}
    if len(pictures) > 1:
        options = {"quality": 90, "save_all": True, "append_images": pictures[1:], "duration": 80}
    pictures[0].save(path, **options)
    frames_note = f"{len(pictures)} frames, " if len(pictures) > 1 else ""
    size = f"{pictures[0].width} x {pictures[0].height}"
    print(f"{path}: {frames_note}{size}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
