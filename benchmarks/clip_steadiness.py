"""How much the brightness of a clip pumps, with and without ``steady_frames``.

A camera pans over photos, with fresh sensor noise in every frame. What one frame and the next both show has the same
light in it, so every change there is the enhancer's own. Printed is that change: of 16 x 16 blocks that lie on the same
part of the scene, averaged over colours and over the blocks, in code values of 255; its mean over the frames and its
largest value, each averaged over the photos, and the largest of all.

    python -m benchmarks.clip_steadiness FOLDER... --model semillie-compact
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from semillie_core.data import find_images, read_rgb
from semillie_core.inference import enhance
from semillie_core.weights import load_model

BLOCK = 16
NOISE = 1 / 255


def pan(photo: Tensor, frames: int, generator: torch.Generator) -> tuple[Tensor, list[tuple[int, int]]]:
    """Frames of 3/5 of a photo's edges on the way from its top left to its bottom right.

    Returns:
        The frames ``(frames, 3, h, w)``, and where each has its top left corner, in multiples of the block.
    """
    height, width = (int(edge * 0.6) // BLOCK * BLOCK for edge in photo.shape[1:])
    corners = [
        (
            int((photo.shape[1] - height) * index / (frames - 1)) // BLOCK * BLOCK,
            int((photo.shape[2] - width) * index / (frames - 1)) // BLOCK * BLOCK,
        )
        for index in range(frames)
    ]
    clip = torch.stack([photo[:, top : top + height, left : left + width] for top, left in corners])
    noisy = clip + NOISE * torch.randn(clip.shape, generator=generator)
    return (noisy.clamp(0, 1) * 255).round() / 255, corners


def changes(clip: Tensor, corners: Sequence[tuple[int, int]]) -> list[float]:
    """Mean absolute change of the blocks that two consecutive frames share, in code values."""
    height, width = clip.shape[2:]
    result = []
    for index in range(1, len(clip)):
        down, right = (now - before for now, before in zip(corners[index], corners[index - 1], strict=True))
        before = clip[index - 1, :, down:, right:]
        now = clip[index, :, : height - down, : width - right]
        blocks = [F.avg_pool2d(part, BLOCK).mean(0) for part in (before, now)]
        result.append(float((blocks[1] - blocks[0]).abs().mean()) * 255)
    return result


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of dark photos")
    parser.add_argument("--model", default="semillie-compact", help="bundled name or file")
    parser.add_argument("--every", type=int, default=1, help="use every n-th photo")
    parser.add_argument("--frames", type=int, default=12, help="frames of each clip")
    parser.add_argument("--steady", type=int, nargs="+", default=[1, 8, 24], help="values of steady_frames")
    options = parser.parse_args()
    model = load_model(options.model)
    photos = [path for folder in options.folders for path in find_images(folder)[:: options.every]]
    found: dict[int, list[list[float]]] = {steady: [] for steady in options.steady}
    for number, path in enumerate(photos):
        photo = read_rgb(path).float() / 255
        if max(photo.shape[1:]) > 640:
            scale = 640 / max(photo.shape[1:])
            photo = F.interpolate(photo[None], scale_factor=scale, mode="area")[0]
        clip, corners = pan(photo, options.frames, torch.Generator().manual_seed(number))
        for steady in options.steady:
            result = enhance(model, clip, steady_frames=steady).image
            found[steady].append(changes(result, corners))
    print(f"{len(photos)} photos, {options.frames} frames each")
    print("| steady_frames | mean change | largest of a clip | largest of all |\n|---|---|---|---|")
    for steady, clips in found.items():
        peaks = [max(clip) for clip in clips]
        mean = statistics.mean(statistics.mean(clip) for clip in clips)
        print(f"| {steady} | {mean:.2f} | {statistics.mean(peaks):.2f} | {max(peaks):.2f} |")


if __name__ == "__main__":
    main()
