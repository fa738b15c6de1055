"""Numbers and sentences of a report: what was found, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from search.report.collect import RunRecord
from search.statistics import Estimate, smallest_visible

MINUS = "\N{MINUS SIGN}"
LABELS = {
    "mae": "MAE",
    "corr": "Corr",
    "acc2": "Acc-2",
    "f1": "F1",
    "acc2_has0": "Acc-2, with 0",
    "f1_has0": "F1, with 0",
    "acc2_non0": "Acc-2, without 0",
    "f1_non0": "F1, without 0",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
}


@dataclass(frozen=True)
class Headline:
    """The result in words: the claim, how far it holds on the valid and the test split, and what limits it.

    ``resolved`` is True where the difference is, on every split that was looked at and in the winner's favour.
    """

    claim: str
    verdict: str
    resolved: bool = False
    test: str = ""
    notes: tuple[str, ...] = ()


def label(metric: str) -> str:
    """Return a metric's name as papers print it."""
    return LABELS.get(metric, metric)


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Return a number with a real minus sign.

    >>> number(-0.0004), number(-0.5, 2, signed=True), number(0.25, 2, signed=True)
    ('0.000', '\N{MINUS SIGN}0.50', '+0.25')
    """
    if not math.isfinite(value):
        return str(value).replace("inf", "∞").replace("-", MINUS)
    if abs(value) >= 1e5:
        return f"{value:{'+' if signed else ''}.3g}".replace("-", MINUS)
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def read(record: Mapping[str, Any]) -> Estimate:
    """Return the estimate that a JSON record holds."""
    return Estimate(**{field.name: record[field.name] for field in fields(Estimate)})


def interval(estimate: Estimate, signed: bool = False) -> str:
    """Return mean and 95 % interval, with as many digits as the interval's width asks for.

    >>> interval(Estimate(0.8475, 0.004, 10, 0.8446, 0.8504, 0.0013, 9, 0))
    '0.848 [0.845, 0.850]'
    """
    half = (estimate.high - estimate.low) / 2
    digits = min(6, max(3, math.ceil(-math.log10(half)))) if half > 0 else 3
    mean = number(estimate.mean, digits, signed)
    if estimate.n == 1:
        return f"{mean} (one seed, no interval)"
    return f"{mean} [{number(estimate.low, digits, signed)}, {number(estimate.high, digits, signed)}]"


def spread(estimate: Estimate) -> str:
    """Return mean and standard deviation."""
    return number(estimate.mean, 4) + (f" ± {number(estimate.std, 4)}" if estimate.n > 1 else "")


def seeds(count: int) -> str:
    return f"{count} fresh seed{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> duration(23.1), duration(150), duration(7260)
    ('23 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def by_resolution(run: RunRecord) -> list[Mapping[str, Any]]:
    """Return the effects of the winner's modules, the resolved ones first."""
    return sorted((run.explain or {}).get("effects", []), key=lambda e: not e["resolved"])


def headline(run: RunRecord) -> Headline:
    """Say in a few sentences what the run found."""
    if run.confirm is None:
        return _before_confirmation(run)
    if run.confirm["winner"] == run.confirm["baseline"]:
        return _baseline_wins(run, run.confirm)
    return _winner(run, run.confirm)


def _before_confirmation(run: RunRecord) -> Headline:
    ended = run.count("complete") + run.count("pruned") + run.count("failed")
    so_far = f"{ended} of {run.config.budget.trials} trials have ended"
    if not run.ranked:
        return Headline(f"No trial of {run.config.study} is complete: {so_far}.", "There is no result yet.")
    best = run.ranked[0]
    assert best.value is not None
    claim = f"Trial {best.number} has the best valid {label(run.metric)} so far, {number(best.value)}; {so_far}."
    verdict = (
        f"Nothing is confirmed yet. The value is the best of {len(run.ranked)} complete "
        f"trial{'' if len(run.ranked) == 1 else 's'} over {run.config.seeds.search} search "
        f"seed{'' if run.config.seeds.search == 1 else 's'}, so it is optimistic."
    )
    return Headline(claim, verdict)


def _winner(run: RunRecord, record: Mapping[str, Any]) -> Headline:
    metric = run.metric
    winner, base = run.candidate(record["winner"]), run.candidate(record["baseline"])
    value, difference = read(winner["valid"][metric]), read(winner["difference"])
    claim = (
        f"Trial {winner['trial']} reaches valid {label(metric)} {interval(value)} over {seeds(value.n)}; "
        f"the baseline reaches {interval(read(base['valid'][metric]))}."
    )
    tested = read(record["test"]["difference"]) if "test" in record else difference
    resolved = all(d.excludes_zero and run.sign * d.mean < 0 for d in (difference, tested))
    verdict = f"On the valid split the difference is {_verdict(difference, run.sign)}"
    return Headline(claim, verdict, resolved, _test(run, record), _notes(record) + _optimism(run, record))


def _baseline_wins(run: RunRecord, record: Mapping[str, Any]) -> Headline:
    base = run.candidate(record["baseline"])
    value = read(base["valid"][run.metric])
    others = [c for c in record["candidates"] if c["trial"] != record["baseline"]]
    start = "No confirmed candidate beats the baseline, which" if others else "Only the baseline was confirmed; it"
    claim = f"{start} reaches valid {label(run.metric)} {interval(value)} over {seeds(value.n)}."
    verdict = "There was no other candidate to confirm."
    if others:
        difference = _verdict(read(others[0]["difference"]), run.sign)
        verdict = f"The nearest is trial {others[0]['trial']}; its difference from the baseline is {difference}"
    return Headline(claim, verdict, False, _test(run, record), _notes(record) + _optimism(run, record))


def _verdict(difference: Estimate, sign: float) -> str:
    text = interval(difference, signed=True)
    if difference.n < 2:
        return f"{text}: one seed resolves nothing."
    if difference.excludes_zero:
        against = "" if sign * difference.mean < 0 else ", in the baseline's favour"
        return f"{text}: resolved, its 95 % interval excludes 0{against}."
    visible = number(smallest_visible(difference))
    return f"{text}: not resolved, its 95 % interval includes 0 (the smallest difference visible was {visible})."


def _test(run: RunRecord, record: Mapping[str, Any]) -> str:
    if "test" not in record:
        return ""
    winner = interval(read(record["test"]["winner"][run.metric]))
    if record["winner"] == record["baseline"]:
        return f"On the test split the baseline reaches {winner}."
    base = interval(read(record["test"]["baseline"][run.metric]))
    difference = _verdict(read(record["test"]["difference"]), run.sign)
    return f"On the test split: {winner} against {base}; the difference is {difference}"


def _notes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what limits the result: it was selected, and one sample of data was looked at."""
    others = sum(c["trial"] != record["baseline"] for c in record["candidates"])
    data = "The intervals cover the training seeds, not another sample of data."
    if others == 0:
        return (data,)
    return (
        f"The winner is the best of {others} candidate{'' if others == 1 else 's'} and the baseline on the valid "
        f"split, on which the search was made too. {data}",
    )


def _optimism(run: RunRecord, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how far the best search value was from its confirmation, where that trial was confirmed."""
    best = next((t for t in run.ranked if t.number in {c["trial"] for c in record["candidates"]}), None)
    if best is None or best.value is None:
        return ()
    value = read(run.candidate(best.number)["valid"][run.metric])
    if run.sign * (value.mean - best.value) <= 0:
        return ()
    return (
        f"Search values are optimistic: the best of them, {number(best.value)} of trial {best.number}, became "
        f"{interval(value)} over {seeds(value.n)}.",
    )
