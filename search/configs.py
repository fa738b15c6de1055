"""One configuration as a person names it: a shipped file or a path, with ``key=value`` changes, for some modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from mmsa_core.config import MODALITIES, NONE, TEACHER, MemberConfig
from mmsa_core.errors import UserError
from search.overrides import assign, plain, restricted
from search.shipped import read_named

PAIRS = tuple(f"{a}-{b}" for a, b in combinations(MODALITIES, 2))
TAUGHT = tuple(f"{m}-{TEACHER}" for m in MODALITIES)
PLACES = (
    *(f"encoders.{m}" for m in MODALITIES),
    *(f"alignment.{p}" for p in (*PAIRS, *TAUGHT)),
    "fusion",
    "labels",
    "weighting",
    "strategy",
)
"""Where a configuration names a plug-in."""


def read_config(name_or_path: str | Path, overrides: Iterable[tuple[str, Any]] = ()) -> MemberConfig:
    """Read a shipped configuration (``self_mm``) or a YAML file by its path, with the value at each dotted key set.

    Raises:
        UserError: there is no such configuration, or it or a change to it is refused.
    """
    tree, source = read_named("configuration", name_or_path)
    return changed(MemberConfig.from_dict(tree, source), overrides)


def changed(config: MemberConfig, overrides: Iterable[tuple[str, Any]]) -> MemberConfig:
    """Return a configuration with the value at each dotted key set.

    A plug-in's name takes the place of the plug-in with its settings (``encoders.text=pool``); a key below it is one of
    its settings (``encoders.text.dim=8``).

    Raises:
        UserError: a key that does not exist, or a value that is refused.
    """
    for key, value in overrides:
        tree = plain(config.to_dict())
        assign(tree, key, value, dict.fromkeys(PLACES, "name"))
        try:
            config = MemberConfig.from_dict(tree)
        except UserError as error:
            raise UserError(f"override {key}: {error}") from None
    return config


def for_modalities(config: MemberConfig, modalities: Iterable[str], source: str) -> MemberConfig:
    """Return a configuration without the encoders, pairs, task weights and rates that name an absent modality.

    Raises:
        UserError: it has none of ``modalities``.
    """
    present = tuple(modalities)
    if not set(config.modalities) & set(present):
        raise UserError(
            f"{source}: has encoders of {', '.join(config.modalities)}, and the study has {', '.join(present)} only; "
            "name a configuration of one of these"
        )
    return MemberConfig.from_dict(restricted(config.to_dict(), present), source)


def modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the plug-in at each place of a configuration; an absent pair is ``none``, an absent teacher is left out.

    >>> modules({"encoders": {"text": "pool"}, "fusion": {"name": "sum", "dim": 8}})["fusion"]
    'sum'
    """
    encoders = {f"encoders.{m}": _name(p) for m, p in config["encoders"].items()}
    aligned = config.get("alignment", {})
    there = (*PAIRS, *(p for p in TAUGHT if p in aligned))
    pairs = {f"alignment.{p}": _name(aligned.get(p, NONE)) for p in there}
    defaults = {"fusion": "concat", "labels": NONE, "weighting": "static", "strategy": NONE}
    return {**encoders, **pairs, **{k: _name(config.get(k, name)) for k, name in defaults.items()}}


def _name(plugin: str | Mapping[str, Any]) -> str:
    return plugin if isinstance(plugin, str) else str(plugin["name"])
