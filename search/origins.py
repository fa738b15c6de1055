"""What first trials gained: leaders of other runs and advised modules against what the search itself found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.trials import ADDED, INTERACTIONS, SEARCH, WARM_START

NAMES = {WARM_START: "taken from other runs", INTERACTIONS: "advised by the data's interactions"}


def origin_sentences(origins: Mapping[str, Mapping[str, Any]], metric: str, sign: float) -> list[str]:
    """Return a sentence for each kind of first trials: their best against the best of the search's own trials, and when
    the best of all was reached; then where each is from, and what was dropped.

    ``origins`` is :func:`search.trials.origins`; ``sign`` times a value is smaller where it is better.
    """
    found = []
    own = origins.get(SEARCH, {})
    for origin in NAMES:
        group = origins.get(origin)
        if group is None:
            continue
        found += [_gain(NAMES[origin], group, own, metric, sign)] if group["trials"] else []
        found += [f"{note}." for note in (*group["notes"], *(f"dropped: {d}" for d in group["dropped"]))]
    values = [(sign * g["best"], g["number"]) for g in origins.values() if g["best"] is not None]
    found += [f"The best value of all was reached by trial {min(values)[1]}."] if found and values else []
    if ADDED in origins:
        count = origins[ADDED]["trials"]
        found.append(f"{count} trial{' was' if count == 1 else 's were'} added by other tools and left out.")
    return found


def _gain(name: str, group: Mapping[str, Any], own: Mapping[str, Any], metric: str, sign: float) -> str:
    count = f"{group['trials']} trial{'' if group['trials'] == 1 else 's'} {name}"
    if group["best"] is None:
        return f"{count}: none is complete."
    start = f"{count}: the best, trial {group['number']}, reached {metric} {group['best']:.4f}"
    if own.get("best") is None:
        return f"{start}; none of the search's own is complete."
    ahead = sign * (own["best"] - group["best"])
    verdict = "ahead of" if ahead > 0 else "behind" if ahead < 0 else "level with"
    return (
        f"{start}, {verdict} the best of the search's own {own['trials']}, {own['best']:.4f} of trial {own['number']}."
    )
