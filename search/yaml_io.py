"""Reads YAML strictly (no duplicate keys, no yes/no/on/off booleans) and writes it atomically."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmsa_core.atomic import replacing
from mmsa_core.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the constructors below; dates stay text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]  # as installed
    """PyYAML's safe dumper; a value that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    if node.value.lower() in ("true", "false"):
        return bool(node.value.lower() == "true")
    raise yaml.constructor.ConstructorError(
        None,
        None,
        f"bare {node.value} means true or false in YAML; quote it, or write none, true or false",
        node.start_mark,
    )


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is written twice; keep one", key.start_mark
                )
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str, source: str) -> Any:
    """Return the data of one YAML document.

    Raises:
        UserError: broken YAML, a duplicate key, or a bare yes/no/on/off, with the line.
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
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    data = parse_yaml(text, str(path))
    if data is None:
        raise UserError(f"{path}: the file is empty; it must hold a mapping (key: value)")
    if not isinstance(data, dict):
        raise UserError(f"{path}: the top level must be a mapping (key: value), got {shown(data)}")
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
