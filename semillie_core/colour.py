"""The sRGB transfer curve, shared by every room that works in linear light (IEC 61966-2-1)."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(image: Tensor) -> Tensor:
    """Undo the sRGB transfer curve; any shape, values in [0, 1]."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Apply the sRGB transfer curve; any shape, values in [0, 1]."""
    return torch.where(
        image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    )
