"""What a model does to photos that need nothing: the output against the input itself.

People feed an enhancer anything. A photo that is lit well already should come out as it went in; this prints the
PSNR of such photos to themselves after enhancement (from the mean squared error over all of a folder, since many come
out unchanged and have none of their own), how many stay above 30 dB, the least, and the median change of brightness.

    python -m benchmarks.well_lit FOLDER [FOLDER...] --model semillie-compact
"""

from __future__ import annotations

import argparse
import math
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
    print(
        "| folder | photos | PSNR to itself | above 30 dB | least | median change, EV |\n|---|---|---|---|---|---|"
    )
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
        pooled = -10 * math.log10(max(statistics.mean(10 ** (-score / 10) for score in scores), 1e-10))
        print(
            f"| {folder.parent.name}/{folder.name} | {len(scores)} | {pooled:.2f} "
            f"| {sum(score >= 30 for score in scores)} | {min(scores):.2f} | {statistics.median(changes):+.2f} |"
        )


if __name__ == "__main__":
    main()
