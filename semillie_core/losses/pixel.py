"""Losses between an output and its reference, pixel by pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import ssim
from ..network.blocks import GradientMagnitude
from ..precision import full_precision


def structure_loss(output: Tensor, target: Tensor) -> Tensor:
    """``0.8 * mean|x - y| + 0.2 * mean (x - y)^2``, the structure loss of Semi-LLIE's released trainer.

    Args:
        output: ``(B, C, H, W)``.
        target: Same shape.

    Returns:
        A scalar.
    """
    return 0.8 * F.l1_loss(output, target) + 0.2 * F.mse_loss(output, target)


def gradient_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of gradient magnitudes.

    Counted once; the released trainer adds the same term twice (its network's second output is the gradient of its
    first). With zero padding a border pixel's gradient is about its value, as there.

    Args:
        output: ``(B, C, H, W)``.
        target: Same shape.

    Returns:
        A scalar.
    """
    gradient = GradientMagnitude().to(output.device, output.dtype)
    with full_precision(output.device):
        return F.l1_loss(gradient(output), gradient(target))


def ssim_loss(output: Tensor, target: Tensor) -> Tensor:
    """One minus structural similarity (Wang et al., IEEE TIP 13(4), 2004), averaged over the batch.

    Args:
        output: ``(B, C, H, W)`` in [0, 1], at least 11 pixels high and wide.
        target: Same shape.

    Returns:
        A scalar, 0 for equal images.

    Raises:
        ValueError: See :func:`semillie_core.metrics.ssim`.
    """
    return 1 - ssim(output, target).mean()


def detail_loss(output: Tensor, target: Tensor, window: int = 15) -> Tensor:
    """Mean absolute difference of what is left after each pixel's surroundings are taken away.

    Where output and reference differ in exposure, as they must when nobody can know how bright the photographer
    wanted the picture, the sign of the plain difference is that of the exposure error and says nothing about noise;
    here it does.

    Args:
        output: ``(B, C, H, W)``.
        target: Same shape.
        window: Edge of the averaged surroundings in pixels, odd; narrower on images that are smaller.

    Returns:
        A scalar.
    """
    difference = output - target
    window = min(window, *(edge - 1 + edge % 2 for edge in difference.shape[2:]))
    average = F.avg_pool2d(difference, window, 1, window // 2, count_include_pad=False)
    return (difference - average).abs().mean()


def colour_loss(output: Tensor, target: Tensor, eps: float = 1e-2) -> Tensor:
    """One minus the cosine between the colours of output and target, averaged over pixels.

    Blind to brightness, which scales a colour; weighs hue and saturation. Dark pixels, whose colour is mostly noise,
    count less: ``eps`` is added to the lengths.

    Args:
        output: ``(B, 3, H, W)``.
        target: Same shape.
        eps: Length of a colour, in [0, 1] units, that counts as dark.

    Returns:
        A scalar, 0 for equal colours.
    """
    lengths = (output.square().sum(1) + eps**2).sqrt() * (target.square().sum(1) + eps**2).sqrt()
    return 1 - (((output * target).sum(1) + eps**2) / lengths).mean()


class StructureLoss(nn.Module):
    """Module form of :func:`structure_loss`."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return structure_loss(output, target)


class GradientLoss(nn.Module):
    """Module form of :func:`gradient_loss`."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return gradient_loss(output, target)


class SSIMLoss(nn.Module):
    """Module form of :func:`ssim_loss`."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return ssim_loss(output, target)


class DetailLoss(nn.Module):
    """Module form of :func:`detail_loss`.

    Args:
        window: See there.
    """

    def __init__(self, window: int = 15) -> None:
        super().__init__()
        self.window = window

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return detail_loss(output, target, self.window)


class ColourLoss(nn.Module):
    """Module form of :func:`colour_loss`.

    Args:
        eps: See there.
    """

    def __init__(self, eps: float = 1e-2) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return colour_loss(output, target, self.eps)
