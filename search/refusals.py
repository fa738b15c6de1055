"""Turns pydantic's errors into the one sentence of a user's mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mmsa_core.errors import UserError, nearest
from search.yaml_io import number_in_text, shown, spell


def sentence(error: ValidationError, model: type[BaseModel], source: str, written: Mapping[str, str]) -> UserError:
    """Return the first error: file, dotted key, rule and value; ``written`` names the origin of keys from elsewhere.

    An unknown key comes before a missing one, because the one is often the other misspelt.
    """
    errors = error.errors(include_url=False)
    first: Any = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    loc = [str(part) for part in first["loc"]]
    path = ".".join(loc)
    place = next((origin for key, origin in written.items() if path == key or path.startswith(f"{key}.")), None)
    where = place or (f"{source}: {path}" if path else source)
    return UserError(f"{where}: {_rule(first, _model_at(model, loc[:-1]), loc)}")


def _rule(error: Mapping[str, Any], model: type[BaseModel], loc: list[str]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{nearest(loc[-1], model.model_fields)}"
    if kind == "missing":
        return "the key is missing; add it"
    if kind == "value_error":
        return str(context["error"]) + ("" if isinstance(value, Mapping) else _got(value))
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a mapping (key: value){_got(value)}"
    if kind == "literal_error":
        known = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        hint = nearest(value, known) if isinstance(value, str) else f"; known: {', '.join(known)}"
        return f"must be one of {context['expected']}{_got(value)}{hint}"
    number = number_in_text(value)
    fix = f"; this number is text in YAML 1.1, write {spell(number)} without quotes" if number is not None else ""
    rule = error["msg"].replace("Input should be a valid", "must be a valid").replace("Input should", "must")
    return f"{rule}{_got(value)}{fix}"


def _got(value: object) -> str:
    return f", got {shown(value)}"


def _model_at(model: type[BaseModel], keys: list[str]) -> type[BaseModel]:
    """Return the model whose field the error is about."""
    for key in keys:
        if key not in model.model_fields:
            break
        annotation = model.model_fields[key].annotation
        inner = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return model
