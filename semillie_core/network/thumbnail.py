"""Illumination of a whole photo from its thumbnail."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import full_precision
from .blocks import BlockSequence, PointwiseConv, convolve, to_image, to_tokens
from .config import SemiLLIEConfig

INITIAL_LOG_GAIN = 1.0
"""Where training starts: everything brightened about e-fold."""

_MARGIN = 4
"""Pixels of a thumbnail that its border is repeated by."""


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
        # The body's zero padding tints what lies near its border, so the border is moved out of the frame.
        thumbnail = F.pad(thumbnail, (_MARGIN,) * 4, mode="replicate")
        # Dark photos differ in their lowest code values, which the square root spreads out.
        spread = thumbnail.clamp(min=0).add(1e-4).sqrt()
        seen = to_tokens(torch.cat([thumbnail, thumbnail.mean(1, keepdim=True), spread], dim=1))
        tokens = self.norm(self.body(convolve(self.depth_conv, self.conv1(seen))))
        tokens = tokens[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        log_gain = self.local_gain(tokens) + self.global_gain(tokens.mean((1, 2), keepdim=True))
        return FrameIllumination(to_image(log_gain), to_image(tokens))


def make_thumbnail(frame: Tensor, long_side: int) -> Tensor:
    """Shrink ``(B, C, H, W)`` so that its long side is at most ``long_side``, averaging over areas."""
    height, width = frame.shape[2:]
    scale = long_side / max(height, width)
    if scale >= 1:
        return frame
    return average_areas(frame, (max(1, round(height * scale)), max(1, round(width * scale))))


# Matrix products instead of PyTorch's pooling and sampling, which Apple GPUs do not offer for all sizes and borders.


def average_areas(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Average over ``size`` areas of an image, as ``F.adaptive_avg_pool2d`` cuts it.

    Args:
        image: ``(B, C, H, W)``, finite.
        size: Rows and columns of the result, ``(h, w)``; where it is larger than the image, pixels are repeated.

    Returns:
        ``(B, C, h, w)`` in the image's dtype; computed in float32 at least.
    """
    dtype = torch.promote_types(image.dtype, torch.float32)
    down, across = (
        _area_weights(length, cells, dtype).to(image.device)
        for length, cells in zip(image.shape[2:], size, strict=True)
    )
    with full_precision(image.device):
        exact = image.to(dtype)
        if exact.is_contiguous(memory_format=torch.channels_last):
            # Whole rows, so that the image is not copied into another order.
            lines = down @ to_tokens(exact).flatten(2)
            shrunk = to_image(lines.reshape(*lines.shape[:2], image.shape[3], image.shape[1])) @ across.t()
        else:
            shrunk = down @ exact @ across.t()
    return shrunk.to(image.dtype)


def _area_weights(length: int, cells: int, dtype: torch.dtype) -> Tensor:
    """What each of ``length`` pixels gives to the average over each of some cells, ``(cells, length)`` on the CPU."""
    cell, pixel = torch.arange(cells)[:, None], torch.arange(length)
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    return ((pixel >= start) & (pixel < end)).to(dtype) / (end - start)


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

    def weights(start: Tensor, extent: Tensor, pixels: int, nodes: int) -> Tensor:
        """What each node of the map gives to each cell along one axis, ``(B, cells, nodes)``."""
        cells = torch.arange((pixels + stride - 1) // stride, device=grid.device, dtype=dtype)
        steps = (cells + 0.5) * stride / pixels
        centres = (start[:, None] + extent[:, None] * steps) * nodes - 0.5
        # Beyond the outermost nodes their value goes on.
        nearest = torch.arange(nodes, device=grid.device, dtype=dtype)
        return (1 - (centres.clamp(0, nodes - 1)[..., None] - nearest).abs()).clamp(min=0)

    region = region.to(dtype)
    batch, channels, height, width = grid.shape
    rows = weights(region[:, 0], region[:, 2], size[0], height)
    columns = weights(region[:, 1], region[:, 3], size[1], width)
    with full_precision(grid.device):
        lines = grid.to(dtype).flatten(1, 2) @ columns.transpose(1, 2)
        sampled = rows[:, None] @ lines.view(batch, channels, height, -1)
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
