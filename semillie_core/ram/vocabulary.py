"""The names and thresholds of a model's tags, and the patterns that select among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
_LITE_THRESHOLD = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What the classes of a model are called and when each counts as present.

    Raises:
        ValueError: The three lists have different lengths.
    """

    english: tuple[str, ...]
    """One name per class."""
    thresholds: tuple[float, ...]
    """Probability above which a class counts as present; 1.0 means never."""
    chinese: tuple[str, ...] = ()
    """Chinese names, or empty where there are none."""
    exclusive: bool = False
    """The classes compete (softmax) instead of being independent (sigmoid)."""

    def __post_init__(self) -> None:
        sizes = {len(self.english), len(self.thresholds), len(self.chinese or self.english)}
        if len(sizes) != 1:
            raise ValueError(
                "A vocabulary needs as many thresholds and Chinese names as English ones, got "
                f"{len(self.english)} English, {len(self.thresholds)} thresholds, {len(self.chinese)} Chinese"
            )

    def __len__(self) -> int:
        return len(self.english)

    def matching(self, patterns: str | Iterable[str]) -> frozenset[int]:
        """Indices of the classes whose English or Chinese name matches any of ``patterns``.

        Matching ignores case, takes ``_`` and blanks as the same, and knows the wildcards ``*``, ``?`` and
        ``[abc]``.

        Args:
            patterns: Text separated by commas or line breaks, or a sequence of patterns.
        """
        expressions = [re.compile(translate(pattern)) for pattern in split_patterns(patterns)]
        if not expressions:
            return frozenset()
        names = [self.english, self.chinese or self.english]
        return frozenset(
            index
            for index, pair in enumerate(zip(*names, strict=True))
            if any(expression.match(_normal(name)) for expression in expressions for name in pair)
        )


def split_patterns(patterns: str | Iterable[str]) -> list[str]:
    """Normalised, non-empty patterns of a list or of text separated by commas or line breaks."""
    parts = re.split(r"[,，\n]", patterns) if isinstance(patterns, str) else patterns
    return [normal for part in parts if (normal := _normal(part))]


def _normal(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


@lru_cache(maxsize=1)
def ram_vocabulary() -> Vocabulary:
    """The 4585 tags of RAM and RAM++ with the thresholds their authors set by hand."""
    return Vocabulary(
        english=_lines("ram_tag_list.txt"),
        chinese=_lines("ram_tag_list_chinese.txt"),
        thresholds=tuple(float(line) for line in _lines("ram_tag_list_threshold.txt")),
    )


@lru_cache(maxsize=1)
def imagenet_vocabulary() -> Vocabulary:
    """The 1000 ImageNet classes, which exclude one another; a class counts as present from 10 % on."""
    names = _lines("imagenet_labels.txt")
    return Vocabulary(english=names, thresholds=(_LITE_THRESHOLD,) * len(names), exclusive=True)


def _lines(name: str) -> tuple[str, ...]:
    lines: Sequence[str] = (DATA / name).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines)
