"""What every option of a run means, read from where it is written: the docstring below each field.

One description per option feeds the command's ``--help``, the page ``docs/training_options.md`` and the tooltips of
nodes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Hashable, Iterator
from functools import cache
from typing import Any, NamedTuple

from .config import KINDS


class Option(NamedTuple):
    """One option of a dataclass tree."""

    name: str
    """Dotted, ``loss.ssim``; elements of lists as ``phases[].steps``."""
    kind: str
    """Its type, in words of the config."""
    default: str
    """Its default as written in YAML, or ``required``."""
    text: str
    """What it means."""


def options(cls: type[Any], prefix: str = "") -> Iterator[Option]:
    """Every option of a dataclass, depth first, in order of definition."""
    hints, texts = typing.get_type_hints(cls), _docstrings(typing.cast(Hashable, cls))
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        yield Option(name, _kind(hint), _default(field), texts.get(field.name, ""))
        element = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast(type[Any], hint), f"{name}.")
        elif dataclasses.is_dataclass(element):
            yield from options(typing.cast(type[Any], element), f"{name}[].")


def tooltip(cls: type[Any], name: str) -> str:
    """The description of one option.

    Raises:
        KeyError: There is no such option.
    """
    for option in options(cls):
        if option.name == name:
            return option.text
    raise KeyError(name)


def describe(cls: type[Any], width: int = 110) -> str:
    """All options as text for a terminal."""
    lines = []
    for option in options(cls):
        lines.append(f"{option.name}  ({option.kind}, {option.default})")
        lines += textwrap.wrap(option.text, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def page(cls: type[Any], title: str, introduction: str) -> str:
    """All options as a Markdown page."""
    lines = [f"# {title}", "", introduction, "", "| option | kind | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{o.name}` | {o.kind} | `{o.default}` | {o.text.replace('|', chr(92) + '|')} |"
        for o in options(cls)
    ]
    return "\n".join([*lines, ""])


@cache
def _docstrings(cls: Hashable) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(typing.cast(type[Any], cls)))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101  (the source of a class)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "`").split())
    return found


def _kind(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "group"
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        element = _kind(inner[0])
        return f"list of {element}s" if inner[-1] is Ellipsis else f"{len(inner)} {element}s"
    return KINDS[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "see below"
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return "see below"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        str(list(value))
        if isinstance(value, tuple)
        else (repr(value) if isinstance(value, str) else str(value))
    )
