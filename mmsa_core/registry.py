"""Finds plug-ins by their file: ``build("alignment", "coral", 32, 32)`` makes the one class of
``alignment/coral.py``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmsa_core.errors import UserError, nearest

KINDS = ("encoders", "alignment", "fusion", "labels", "weighting", "strategies")


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter of a plug-in: ``kind`` is "float" (may differ inside a population) or structure otherwise."""

    name: str
    kind: str
    default: Any


@dataclass(frozen=True)
class Card:
    """What a plug-in says of itself: one-line meaning, source and parameters, read from its code."""

    kind: str
    name: str
    summary: str
    source: str
    parameters: tuple[Parameter, ...]


@cache
def names(kind: str) -> tuple[str, ...]:
    """Return the plug-ins of a kind: the public files of its folder."""
    package = importlib.import_module(f"mmsa_core.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


@cache
def load(kind: str, name: str) -> type[Any]:
    """Return the one public class of a plug-in's file.

    Raises:
        UserError: there is no such plug-in.
    """
    if name not in names(kind):
        raise UserError(f"{kind}: there is no plug-in {name!r}{nearest(name, names(kind))}")
    module = importlib.import_module(f"mmsa_core.{kind}.{name}")
    classes = [
        c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__ and n[0] != "_"
    ]
    assert len(classes) == 1, f"{module.__name__} must hold exactly one public class, found {classes}"
    return classes[0]


@cache
def card(kind: str, name: str) -> Card:
    """Return what the plug-in says of itself."""
    cls = load(kind, name)
    text = inspect.getdoc(cls) or ""
    source = re.search(r"Source:\s*(.+?)(?:\n\s*\n|\Z)", text, re.S)
    parameters = tuple(
        Parameter(p.name, str(p.annotation), p.default)
        for p in inspect.signature(cls).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    )
    summary = " ".join(text.split("\n\n")[0].split())
    return Card(kind, name, summary, " ".join(source[1].split()) if source else "", parameters)


def arguments(kind: str, name: str, given: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the plug-in's full keyword arguments: ``given`` over its defaults, checked and cast.

    Raises:
        UserError: an unknown argument, or a value of the wrong type.
    """
    known = {p.name: p for p in card(kind, name).parameters}
    for key in given:
        if key not in known:
            raise UserError(f"{place}: {name} has no parameter {key!r}{nearest(key, known) if known else ''}")
    return {p.name: _cast(p, given.get(p.name, p.default), f"{place}.{p.name}") for p in known.values()}


def build(kind: str, name: str, *context: Any, **given: Any) -> Any:
    """Make the plug-in: ``context`` is what the model knows (dimensions, tasks), ``given`` its hyper-parameters."""
    return load(kind, name)(*context, **arguments(kind, name, given, f"{kind}.{name}"))


def _cast(parameter: Parameter, value: Any, place: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if parameter.kind == "float" and number:
        return float(value)
    fits = {
        "float": False,
        "int": isinstance(value, int) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }.get(parameter.kind, True)
    if not fits:
        raise UserError(f"{place}: must be of type {parameter.kind}, got {value!r}")
    return value
