"""Reads a model's provenance and checks each value before a verb uses it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from mmsa_core.data.dataset import Nonfinite
from mmsa_core.data.text import TextModel
from mmsa_core.errors import UserError, nearest
from mmsa_core.train import Objective
from search.model_files import AGAIN
from search.records import Needs, check_needs, parse_json
from search.yaml_io import shown

PROVENANCE: Needs = {
    "seeds": list, "metric": str, "convention": str, "nonfinite": str, "data_path": str, "data_fingerprint": str,
    "text_model": (dict, type(None)), "interval": dict,
}  # fmt: skip
"""What is needed of ``provenance.json`` to use a model."""
INTERVAL: Needs = dict.fromkeys(("level", "scale", "floor"), (int, float))


def parse_provenance(content: bytes, path: Path) -> dict[str, Any]:
    """Return what a model's ``provenance.json``, at ``path``, holds.

    Raises:
        UserError: it cannot be read, lacks a key, or holds a value that no verb can use.
    """
    record = parse_json(content, str(path), PROVENANCE, AGAIN)
    _check_interval(record["interval"], f"{path}: interval")
    if record["text_model"] is not None:
        TextModel.from_dict(record["text_model"], f"{path}: text_model")
    try:
        Objective.checked(record["metric"], record["convention"])
    except UserError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from None
    if record["nonfinite"] not in get_args(Nonfinite):
        raise UserError(f"{path}: nonfinite must be refuse or zero, got {shown(record['nonfinite'])}; {AGAIN}")
    for seed in record["seeds"]:
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise UserError(f"{path}: seeds must be whole numbers from 0 to 2^63, got {shown(seed)}; {AGAIN}")
    return record


def _check_interval(interval: dict[str, Any], place: str) -> None:
    """Check the three numbers of a prediction interval."""
    check_needs(interval, INTERVAL, place, AGAIN)
    for key, value in interval.items():
        if key not in INTERVAL:
            raise UserError(f"{place}: unknown key {key!r}{nearest(key, INTERVAL)}; {AGAIN}")
        most = 1.0 if key == "level" else 1e30  # of labels
        if not 0 <= value <= most or not math.isfinite(value):
            raise UserError(f"{place}: {key} must lie in 0..{most:g}, got {shown(value)}; {AGAIN}")
