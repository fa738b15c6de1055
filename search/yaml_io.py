"""Reads YAML strictly (no tags, no duplicate keys, no yes/no/on/off booleans, bounded) and writes it atomically."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmsa_core.atomic import replacing
from mmsa_core.errors import UserError

LARGEST = 100_000
"""Values in a file, those of anchors counted where they are used: a study has some hundreds."""
DEEPEST = 64
"""How deep values may be nested; a space needs less than 10."""
PREFIX = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for mappings, lists, text, numbers and booleans; dates stay text, and tags are refused.

    Anchors are shared when they are read and copied later, so ten lines could become a thousand million values: they
    are counted as copies.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.extents: dict[yaml.Node, tuple[int, int]] = {}
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {event.tag!r} is not read; leave it out", event)
        self.depth += 1
        if self.depth > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST}", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and node not in self.extents:
            if isinstance(event, yaml.AliasEvent):
                raise _refusal(f"*{event.anchor} stands inside its own anchor", event)
            self.extents[node] = self._extent(node)
        size, depth = self.extents[node] if node is not None else (0, 0)
        if size > LARGEST or depth > DEEPEST:
            raise _refusal(f"more than {LARGEST} values, or nested deeper than {DEEPEST}, with every anchor", event)
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        """Return how many values a node is and how deep they are nested."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        sizes, depths = zip(*(self.extents[part] for part in parts), strict=True) if parts else ((0,), (0,))
        return 1 + sum(sizes), 1 + max(depths)


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]  # as installed
    """PyYAML's safe dumper; a value that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    if node.value.lower() in ("true", "false"):
        return bool(node.value.lower() == "true")
    raise _refusal(f"bare {node.value} means true or false in YAML; quote it, or write none, true or false", node)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    if ":" in node.value:
        raise _refusal(f"bare {node.value} is a number to the base 60 in YAML; quote it", node)
    number = loader.construct_yaml_int(node)
    if abs(number) >= 2**63:
        raise _refusal("a whole number must be below 2^63; write a smaller number", node)
    return number


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    if ":" in node.value:
        raise _refusal(f"bare {node.value} is a number to the base 60 in YAML; quote it", node)
    return loader.construct_yaml_float(node)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise _refusal(f"the key {key.value!r} is written twice; keep one", key)
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(f"{PREFIX}bool", _construct_bool)
_Loader.add_constructor(f"{PREFIX}int", _construct_int)
_Loader.add_constructor(f"{PREFIX}float", _construct_float)
_Loader.add_constructor(f"{PREFIX}map", _construct_mapping)


def parse_yaml(text: str, source: str) -> Any:
    """Return the data of one YAML document.

    Raises:
        UserError: broken YAML, a tag, a duplicate key, a bare yes/no/on/off, or too much of it, with the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{source}: {line}{error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UserError: the file is missing, unreadable, empty or not a mapping, or :func:`parse_yaml` refuses it.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return parse_mapping(content, str(path))


def parse_mapping(content: bytes, source: str) -> dict[Any, Any]:
    """Return the mapping that a file's content is, as :func:`read_yaml` does."""
    try:
        text = content.decode("utf-8")
    except ValueError as error:
        raise UserError(f"{source}: cannot be read as UTF-8 text: {error}") from error
    data = parse_yaml(text, source)
    if data is None:
        raise UserError(f"{source}: the file is empty; it must hold a mapping (key: value)")
    if not isinstance(data, dict):
        raise UserError(f"{source}: the top level must be a mapping (key: value), got {shown(data)}")
    return data


def write_yaml(path: str | Path, data: Mapping[str, Any], sync: bool = True) -> None:
    """Write ``data`` in its own key order; a reader sees the old file or the new one, never a part."""
    with replacing(Path(path), sync) as part, part.open("w", encoding="utf-8") as file:
        yaml.dump(data, file, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def number_in_text(value: object) -> float | None:
    """Return the number that a text like ``1e-3`` was meant to be: YAML 1.1 wants a dot and a signed exponent."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value.strip()):
        return float(value)
    return None


def spell(number: float) -> str:
    """Write a number so that YAML 1.1 reads it as a number (``1.0e-05``, not ``1e-05``)."""
    text = repr(number)
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text and math.isfinite(number) else text


def shown(value: object) -> str:
    """Return ``value`` for a message, as YAML names it and not too long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
