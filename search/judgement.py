"""Confirmed candidates compared on the valid split: estimates, differences from the baseline and each other, the
winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.split import Split, videos
from mmsa_core.metrics import METRICS, Convention
from search.elo import ratings
from search.members import Confirmed, load
from search.race import Race
from search.statistics import Estimate, combined, compare, resolve
from search.study import StudyConfig

DIGITS = 3
"""Digits in which two candidates are equal, so that the cheaper one wins: what reports print."""


def estimates(
    predictions: NDArray[np.float32], target: NDArray[np.float32], convention: Convention, clusters: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return every metric of a configuration's predictions [seed, row] as an estimate over seeds and videos."""
    names = METRICS[convention]
    return {n: combined(n, convention, [(1.0, predictions)], target, clusters).to_dict() for n in names}


def between(
    a: Confirmed,
    b: Confirmed,
    metric: str,
    convention: Convention,
    labels: NDArray[np.float32],
    clusters: NDArray[np.int64],
) -> Estimate:
    """Return the difference a - b in a metric, on the seeds that both finished with."""
    common = [s for s in a.seeds if s in b.seeds]
    return compare(metric, convention, a.of(common), b.of(common), labels, clusters)


def judge(study: StudyConfig, race: Race, valid: Split) -> dict[str, Any]:
    """Compare the candidates of a race on the valid split and name the winner by the study's rule.

    A leader that has no seed in common with the baseline, as most failed, is left out.

    Raises:
        UserError: the baseline failed with every seed.
    """
    heats, clusters = race.heats(), videos(valid.ids)
    dropped = {n: heat.seeds for heat in heats for n in heat.dropped}
    base = load(race.folder, race.candidates[race.baseline], race.seeds, states=False)
    ran = {n: race.seeds[: dropped.get(n)] for n in race.candidates if race.values(n)}
    found = {n: load(race.folder, race.candidates[n], seeds, states=False) for n, seeds in ran.items()}
    standings = _Standings(race, {n: m for n, m in found.items() if {*m.seeds} & {*base.seeds}}, clusters)
    differences, rated = standings.from_baseline(), standings.elo()
    table: list[dict[str, Any]] = [
        {
            "trial": n,
            "config": own.config,
            "valid": estimates(own.predictions, valid.labels, race.convention, clusters),
            "seconds": own.seconds,
            "parameters": own.parameters,
            "best_epoch": float(np.mean(own.best_epochs)),
            "failures": own.failures,
            "dropped_after": dropped.get(n),
            "difference": differences[n],
            "elo": rated[n],
        }
        for n, own in standings.found.items()
    ]
    table.sort(key=lambda entry: race.sign * entry["valid"][race.metric]["mean"])
    finishers = [entry for entry in table if entry["dropped_after"] is None]
    return {
        "metric": race.metric,
        "convention": race.convention,
        "direction": study.objective.direction,
        "seeds": list(race.seeds),
        "baseline": race.baseline,
        "winner": standings.winner(finishers, study.winner),
        "rule": study.winner,
        "clusters": len(np.unique(clusters)),
        "race": [{"seeds": h.seeds, "entered": list(h.entered), "dropped": list(h.dropped)} for h in heats],
        "members": sum(len(own.seeds) for own in standings.found.values()),
        "budget": len(race.candidates) * len(race.seeds),
        "candidates": table,
        "pairs": standings.pairs([e["trial"] for e in finishers if e["trial"] != race.baseline]),
    }


@dataclass(frozen=True)
class _Standings:
    """The members of a race's candidates, by trial number, each with the seeds it ran with until it was dropped."""

    race: Race
    found: Mapping[int, Confirmed]
    clusters: NDArray[np.int64]

    def difference(self, a: int, b: int) -> Estimate:
        race = self.race
        return between(self.found[a], self.found[b], race.metric, race.convention, race.labels, self.clusters)

    def from_baseline(self) -> dict[int, dict[str, Any]]:
        """Return each candidate's difference from the baseline; those of the leaders are one family of claims."""
        base = self.race.baseline
        leaders = [n for n in self.found if n != base]
        records = resolve([self.difference(n, base) for n in leaders])
        return {**dict(zip(leaders, records, strict=True)), base: resolve([self.difference(base, base)])[0]}

    def elo(self) -> dict[int, dict[str, float]]:
        """Return each candidate's Elo rating: it wins a row of the valid split by the smaller mean error."""
        errors = [np.abs(own.predictions - self.race.labels).mean(0, dtype=np.float64) for own in self.found.values()]
        rated = ratings(np.stack(errors), self.clusters.tolist(), seed=0)
        return {n: rating.to_dict() for n, rating in zip(self.found, rated, strict=True)}

    def pairs(self, leaders: Sequence[int]) -> list[dict[str, Any]]:
        """Return the differences among the leaders that ran to the end; they are one family of claims."""
        both = [(a, b) for a, b in combinations(leaders, 2) if {*self.found[a].seeds} & {*self.found[b].seeds}]
        records = resolve([self.difference(a, b) for a, b in both])
        return [{"a": a, "b": b, "difference": record} for (a, b), record in zip(both, records, strict=True)]

    def winner(self, finishers: Sequence[Mapping[str, Any]], rule: str) -> int:
        """Return the winner's trial among the candidates that ran to the end, the best mean first.

        ``bound`` takes the best pessimistic end of the interval and ``mean`` the best mean; of equal ones, as printed,
        the one with the fewest parameters. ``cheapest`` takes the fewest parameters among those whose difference from
        the best mean is not resolved.
        """
        sign, metric = self.race.sign, self.race.metric
        end = {"bound": "high" if sign > 0 else "low"}.get(rule, "mean")
        value = {e["trial"]: sign * float(e["valid"][metric][end]) for e in finishers}
        if rule == "cheapest":
            best = finishers[0]["trial"]
            equal = [e for e in finishers if not self.difference(e["trial"], best).excludes_zero]
            return int(min(equal, key=lambda e: (e["parameters"], value[e["trial"]]))["trial"])
        order = {n: (round(v, DIGITS), v) for n, v in value.items()}
        return int(min(finishers, key=lambda e: (order[e["trial"]][0], e["parameters"], order[e["trial"]][1]))["trial"])
