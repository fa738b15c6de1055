"""What two configurations differ in: modules by their place, the optimizer, and all other settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmsa_core.config import NONE
from mmsa_core.errors import UserError
from search.configs import modules
from search.explain.measure import named
from search.explain.surrogate import flat
from search.explain.switches import completed
from search.overrides import plain

TRAINING = ("optimizer", "batch_size", "patience", "epochs")
OPTIMIZER, SETTINGS = "optimizer", "settings"
"""Units that are no modules: how a step is taken; sizes, dropout and the settings of modules that both ends have."""
SHOWN = 4
"""Settings that are written out."""


@dataclass(frozen=True)
class Ends:
    """Two completed configurations, inside the space or not, and everything between them.

    A module comes with its settings. Labels and their weighting are one unit: without labels there is nothing to weigh.
    """

    first: Mapping[str, Any]
    last: Mapping[str, Any]

    @cached_property
    def places(self) -> dict[str, tuple[str, str]]:
        """The plug-ins of both ends at the places where they differ; ``none`` where there is no plug-in."""
        first, last = modules(self.first), modules(self.last)
        pairs = {p: (first.get(p, NONE), last.get(p, NONE)) for p in dict.fromkeys([*first, *last])}
        return {place: names for place, names in pairs.items() if names[0] != names[1]}

    @cached_property
    def units(self) -> list[str]:
        """What can be changed by itself, as far as the configuration stays valid."""
        own = list(dict.fromkeys(map(_unit, self.places)))
        return own + [unit for unit in (OPTIMIZER, SETTINGS) if self.at([*own, unit]) != self.at(own)]

    def at(self, units: Iterable[str]) -> dict[str, Any]:
        """Return the first configuration with ``units`` as they are in the last."""
        taken, own = set(units), set(map(_unit, self.places))
        tree: dict[str, Any] = plain(self.last if SETTINGS in taken else self.first)
        for key in TRAINING:
            tree[key] = plain((self.last if OPTIMIZER in taken else self.first)[key])
        for place in dict.fromkeys([*modules(self.first), *modules(self.last)]):
            if (unit := _unit(place)) in own:
                _copy(self.last if unit in taken else self.first, tree, place)
        return tree

    def valid(self, units: Iterable[str]) -> bool:
        """Tell whether a model can be built with ``units`` changed."""
        try:
            completed(self.at(units))
        except UserError:
            return False
        return True

    def together(self, unit: str, done: Iterable[str]) -> list[str]:
        """Return the smallest set of units that holds ``unit`` and can be changed after ``done``: a strategy brings the
        fusion that it needs."""
        before = list(done)
        moved = [u for u in self.units if u not in before]  # all that is left leads to the last, which is valid
        while True:
            spare = (u for u in moved if u != unit and self.valid([*before, *(m for m in moved if m != u)]))
            if self.valid([*before, unit]):
                return [unit]
            if (one := next(spare, None)) is None:
                return moved
            moved.remove(one)

    def changes(self, units: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return what ``units`` were and become: plug-ins by place, and settings written out."""
        found: dict[str, tuple[str, str]] = {}
        for unit in units:
            inside = {place: names for place, names in self.places.items() if _unit(place) == unit}
            found |= inside or {unit: self._settings(unit)}
        return found

    def described(self, units: Iterable[str]) -> str:
        """Return the changes in words: ``fusion gated instead of concat and optimizer (optimizer.lr 0.01)``."""
        parts = []
        for place, (before, after) in self.changes(units).items():
            if place in (OPTIMIZER, SETTINGS):
                parts.append(f"{place} ({after})")
            else:
                parts.append(named(place, after) + ("" if before == NONE else f" instead of {before}"))
        return " and ".join(parts)

    def _settings(self, unit: str) -> tuple[str, str]:
        own = list(map(_unit, self.places))
        old, new = flat(self.at(own)), flat(self.at([*own, unit]))
        paths = [path for path in dict.fromkeys([*old, *new]) if old.get(path) != new.get(path)]
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        before, after = (", ".join(f"{p} {_shown(tree.get(p))}" for p in paths[:SHOWN]) + more for tree in (old, new))
        return before, after


def _unit(place: str) -> str:
    return "labels" if place == "weighting" else place


def _copy(source: Mapping[str, Any], tree: dict[str, Any], place: str) -> None:
    """Give ``tree`` what ``source`` has at a place, or nothing there."""
    kind, _, at = place.partition(".")
    if not at:
        tree[kind] = plain(source[kind])
        return
    tree[kind].pop(at, None)
    if at in source[kind]:
        tree[kind][at] = plain(source[kind][at])


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
