"""Checks the YAML tree of a search space into nodes.

A mapping is a node; ``{choice: ...}``, ``{float: [low, high]}`` and ``{int: [low, high]}`` are its leaves; the rest is
constant.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from mmsa_core.errors import nearest
from search.nodes import Arms, Constant, FloatRange, Group, IntRange, Node, Place, Scalar, Values
from search.yaml_io import number_in_text, spell

LEAVES = {"choice": ("default",), "float": ("log", "default"), "int": ("step", "log", "default")}


def parse_group(tree: object, at: Place) -> Group:
    """Check a mapping of settings.

    Raises:
        UserError: what is refused is said with its path, value, rule and fix.
    """
    if not isinstance(tree, Mapping):
        raise at.refuse("must be a mapping (key: value)", tree, "write {} where there is nothing to set")
    return Group({_name(key, at): _parse(value, at / key) for key, value in tree.items()})


def _parse(tree: object, at: Place) -> Node:
    if not isinstance(tree, Mapping):
        if isinstance(tree, bool) and at.path.rpartition(".")[2] == "name":
            raise at.refuse("a name must be text", tree, "quote it, or use none")
        return Constant([_scalar(v, at) for v in tree] if isinstance(tree, list) else _scalar(tree, at))
    kind = next((k for k in LEAVES if k in tree), None)
    if kind is None:
        _suspect(tree, at)
        return parse_group(tree, at)
    for key in tree:
        if key != kind and key not in LEAVES[kind]:
            raise at.refuse(f"unknown key beside {kind}", key, nearest(str(key), LEAVES[kind]).removeprefix("; "))
    if kind == "choice":
        return _choice(tree, at)
    return _float_range(tree, at) if kind == "float" else _int_range(tree, at)


def _suspect(tree: Mapping[Any, Any], at: Place) -> None:
    """Refuse a misspelt leaf, which would pass for constants."""
    for key, value in tree.items():
        close = difflib.get_close_matches(str(key), LEAVES, n=1, cutoff=0.75)
        if close and isinstance(value, list | Mapping) and ("default" in tree or len(tree) == 1 or "log" in tree):
            raise at.refuse("unknown kind of leaf", key, f"did you mean {close[0]!r}?")
    if "default" in tree:
        raise at.refuse("default stands beside choice, float or int", list(tree), "name one of them")


def _name(key: object, at: Place) -> str:
    if isinstance(key, bool):
        raise at.refuse("a name must be text, and bare no/off/yes/on are booleans", key, "quote it, or use none")
    if not isinstance(key, str) or not re.fullmatch(r"[\w-]+", key):
        raise at.refuse("a name must be of letters, digits, _ and -", key, "rename it, or quote it if it is a number")
    return key


def _scalar(value: object, at: Place) -> Scalar:
    if value is None:
        raise at.refuse("a value is needed", value, "write it, or `none` for a module that is absent")
    if not isinstance(value, str | int | float):
        raise at.refuse("must be one number or name", value, "only choice lists several")
    if isinstance(value, str) and (number := number_in_text(value)) is not None:
        raise at.refuse("this number is text in YAML 1.1", value, f"write {spell(number)} without quotes")
    if isinstance(value, float) and not math.isfinite(value):
        raise at.refuse("must be finite", value, "write a finite number")
    return value


def _number(value: object, at: Place) -> float:
    number = _scalar(value, at)
    if isinstance(number, bool | str):
        raise at.refuse("must be a number", value, "write a number such as 0.1")
    if abs(number) > 1e300:
        raise at.refuse("must be finite", value, "write a smaller number")
    return float(number)


def _whole(value: object, at: Place) -> int:
    number = _scalar(value, at)
    if isinstance(number, bool) or not isinstance(number, int):
        raise at.refuse("must be a whole number", value, "write it without a point, or use float")
    if abs(number) > 2**53:
        raise at.refuse("must be within 2^53", value, "write a smaller number")
    return number


def _ends(tree: Mapping[Any, Any], kind: str, at: Place) -> tuple[Any, Any, bool]:
    ends = tree[kind]
    if not isinstance(ends, list) or len(ends) != 2:
        raise at.refuse(f"{kind} needs two ends", ends, f"write {kind}: [low, high]")
    log = tree.get("log", False)
    if not isinstance(log, bool):
        raise at.refuse("log must be true or false", log, "write log: true")
    low, high = (_number(v, at) if kind == "float" else _whole(v, at) for v in ends)
    if not low < high:
        raise at.refuse("a range needs low < high", ends, "swap the ends, or write one value without a range")
    if log and low <= 0:
        raise at.refuse("a log range needs low > 0", low, "raise low or drop log")
    return low, high, log


def _float_range(tree: Mapping[Any, Any], at: Place) -> FloatRange:
    low, high, log = _ends(tree, "float", at)
    middle = math.sqrt(low) * math.sqrt(high) if log else low + (high - low) / 2
    default = _number(tree["default"], at / "default") if "default" in tree else min(max(middle, low), high)
    if not low <= default <= high:
        raise at.refuse(f"the default must lie in [{low}, {high}]", default, "move it or widen the range")
    return FloatRange(low, high, log, default)


def _int_range(tree: Mapping[Any, Any], at: Place) -> IntRange:
    low, high, log = _ends(tree, "int", at)
    step = _whole(tree["step"], at / "step") if "step" in tree else 1
    if step < 1:
        raise at.refuse("step must be at least 1", step, "drop it for a step of 1")
    if log and step != 1:
        raise at.refuse("a log range has no step", step, "drop log or step")
    if (high - low) % step:
        last = high - (high - low) % step
        raise at.refuse(f"high must be low plus a multiple of step {step}", high, f"write {last} or {last + step}")
    middle = round(math.sqrt(low) * math.sqrt(high)) if log else low + (high - low) // step // 2 * step
    default = _whole(tree["default"], at / "default") if "default" in tree else middle
    if not low <= default <= high or (default - low) % step:
        raise at.refuse(f"the default must be one of {low}, {low + step}, ..., {high}", default, "move it")
    return IntRange(low, high, step, log, default)


def _choice(tree: Mapping[Any, Any], at: Place) -> Values | Arms:
    options = tree["choice"]
    if not isinstance(options, list | Mapping):
        raise at.refuse("choice needs a list of values or a mapping of arms", options, "write choice: [a, b]")
    if not options:
        raise at.refuse("choice needs at least one arm", options, "write choice: [a, b]")
    return _arms(tree, options, at) if isinstance(options, Mapping) else _values(tree, options, at)


def _arms(tree: Mapping[Any, Any], options: Mapping[Any, Any], at: Place) -> Arms:
    arms = {_name(arm, at): parse_group(children, at / arm) for arm, children in options.items()}
    for arm, group in arms.items():
        if "name" in group.children:
            raise (at / arm).refuse("the arm itself gives the key", "name", "rename this setting")
    default = tree.get("default", next(iter(arms)))
    if not isinstance(default, str) or default not in arms:
        raise (at / "default").refuse("must be an arm", default, nearest(str(default), arms).removeprefix("; "))
    return Arms(arms, default)


def _values(tree: Mapping[Any, Any], options: list[Any], at: Place) -> Values:
    values = [_scalar(v, at) for v in options]
    booleans = [isinstance(v, bool) for v in values]
    if any(booleans) and not all(booleans):
        raise at.refuse("bare no/off/yes/on are booleans among other values", options, "quote them, or use none")
    default = _scalar(tree["default"], at / "default") if "default" in tree else values[0]
    if not any(isinstance(v, str) for v in values) and any(isinstance(v, float) for v in values):
        values = [_number(v, at) for v in values]
        default = _number(default, at / "default")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise at.refuse("every arm must be there once", value, "drop the duplicate")
    match = [v for v in values if v == default and isinstance(v, bool) == isinstance(default, bool)]
    if not match:
        fix = nearest(str(default), [str(v) for v in values]).removeprefix("; ")
        raise (at / "default").refuse("must be one of the choice", default, fix)
    return Values(tuple(values), match[0])
