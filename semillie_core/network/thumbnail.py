"""Illumination of a whole photo from its thumbnail."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BlockSequence, PointwiseConv, convolve, to_image, to_tokens
from .config import SemiLLIEConfig

INITIAL_LOG_GAIN = 1.0
"""Where training starts: everything brightened about e-fold."""


class FrameIllumination(NamedTuple):
    """Illumination of one photo at thumbnail resolution."""

    log_gain: Tensor
    """Logarithm of the brightening exponent per colour channel, ``(B, 3, h, w)``."""
    features: Tensor
    """What else the body is told about the frame, ``(B, C, h, w)``."""


class ThumbnailEstimator(nn.Module):
    """Estimate a photo's illumination from a thumbnail with state-space blocks.

    ``(B, 3, H, W)`` in [0, 1] to a :class:`FrameIllumination` whose long side is ``config.thumbnail`` pixels (less for
    photos smaller than that). The gain has a part that is the same everywhere, from the average features, and a local
    part.
    """

    def __init__(self, config: SemiLLIEConfig) -> None:
        super().__init__()
        C = config.embed_dim
        self.long_side = config.thumbnail
        self.conv1 = PointwiseConv(7, C)
        self.depth_conv = nn.Conv2d(C, C, 5, padding=2, groups=4)
        self.body = BlockSequence(config, [0.0] * config.thumbnail_depth)
        self.norm = nn.LayerNorm(C, eps=1e-5)
        self.local_gain = PointwiseConv(C, 3)
        self.global_gain = nn.Linear(C, 3)
        nn.init.zeros_(self.local_gain.weight)
        nn.init.zeros_(self.local_gain.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.global_gain.weight)
        nn.init.constant_(self.global_gain.bias, INITIAL_LOG_GAIN)

    def forward(self, frame: Tensor) -> FrameIllumination:
        return self.from_thumbnail(make_thumbnail(frame, self.long_side))

    def from_thumbnail(self, thumbnail: Tensor) -> FrameIllumination:
        """Estimate from what :func:`make_thumbnail` made of the frame, ``(B, 3, h, w)``."""
        # Dark photos differ in their lowest code values, which the square root spreads out.
        spread = thumbnail.clamp(min=0).add(1e-4).sqrt()
        seen = to_tokens(torch.cat([thumbnail, thumbnail.mean(1, keepdim=True), spread], dim=1))
        tokens = self.norm(self.body(convolve(self.depth_conv, self.conv1(seen))))
        log_gain = self.local_gain(tokens) + self.global_gain(tokens.mean((1, 2), keepdim=True))
        return FrameIllumination(to_image(log_gain), to_image(tokens))


def make_thumbnail(frame: Tensor, long_side: int) -> Tensor:
    """Shrink ``(B, C, H, W)`` so that its long side is at most ``long_side``, averaging over areas."""
    height, width = frame.shape[2:]
    scale = long_side / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(frame, size, mode="area")


def full_frame(image: Tensor) -> Tensor:
    """The region that is the whole frame, ``(B, 4)``."""
    return image.new_tensor([[0.0, 0.0, 1.0, 1.0]]).expand(image.shape[0], 4)


def sample_region(grid: Tensor, region: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Read a region of a frame's low-resolution map at the centres of its pixels, bilinearly.

    Args:
        grid: ``(B, C, h, w)`` covering the frame.
        region: ``(B, 4)`` as top, left, height, width in fractions of the frame.
        size: Pixels of the region, ``(H, W)``.
        stride: Edge of square cells of pixels; a cell is read once, at its centre. The last ones may reach beyond the
            region.

    Returns:
        ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    # Half precision cannot tell the pixels of a photo apart by their coordinates.
    dtype = torch.promote_types(grid.dtype, torch.float32)

    def centres(start: Tensor, extent: Tensor, pixels: int) -> Tensor:
        cells = torch.arange((pixels + stride - 1) // stride, device=grid.device, dtype=dtype)
        steps = (cells + 0.5) * stride / pixels
        return 2 * (start[:, None] + extent[:, None] * steps) - 1

    region = region.to(dtype)
    rows = centres(region[:, 0], region[:, 2], size[0])
    columns = centres(region[:, 1], region[:, 3], size[1])
    shape = (grid.shape[0], rows.shape[1], columns.shape[1])
    points = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    sampled = F.grid_sample(
        grid.to(dtype), points, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.to(grid.dtype)


def brighten(image: Tensor, log_gain: Tensor) -> Tensor:
    """Brighten along ``1 - (1 - x)^g`` with ``g = exp(log_gain)``.

    Shadows are multiplied by ``g``, white stays white, and ``g = 1`` changes nothing.

    Args:
        image: Values in [0, 1]; values outside are treated as the nearest bound.
        log_gain: Same shape.
    """
    # The upper bound keeps the derivative with respect to g finite at pure white.
    return -torch.expm1(torch.exp(log_gain) * torch.log1p(-image.clamp(0.0, 1 - 2**-10)))
