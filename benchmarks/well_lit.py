"""What a model does to photos that need nothing: the output against the input itself.

People feed an enhancer anything. A photo that is lit well already should come out as it went in; this prints the
PSNR of every such photo to itself after enhancement, the change of its mean brightness in stops, and the mean.

    python -m benchmarks.well_lit FOLDER [FOLDER...] --model semillie-compact
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from semillie_core.colour import srgb_to_linear
from semillie_core.data import read_rgb
from semillie_core.data.pairs import IMAGE_SUFFIXES
from semillie_core.inference import enhance
from semillie_core.metrics import psnr
from semillie_core.weights import load_model


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photos that are lit well")
    parser.add_argument("--model", default="semillie-compact", help="bundled name or file")
    parser.add_argument("--each", action="store_true", help="one line for every photo")
    options = parser.parse_args()
    model = load_model(options.model)
    print("| folder | photos | PSNR to itself, mean | least | median change, EV |\n|---|---|---|---|---|")
    for folder in options.folders:
        scores, changes = [], []
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            image = read_rgb(path)[None].float() / 255
            output = enhance(model, image).image
            scores.append(float(psnr(output, image)))
            light = [srgb_to_linear(picture).mean() for picture in (image, output)]
            changes.append(float(torch.log2(light[1] / light[0])))
            if options.each:
                print(f"  {path.name}: {scores[-1]:.2f} dB, {changes[-1]:+.2f} EV")
        print(
            f"| {folder} | {len(scores)} | {statistics.mean(scores):.2f} | {min(scores):.2f} "
            f"| {statistics.median(changes):+.2f} |"
        )


if __name__ == "__main__":
    main()
