"""Where the losses of semi-supervised training pull an output: towards its reference, or somewhere else?

For crops of pairs that the model was not trained on, the student's output of a strong view (other light, more noise)
stands between the teacher's output of the photo itself and the reference, which is scaled to the output's mean so that
exposure plays no part. Printed per loss, as means over the pairs:

- *towards the reference*: cosine between the loss's descent direction, pixel by pixel, and the way to the reference;
- *of fine structure*: the same after removing each pixel's 5 x 5 surroundings from both;
- *fine share*: how much of the gradient's norm is fine structure.

Losses that see the reference are marked; they are the yardstick. ``averaged`` losses look at means of 2 x 2 pixels.

    python -m benchmarks.loss_directions --model FILE --pairs LOW HIGH [--crop 112]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from semillie_core.data import StrongViewConfig, find_pairs, read_rgb
from semillie_core.data.views import StrongView
from semillie_core.losses import detail_loss, ssim_loss, structure_loss
from semillie_core.losses.semantic import SemanticContrastiveLoss, SemanticPerceptualLoss
from semillie_core.network import SemiLLIE
from semillie_core.network.thumbnail import make_thumbnail
from semillie_core.ram import load_efficientnet_lite0
from semillie_core.weights import load_model

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of output, teacher's output, dark view and reference."""


def losses() -> dict[str, Loss]:
    """What is compared."""
    encoder = load_efficientnet_lite0().encoder
    contrastive, perceptual = SemanticContrastiveLoss(encoder), SemanticPerceptualLoss(encoder)
    return {
        "L1 to the teacher": lambda y, t, x, r: F.l1_loss(y, t),
        "contrastive": lambda y, t, x, r: contrastive(y, t, x),
        "contrastive, averaged": lambda y, t, x, r: contrastive(*(F.avg_pool2d(i, 2) for i in (y, t, x))),
        "perceptual (reference)": lambda y, t, x, r: perceptual(y, r),
        "perceptual, averaged (reference)": lambda y, t, x, r: perceptual(
            *(F.avg_pool2d(i, 2) for i in (y, r))
        ),
        "structure (reference)": lambda y, t, x, r: structure_loss(y, r),
        "1 - SSIM (reference)": lambda y, t, x, r: ssim_loss(y, r),
        "detail (reference)": lambda y, t, x, r: detail_loss(y, r),
    }


def fine(image: Tensor) -> Tensor:
    """What remains after removing the mean of 5 x 5 pixels around each."""
    return image - F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, 1)


def cosine(a: Tensor, b: Tensor) -> float:
    """Between two images as vectors."""
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def enhance_crop(network: SemiLLIE, frame: Tensor, place: tuple[int, int, int], crop: Tensor) -> Tensor:
    """Of a crop ``(1, 3, S, S)`` at (top, left, S) of a frame ``(1, 3, H, W)``."""
    top, left, size = place
    height, width = frame.shape[2:]
    if not network.config.thumbnail:
        return network(crop).image
    region = frame.new_tensor([[top / height, left / width, size / height, size / width]])
    return network(
        crop, network.estimate_frame(make_thumbnail(frame, network.config.thumbnail)), region
    ).image


def directions(network: SemiLLIE, folders: list[Path], size: int) -> dict[str, list[float]]:
    """Per loss, the means of the three columns."""
    generator = torch.Generator().manual_seed(0)
    view, compared = StrongView(StrongViewConfig()), losses()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in compared}
    for pair in find_pairs(*folders):
        low, high = (read_rgb(path).unsqueeze(0).float() / 255 for path in (pair.low, pair.high))
        top, left = (int(torch.randint(edge - size + 1, (), generator=generator)) for edge in low.shape[2:])
        place = (top, left, size)
        weak, reference = (i[..., top : top + size, left : left + size] for i in (low, high))
        strong_frame = view.of_frame(low[0], generator).unsqueeze(0)
        strong = view.of_crop(strong_frame[0, :, top : top + size, left : left + size], generator).unsqueeze(
            0
        )
        with torch.no_grad():
            teacher = enhance_crop(network, low, place, weak)
            output = enhance_crop(network, strong_frame, place, strong)
        way = reference * (output.mean() / reference.mean()) - output
        output.requires_grad_()
        for name, loss in compared.items():
            (gradient,) = torch.autograd.grad(loss(output, teacher, strong, reference), output)
            share = (fine(gradient).norm() / gradient.norm()).item()
            found[name].append((cosine(-gradient, way), cosine(-fine(gradient), fine(way)), share))
    return {name: torch.tensor(rows).mean(0).tolist() for name, rows in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="semillie-compact", help="bundled name or file (default: %(default)s)"
    )
    parser.add_argument("--pairs", type=Path, nargs=2, required=True, metavar=("LOW", "HIGH"))
    parser.add_argument("--crop", type=int, default=112, help="edge in pixels (default: %(default)s)")
    options = parser.parse_args()
    network = load_model(options.model).network.eval()
    print("| loss | towards the reference | of fine structure | fine share |\n|---|---|---|---|")
    for name, (all_of_it, of_fine, share) in directions(network, options.pairs, options.crop).items():
        print(f"| {name} | {all_of_it:+.3f} | {of_fine:+.3f} | {share:.2f} |")


if __name__ == "__main__":
    main()
