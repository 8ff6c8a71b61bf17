"""Semantic encoders: one protocol for losses, tagging and the drift guard, two implementations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import EfficientNetLite0
from .model import RAM
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, as_rgb, normalise, resize_like_pil


@dataclass(frozen=True)
class SemanticFeatures:
    """What an encoder saw in a batch, in the network's dtype. Parts not asked for are empty or ``None``."""

    maps: tuple[Tensor, ...] = ()
    """Feature maps ``(B, C_i, H_i, W_i)``, fine to coarse."""
    tokens: Tensor | None = None
    """``(B, 1 + N, D)``, the embedding, then one vector per image region; RAM and RAM++ only."""
    embedding: Tensor | None = None
    """``(B, D)``, the whole image."""
    logits: Tensor | None = None
    """``(B, classes)`` before sigmoid or softmax."""


@runtime_checkable
class SemanticEncoder(Protocol):
    """A frozen network that turns photos into features with gradients flowing to the photos only."""

    name: str
    """What it is, for people."""
    is_ram: bool
    """Whether this is Recognize Anything."""

    def encode(
        self, image: Tensor, *, maps: bool = True, embedding: bool = True, logits: bool = False
    ) -> SemanticFeatures:
        """Compute the requested features; resizing and normalisation are the encoder's own business.

        Args:
            image: ``(B, C, H, W)`` in [0, 1], C in {1, 3, 4}.
            maps: Return multi-scale feature maps.
            embedding: Return the global embedding (and the tokens, where there are any).
            logits: Return class scores.

        Raises:
            ValueError: The image has a wrong shape, dtype or range, is empty, or is not finite.
        """
        ...

    def tagging_view(self, image: Tensor) -> Tensor:
        """What the model looks at for naming things: ``(B, 3, S, S)`` in [0, 1] of a fixed size S."""
        ...


class RAMEncoder(nn.Module):
    """RAM or RAM++ as a semantic encoder.

    Maps are the outputs of the last block of every Swin stage but the coarsest, un-normalised: the taps of
    Semi-LLIE's perceptual loss. The embedding is RAM's image token, distilled from CLIP in its training.

    Args:
        network: The model; its parameters are frozen here.
        official_compat: Feed the encoder as Semi-LLIE's released training code did: resized without
            antialiasing and not normalised, which RAM was not trained for. For reproducing that code only.
    """

    is_ram = True

    def __init__(self, network: RAM, *, official_compat: bool = False) -> None:
        super().__init__()
        self.network = network
        self.official_compat = official_compat
        self.name = network.config.display_name
        self.requires_grad_(False).eval()

    def tagging_view(self, image: Tensor) -> Tensor:
        """The whole picture squeezed to a square; see :class:`SemanticEncoder`."""
        image, size = as_rgb(image), self.network.config.image_size
        if self.official_compat:
            return F.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        return resize_like_pil(image, size)

    def encode(
        self, image: Tensor, *, maps: bool = True, embedding: bool = True, logits: bool = False
    ) -> SemanticFeatures:
        """See :class:`SemanticEncoder`. Maps alone stop before the last Swin stage."""
        view = self.tagging_view(image)
        if not self.official_compat:
            view = normalise(view, IMAGENET_MEAN, IMAGENET_STD)
        encoder, config = self.network.visual_encoder, self.network.config
        stages = encoder.stages(view.to(self.network.label_embed.dtype))
        taps = []
        for stage in range(len(config.depths) - 1):
            output = next(stages)
            if maps:
                edge = config.stage_resolution(stage)
                taps.append(output.transpose(1, 2).view(len(output), -1, edge, edge))
        tokens = scores = None
        if embedding or logits:
            tokens = self.network.image_proj(encoder.head(next(stages)))
            scores = self.network.tag_logits(tokens) if logits else None
        return SemanticFeatures(
            maps=tuple(taps),
            tokens=tokens if embedding else None,
            embedding=tokens[:, 0] if embedding and tokens is not None else None,
            logits=scores,
        )


class EfficientNetLite0Encoder(nn.Module):
    """EfficientNet-Lite0 as a semantic encoder: small, bundled, trained on ImageNet. Not RAM.

    Maps are taken at strides 8, 16 and 32 (40, 112 and 320 channels) of the picture at its own size; the
    embedding is the pooled 1280-vector.

    Args:
        network: The model; its parameters are frozen here.
    """

    name = "EfficientNet-Lite0 (ImageNet, not RAM)"
    is_ram = False
    _TAPS = (2, 4, 6)
    _SIZE, _CROP = 224, 0.875

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False).eval()

    def tagging_view(self, image: Tensor) -> Tensor:
        """The central square, 7/8 of the short side, resized bicubically to 224 pixels."""
        image = as_rgb(image)
        height, width = image.shape[-2:]
        edge = max(1, round(self._CROP * min(height, width)))
        top, left = (height - edge) // 2, (width - edge) // 2
        square = image[..., top : top + edge, left : left + edge]
        if edge == self._SIZE:
            return square
        resized = F.interpolate(
            square, (self._SIZE,) * 2, mode="bicubic", align_corners=False, antialias=True
        )
        return resized.clamp(0, 1)

    def encode(
        self, image: Tensor, *, maps: bool = True, embedding: bool = True, logits: bool = False
    ) -> SemanticFeatures:
        """See :class:`SemanticEncoder`. Works at the picture's own size; memory and time grow with it."""
        view = normalise(as_rgb(image), (0.5,) * 3, (0.5,) * 3)
        stages = self.network.stage_outputs(view.to(self.network.classifier.weight.dtype))
        taps = [output for stage, output in enumerate(stages) if stage in self._TAPS]
        pooled = self.network.pool(taps[-1]) if embedding or logits else None
        return SemanticFeatures(
            maps=tuple(taps) if maps else (),
            embedding=pooled if embedding else None,
            logits=self.network.classifier(pooled) if logits else None,
        )
