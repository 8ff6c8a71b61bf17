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
from torch import Tensor, nn

from ..precision import at_least_float32
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

    The forms ``"ratio"`` and ``"attract"`` compare whole batches, as released; ``"bounded"`` compares every sample
    with its own negative and averages, so that a batch may be shared out over processes.

    Compared are RAM's tokens, or the maps and the embedding of an encoder without tokens (averaged), plus the
    logits where all three have them. With mean absolute distances ``d_p`` and ``d_n``:

    * ``"ratio"``: ``d_p / (d_n + 1e-7)``, as released. Explodes when the anchor equals the negative, which is where
      a residual network starts.
    * ``"attract"``: ``d_p``, the released ablation.
    * ``"bounded"``: ``d_p / (d_p + d_n + 1e-7)``, between 0 and 1 with the same minimum.

    Args:
        anchor: Features of the student's output, with gradient.
        positive: Features of the teacher's output.
        negative: Features of the dark input.
        form: See above.

    Returns:
        A scalar of at least float32.

    Raises:
        ValueError: The features have nothing in common to compare, or ``form`` is unknown.
    """
    if form not in ("bounded", "ratio", "attract"):
        raise ValueError(f"form must be bounded, ratio or attract, got {form!r}.")
    terms = []
    for parts in (_content(anchor, positive, negative), _logits(anchor, positive, negative)):
        by_sample = form == "bounded"
        pairs = [(_distance(a, p, by_sample), _distance(a, n, by_sample)) for a, p, n in parts]
        if pairs:
            terms.append(torch.stack([_contrast(d_p, d_n, form).mean() for d_p, d_n in pairs]).mean())
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
        relative: Divide every sample's distance on every scale by the mean square of its target, so that all count
            alike whatever their range (for EfficientNet-Lite0). The released loss does not.

    Returns:
        A scalar of at least float32.

    Raises:
        ValueError: The features have no maps, or different numbers of them.
    """
    if not output.maps or len(output.maps) != len(target.maps):
        raise ValueError(
            f"Both sets of features need the same maps, got {len(output.maps)} and {len(target.maps)}: "
            "encode with maps=True."
        )
    losses = []
    for x, y in zip(map(at_least_float32, output.maps), map(at_least_float32, target.maps), strict=True):
        if relative:
            error, size = ((x - y).square(), y.square())
            ratio = error.flatten(1).mean(1) / size.flatten(1).mean(1).clamp_min(_OFFICIAL_EPS)
            losses.append(ratio.mean())
        else:
            losses.append(F.mse_loss(x, y))
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


def _distance(x: Tensor, y: Tensor, by_sample: bool) -> Tensor:
    distance = (at_least_float32(x) - at_least_float32(y)).abs()
    return distance.flatten(1).mean(1) if by_sample else distance.mean()


def _within_limits(image: Tensor) -> Tensor:
    """A network's unclamped output as encoders accept it; only untrained networks go so far."""
    return image.clamp(-1.0, 4.0)


class SemanticContrastiveLoss(nn.Module):
    """:func:`semantic_contrastive_loss` of images.

    Args:
        encoder: Frozen encoder.
        form: See there.
        logits: Contrast class scores, too.
    """

    def __init__(
        self,
        encoder: SemanticEncoder,
        form: Literal["bounded", "ratio", "attract"] = "bounded",
        logits: bool = False,
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)  # not registered: it does not learn
        self.form, self.logits = form, logits

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Gradient reaches ``anchor`` alone; images ``(B, 3, H, W)`` in [0, 1]."""
        (encoder,) = self._encoder
        kinds = {"maps": not encoder.is_ram, "logits": self.logits}
        features = encoder.encode(_within_limits(anchor), embedding=True, **kinds)
        near, far = encode_references(encoder, _within_limits(positive), negative, embedding=True, **kinds)
        return semantic_contrastive_loss(features, near, far, form=self.form)


class SemanticPerceptualLoss(nn.Module):
    """:func:`semantic_perceptual_loss` of images.

    Args:
        encoder: Frozen encoder.
        relative: See there.
    """

    def __init__(self, encoder: SemanticEncoder, *, relative: bool = True) -> None:
        super().__init__()
        self._encoder = (encoder,)  # not registered: it does not learn
        self.relative = relative

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Gradient reaches ``output`` alone; images ``(B, 3, H, W)`` in [0, 1]."""
        (encoder,) = self._encoder
        features = encoder.encode(_within_limits(output), maps=True, embedding=False)
        (reference,) = encode_references(encoder, target, maps=True, embedding=False)
        return semantic_perceptual_loss(features, reference, relative=self.relative)
