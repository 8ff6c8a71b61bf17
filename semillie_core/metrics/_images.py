"""What every metric asks of its images, and the brightness that several of them measure."""

from __future__ import annotations

import torch
from torch import Tensor

from ..colour import REC601
from ..precision import full_precision


def as_images(images: Tensor, name: str = "image", channels: tuple[int, ...] | None = None) -> Tensor:
    """Check a batch of images and bring it to a dtype that metrics can be computed in.

    Args:
        images: ``(B, C, H, W)``, floating point.
        name: How error messages call it.
        channels: The channel counts that are allowed; any by default.

    Returns:
        The images, half precision promoted to float32.

    Raises:
        ValueError: Not a non-empty floating-point batch, or a channel count that is not allowed.
    """
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(
            f"{name} must be a non-empty batch (B, C, H, W), got shape {tuple(images.shape)}; "
            "add the batch axis with .unsqueeze(0)."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"{name} must be floating point in [0, 1], got {images.dtype}; divide by its maximum."
        )
    if channels is not None and images.shape[1] not in channels:
        wanted = " or ".join(str(count) for count in channels)
        raise ValueError(f"{name} must have {wanted} channels, got {images.shape[1]}.")
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images


def as_pair(output: Tensor, target: Tensor, channels: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    """Check an image batch and its references; see :func:`as_images`.

    Raises:
        ValueError: As :func:`as_images`, or the shapes differ.
    """
    output, target = as_images(output, "output", channels), as_images(target, "target", channels)
    if output.shape != target.shape:
        raise ValueError(
            f"output and target must have the same shape, got {tuple(output.shape)} and "
            f"{tuple(target.shape)}; metrics never resize."
        )
    return output, target


def rec601_luma(images: Tensor) -> Tensor:
    """Grey value of display-encoded pixels, ``(B, 1 or 3, H, W) -> (B, H, W)`` (BT.601 weights)."""
    if images.shape[1] == 1:
        return images[:, 0]
    weights = images.new_tensor(REC601)
    with full_precision(images.device):
        return torch.einsum("bchw,c->bhw", images, weights)
