"""``key=value`` on a nested mapping (a study, space or configuration), and the other changes to a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmsa_core.config import MODALITIES, TEACHER
from mmsa_core.errors import UserError, nearest
from search.yaml_io import number_in_text, parse_yaml, shown


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


def assign(tree: dict[Any, Any], key: str, value: Any, short: Mapping[str, str]) -> None:
    """Set a dotted key, making the mappings on its way; whether the key is known is checked with everything else.

    ``short`` names what a bare word stands for at a place: with ``{"fusion": "name"}`` a key below ``fusion: concat``
    goes into ``fusion: {name: concat}``.

    Raises:
        UserError: the path goes through a value that has no keys.
    """
    parents = key.split(".")[:-1]
    for k, parent in enumerate(parents):
        place = ".".join(parents[: k + 1])
        if isinstance(tree.get(parent), str) and place in short:
            tree[parent] = {short[place]: tree[parent]}
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise UserError(
                f"override {key}: {parent} has no keys below it, got {shown(tree)}; end the key at {parent!r}"
            )
    tree[key.split(".")[-1]] = value


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


def restricted(tree: Mapping[str, Any], modalities: Iterable[str]) -> dict[str, Any]:
    """Return a copy of ``tree`` without the encoders, pairs, task weights and rates that name an absent modality.

    Raises:
        UserError: there is no such modality.
    """
    present = set(modalities)
    for name in sorted(present - set(MODALITIES)):
        raise UserError(f"modalities: there is no {name!r}{nearest(name, MODALITIES)}")
    absent = set(MODALITIES) - present
    if "text" in absent:
        absent.add(TEACHER)
    parts = ("encoders", "alignment", "weighting", "optimizer")
    return {key: _without(value, absent) if key in parts else plain(value) for key, value in tree.items()}


def _without(node: Any, absent: set[str]) -> Any:
    """Return a copy of ``node`` without the keys that name an absent modality, pairs (``text-audio``) included."""
    if not isinstance(node, Mapping):
        return plain(node)
    return {k: _without(v, absent) for k, v in node.items() if not absent & set(str(k).split("-"))}
