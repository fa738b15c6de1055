"""``key=value`` on a nested mapping, a search space included, and the other changes to a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmsa_core.errors import UserError, nearest
from search.yaml_io import number_in_text, parse_yaml


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key=value``; the value is YAML, and ``1e-3`` is taken as the number it means.

    Raises:
        UserError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"override {text!r}: must be key=value with a dotted key, e.g. optimizer.lr=0.01")
    data = parse_yaml(value, f"override {text!r}")
    number = number_in_text(data)
    return key, data if number is None else number


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of ``tree`` (a space or a configuration) with every ``key=value`` set.

    Raises:
        UserError: an override is malformed or its key is unknown (the nearest spelling is named).
    """
    result: dict[str, Any] = plain(tree)
    for text in overrides:
        key, value = parse_override(text)
        result = replaced(result, key.split("."), value, f"override {text!r}")
    return result


def plain(tree: Any) -> Any:
    """Return a deep copy of mappings and lists, in which a YAML anchor's uses are no longer one object."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def replaced(tree: Mapping[str, Any], keys: list[str], value: Any, place: str) -> dict[str, Any]:
    """Return a copy of ``tree`` with ``value`` at the path ``keys``, which must exist.

    A path goes through a choice by the arm's name. An arm's name at a choice keeps that arm alone, with its settings.

    Raises:
        UserError: there is no such path, or the choice has no such arm.
    """
    copy: dict[str, Any] = plain(tree)
    key, rest = keys[0], keys[1:]
    arms = copy.get("choice")
    if isinstance(arms, dict):
        return {**copy, "choice": replaced(arms, keys, value, place)}
    if key not in copy:
        raise UserError(f"{place}: unknown key {key!r}{nearest(key, map(str, copy))}")
    if rest:
        if not isinstance(copy[key], dict):
            raise UserError(f"{place}: {key!r} has no settings below it, got {rest[0]!r}; end the key at {key!r}")
        copy[key] = replaced(copy[key], rest, value, place)
    else:
        copy[key] = _narrowed(copy[key], value, place)
    return copy


def _narrowed(node: Any, value: Any, place: str) -> Any:
    arms = node.get("choice") if isinstance(node, dict) else None
    if not isinstance(arms, dict) or isinstance(value, Mapping):
        return plain(value)
    if not isinstance(value, str) or value not in arms:
        raise UserError(f"{place}: there is no arm {value!r}{nearest(str(value), map(str, arms))}")
    return {"choice": {value: arms[value]}}


def without(node: Any, absent: set[str]) -> Any:
    """Return a copy of ``node`` without the keys that name an absent modality, pairs (``text-audio``) included."""
    if not isinstance(node, Mapping):
        return plain(node)
    return {k: without(v, absent) for k, v in node.items() if not absent & set(str(k).split("-"))}
