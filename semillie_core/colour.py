"""sRGB: its transfer curve (IEC 61966-2-1), and what red, green and blue give to brightness."""

from __future__ import annotations

import torch
from torch import Tensor

REC601 = (0.299, 0.587, 0.114)
"""Weights of R', G', B' in luma (ITU-R BT.601): what metrics go by, because published figures do."""

REC709 = (0.2126, 0.7152, 0.0722)
"""Weights of R', G', B' in luma and of linear R, G, B in relative luminance (ITU-R BT.709, the sRGB primaries)."""


def srgb_to_linear(image: Tensor) -> Tensor:
    """Undo the sRGB transfer curve; any shape, values in [0, 1]."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Apply the sRGB transfer curve; any shape, values in [0, 1]."""
    return torch.where(
        image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    )


def luma(image: Tensor) -> Tensor:
    """Rec. 709 luma of ``(B, 3, H, W)``, ``(B, 1, H, W)``."""
    return (image * image.new_tensor(REC709).view(1, 3, 1, 1)).sum(1, keepdim=True)
