"""The winner with one of its modules replaced: what the effect of each module is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmsa_core.config import NONE, MemberConfig
from mmsa_core.model import complete
from search.configs import modules
from search.members import Candidate
from search.nodes import Arms
from search.overrides import assign, plain
from search.space import Space


@dataclass(frozen=True)
class Switch:
    """One module of the winner replaced by another arm of its choice, everything else equal."""

    place: str
    chosen: str
    against: str
    candidate: Candidate


def switches(
    space: Space, params: Mapping[str, Any], extra: Mapping[str, Any], baseline: Mapping[str, str] | None = None
) -> list[Switch]:
    """Return the winner's modules with what each is compared to: ``none`` where it is an arm, else the baseline's arm.

    ``baseline`` holds the modules of a baseline that the study names; an arm that the space lacks, and every arm
    without it, is the space's default. An arm comes with its settings at the space's defaults.

    A module that already is that arm is compared to nothing, and neither is one without effect beside the others (a
    way to weigh tasks where there is one task). ``extra`` is added to every configuration.
    """
    named = baseline or {}
    own = effective({**space.config(params), **extra})
    leaves = space.leaves()
    defaults = {path: leaf.default for path, leaf in leaves.items()}
    found = []
    for path, chosen in params.items():
        leaf = leaves[path]
        if not isinstance(leaf, Arms):
            continue
        known = named[path] if named.get(path) in leaf.arms else leaf.default
        against = NONE if NONE in leaf.arms else str(known)
        if against != chosen:
            config = {**space.config({**defaults, **space.decided(params), **params, path: against}), **extra}
            if effective(config) == own:
                continue
            found.append(Switch(path, str(chosen), against, Candidate(f"{path}: {against}", config)))
    return found


def removals(config: Mapping[str, Any]) -> list[Switch]:
    """Return what can be taken out of a configuration from outside the space: alignments and unimodal labels."""
    found = []
    for place, chosen in modules(config).items():
        if chosen != NONE and place.startswith(("alignment.", "labels")):
            without = plain(config)
            assign(without, place, NONE, {})
            found.append(Switch(place, chosen, NONE, Candidate(f"{place}: {NONE}", without)))
    return found


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain data with every default written out.

    Raises:
        UserError: no model can be built from it.
    """
    return complete(MemberConfig.from_dict(config)).to_dict()


def effective(config: Mapping[str, Any]) -> str:
    """Return what is equal for configurations that train the same, however they are written.

    Raises:
        UserError: no model can be built from it.
    """
    return complete(MemberConfig.from_dict(config)).fingerprint()
