"""Noise that brightening leaves on flat dark surfaces, against classical baselines.

Surfaces that are flat in the reference and dark in the input are measured in every method's output: there, every
deviation from smooth shading is noise. L* noise is what the eye sees as grain, colour noise as blotches; both in
CIE L*a*b* units (1 is about just visible). Because a brighter picture shows more noise, the lightness that the
method reached stands beside it, with the exposure that took, and the SNR.

    python -m benchmarks.noise --pairs LOW HIGH --model semillie-compact [--json FILE]

Needs scikit-image for CLAHE (extra ``dev``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from skimage import color, exposure
from torch import Tensor

from semillie_core.data import find_pairs, read_rgb
from semillie_core.inference import NETWORK_ALONE, enhance
from semillie_core.metrics import bootstrap_interval, flat_patches, patch_deviation
from semillie_core.weights import load_model

Method = Callable[[Tensor, Tensor], Tensor]
"""From input and reference, ``(1, 3, H, W)`` each, to a result."""

DARK = 25.0
"""L* of an input patch below which it counts as dark."""
FEWEST_PATCHES = 5
COLUMNS = ("patches", "lightness", "lift_ev", "lightness_noise", "colour_noise", "snr_db")


def clahe(image: Tensor) -> Tensor:
    """Contrast-limited adaptive histogram equalisation of L*, 8x8 tiles, clip limit 0.01."""
    lab = color.rgb2lab(image[0].permute(1, 2, 0).numpy())
    height, width = lab.shape[:2]
    lab[..., 0] = 100 * exposure.equalize_adapthist(
        lab[..., 0] / 100, (height // 8, width // 8), clip_limit=0.01
    )
    return torch.from_numpy(color.lab2rgb(lab)).permute(2, 0, 1).unsqueeze(0).float().clamp(0, 1)


def matched_gamma(image: Tensor, reference: Tensor) -> Tensor:
    """The one power curve that brings the mean brightness to the reference's: brightening and nothing else."""
    low, high = 0.02, 3.0
    for _ in range(40):
        gamma = (low + high) / 2
        low, high = (gamma, high) if (image**gamma).mean() > reference.mean() else (low, gamma)
    return image**gamma


def baselines() -> dict[str, Method]:
    """The methods every model is compared with."""
    return {
        "reference": lambda image, reference: reference,
        "input": lambda image, reference: image,
        "gamma 0.45": lambda image, reference: image**0.45,
        "gamma to the reference's mean": matched_gamma,
        "CLAHE (L*)": lambda image, reference: clahe(image),
        "gamma 0.45, then CLAHE": lambda image, reference: clahe(image**0.45),
    }


def ours(name: str) -> dict[str, Method]:
    """A model by bundled name or file: as enhanced by default, and its network alone."""
    model = load_model(name)
    return {
        name: lambda image, reference: enhance(model, image).image,
        f"{name}, network alone": lambda image, reference: (
            enhance(model, image, controls=NETWORK_ALONE).image
        ),
    }


def relative_luminance(lightness: Tensor) -> Tensor:
    """CIE Y in (0, 1] of L*."""
    return torch.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness.clamp_min(1e-3) / 903.3)


def measure(method: Method, low: Tensor, high: Tensor, chosen: Tensor) -> dict[str, float]:
    """Medians over the chosen patches of one image."""
    lightness, grain, blotches = (values[chosen] for values in patch_deviation(method(low, high)))
    before = patch_deviation(low).lightness_mean[chosen]
    lift = torch.log2(relative_luminance(lightness) / relative_luminance(before))
    snr = 20 * torch.log10(lightness.clamp_min(0.1) / grain.clamp_min(1e-3))
    values = (chosen.sum().float(), lightness, lift, grain, blotches, snr)
    return {column: value.median().item() for column, value in zip(COLUMNS, values, strict=True)}


def run(methods: dict[str, Method], low_folder: str, high_folder: str) -> dict[str, object]:
    """Measure all methods on the same patches; images with too few of them are left out."""
    per_image: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    for pair in find_pairs(low_folder, high_folder):
        low, high = (read_rgb(path).unsqueeze(0).float() / 255 for path in (pair.low, pair.high))
        dark = patch_deviation(low).lightness_mean < DARK
        chosen = flat_patches(high) & dark
        if int(chosen.sum()) < FEWEST_PATCHES:
            continue
        for name, method in methods.items():
            per_image[name][pair.name] = measure(method, low, high, chosen)
    means = {
        name: {
            column: bootstrap_interval(row[column] for row in rows.values())._asdict() for column in COLUMNS
        }
        for name, rows in per_image.items()
    }
    return {"images": len(next(iter(per_image.values()))), "means": means, "per_image": per_image}


def table(result: dict[str, object]) -> str:
    """The means as Markdown."""
    lines = [
        f"Medians over flat dark 16x16 patches, mean over {result['images']} images (95 % interval):",
        "",
        "| method | L* reached | lift, EV | L* noise ↓ | colour noise ↓ | SNR, dB ↑ |",
        "|---|---|---|---|---|---|",
    ]
    means = result["means"]
    assert isinstance(means, dict)
    for name, row in means.items():
        cells = [f"{row[c]['mean']:.2f} ({row[c]['low']:.2f}…{row[c]['high']:.2f})" for c in COLUMNS[3:]]
        reached = f"{row['lightness']['mean']:.1f} | {row['lift_ev']['mean']:+.1f}"
        lines.append(f"| {name} | {reached} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", required=True, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--model", action="append", default=[], help="bundled name or file; may be repeated")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    methods = baselines()
    for name in options.model:
        methods |= ours(name)
    result = run(methods, *options.pairs)
    print(table(result))
    if options.json is not None:
        temporary = options.json.with_name(f".{options.json.name}.tmp")
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        temporary.replace(options.json)


if __name__ == "__main__":
    main()
