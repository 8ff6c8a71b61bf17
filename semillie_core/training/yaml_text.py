"""YAML as configs are written in it: ``off`` is a word, and no option is given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """As in YAML 1.2 only ``true`` and ``false`` are truth values; ``on``, ``off``, ``yes`` and ``no`` are text."""

    # By first letter, PyYAML's way.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(
                    f"{self.name} gives {key.value} in line {lines[key.value]} and again in line {line}. Keep one."
                )
            lines[key.value] = line
        return node


def parse_yaml(text: str, name: str) -> Any:
    """The plain values that a text stands for.

    Args:
        text: YAML.
        name: What errors call it.

    Raises:
        ValueError: A mapping gives a key twice.
        yaml.YAMLError: The text is not YAML.
    """
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain values of a config's file.

    Raises:
        ValueError: As :func:`parse_yaml`, or the file is not text or not a mapping.
        yaml.YAMLError: The file is not YAML.
        OSError: It cannot be read.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a config file.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file (UTF-8), so no config.") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a YAML mapping.")
    return values
