"""Reads the JSON records of runs and models: whole, of the right type, with the keys that every reader needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsa_core.errors import UserError
from search.yaml_io import shown

Needs = Mapping[str, type | tuple[type, ...]]
"""Keys that a record must have, and the types of their values."""


def read_json(path: Path, needs: Needs, fix: str) -> dict[str, Any]:
    """Return a record; ``fix`` says what makes it anew.

    Raises:
        UserError: it is missing, cut off, no mapping, or lacks a key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {fix}") from None
    return parse_json(content, str(path), needs, fix)


def parse_json(content: bytes, place: str, needs: Needs, fix: str) -> dict[str, Any]:
    """Return the record that a file's content is, as :func:`read_json` does."""
    try:
        record: Any = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: cannot be read as JSON ({error}); {fix}") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: must be a mapping, got {shown(record)}; {fix}")
    check_needs(record, needs, place, fix)
    return record


def check_needs(record: Mapping[str, Any], needs: Needs, place: str, fix: str) -> None:
    """Check that a record has the keys that it needs.

    Raises:
        UserError: one is missing, or its value is of another type.
    """
    for key, kinds in needs.items():
        if key not in record:
            raise UserError(f"{place}: {key} is missing; {fix}")
        value = record[key]
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(k.__name__ for k in wanted)
            raise UserError(f"{place}: {key} must be of type {names}, got {shown(value)}; {fix}")
