"""Recognize Anything: RAM and RAM++ as one module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import RAMConfig
from .swin import SwinEncoder, run_block

_LAYER_NORM_EPS = 1e-12
_TAGS_AT_ONCE = 1152
INITIAL_REWEIGHT_SCALE = math.log(1 / 0.07)
"""RAM++'s logit scale before training; stands in where a checkpoint lacks it, as in the official loader."""


class _SelfNames(nn.Module):
    """Holds the query, key and value projections under the checkpoint's name ``self``."""

    def __init__(self, dim: int, image_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(image_dim, dim)
        self.value = nn.Linear(image_dim, dim)


class _DenseNorm(nn.Module):
    """Linear, residual, LayerNorm (post-norm)."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim_in, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(x) + residual)
        return normed


class _CrossAttention(nn.Module):
    def __init__(self, dim: int, image_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = _SelfNames(dim, image_dim)
        self.output = _DenseNorm(dim, dim)

    def keys_values(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.self.key(image_tokens)), self._split(self.self.value(image_tokens))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # Queries shared by the whole batch (batch size 1 here) are projected once and only then expanded.
        q = self._split(self.self.query(queries)).expand(keys.shape[0], -1, -1, -1)
        attended = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(2)
        mixed: Tensor = self.output(attended, queries)
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Intermediate(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class _DecoderLayer(nn.Module):
    def __init__(self, config: RAMConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.crossattention = _CrossAttention(dim, config.projection_dim, config.decoder_heads)
        self.intermediate = _Intermediate(dim, config.decoder_mlp_dim)
        self.output = _DenseNorm(config.decoder_mlp_dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        x = self.crossattention(queries, keys, values)
        refined: Tensor = self.output(self.intermediate(x), x)
        return refined


class _DecoderLayers(nn.Module):
    def __init__(self, config: RAMConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_DecoderLayer(config) for _ in range(config.decoder_layers))


class TaggingHead(nn.Module):
    """Query decoder: one query per tag attends to the image tokens; there is no self-attention.

    Attributes:
        checkpointing: Recompute every layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: RAMConfig) -> None:
        super().__init__()
        self.checkpointing = False
        self.encoder = _DecoderLayers(config)

    def forward(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Decode.

        Args:
            queries: ``(B, tags, decoder_dim)``, or ``(1, tags, decoder_dim)`` shared by the batch.
            image_tokens: ``(B, N, projection_dim)``.

        Returns:
            ``(B, tags, decoder_dim)``.
        """
        layers = cast("Iterable[_DecoderLayer]", self.encoder.layer)
        memories = [(layer, *layer.crossattention.keys_values(image_tokens)) for layer in layers]
        # Tags do not see each other: a part at a time keeps the hidden layer small where nothing is kept anyway.
        parts = (queries,) if torch.is_grad_enabled() else torch.split(queries, _TAGS_AT_ONCE, 1)
        decoded = []
        for part in parts:
            for layer, keys, values in memories:
                part = run_block(layer, part, keys, values, checkpointing=self.checkpointing)
            decoded.append(part)
        return torch.cat(decoded, 1)


class RAM(nn.Module):
    """RAM (arXiv 2306.03514) or RAM++ (arXiv 2310.15200), the part that tags images.

    Parameter names are those of the released checkpoints, restricted to the tensors tagging needs; load a
    released file with :func:`~semillie_core.ram.load_ram`, which picks them out.

    Args:
        config: Sizes and variant.

    Attributes:
        visual_encoder: Image to ``(B, 1 + N, vision_dim)`` tokens.
        image_proj: Tokens to ``(B, 1 + N, projection_dim)``; token 0 describes the whole image.
        label_embed: Text embeddings, ``(num_tags * descriptions_per_tag, projection_dim)``, tag-major.
        tagging_head: The decoder.
    """

    def __init__(self, config: RAMConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.num_tags * config.descriptions_per_tag
        self.label_embed = nn.Parameter(torch.zeros(rows, config.projection_dim))
        if config.variant == "ram_plus":
            self.reweight_scale = nn.Parameter(torch.tensor(INITIAL_REWEIGHT_SCALE))
        self.visual_encoder = SwinEncoder(config)
        self.image_proj = nn.Linear(config.vision_dim, config.projection_dim)
        self.wordvec_proj = nn.Linear(config.projection_dim, config.decoder_dim)
        self.tagging_head = TaggingHead(config)
        self.fc = nn.Linear(config.decoder_dim, 1)

    @property
    def checkpointing(self) -> bool:
        """Keep only block inputs for the backward pass and recompute the rest there.

        Gradients stay equal; memory falls several times, time grows by about one forward pass.
        """
        return self.visual_encoder.checkpointing

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        self.visual_encoder.checkpointing = self.tagging_head.checkpointing = on

    def image_embeds(self, image: Tensor) -> Tensor:
        """Projected image tokens.

        Args:
            image: ``(B, 3, image_size, image_size)``, ImageNet-normalised.

        Returns:
            ``(B, 1 + N, projection_dim)``; token 0 is the global one.
        """
        embeds: Tensor = self.image_proj(self.visual_encoder(image))
        return embeds

    def queries(self, image_embeds: Tensor) -> Tensor:
        """Tag queries before the decoder.

        RAM++ weighs each tag's descriptions by their similarity to the image (RAM++ §3.3); RAM's queries do
        not depend on the image.

        Args:
            image_embeds: ``(B, 1 + N, projection_dim)``.

        Returns:
            ``(B, num_tags, decoder_dim)`` for RAM++, ``(1, num_tags, decoder_dim)`` for RAM.
        """
        config = self.config
        if config.variant == "ram":
            return F.relu(self.wordvec_proj(self.label_embed)).unsqueeze(0)
        anchor = F.normalize(image_embeds[:, 0], dim=-1)
        descriptions = self.label_embed.view(config.num_tags, config.descriptions_per_tag, -1)
        scores = self.reweight_scale.exp() * F.linear(anchor, self.label_embed)
        weights = scores.view(-1, config.num_tags, config.descriptions_per_tag).softmax(-1)
        # As one small matrix product per tag; weighting a copy of every description would take 479 MB per
        # image.
        mixed = torch.bmm(weights.transpose(0, 1), descriptions).transpose(0, 1)
        return F.relu(self.wordvec_proj(mixed))

    def tag_logits(self, image_embeds: Tensor) -> Tensor:
        """Tag scores before the sigmoid: ``(B, 1 + N, projection_dim)`` to ``(B, num_tags)``."""
        decoded = self.tagging_head(self.queries(image_embeds), image_embeds)
        logits: Tensor = self.fc(decoded).squeeze(-1)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, image_size, image_size)``, ImageNet-normalised, to ``(B, num_tags)`` logits."""
        return self.tag_logits(self.image_embeds(image))
