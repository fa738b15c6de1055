"""The nodes of a search space and what is read off them: a configuration, the parameters, the number of structures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmsa_core.errors import UserError
from search.yaml_io import shown

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Constant:
    """A value that is not searched."""

    value: Any


@dataclass(frozen=True)
class FloatRange:
    """A float in [low, high], drawn on a logarithmic scale if ``log``."""

    low: float
    high: float
    log: bool
    default: float


@dataclass(frozen=True)
class IntRange:
    """A whole number low, low + step, ..., high."""

    low: int
    high: int
    step: int
    log: bool
    default: int


@dataclass(frozen=True)
class Values:
    """A choice between scalars."""

    values: tuple[Scalar, ...]
    default: Scalar

    @property
    def structural(self) -> bool:
        """False where every value is a float: then members of one population may differ in it."""
        return not all(isinstance(v, float) for v in self.values)


@dataclass(frozen=True)
class Arms:
    """A choice between named arms, each with settings of its own."""

    arms: Mapping[str, Group]
    default: str


@dataclass(frozen=True)
class Group:
    """Settings by name."""

    children: Mapping[str, Node]


Leaf = FloatRange | IntRange | Values | Arms
Node = Leaf | Constant | Group


Pick = Callable[[str, Leaf], Any]


@dataclass(frozen=True)
class Place:
    """Where in which file: makes the sentence of a refusal."""

    source: str
    path: str = ""

    def __truediv__(self, key: object) -> Place:
        return Place(self.source, f"{self.path}.{key}" if self.path else str(key))

    def refuse(self, rule: str, value: object, fix: str) -> UserError:
        where = f"{self.source}: {self.path}" if self.path else self.source
        return UserError(f"{where}: {rule}, got {shown(value)}; {fix}")


def build(group: Group, pick: Pick, path: str = "") -> dict[str, Any]:
    """Return the configuration; ``pick`` gives the value of every leaf on the way, arms before their settings."""
    return {key: _value(node, pick, _join(path, key)) for key, node in group.children.items()}


def _value(node: Node, pick: Pick, path: str) -> Any:
    if isinstance(node, Constant):
        return list(node.value) if isinstance(node.value, list) else node.value
    if isinstance(node, Group):
        return build(node, pick, path)
    value = pick(path, node)
    if isinstance(node, Arms):
        return {"name": value, **build(node.arms[value], pick, _join(path, value))}
    return value


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yield every parameter with its name, those of all arms included."""
    if isinstance(node, Constant):
        return
    if not isinstance(node, Group):
        yield path, node
    children = node.children if isinstance(node, Group) else node.arms if isinstance(node, Arms) else {}
    for key, child in children.items():
        yield from walk(child, _join(path, key))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def options(leaf: Values | Arms) -> tuple[Scalar, ...]:
    """Return what a choice lets choose from, in the order that Optuna is told."""
    return leaf.values if isinstance(leaf, Values) else tuple(leaf.arms)


def is_structural(leaf: Leaf) -> bool:
    """Return whether members of one population must be equal in this parameter."""
    return leaf.structural if isinstance(leaf, Values) else not isinstance(leaf, FloatRange)


def structures(node: Node) -> int:
    """Return how many combinations of structural values there are; an arm's settings count under that arm only.

    No choice decides another here: :meth:`search.space.Space.count` goes through those that do.
    """
    if isinstance(node, Group):
        return math.prod(structures(child) for child in node.children.values())
    if isinstance(node, Arms):
        return sum(structures(arm) for arm in node.arms.values())
    if isinstance(node, IntRange):
        return (node.high - node.low) // node.step + 1
    return len(node.values) if isinstance(node, Values) and node.structural else 1


def draw(leaf: Leaf, draws: random.Random) -> Scalar:
    """Draw uniformly, log-uniformly where the range is logarithmic."""
    if isinstance(leaf, Values | Arms):
        return draws.choice(options(leaf))
    if isinstance(leaf, IntRange) and not leaf.log:
        return draws.randrange(leaf.low, leaf.high + 1, leaf.step)
    edge = 0.5 if isinstance(leaf, IntRange) else 0.0  # so that both ends of whole numbers get their share
    low, high = leaf.low - edge, leaf.high + edge
    value = math.exp(draws.uniform(math.log(low), math.log(high))) if leaf.log else draws.uniform(low, high)
    value = min(max(value, leaf.low), leaf.high)
    return round(value) if isinstance(leaf, IntRange) else value


def inside(leaf: Leaf, value: Any, at: Place) -> Scalar:
    """Return ``value`` in the leaf's own type (Optuna's tables make floats of whole numbers).

    Raises:
        UserError: the value is not of the leaf's domain.
    """
    if isinstance(leaf, Values | Arms):
        same = [o for o in options(leaf) if o == value and isinstance(o, bool) == isinstance(value, bool)]
        if not same:
            raise at.refuse("must be one of the choice", value, f"known: {', '.join(map(str, options(leaf)))}")
        return same[0]
    number = isinstance(value, int | float) and not isinstance(value, bool) and leaf.low <= value <= leaf.high
    if not number or (isinstance(leaf, IntRange) and (value - leaf.low) % leaf.step):
        raise at.refuse(f"must be in [{leaf.low}, {leaf.high}]", value, "take a value of the range")
    return int(value) if isinstance(leaf, IntRange) else float(value)


def described(leaf: FloatRange | IntRange | Values) -> str:
    """Return where a parameter lies, e.g. ``[0.001, 1] log``."""
    if isinstance(leaf, Values):
        return " | ".join(map(str, leaf.values))
    step = f" step {leaf.step}" if isinstance(leaf, IntRange) and leaf.step > 1 else ""
    return f"[{leaf.low:g}, {leaf.high:g}]{step}{' log' if leaf.log else ''}"


def canonical(node: Node) -> Any:
    """Return plain data that is equal for equal spaces; arms keep their order, which Optuna's records depend on."""
    if isinstance(node, Group):
        return {key: canonical(child) for key, child in node.children.items()}
    if isinstance(node, Arms):
        return ["arms", node.default, [[arm, canonical(group)] for arm, group in node.arms.items()]]
    return [type(node).__name__, *vars(node).values()]
