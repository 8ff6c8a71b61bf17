"""RAM and RAM++ written plainly: the baseline of ``benchmarks/ram.py`` and a second opinion in the tests.

Everything is a separate tensor operation on the state dict: rolled feature maps, explicit windows, explicit softmax,
and in RAM++ the weighted copy of every description (479 MB per image at full size).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from semillie_core.ram import RAMConfig

State = Mapping[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """The linear layer ``name``."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """The layer norm ``name``."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def windows(x: Tensor, window: int) -> Tensor:
    """``(B, H, W, C)`` to ``(B * windows, window^2, C)``."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, dim)


def unwindows(x: Tensor, window: int, resolution: int) -> Tensor:
    """Inverse of :func:`windows`."""
    cells = resolution // window
    x = x.view(-1, cells, cells, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, resolution, resolution, x.shape[-1])


def relative_bias(state: State, name: str, window: int) -> Tensor:
    """``(heads, window^2, window^2)`` from the table of block ``name``."""
    axis = torch.arange(window)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1).T
    delta = points[:, None] - points[None] + window - 1
    index = delta[..., 0] * (2 * window - 1) + delta[..., 1]
    return state[f"{name}.attn.relative_position_bias_table"][index].permute(2, 0, 1)


def block(state: State, name: str, x: Tensor, resolution: int, heads: int, window: int, shift: int) -> Tensor:
    """One Swin block."""
    batch, length, dim = x.shape
    y = norm(state, f"{name}.norm1", x).view(batch, resolution, resolution, dim)
    if shift:
        y = y.roll((-shift, -shift), (1, 2))
    y = windows(y, window)
    q, k, v = (
        linear(state, f"{name}.attn.qkv", y).view(len(y), window**2, 3, heads, -1).permute(2, 0, 3, 1, 4)
    )
    scores = (q * (dim // heads) ** -0.5) @ k.transpose(-1, -2) + relative_bias(state, name, window)
    if shift:
        labels = torch.zeros(1, resolution, resolution, 1)
        cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for i, rows in enumerate(cuts):
            for j, columns in enumerate(cuts):
                labels[:, rows, columns] = 3 * i + j
        labels = windows(labels, window).squeeze(-1)
        mask = (labels[:, None, :] != labels[:, :, None]).to(x) * -100
        scores = (scores.view(batch, -1, *scores.shape[1:]) + mask[:, None]).view(scores.shape)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(len(y), window**2, dim)
    y = unwindows(linear(state, f"{name}.attn.proj", y), window, resolution)
    if shift:
        y = y.roll((shift, shift), (1, 2))
    x = x + y.view(batch, length, dim)
    hidden = F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x)))
    return x + linear(state, f"{name}.mlp.fc2", hidden)


def image_embeds(state: State, config: RAMConfig, image: Tensor) -> Tensor:
    """Normalised image to projected tokens."""
    patch = "visual_encoder.patch_embed"
    x = F.conv2d(image, state[f"{patch}.proj.weight"], state[f"{patch}.proj.bias"], stride=config.patch_size)
    x = norm(state, f"{patch}.norm", x.flatten(2).transpose(1, 2))
    for stage, depth in enumerate(config.depths):
        resolution = config.image_size // config.patch_size // 2**stage
        window = min(config.window_size, resolution)
        for i in range(depth):
            shift = window // 2 if i % 2 and resolution > config.window_size else 0
            name = f"visual_encoder.layers.{stage}.blocks.{i}"
            x = block(state, name, x, resolution, config.num_heads[stage], window, shift)
        if stage < len(config.depths) - 1:
            grid = x.view(len(x), resolution, resolution, -1)
            corners = [grid[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            merged = torch.cat(corners, -1).flatten(1, 2)
            name = f"visual_encoder.layers.{stage}.downsample"
            x = linear(state, f"{name}.reduction", norm(state, f"{name}.norm", merged))
    x = norm(state, "visual_encoder.norm", x)
    return linear(state, "image_proj", torch.cat([x.mean(1, keepdim=True), x], 1))


def tag_logits(state: State, config: RAMConfig, embeds: Tensor) -> Tensor:
    """Projected tokens to logits."""
    labels, batch = state["label_embed"], len(embeds)
    if config.variant == "ram_plus":
        anchor = embeds[:, 0] / embeds[:, 0].norm(dim=-1, keepdim=True)
        scores = (state["reweight_scale"].exp() * anchor @ labels.T).view(batch, config.num_tags, -1)
        descriptions = labels.view(1, config.num_tags, config.descriptions_per_tag, -1)
        labels = (scores.softmax(-1).unsqueeze(-1) * descriptions).sum(2)
    queries = F.relu(linear(state, "wordvec_proj", labels)).expand(batch, -1, -1)

    def heads(x: Tensor) -> Tensor:
        return x.view(batch, x.shape[1], config.decoder_heads, -1).transpose(1, 2)

    for i in range(config.decoder_layers):
        layer = f"tagging_head.encoder.layer.{i}"
        attention = f"{layer}.crossattention"
        q, k, v = (
            heads(linear(state, f"{attention}.self.{name}", x))
            for name, x in (("query", queries), ("key", embeds), ("value", embeds))
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = linear(state, f"{attention}.output.dense", (weights @ v).transpose(1, 2).flatten(2))
        queries = norm(state, f"{attention}.output.LayerNorm", mixed + queries, 1e-12)
        hidden = F.gelu(linear(state, f"{layer}.intermediate.dense", queries))
        refined = linear(state, f"{layer}.output.dense", hidden)
        queries = norm(state, f"{layer}.output.LayerNorm", refined + queries, 1e-12)
    return linear(state, "fc", queries).squeeze(-1)
