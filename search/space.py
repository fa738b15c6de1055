"""A search space: sample it with Optuna, rebuild a configuration from its flat parameters, count, override, restrict.

Optuna parameter names are dotted paths; what belongs to an arm is named ``<path>.<arm>.<child>``, so conditional
parameters need no conditions.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from mmsa_core import config as core
from mmsa_core.errors import UserError, nearest
from search.compatibility import DECIDING, decided
from search.grammar import LEAVES, parse_group
from search.nodes import (
    Arms,
    Constant,
    FloatRange,
    Group,
    IntRange,
    Leaf,
    Node,
    Pick,
    Place,
    Scalar,
    Values,
    build,
    canonical,
    draw,
    inside,
    is_structural,
    options,
    structures,
    walk,
)
from search.overrides import plain, replaced, restricted
from search.shipped import read_named

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Scalar]


class Trial(Protocol):
    """What :meth:`Space.sample` needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...


@dataclass(frozen=True)
class Count:
    """How large a space is: combinations of its structural choices, and parameters that are not structure."""

    structures: int
    continuous: int


@dataclass(frozen=True, eq=False)
class Space:
    """A checked search space; ``tree`` is its YAML form, ``source`` the file that messages name."""

    source: str
    tree: Mapping[str, Any]
    root: Group

    @staticmethod
    def parse(tree: object, source: str = "space") -> Space:
        """Check a YAML tree.

        Raises:
            UserError: what is refused is said with its path, value, rule and fix.
        """
        at = Place(source)
        own = plain(tree)
        if not isinstance(own, dict) or not own or own.keys() & LEAVES.keys():
            raise at.refuse("the top level must be a mapping of settings", own, "start with a line such as `width: 32`")
        return Space(source, own, parse_group(own, at))

    @staticmethod
    def load(name_or_path: str | Path) -> Space:
        """Read a shipped space by its name (``quick``) or a YAML file by its path.

        Raises:
            UserError: there is no such space, or it is refused.
        """
        return Space.parse(*read_named("space", name_or_path))

    def sample(self, trial: Trial) -> dict[str, Any]:
        """Ask ``trial`` for every parameter that applies (define-by-run) and return the configuration."""

        def pick(path: str, leaf: Leaf) -> Any:
            if isinstance(leaf, FloatRange):
                return trial.suggest_float(path, leaf.low, leaf.high, log=leaf.log)
            if isinstance(leaf, IntRange):
                return trial.suggest_int(path, leaf.low, leaf.high, step=leaf.step, log=leaf.log)
            return trial.suggest_categorical(path, options(leaf))

        return self._build(pick)

    def baseline(self) -> tuple[dict[str, Any], Params]:
        """Return the configuration of the defaults and its flat parameters (for ``enqueue_trial``)."""
        return self.point(lambda path, leaf: leaf.default)

    def point(self, pick: Pick) -> tuple[dict[str, Any], Params]:
        """Return the configuration of what ``pick`` gives for every parameter that applies, and its flat parameters."""
        params: Params = {}

        def kept(path: str, leaf: Leaf) -> Any:
            params[path] = value = pick(path, leaf)
            return value

        return self._build(kept), params

    def arms(self) -> Iterator[dict[str, Any]]:
        """Yield the baseline with every option of every choice in turn, what belongs to an arm at its defaults.

        Where the defaults decide a choice, another arm of the deciding one leaves it open.
        """
        leaves = self.leaves()
        defaults = {path: leaf.default for path, leaf in leaves.items()}
        for path, leaf in leaves.items():
            if isinstance(leaf, Arms | Values):
                parents = {
                    p: path[len(p) + 1 :].split(".")[0]
                    for p, at in leaves.items()
                    if isinstance(at, Arms) and path.startswith(f"{p}.")
                }
                opened = self._opened({**defaults, **parents}, path)
                for option in options(leaf):
                    yield self.config({**opened, path: option})

    def _opened(self, params: Params, path: str) -> Params:
        """Return ``params`` with other arms at the deciding places where that makes ``path`` a parameter."""
        leaves = self.leaves()
        choices = [options(leaf) for p in DECIDING if isinstance(leaf := leaves.get(p), Arms | Values)]
        places = [p for p in DECIDING if isinstance(leaves.get(p), Arms | Values)]
        for arms in [(), *product(*choices)]:
            changed = {**params, **dict(zip(places, arms, strict=False))}
            if path in self._asked(changed):
                return changed
        return params

    def _asked(self, params: Params) -> set[str]:
        """Return the parameters that are drawn beside these choices."""
        seen: set[str] = set()

        def pick(path: str, leaf: Leaf) -> Any:
            seen.add(path)
            return params.get(path, leaf.default)

        self._build(pick)
        return seen

    def random(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Return ``n`` configurations drawn uniformly (log-uniformly for log ranges)."""
        draws = random.Random(seed)
        return [self._build(lambda path, leaf: draw(leaf, draws)) for _ in range(n)]

    def config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Rebuild the configuration from flat parameters; those of arms that are not chosen are ignored.

        Raises:
            UserError: a parameter is missing, unknown or outside its domain.
        """
        self._known(params)

        def pick(path: str, leaf: Leaf) -> Any:
            if path not in params:
                raise UserError(f"{self.source}: {path}: the parameter is missing; give it a value")
            return inside(leaf, params[path], Place(self.source, path))

        return self._build(pick)

    def check(self, params: Mapping[str, Any]) -> None:
        """Refuse parameters that cannot be part of a point, however few they are.

        Raises:
            UserError: a parameter is unknown or outside its domain.
        """
        leaves = self._known(params)
        for path, value in params.items():
            inside(leaves[path], value, Place(self.source, path))

    def decided(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the choices that others decide (a strategy its fusion, say): they are no parameters of ``params``."""
        found: dict[str, str] = {}
        leaves = self.leaves()
        self._build(lambda path, leaf: params.get(path, leaves[path].default), found)
        return found

    def structural(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of ``params`` that are structure: choices (unless among floats only) and whole numbers.

        Raises:
            UserError: a parameter is unknown.
        """
        leaves = self._known(params)
        return {name: value for name, value in params.items() if is_structural(leaves[name])}

    def leaves(self) -> dict[str, Leaf]:
        """Return every parameter by its Optuna name, those of all arms included."""
        return dict(self._leaves)

    @cached_property
    def _leaves(self) -> dict[str, Leaf]:
        return dict(walk(self.root))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the Optuna distribution of every parameter, those of all arms included."""
        from optuna import distributions as d

        def make(leaf: Leaf) -> BaseDistribution:
            if isinstance(leaf, FloatRange):
                return d.FloatDistribution(leaf.low, leaf.high, log=leaf.log)
            if isinstance(leaf, IntRange):
                return d.IntDistribution(leaf.low, leaf.high, log=leaf.log, step=leaf.step)
            return d.CategoricalDistribution(options(leaf))

        return {name: make(leaf) for name, leaf in self.leaves().items()}

    def count(self) -> Count:
        """Count the structures (settings of one arm only where it is chosen) and the other parameters."""
        deciding = [(place, node) for place, node in self.root.children.items() if place in DECIDING]
        combinations = product(*(_arm_names(node) for _, node in deciding))
        places = [place for place, _ in deciding]
        total = sum(structures(self._narrowed(dict(zip(places, arms, strict=True)))) for arms in combinations)
        return Count(total, sum(not is_structural(leaf) for leaf in self.leaves().values()))

    def _build(self, pick: Pick, found: dict[str, str] | None = None) -> dict[str, Any]:
        """Build a configuration; deciding choices come first, and what they decide is not picked (but put in
        ``found``); what has no effect beside them is at its default."""
        rules: dict[str, str | None] = {}

        def guided(path: str, leaf: Leaf) -> Any:
            if rules.get(path.split(".")[0], "") is None:
                return leaf.default
            place = path if path in rules else path.rpartition(".")[0]
            if isinstance(leaf, Arms | Values) and place in rules:
                arm = self._allowed(path, leaf, rules[place])
                if found is not None:
                    found[path] = arm
                return arm
            value = pick(path, leaf)
            if path in DECIDING:
                rules.update(decided(path, str(value)))
            return value

        for place in DECIDING:
            if (fixed := _constant_name(self.root.children.get(place))) is not None:
                rules.update(decided(place, fixed))
        order = sorted(self.root.children, key=lambda key: key not in DECIDING)
        made = build(Group({key: self.root.children[key] for key in order}), guided)
        return {key: made[key] for key in self.root.children}

    def _allowed(self, path: str, leaf: Arms | Values, arm: str | None) -> str:
        if arm not in options(leaf):
            raise Place(self.source, path).refuse(
                f"a strategy of the space needs {arm!r} here", list(options(leaf)), "add it to the choice"
            )
        return str(arm)

    def _narrowed(self, arms: Mapping[str, str]) -> Group:
        """Return the space with these arms at the deciding places, and only what they decide at the others."""
        rules = {at: arm for place, own in arms.items() for at, arm in decided(place, own).items()}

        def narrow(node: Node, path: str) -> Node:
            if isinstance(node, Arms | Values):
                place = path if path in {**rules, **arms} else path.rpartition(".")[0]
                if rules.get(place, "") is None:
                    return Constant(node.default)
                arm = arms.get(place) or (self._allowed(path, node, rules[place]) if place in rules else None)
                if arm is None:
                    return node
                return node.arms[arm] if isinstance(node, Arms) else Constant(arm)
            if isinstance(node, Group):
                return Group({k: narrow(v, f"{path}.{k}" if path else k) for k, v in node.children.items()})
            return node

        return cast(Group, narrow(self.root, ""))

    def override(self, key: str, value: object) -> Space:
        """Return the space with ``value`` (a constant or a subtree) at a dotted path.

        An arm's name at a choice between arms keeps that arm and its settings; below a choice the path goes through the
        arm (``alignment.text-audio.coral.weight``).

        Raises:
            UserError: there is no such path, or the new space is refused.
        """
        return Space.parse(replaced(self.tree, key.split("."), value, f"override {key}"), self.source)

    def restrict(self, modalities: Iterable[str]) -> Space:
        """Return the space without the encoders, pairs, task weights and rates that name an absent modality.

        Raises:
            UserError: there is no such modality.
        """
        return Space.parse(restricted(self.tree, modalities), self.source)

    def fingerprint(self) -> str:
        """Return 12 hex digits of what is searched: independent of key order, but not of the order of arms."""
        return core.fingerprint(canonical(self.root))

    def _known(self, params: Iterable[str]) -> Mapping[str, Leaf]:
        leaves = self._leaves
        for name in params:
            if name not in leaves:
                raise UserError(f"{self.source}: there is no parameter {name!r}{nearest(name, leaves)}")
        return leaves


def _constant_name(node: Node | None) -> str | None:
    """Return the plug-in that a place names without a choice (``none`` where there is no such place), else None."""
    named = node.children.get("name") if isinstance(node, Group) else node
    if node is None:
        return core.NONE
    return str(named.value) if isinstance(named, Constant) else None


def _arm_names(node: Node) -> tuple[str, ...]:
    """Return the arms of a choice, or the one plug-in that stands there."""
    return tuple(map(str, options(node))) if isinstance(node, Arms | Values) else (_constant_name(node) or core.NONE,)
