"""The result of a run in a few sentences: what was found, how sure that is, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.report.collect import RunRecord
from search.report.wording import chance, interval, is_resolved, label, number, read, seeds
from search.statistics import smallest_visible

RULES = {
    "bound": "the best pessimistic end of its interval",
    "mean": "the best mean",
    "cheapest": "the fewest parameters of those not resolved from the best mean,",
}
"""The rules by which a winner is chosen, as the end of a sentence."""


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


def headline(run: RunRecord) -> Headline:
    """Say in a few sentences what the run found."""
    found = _found(run)
    return replace(found, notes=(*found.notes, *_stale(run)))


def _found(run: RunRecord) -> Headline:
    if run.confirm is None:
        return _before_confirmation(run)
    if run.confirm["winner"] == run.confirm["baseline"]:
        return _baseline_wins(run, run.confirm)
    return _winner(run, run.confirm)


def _stale(run: RunRecord) -> tuple[str, ...]:
    """Say what is left out of the report, as it is of another confirmation than the one that is shown."""
    if not run.stale:
        return ()
    files = " and ".join(run.stale)
    return (f"Left out, as they belong to another confirmation: {files}; confirm the run again to have them anew.",)


def _before_confirmation(run: RunRecord) -> Headline:
    ended = run.count("complete") + run.count("pruned") + run.count("failed")
    budget = run.config.budget.trials
    so_far = f"{ended} of {budget} trials have ended" if ended <= budget else f"{ended} trials have ended"
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
    value = read(winner["valid"][metric])
    claim = (
        f"Trial {winner['trial']} reaches valid {label(metric)} {interval(value)} over {seeds(value.n)}; "
        f"the baseline reaches {interval(read(base['valid'][metric]))}."
    )
    looked_at = [winner["difference"], *([record["test"]["difference"]] if "test" in record else [])]
    resolved = all(is_resolved(d) and run.sign * d["mean"] < 0 for d in looked_at)
    verdict = f"On the valid split the difference is {_verdict(winner['difference'], run.sign)}"
    return Headline(claim, verdict, resolved, _test(run, record), _notes(record) + _optimism(run, record))


def _baseline_wins(run: RunRecord, record: Mapping[str, Any]) -> Headline:
    base = run.candidate(record["baseline"])
    value = read(base["valid"][run.metric])
    others = [c for c in record["candidates"] if c["trial"] != record["baseline"]]
    start = "No confirmed candidate beats the baseline, which" if others else "Only the baseline was confirmed; it"
    claim = f"{start} reaches valid {label(run.metric)} {interval(value)} over {seeds(value.n)}."
    verdict = "There was no other candidate to confirm."
    if others:
        difference = _verdict(others[0]["difference"], run.sign)
        verdict = f"The nearest is trial {others[0]['trial']}; its difference from the baseline is {difference}"
    return Headline(claim, verdict, False, _test(run, record), _notes(record) + _optimism(run, record))


def _verdict(record: Mapping[str, Any], sign: float) -> str:
    """Say whether a difference is there: with ``p_adjusted``, after correction for all differences of its family."""
    difference = read(record)
    text = interval(difference, signed=True)
    if difference.n < 2:
        return f"{text}: one seed resolves nothing."
    adjusted = f"p {chance(record['p_adjusted'])}" if "p_adjusted" in record else ""
    if is_resolved(record):
        against = "" if sign * difference.mean < 0 else ", in the baseline's favour"
        return f"{text}: resolved, {adjusted or 'its 95 % interval excludes 0'}{against}."
    visible = f"the smallest difference visible was {number(smallest_visible(difference))}"
    if difference.excludes_zero:
        return f"{text}: not resolved after correction for the number of candidates ({adjusted}; {visible})."
    here = difference.over_seeds
    limit = f"; on these very videos it is {interval(here, signed=True)} over other seeds" if here.excludes_zero else ""
    return f"{text}: not resolved, its 95 % interval includes 0 ({visible}{limit})."


def _test(run: RunRecord, record: Mapping[str, Any]) -> str:
    if "test" not in record:
        return ""
    winner = interval(read(record["test"]["winner"][run.metric]))
    if record["winner"] == record["baseline"]:
        return f"On the test split the baseline reaches {winner}."
    base = interval(read(record["test"]["baseline"][run.metric]))
    difference = _verdict(record["test"]["difference"], run.sign)
    return f"On the test split: {winner} against {base}; the difference is {difference}"


def _notes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what limits the result: how it was selected, and what its intervals cover."""
    others = sum(c["trial"] != record["baseline"] for c in record["candidates"])
    clusters = record.get("clusters", 0)
    data = (
        f"The intervals cover other training seeds and another sample of {clusters} videos."
        if clusters
        else "The intervals cover the training seeds, not another sample of data."
    )
    if others == 0:
        return (data,)
    rule = RULES[record.get("rule", "mean")]
    return (
        f"The winner has {rule} of {others} candidate{'' if others == 1 else 's'} and the baseline on the valid "
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
