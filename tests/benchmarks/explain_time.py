"""What comes after a long search without training: the time of each part by the number of trials.

A made-up search of the space ``modules`` (:mod:`tests.benchmarks.searched`) is confirmed and explained once, so that
nothing is left to train; then every part is timed. With ``--agreement`` the importances of the sample are compared with
those of all complete trials. Writes Markdown: ``python -m tests.benchmarks.explain_time``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
from scipy.stats import spearmanr

from search import confirm, pipeline
from search.engine import Engine
from search.explain import importance, read_explanation
from search.explain.importance import conditions, importances
from search.explain.interactions import crossed
from search.explain.marginals import Trials, arms, marginals
from search.explain.path import steps
from search.explain.stage import Pool
from search.explain.surrogate import Surrogate
from search.explain.switches import completed, switches
from search.explain.units import Ends
from search.members import Candidate
from search.report.build import write_report
from search.report.collect import collect
from search.trials import baseline_trial, leaders, open_study, summary
from tests.benchmarks.searched import EPOCHS, Inline, searched

R = TypeVar("R")


@dataclass
class Clock:
    """Seconds of CPU time and of wall time by part."""

    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, part: str, call: Callable[[], R]) -> R:
        cpu, wall = time.process_time(), time.perf_counter()
        found = call()
        self.seconds[part] = time.process_time() - cpu, time.perf_counter() - wall
        return found


def timed(opened: pipeline.Opened) -> tuple[Clock, dict[str, int]]:
    """Return the time of every part of a run that has nothing left to train, and the sizes of what it writes."""
    clock, folder = Clock(), opened.folder.path
    study = clock("open the journal", lambda: open_study(opened.config, opened.folder))
    clock("`status`", lambda: json.dumps(summary(study, opened.config, running=False)))
    clock("choice of leaders", lambda: (baseline_trial(study), leaders(study, 6)))
    record = _confirmed(opened, study)
    pipeline.explain_stage(opened, cast(Engine, Inline()), 2, record)
    _parts(opened, study, clock)
    clock("the explain stage", lambda: pipeline.explain_stage(opened, cast(Engine, Inline()), 2, record))
    clock("reading for the report", lambda: collect(folder))
    clock("the report", lambda: write_report(folder))
    names = ("report/index.html", "report/report.md", "report/tables/trials.csv", "confirm/explain.json")
    return clock, {name: (folder / name).stat().st_size for name in names}


def _confirmed(opened: pipeline.Opened, study: optuna.Study) -> dict[str, Any]:
    """Confirm for an epoch or two, and take what the made-up search found best as the winner."""
    record = pipeline.confirm_stage(opened, cast(Engine, Inline()), 2)
    record = {**record, "winner": leaders(study, 1)[0].number}
    confirm.write_record(opened.folder.path / "confirm", record)
    return record


def _parts(opened: pipeline.Opened, study: optuna.Study, clock: Clock) -> None:
    known, best = study.get_trials(deepcopy=False), leaders(study, 1)[0]
    trials = Trials(known, opened.space, EPOCHS[-1])
    first, winner = (Candidate(f"trial {t.number}", opened.sampled(t)) for t in (known[0], best))
    surrogate = clock("surrogate", lambda: Surrogate.fit(trials.configs, trials.values, opened.space))
    clock("importances", lambda: importances(study))
    clock("conditions", lambda: conditions(study))
    pool, found = Pool([first, winner]), switches(opened.space, best.params, opened.extra)
    clock("pairs", lambda: crossed(winner, found, surrogate, pool.candidate))
    ends = Ends(completed(first.config), completed(winner.config))
    clock("path", lambda: steps(ends, first, winner, surrogate, 1.0, pool.candidate))
    clock("curves", lambda: marginals(trials, surrogate, trials.names(best)))
    clock("arms", lambda: arms(trials, surrogate, 1.0))


def agreement(opened: pipeline.Opened) -> list[str]:
    """Return rows: of each method, how the shares of the sample agree with those of all complete trials."""
    sample, chosen = importances(opened.study), importance.sampled
    importance.sampled = list  # type: ignore[assignment]  # all of them
    try:
        whole = importances(opened.study)
    finally:
        importance.sampled = chosen
    return [_agreement(method, sample[method], whole[method]) for method in whole]


def _agreement(method: str, some: Mapping[str, float], every: Mapping[str, float]) -> str:
    names = [name for name in every if name in some]
    rank = spearmanr([some[n] for n in names], [every[n] for n in names]).statistic
    first = [set(sorted(shares, key=lambda n: -shares[n])[:10]) for shares in (some, every)]
    furthest = max(abs(some[n] - every[n]) for n in names)
    return f"{method} | {len(names)} of {len(every)} | {rank:.3f} | {len(first[0] & first[1])} | {furthest:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 2000, 10_000])
    parser.add_argument("--agreement", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    clocks, sizes, agreed = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in given.trials:
            opened = searched(Path(scratch) / str(number), number)
            if given.agreement:
                agreed += [f"| {number} | {row} |" for row in agreement(opened)]
                continue
            clock, size = timed(opened)
            counts = (read_explanation(opened.folder.path / "confirm") or {})["importance_sample"]
            sys.stderr.write(f"{number}: {counts}\n")
            clocks.append(clock)
            sizes.append(size)
    head = " | ".join(f"{number:,}" for number in given.trials)
    if given.agreement:
        lines = ["| trials | method | parameters | rank correlation | of the first 10 | furthest share |"]
        sys.stdout.write("\n".join([*lines, "| ---: | --- | --- | ---: | ---: | ---: |", *agreed]) + "\n")
        return
    sys.stdout.write(f"| part, CPU s (wall s) | {head} |\n| --- {'| ---: ' * len(clocks)}|\n")
    for part in clocks[0].seconds:
        cells = (f"{cpu:.2f} ({wall:.1f})" for cpu, wall in (c.seconds[part] for c in clocks))
        sys.stdout.write(f"| {part} | {' | '.join(cells)} |\n")
    for name in sizes[0]:
        sys.stdout.write(f"| `{name}`, kB | {' | '.join(f'{size[name] / 1000:,.0f}' for size in sizes)} |\n")


if __name__ == "__main__":
    main()
