"""Which modules the measured interactions speak for: said only of what is resolved, with the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmsa_core.analysis.held_out import Comparison
from mmsa_core.analysis.interactions import Interactions

SHARED = ("coral", "cka", "barlow", "contrastive", "vicreg")
PRIVATE = ("orthogonal", "hsic", "cross_correlation", "coral_private")
MULTIPLYING = ("low_rank", "tensor", "gated", "attention")
ADDING = ("concat", "sum", "weighted_concat")
UNLAZY = ("modality_dropout", "incomplete")
HIGH = 0.2
"""A part is high from this share of what a pair says on."""
DOMINANT = 0.5
"""A modality is dominant whose own part is at least this share."""


@dataclass(frozen=True)
class Advice:
    """Arms that are worth trying first at a place of the space, and why."""

    place: str
    arms: tuple[str, ...]
    reason: str


def advise(found: Interactions) -> list[Advice]:
    """Return advice on alignments of pairs, fusion and strategy; none where nothing is resolved.

    Redundancy speaks for a shared alignment where it clearly exceeds synergy. Where it does not, two modalities say as
    much but not the same (I_12 comes near I_1 + I_2), which speaks for a private one, as does a part that one has of
    its own. Synergy that takes products speaks for a fusion that multiplies, and a modality that says most of all,
    while others say something, for a strategy against leaning on it.
    """
    return [*_alignments(found.pairs), *_fusion(found.pairs), *_strategy(found.one_versus_rest or found.pairs)]


def record(found: Interactions) -> dict[str, Any]:
    """Return the interactions with their advice as plain data (JSON)."""
    advice = [{"place": a.place, "arms": list(a.arms), "reason": a.reason} for a in advise(found)]
    return {**found.to_dict(), "advice": advice}


def _alignments(pairs: Sequence[Comparison]) -> Iterator[Advice]:
    for c in (c for c in pairs if c.redundancy.resolved):
        shared, synergy = c.redundancy.value, c.synergy.value
        own = sum(q.value for q in (c.unique_first, c.unique_second) if q.resolved)
        place, both = f"alignment.{c.first}-{c.second}", f"{c.first} and {c.second}"
        if own > shared and _high(own, c):
            alone = f"share {shared:.3f} bits, but {_bits(own, c)} stand in one alone"
            yield Advice(place, PRIVATE, f"{both} {alone}, so keep them apart")
        elif _high(shared - synergy, c):
            yield Advice(place, SHARED, f"{both} both say {_bits(shared, c)}, so let them match")
        elif c.synergy.resolved:
            more = f"both say {shared:.3f} bits, but not the same, as the two together say {synergy:.3f} more"
            yield Advice(place, PRIVATE, f"{both} {more}, so keep them apart")


def _fusion(pairs: Sequence[Comparison]) -> Iterator[Advice]:
    multiplied = [c for c in pairs if c.products is not None and c.products.resolved and _high(c.products.value, c)]
    added = [c for c in pairs if c.synergy.resolved and _high(c.synergy.value, c)]
    if multiplied:
        best = max(multiplied, key=lambda c: c.products.value if c.products is not None else 0.0)
        assert best.products is not None
        bits = _bits(best.products.value, best)
        yield Advice(
            "fusion", MULTIPLYING, f"{bits} of {best.first} and {best.second} stand only in products of the two"
        )
    elif added:
        best = max(added, key=lambda c: c.synergy.value)
        bits = _bits(best.synergy.value, best)
        yield Advice(
            "fusion",
            ADDING,
            f"{best.first} and {best.second} add up ({bits} are known only from both), and no product brings more",
        )


def _strategy(comparisons: Sequence[Comparison]) -> Iterator[Advice]:
    for c in comparisons:
        for own, name, other in ((c.unique_first, c.first, c.second), (c.unique_second, c.second, c.first)):
            dominant = "+" not in name and own.resolved and own.value >= DOMINANT * _whole(c)
            if dominant and (c.redundancy.resolved or c.synergy.resolved):
                reason = f"{name} alone says {_bits(own.value, c)}, and {other} something too that a model may neglect"
                yield Advice("strategy", UNLAZY, reason)


def _high(value: float, c: Comparison) -> bool:
    return 0 < value >= HIGH * _whole(c)


def _whole(c: Comparison) -> float:
    """Return all that the two say together."""
    return c.redundancy.value + c.unique_first.value + c.unique_second.value + c.synergy.value


def _bits(value: float, c: Comparison) -> str:
    return f"{value:.3f} of {_whole(c):.3f} bits"
