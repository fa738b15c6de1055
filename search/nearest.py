"""The point of a space that is nearest to a configuration from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.nodes import Arms, FloatRange, IntRange, Leaf, Scalar, Values, options
from search.space import Params, Space


def nearest_point(space: Space, config: Mapping[str, Any]) -> Params:
    """Return the parameters of the point that takes over all of ``config`` that the space has a parameter for.

    A number outside its range goes to the nearer end; a module or word that is no option, and what the configuration
    says nothing about, is at the space's default. ``config`` names every setting (:func:`mmsa_core.model.complete`).
    """
    leaves = space.leaves()
    return space.point(lambda path, leaf: _closest(leaf, _said(config, path, leaves)))[1]


def untaken(config: Mapping[str, Any], taken: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many settings of ``config`` another one does not have, and how many there are; without the epochs,
    which are the study's."""
    before, after = ({k: v for k, v in _flat(c).items() if k != "epochs"} for c in (config, taken))
    return sum(k not in after or after[k] != v for k, v in before.items()), len(before)


def _said(config: Mapping[str, Any], path: str, leaves: Mapping[str, Leaf]) -> Any:
    """Return what a configuration has at a parameter's place, or None; what is below an arm counts under it only."""
    node: Any = config
    at = ""
    for key in path.split("."):
        arm = isinstance(leaves.get(at), Arms)
        at = f"{at}.{key}" if at else key
        if not isinstance(node, Mapping):
            return None
        if not arm:
            node = node.get(key)
        elif node.get("name") != key:
            return None
    return node


def _closest(leaf: Leaf, value: Any) -> Scalar:
    if isinstance(leaf, Arms | Values):
        word = value["name"] if isinstance(value, Mapping) else value
        if _is_number(word) and all(map(_is_number, options(leaf))):
            return min(options(leaf), key=lambda option: abs(float(option) - float(word)))
        same = [o for o in options(leaf) if o == word and type(o) is type(word)]
        return same[0] if same else leaf.default
    if not _is_number(value):
        return leaf.default
    inside = min(max(float(value), leaf.low), leaf.high)
    if isinstance(leaf, FloatRange):
        return inside
    return _on_grid(leaf, inside)


def _on_grid(leaf: IntRange, value: float) -> int:
    steps = min(round((value - leaf.low) / leaf.step), (leaf.high - leaf.low) // leaf.step)
    return leaf.low + leaf.step * steps


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration as dotted paths and values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
