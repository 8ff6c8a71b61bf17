"""How much noise of a clip the average over its frames takes out, and what it costs where things move.

A well-lit photo becomes a dark clip: of a still camera, of one that pans by whole pixels, of one held in a hand (a
smooth path in fractions of a pixel), and of a still one before which a part of another photo moves. Every frame gets
sensor noise of its own and is rounded to 8 bits. The same clip without noise is enhanced by the network alone; what
differs from that is noise, or what a filter did to the picture. Printed are PSNR and SSIM against it, and the
flicker: the mean change of the difference from one frame to the next, in code values of 255. Compared are no noise
reduction, every frame by itself (``reduce_noise``), and the average over frames before it, all with one steadied
exposure.

    python -m benchmarks.clip_noise FOLDER_OF_WELL_LIT_PHOTOS... [--every N]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from semillie_core.colour import linear_to_srgb, srgb_to_linear
from semillie_core.data import find_images, read_rgb
from semillie_core.data.sensor import simulate_low_light
from semillie_core.inference import NETWORK_ALONE, NOISE_REDUCTION_ALONE, enhance
from semillie_core.inference.noise import reduce_noise
from semillie_core.metrics import psnr, ssim
from semillie_core.weights import load_model

MARGIN = 48
STEADY = 24


def clips(photo: Tensor, other: Tensor, frames: int) -> dict[str, Tensor]:
    """Clips ``(frames, 3, h, w)`` of a photo, by the name of what moves."""
    height, width = (edge - 2 * MARGIN for edge in photo.shape[1:])

    def at(down: float, right: float) -> Tensor:
        rows = (torch.arange(height) + MARGIN + down) / (photo.shape[1] - 1) * 2 - 1
        columns = (torch.arange(width) + MARGIN + right) / (photo.shape[2] - 1) * 2 - 1
        grid = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)
        return F.grid_sample(photo[None], grid[None], mode="bicubic", align_corners=True)[0].clamp(0, 1)

    still = torch.stack([at(0, 0)] * frames)
    crossing = still.clone()
    size = min(height, width) // 3
    for index, frame in enumerate(crossing):
        left = width // 8 + 8 * index
        frame[:, size : 2 * size, left : left + size] = other[:, size : 2 * size, size : 2 * size]
    return {
        "nothing": still,
        "the camera, steadily": torch.stack([at(3 * i, 5 * i) for i in range(frames)]),
        "the camera, in a hand": torch.stack(
            [at(6 * math.sin(0.9 * i), 7 * math.cos(0.7 * i)) for i in range(frames)]
        ),
        "a thing": crossing,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of well-lit photos")
    parser.add_argument("--model", default="semillie-compact", help="bundled name or file")
    parser.add_argument("--every", type=int, default=1, help="use every n-th photo")
    parser.add_argument("--frames", type=int, default=8, help="frames of each clip, up to 9")
    parser.add_argument("--exposure", type=float, default=-4.5, help="of the dark clip, EV")
    parser.add_argument("--electrons", type=float, default=5000.0, help="that white stands for")
    options = parser.parse_args()
    model = load_model(options.model)
    paths = [path for folder in options.folders for path in find_images(folder)[:: options.every]]
    photos = [read_rgb(path).float() / 255 for path in paths]
    found: defaultdict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    seconds: defaultdict[str, float] = defaultdict(float)
    for number, photo in enumerate(photos):
        generator = torch.Generator().manual_seed(number)
        for moving, clip in clips(photo, photos[number - 1], options.frames).items():
            dark = linear_to_srgb(srgb_to_linear(clip) * 2.0**options.exposure)
            noisy = simulate_low_light(
                clip,
                exposure_ev=options.exposure,
                full_well_electrons=options.electrons,
                generator=generator,
            )
            quiet = enhance(model, dark, controls=NETWORK_ALONE, steady_frames=STEADY).image
            start = time.process_time()
            bare = enhance(model, noisy, controls=NETWORK_ALONE, steady_frames=STEADY).image
            middle = time.process_time()
            alone = torch.cat([reduce_noise(noisy[i : i + 1], bare[i : i + 1]) for i in range(len(bare))])
            between = time.process_time()
            averaged = enhance(model, noisy, controls=NOISE_REDUCTION_ALONE, steady_frames=STEADY).image
            seconds["by itself"] += between - start
            seconds["averaged"] += time.process_time() - between
            seconds["network"] += middle - start
            for name, result in (("none", bare), ("frame by frame", alone), ("over frames", averaged)):
                error = result.clamp(0, 1) - quiet
                flicker = float((error[1:] - error[:-1]).abs().mean()) * 255
                scores = (float(measure(result.clamp(0, 1), quiet).mean()) for measure in (psnr, ssim))
                found[moving, name].append((*scores, flicker))
    print(f"{len(photos)} photos, {options.frames} frames each, {options.exposure:+g} EV")
    print("| what moves | noise reduction | PSNR | SSIM | flicker |\n|---|---|---|---|---|")
    for (moving, name), rows in found.items():
        values = [statistics.mean(column) for column in zip(*rows, strict=True)]
        print(f"| {moving} | {name} | {values[0]:.2f} | {values[1]:.4f} | {values[2]:.2f} |")
    print(
        f"time of a clip, of that of every frame by itself: {seconds['averaged'] / seconds['by itself']:.2f} "
        f"(the network alone: {seconds['network'] / seconds['by itself']:.2f})"
    )


if __name__ == "__main__":
    main()
