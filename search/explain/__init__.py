"""Why the winner wins: importances, effects, interactions, the way from the baseline, and what the trials suggest.

What is found is kept as ``explain.json``, which is written and read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsa_core.atomic import write_text
from search.records import read_json


def write_explanation(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``explain.json``."""
    write_text(folder / "explain.json", json.dumps(record, indent=2) + "\n")


def read_explanation(folder: Path) -> dict[str, Any] | None:
    """Return ``explain.json``, or None before the first explanation."""
    path = folder / "explain.json"
    return read_json(path, {"effects": list}, "move it away and explain the run again") if path.exists() else None
