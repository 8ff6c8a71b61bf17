"""From photos to what an encoder sees: checks, channels, resizing, normalisation; all differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_rgb(image: Tensor) -> Tensor:
    """Check an image batch and bring it to three float32 channels.

    Grey is repeated, alpha is dropped (as PIL's ``convert("RGB")`` does).

    Args:
        image: ``(B, C, H, W)``, floating point, nominally [0, 1], C in {1, 3, 4}. Values somewhat outside (an
            unclamped network output) are kept.

    Returns:
        ``(B, 3, H, W)`` float32.

    Raises:
        ValueError: Wrong shape, an empty batch, an integer dtype, values that are not finite, or a range that
            is clearly not [0, 1].
    """
    if image.dim() != 4 or image.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"An image batch is (B, C, H, W) with 1, 3 or 4 channels, got {tuple(image.shape)}. ComfyUI "
            "images are (B, H, W, C): use image.movedim(-1, 1)."
        )
    if not image.is_floating_point():
        raise ValueError(
            f"An image is floating point in [0, 1], got {image.dtype}. Divide 8-bit values by 255."
        )
    if 0 in image.shape:
        raise ValueError(f"The image batch is empty: {tuple(image.shape)}.")
    image = image[:, :3].float()
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError("The image contains NaN or infinite values; repair it first (torch.nan_to_num).")
    if low < -1 or high > 4:
        raise ValueError(
            f"Image values span {low:g} to {high:g}; [0, 1] is expected. Divide 8-bit values by 255."
        )
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image


def resize_like_pil(image: Tensor, size: int) -> Tensor:
    """Resize to a square as PIL's bilinear filter does, within 1/255 of its 8-bit result.

    Args:
        image: ``(B, C, H, W)`` float32 in [0, 1], any H and W; the aspect ratio is not kept.
        size: Edge of the result, pixels.

    Returns:
        ``(B, C, size, size)``.
    """
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(image - mean) / std`` per channel of a ``(B, C, H, W)`` batch."""
    shape = (1, -1, 1, 1)
    return (image - image.new_tensor(mean).view(shape)) / image.new_tensor(std).view(shape)
