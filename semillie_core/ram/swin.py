"""RAM's Swin Transformer image encoder (arXiv 2103.14030), with the released checkpoints' module names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import RAMConfig

_MASKED = -100.0


@lru_cache(maxsize=64)
def _window_order(resolution: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token order of the (cyclically shifted) windows, and the inverse order back to raster."""
    # Cached tensors may be saved for a later backward pass, which inference tensors cannot.
    with torch.inference_mode(False), torch.device(device):
        tokens = torch.arange(resolution * resolution).view(resolution, resolution)
        tokens = tokens.roll((-shift, -shift), (0, 1))
        cells = resolution // window
        order = tokens.view(cells, window, cells, window).permute(0, 2, 1, 3).reshape(-1)
        return order, order.argsort()


@lru_cache(maxsize=32)
def _shift_mask(resolution: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, 1, N, N) additive mask keeping tokens from attending across the wrapped image border."""
    with torch.inference_mode(False), torch.device(device):
        band = torch.zeros(resolution, dtype=torch.long)
        band[resolution - window :] = 1
        band[resolution - shift :] = 2
        region = band[:, None] * 3 + band[None, :]
        cells = resolution // window
        region = region.view(cells, window, cells, window).permute(0, 2, 1, 3).reshape(cells * cells, 1, -1)
        return torch.where(region[..., :, None] == region[..., None, :], 0.0, _MASKED)


@lru_cache(maxsize=16)
def _relative_index(window: int, device: torch.device) -> Tensor:
    """(N * N,) rows of the relative position bias table for each (query, key) pair of a window."""
    with torch.inference_mode(False), torch.device(device):
        axis = torch.arange(window)
        row, column = (grid.reshape(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
        d_row = row[:, None] - row[None, :] + window - 1
        d_column = column[:, None] - column[None, :] + window - 1
        return (d_row * (2 * window - 1) + d_column).reshape(-1)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with a learned relative position bias."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            x: ``(B, windows, N, C)`` tokens.
            mask: ``(windows, 1, N, N)`` added to the scores, or ``None``.

        Returns:
            ``(B, windows, N, C)``.
        """
        batch, windows, length, _ = x.shape
        index = _relative_index(self.window, x.device)
        bias = self.relative_position_bias_table[index].view(length, length, self.heads).permute(2, 0, 1)
        bias = bias.unsqueeze(0) if mask is None else bias + mask.to(bias.dtype)
        q, k, v = self.qkv(x).view(batch, windows, length, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        shape = (batch, windows * self.heads, length, -1)
        bias = bias.expand(windows, -1, -1, -1).reshape(1, *shape[1:])
        out = F.scaled_dot_product_attention(
            q.reshape(shape), k.reshape(shape), v.reshape(shape), attn_mask=bias
        )
        out = out.view(batch, windows, self.heads, length, -1).transpose(2, 3).reshape(x.shape)
        mixed: Tensor = self.proj(out)
        return mixed


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, both residual."""

    def __init__(
        self, dim: int, resolution: int, heads: int, window: int, shifted: bool, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.window = min(window, resolution)
        self.shift = window // 2 if shifted and resolution > window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, self.window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, resolution^2, dim)`` raster-ordered tokens to the same."""
        batch, length, dim = x.shape
        order, inverse = _window_order(self.resolution, self.window, self.shift, x.device)
        mask = _shift_mask(self.resolution, self.window, self.shift, x.device) if self.shift else None
        y = self.norm1(x).index_select(1, order).view(batch, -1, self.window**2, dim)
        y = self.attn(y, mask).view(batch, length, dim).index_select(1, inverse)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    """Joins 2 x 2 tokens into one of twice the width."""

    def __init__(self, dim: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, resolution^2, dim)`` to ``(B, (resolution / 2)^2, 2 dim)``."""
        batch, _, dim = x.shape
        half = self.resolution // 2
        # Channel order of the checkpoints: column parity outside, row parity inside.
        x = (
            x.view(batch, half, 2, half, 2, dim)
            .permute(0, 1, 3, 4, 2, 5)
            .reshape(batch, half * half, 4 * dim)
        )
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class PatchEmbed(nn.Module):
    """Non-overlapping patches to normalised tokens."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, H W / patch^2, dim)``."""
        tokens: Tensor = self.norm(self.proj(image).flatten(2).transpose(1, 2))
        return tokens


class SwinStage(nn.Module):
    """Blocks at one resolution, then patch merging except after the last stage."""

    blocks: nn.ModuleList
    downsample: PatchMerging | None

    def __init__(self, config: RAMConfig, stage: int) -> None:
        super().__init__()
        dim, resolution = config.stage_width(stage), config.stage_resolution(stage)
        self.blocks = nn.ModuleList(
            SwinBlock(
                dim, resolution, config.num_heads[stage], config.window_size, bool(i % 2), config.mlp_ratio
            )
            for i in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(dim, resolution)


class SwinEncoder(nn.Module):
    """Swin Transformer returning the normalised tokens of the last stage, preceded by their mean.

    Attributes:
        checkpointing: Recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: RAMConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.patch_embed = PatchEmbed(config.patch_size, config.embed_dim)
        self.layers = nn.ModuleList(SwinStage(config, stage) for stage in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.vision_dim)

    def stages(self, image: Tensor) -> Iterator[Tensor]:
        """Yield each stage's tokens after its last block, before patch merging, un-normalised.

        A stage is computed when it is asked for, so a caller needing only the fine ones stops early.

        Args:
            image: ``(B, 3, image_size, image_size)``, ImageNet-normalised.

        Yields:
            ``(B, resolution^2, width)`` raster-ordered tokens, fine to coarse.

        Raises:
            ValueError: The image has another size.
        """
        size = self.config.image_size
        if image.dim() != 4 or image.shape[1:] != (3, size, size):
            raise ValueError(f"The encoder takes (B, 3, {size}, {size}) images, got {tuple(image.shape)}.")
        x = self.patch_embed(image)
        for stage in cast("Iterable[SwinStage]", self.layers):
            for block in stage.blocks:
                x = run_block(block, x, checkpointing=self.checkpointing)
            yield x
            if stage.downsample is not None:
                x = run_block(stage.downsample, x, checkpointing=self.checkpointing)

    def head(self, tokens: Tensor) -> Tensor:
        """Final norm; the mean token is put first: ``(B, N, C)`` to ``(B, 1 + N, C)``."""
        tokens = self.norm(tokens)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, image_size, image_size)`` to ``(B, 1 + N, vision_dim)``; token 0 is the others' mean."""
        for tokens in self.stages(image):
            last = tokens
        return self.head(last)


def run_block(block: nn.Module, *inputs: Tensor, checkpointing: bool) -> Tensor:
    """Run a block, keeping only its inputs for the backward pass when ``checkpointing``."""
    if checkpointing and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        return recomputed
    out: Tensor = block(*inputs)
    return out
