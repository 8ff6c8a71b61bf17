"""Losses in the feature space of a semantic encoder (RAM, RAM++ or EfficientNet-Lite0).

Semi-LLIE (arXiv 2409.16604) pulls the student's output towards the teacher's and away from the dark input
(contrastive), and compares textures (perceptual), both with RAM features. Its released code runs the
student's features without gradients, so there both terms train nothing; here the gradient reaches the
student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ram.encoders import SemanticEncoder, SemanticFeatures

_OFFICIAL_EPS = 1e-7


def encode_references(
    encoder: SemanticEncoder, *images: Tensor, maps: bool = True, embedding: bool = True, logits: bool = False
) -> list[SemanticFeatures]:
    """Features of images that need no gradient (teacher output, dark input), for use in several losses.

    Args:
        encoder: The frozen encoder.
        *images: ``(B, C, H, W)`` in [0, 1].
        maps: Compute feature maps (perceptual loss).
        embedding: Compute embedding and tokens (contrastive loss).
        logits: Compute class scores (contrastive loss with scores, as released).

    Returns:
        One set of features per image batch.
    """
    # Not inference_mode: autograd could not use such tensors in the losses' backward pass.
    with torch.no_grad():
        return [encoder.encode(image, maps=maps, embedding=embedding, logits=logits) for image in images]


def semantic_contrastive_loss(
    anchor: SemanticFeatures,
    positive: SemanticFeatures,
    negative: SemanticFeatures,
    *,
    form: Literal["bounded", "ratio", "attract"] = "bounded",
) -> Tensor:
    """Distance to the positive relative to the distance to the negative, summed over the kinds of features.

    Compared are RAM's tokens, or the maps and the embedding of an encoder without tokens (averaged), plus the
    logits where all three have them. With mean absolute distances ``d_p`` and ``d_n``:

    * ``"ratio"``: ``d_p / (d_n + 1e-7)``, as released. Explodes when the anchor equals the negative, which is
    where
      a residual network starts.
    * ``"attract"``: ``d_p``, the released ablation.
    * ``"bounded"``: ``d_p / (d_p + d_n + 1e-7)``, between 0 and 1 with the same minimum.

    Args:
        anchor: Features of the student's output, with gradient.
        positive: Features of the teacher's output.
        negative: Features of the dark input.
        form: See above.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: The features have nothing in common to compare, or ``form`` is unknown.
    """
    if form not in ("bounded", "ratio", "attract"):
        raise ValueError(f"form must be bounded, ratio or attract, got {form!r}.")
    terms = []
    for parts in (_content(anchor, positive, negative), _logits(anchor, positive, negative)):
        pairs = [(_distance(a, p), _distance(a, n)) for a, p, n in parts]
        if pairs:
            terms.append(torch.stack([_contrast(d_p, d_n, form) for d_p, d_n in pairs]).mean())
    if not terms:
        raise ValueError(
            "Nothing to contrast: encode with embedding=True (tokens, embedding) or logits=True."
        )
    return torch.stack(terms).sum()


def semantic_perceptual_loss(
    output: SemanticFeatures, target: SemanticFeatures, *, relative: bool = False
) -> Tensor:
    """Mean squared difference of the feature maps, averaged over the scales.

    Args:
        output: Features of the student's output, with gradient.
        target: Features of its target.
        relative: Divide every scale by the mean square of its target, so that all count alike whatever their
            range (for EfficientNet-Lite0). The released loss does not.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: The features have no maps, or different numbers of them.
    """
    if not output.maps or len(output.maps) != len(target.maps):
        raise ValueError(
            f"Both sets of features need the same maps, got {len(output.maps)} and {len(target.maps)}: "
            "encode with maps=True."
        )
    losses = []
    for x, y in zip(output.maps, target.maps, strict=True):
        loss = F.mse_loss(x.float(), y.float())
        losses.append(loss / y.float().square().mean().clamp_min(_OFFICIAL_EPS) if relative else loss)
    return torch.stack(losses).mean()


def _contrast(d_p: Tensor, d_n: Tensor, form: str) -> Tensor:
    if form == "attract":
        return d_p
    return d_p / (d_n + _OFFICIAL_EPS + (d_p if form == "bounded" else 0))


def _content(*features: SemanticFeatures) -> list[tuple[Tensor, ...]]:
    tokens = [feature.tokens for feature in features if feature.tokens is not None]
    if len(tokens) == len(features):
        return [tuple(tokens)]
    embeddings = [feature.embedding for feature in features if feature.embedding is not None]
    columns: Sequence[tuple[Tensor, ...]] = list(zip(*(feature.maps for feature in features), strict=True))
    return [*columns, tuple(embeddings)] if len(embeddings) == len(features) else list(columns)


def _logits(*features: SemanticFeatures) -> list[tuple[Tensor, ...]]:
    logits = [feature.logits for feature in features if feature.logits is not None]
    return [tuple(logits)] if len(logits) == len(features) else []


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return F.l1_loss(x.float(), y.float())
