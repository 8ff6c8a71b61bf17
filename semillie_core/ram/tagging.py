"""Naming what is in a picture, and what an enhancement did to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cancelling import called_inside
from ..out_of_memory import in_batches, is_out_of_memory
from .descriptor import SemanticModel
from .encoders import SemanticFeatures
from .vocabulary import Vocabulary

Progress = Callable[[int, int], None]
"""Called with (images done, images in total); may raise to interrupt."""
_Seen = tuple[Tensor, Tensor]

LOWEST_SHARE = 0.25
"""An offset lowers a threshold to this share of it at most. Nearly all of RAM's are about 0.65, those of classes that
exclude one another 0.1: an offset that helps the one would report every class of the other."""


@dataclass(frozen=True)
class TagOptions:
    """Which tags to report and how to write them down.

    Raises:
        ValueError: A value outside its range; the message names the field.
    """

    threshold_mode: Literal["per_tag", "flat"] = "per_tag"
    """``"per_tag"``: the vocabulary's own thresholds (RAM's authors set theirs); ``"flat"``: one for all."""
    threshold_offset: float = 0.0
    """Added to every per-tag threshold, -1 to 1; negative finds more tags, but no threshold falls below
    :data:`LOWEST_SHARE` of itself. Ten RAM tags have threshold 1.0, which means never, whatever the offset."""
    flat_threshold: float = 0.65
    """Probability a tag must exceed in flat mode, 0 to 1. RAM's paper uses 0.86, its demo mostly 0.65."""
    language: Literal["en", "zh", "both"] = "en"
    """Language of :attr:`TagResult.text`; ``"both"`` writes the English tags, then the Chinese ones."""
    exclude: str | tuple[str, ...] = ""
    """Tags never to report: patterns separated by commas or line breaks, English or Chinese; case does not
    matter, ``_`` equals a blank, ``*`` and ``?`` are wildcards."""
    include: str | tuple[str, ...] = ""
    """If given, only tags matching these patterns are reported."""
    max_tags: int = 0
    """Keep only the best-scoring tags; 0 keeps all."""
    sort: Literal["score", "list"] = "score"
    """Best score first, or the order of the tag list (as the official code)."""
    separator: str = ", "
    """Between tags; the official code uses ``" | "``."""
    underscores: bool = False
    """Write ``_`` for the blanks inside tags."""
    prefix: str = ""
    """Before the text, unless there are no tags."""
    suffix: str = ""
    """After the text, unless there are no tags."""

    def __post_init__(self) -> None:
        for name, known in (
            ("threshold_mode", ("per_tag", "flat")),
            ("language", ("en", "zh", "both")),
            ("sort", ("score", "list")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if not -1 <= self.threshold_offset <= 1:
            raise ValueError(f"threshold_offset must be between -1 and 1, got {self.threshold_offset}.")
        if not 0 <= self.flat_threshold <= 1:
            raise ValueError(f"flat_threshold must be between 0 and 1, got {self.flat_threshold}.")
        if self.max_tags < 0:
            raise ValueError(f"max_tags must be 0 (all) or positive, got {self.max_tags}.")

    def thresholds(self, vocabulary: Vocabulary) -> Tensor:
        """Probability each class must exceed, ``(classes,)`` float32."""
        if self.threshold_mode == "flat":
            return torch.full((len(vocabulary),), self.flat_threshold)
        official = torch.tensor(vocabulary.thresholds)
        shifted = torch.maximum(official + self.threshold_offset, LOWEST_SHARE * official).clamp(max=1)
        return torch.where(official >= 1, 1.0, shifted)

    def allowed(self, vocabulary: Vocabulary) -> Tensor:
        """Which classes may be reported at all, ``(classes,)`` bool."""
        allowed = torch.ones(len(vocabulary), dtype=torch.bool)
        if self.include:
            allowed[:] = False
            allowed[list(vocabulary.matching(self.include))] = True
        allowed[list(vocabulary.matching(self.exclude))] = False
        return allowed


@dataclass(frozen=True)
class Tag:
    """One tag found in one image."""

    index: int
    """Class number in the vocabulary."""
    english: str
    chinese: str
    """Empty where the vocabulary has no Chinese."""
    probability: float
    """The model's probability, 0 to 1."""
    threshold: float
    """What it had to exceed."""
    score: float
    """Calibrated: sigmoid(logit(probability) - logit(threshold)), so 0.5 is exactly at the threshold."""


@dataclass(frozen=True)
class TagResult:
    """The tags of one image."""

    tags: tuple[Tag, ...]
    """In the requested order."""
    english: str
    """English tags as text; empty without tags."""
    chinese: str
    """Chinese tags as text; empty without tags and for a vocabulary without Chinese."""
    text: str
    """The text in the requested language."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"text": self.text, "tags": [asdict(tag) for tag in self.tags]}


@dataclass(frozen=True)
class TagChange:
    """How one tag fared between two images."""

    english: str
    chinese: str
    before: float
    """Calibrated score before, 0.5 at the threshold."""
    after: float
    """Calibrated score after."""


@dataclass(frozen=True)
class DriftReport:
    """What an enhancement did to the content of one image, as far as the model sees it."""

    kept: tuple[TagChange, ...]
    """Tags in both images (or in one, and within the margin in the other), best first."""
    lost: tuple[TagChange, ...]
    """Tags only in the image before, best first."""
    gained: tuple[TagChange, ...]
    """Tags only in the image after, best first."""
    similarity: float
    """Cosine similarity of the two images' global embeddings, -1 to 1; 1 is identical."""
    overlap: float
    """Kept share of all tags seen, 0 to 1; 1 when neither image has any."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@torch.inference_mode()
def tag_images(
    model: SemanticModel,
    images: Tensor | Sequence[Tensor],
    options: TagOptions | None = None,
    *,
    batch_size: int = 1,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
    out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> list[TagResult]:
    """Tag every image.

    Args:
        model: From :func:`load_ram` or :func:`load_efficientnet_lite0`.
        images: ``(B, C, H, W)`` in [0, 1] with C in {1, 3, 4}, or ``(C, H, W)`` tensors of any sizes, on any
            device.
        options: What to report; the default is the official thresholds, English, best first.
        batch_size: Images per forward pass; halved on its own when memory runs out.
        progress: Called after every pass.
        check: Called often, also inside a pass; an exception it raises stops the work and passes through.
        out_of_memory: Tells failed allocations from other errors.

    Returns:
        One result per image, in order; an empty list for an empty batch.

    Raises:
        ValueError: An image has a wrong shape, dtype or range or is not finite; or Chinese is asked of a
            model without Chinese names.
    """
    options = options or TagOptions()
    chosen = _Chooser(model.vocabulary, options)
    seen = _encode_all(model, images, batch_size, progress, check, out_of_memory)
    return [chosen.result(logits) for _, logits in seen]


@torch.inference_mode()
def semantic_drift(
    model: SemanticModel,
    before: Tensor | Sequence[Tensor],
    after: Tensor | Sequence[Tensor],
    options: TagOptions | None = None,
    *,
    margin: float = 0.05,
    batch_size: int = 1,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
    out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> list[DriftReport]:
    """Compare the content of images before and after an enhancement.

    Args:
        model: From :func:`load_ram` or :func:`load_efficientnet_lite0`.
        before: Original images, as for :func:`tag_images`.
        after: Enhanced images, one per original; sizes may differ.
        options: Thresholds and the include and exclude lists; ``max_tags`` and ``sort`` do not apply.
        margin: A tag found in one image counts as kept if its calibrated score in the other is at least 0.5 -
            margin: a tag hovering around its threshold is no drift.
        batch_size: Images per forward pass; halved on its own when memory runs out.
        progress: Called after every pass, counting both sets.
        check: Called often, also inside a pass; an exception it raises stops the work and passes through.
        out_of_memory: Tells failed allocations from other errors.

    Returns:
        One report per pair.

    Raises:
        ValueError: The numbers of images differ, or an image is not usable.
    """
    if len(before) != len(after):
        raise ValueError(f"Every image before needs one after, got {len(before)} and {len(after)}.")
    chosen = _Chooser(model.vocabulary, options or TagOptions())
    everything = [*before, *after]
    seen = list(_encode_all(model, everything, batch_size, progress, check, out_of_memory))
    pairs = zip(seen[: len(before)], seen[len(before) :], strict=True)
    return [_compare(chosen, first, second, margin) for first, second in pairs]


class _Chooser:
    """Turns logits into tags; what depends on the options only is worked out once."""

    def __init__(self, vocabulary: Vocabulary, options: TagOptions) -> None:
        if options.language != "en" and not vocabulary.chinese:
            raise ValueError(
                "This model's labels exist in English only: set the language to 'en', or use RAM or RAM++."
            )
        self.vocabulary, self.options = vocabulary, options
        self.thresholds = options.thresholds(vocabulary)
        self.allowed = options.allowed(vocabulary)

    def measure(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, calibrated scores and which tags are on, each ``(classes,)``."""
        logits = logits.float().cpu()
        probabilities = logits.softmax(-1) if self.vocabulary.exclusive else logits.sigmoid()
        scores = (probabilities.double().logit() - self.thresholds.double().logit()).sigmoid()
        return probabilities, scores, (probabilities > self.thresholds) & self.allowed

    def result(self, logits: Tensor) -> TagResult:
        probabilities, scores, on = self.measure(logits)
        indices = on.nonzero().flatten().tolist()
        by_score = sorted(indices, key=lambda index: -float(scores[index]))
        if self.options.max_tags:
            by_score = by_score[: self.options.max_tags]
        ordered = by_score if self.options.sort == "score" else sorted(by_score)
        chinese = self.vocabulary.chinese
        tags = tuple(
            Tag(
                index=index,
                english=self.vocabulary.english[index],
                chinese=chinese[index] if chinese else "",
                probability=float(probabilities[index]),
                threshold=float(self.thresholds[index]),
                score=float(scores[index]),
            )
            for index in ordered
        )
        english = [tag.english for tag in tags]
        translated = [tag.chinese for tag in tags if tag.chinese]
        spoken = {"en": english, "zh": translated, "both": english + translated}
        return TagResult(
            tags, self._text(english), self._text(translated), self._text(spoken[self.options.language])
        )

    def _text(self, names: Iterable[str]) -> str:
        options = self.options
        text = options.separator.join(
            name.replace(" ", "_") if options.underscores else name for name in names
        )
        return f"{options.prefix}{text}{options.suffix}" if text else ""


def _compare(chosen: _Chooser, before: _Seen, after: _Seen, margin: float) -> DriftReport:
    _, score_before, on_before = chosen.measure(before[1])
    _, score_after, on_after = chosen.measure(after[1])
    near_before, near_after = (score >= 0.5 - margin for score in (score_before, score_after))
    kept = (on_before & (on_after | near_after)) | (on_after & near_before)

    def changes(which: Tensor, rank: Tensor) -> tuple[TagChange, ...]:
        indices = sorted(which.nonzero().flatten().tolist(), key=lambda index: -float(rank[index]))
        vocabulary = chosen.vocabulary
        return tuple(
            TagChange(
                vocabulary.english[index],
                vocabulary.chinese[index] if vocabulary.chinese else "",
                float(score_before[index]),
                float(score_after[index]),
            )
            for index in indices
        )

    seen = int((on_before | on_after).sum())
    return DriftReport(
        kept=changes(kept, torch.maximum(score_before, score_after)),
        lost=changes(on_before & ~kept, score_before),
        gained=changes(on_after & ~kept, score_after),
        similarity=float(F.cosine_similarity(before[0].float(), after[0].float(), dim=0)),
        overlap=int(kept.sum()) / seen if seen else 1.0,
    )


def _encode_all(
    model: SemanticModel,
    images: Tensor | Sequence[Tensor],
    batch_size: int,
    progress: Progress | None,
    check: Callable[[], None] | None,
    out_of_memory: Callable[[BaseException], bool],
) -> Iterator[_Seen]:
    """Yield every image's embedding and logits."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if isinstance(images, Tensor) and images.dim() != 4:
        raise ValueError(f"An image batch is (B, C, H, W), got {tuple(images.shape)}.")
    encoder = model.encoder

    def encode(now: slice) -> SemanticFeatures:
        # Each photo is shrunk where it is: sizes may differ, and little is moved to the model's device.
        views = torch.cat([encoder.tagging_view(image.unsqueeze(0)) for image in images[now]])
        with called_inside(encoder, check):
            return encoder.encode(views.to(model.device), maps=False, logits=True)

    for now, seen in in_batches(len(images), batch_size, encode, out_of_memory):
        yield from zip(cast(Tensor, seen.embedding), cast(Tensor, seen.logits), strict=True)
        if progress is not None:
            progress(now.stop, len(images))
