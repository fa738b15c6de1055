"""Compares a study with the one that a run folder holds: only what leaves its trials comparable may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsa_core.errors import UserError
from search.study import StudyConfig
from search.yaml_io import shown

FREE = {"budget", "resources", "storage", "population", "max_failure_rate", "sampler", "winner", "keep_weights"}
"""Parts of a study that may change when a run is taken up again; the others would make its trials incomparable."""


def check_same(path: Path, config: StudyConfig, facts: Mapping[str, Any], before_facts: Mapping[str, Any]) -> None:
    """Refuse another study, or other data, than the run folder at ``path`` holds.

    Raises:
        UserError: the first difference.
    """
    before, now = StudyConfig.load(path / "resolved.yaml").resolved(), config.resolved()
    for key in now:
        if key not in FREE and key not in ("data", "seeds") and before[key] != now[key]:
            raise UserError(
                f"{path}: holds a run with another {key}: {_short(before[key], now[key])}; give another "
                f"--out, and warm_start: [{path}] to try its best trials first there"
            )
    for key in ("search", "base"):
        was, wanted = before["seeds"][key], now["seeds"][key]
        if was != wanted:
            raise UserError(f"{path}: holds a run with seeds.{key}={was}, now {wanted}; give another --out")
    was, wanted = before_facts.get("data_fingerprint"), facts.get("data_fingerprint")
    if was != wanted:
        raise UserError(f"{path}: holds a run on other data (fingerprint {was}, now {wanted}); give another --out")


def _short(before: Any, now: Any, path: str = "") -> str:
    """Name the first place where two values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            if before.get(key) != now.get(key):
                return _short(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    return f"{path + ': ' if path else ''}{shown(before)} before, {shown(now)} now"
