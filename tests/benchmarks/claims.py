"""Do a study's claims hold? Whole studies on planted data, and every claim checked on seeds and videos of its own.

A study searches, races, judges and measures its winner's modules as ``mmsa-search run`` does, with the same code, but
in one process and with a small space. Then the winner, the baseline and every candidate and switched configuration
train with 20 further seeds, and 4,000 further rows of the same problem say what is true of each difference. An interval
covers if the truth is inside; a claim is false if the truth does not go its way (clear of zero by the truth's own
interval). Writes Markdown: ``python -m tests.benchmarks.claims --problem null --studies 200``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split, videos
from mmsa_core.data.synthetic import Problem, planted, write_planted
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.noise import mix
from mmsa_core.population import MemberSpec
from mmsa_core.predict import predict
from mmsa_core.train import Objective, fit
from search import confirm, pipeline
from search.engine import Engine
from search.explain.switches import switches
from search.judgement import between
from search.members import Candidate, has_members, load
from search.pipeline import Opened
from search.populations import Source, Task
from search.statistics import Estimate, compare, estimate, resolve
from search.study import StudyConfig
from search.trials import open_study
from search.worker import Worker
from search.yaml_io import write_yaml

TRUTH_SEEDS, TRUTH_ROWS = 20, 4000
SIZES = {"train": 200, "valid": 150, "test": 200}
SIZE = 8
STUDY: dict[str, Any] = {
    "study": "claims",
    "objective": {"metric": "mae", "convention": "mosi"},
    "budget": {"trials": 16},
    "seeds": {"search": 1, "confirm": 10, "effects": 10, "leaders": 4},
    "rungs": {"epochs": [4, 8, 16], "keep": 0.5},
    "population": 4,
    "space": "planted",
}


class Here:
    """Stands in for the engine: does a source's tasks in this process."""

    interrupted = False

    def run(self, make_source: Callable[[], Source], splits: tuple[Split, Split]) -> dict[str, Any]:
        source, worker = make_source(), Worker(*splits, torch.device("cpu"))
        while isinstance(task := source.next(), Task):
            source.finish(task.name, worker.run(task, source.report))
        source.close()
        return source.status()


@dataclass
class Tally:
    """How often a kind of interval covered the truth, and in how many studies a family of claims had a false one."""

    covered: list[bool] = field(default_factory=list)
    claims: int = 0
    false: int = 0
    studies: int = 0
    false_studies: int = 0

    def add(self, family: Sequence[tuple[Estimate, Mapping[str, Any], Estimate]]) -> None:
        """Take one study's family: each estimate with its record and the truth of it."""
        self.studies += 1
        wrong = 0
        for found, record, truth in family:
            self.covered.append(found.low <= truth.mean <= found.high)
            if record["resolved"]:
                self.claims += 1
                wrong += not (truth.excludes_zero and truth.mean * found.mean > 0)
        self.false += wrong
        self.false_studies += wrong > 0


class Truth:
    """What is true of a study's configurations: their predictions of rows that the study has not, by further seeds."""

    def __init__(self, opened: Opened, problem: Problem, seed: int) -> None:
        self.rows = opened.scaler.apply(planted(seed, test=TRUTH_ROWS, problem=problem, unlabeled=0)["test"])
        device = torch.device("cpu")
        self.splits = SplitTensors(opened.train, device), SplitTensors(opened.valid, device)
        self.known: dict[str, NDArray[np.float32]] = {}

    def difference(self, a: Candidate, b: Candidate) -> Estimate:
        return compare("mae", "mosi", self._of(a), self._of(b), self.rows.labels, videos(self.rows.ids))

    def _of(self, candidate: Candidate) -> NDArray[np.float32]:
        if candidate.mark not in self.known:
            config = complete(MemberConfig.from_dict(dict(candidate.config)))
            members = [MemberSpec(config, mix("truth", k)) for k in range(TRUTH_SEEDS)]
            states = [r.state for r in fit(members, *self.splits, objective=Objective()).runs if r.state is not None]
            stacked = {n: torch.stack([s[n] for s in states]) for n in states[0]}
            self.known[candidate.mark] = predict(config, stacked, self.rows)
        return self.known[candidate.mark]


def one_study(problem: Problem, seed: int, folder: Path, tallies: Mapping[str, Tally], spans: list[float]) -> None:
    """Do a study on a planting of its own and check its claims."""
    write_planted(folder / "data.npz", seed, **SIZES, problem=problem)
    tree = {**STUDY, "data": {"path": str(folder / "data.npz")}, "seeds": {**STUDY["seeds"], "base": seed}}
    config = StudyConfig.check(tree)
    write_yaml(folder / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "run")
    here = cast(Engine, Here())
    pipeline.search(opened, here, deterministic=False)
    record = pipeline.confirm_stage(opened, here, SIZE)
    trials = open_study(opened.config, opened.folder).get_trials(deepcopy=False)
    truth = Truth(opened, problem, seed)
    made = {c["trial"]: pipeline._candidate(opened, trials[c["trial"]]) for c in record["candidates"]}
    base, winner = made[record["baseline"]], made[record["winner"]]

    def read(entry: Mapping[str, Any]) -> Estimate:
        return Estimate(**{k: entry[k] for k in Estimate.__dataclass_fields__})

    def family(pairs: Sequence[tuple[Mapping[str, Any], Candidate, Candidate]]) -> list[tuple[Any, Any, Any]]:
        return [(read(r), r, truth.difference(a, b)) for r, a, b in pairs]

    leaders = [c for c in record["candidates"] if c["trial"] != record["baseline"]]
    tallies["leaders against the baseline, valid"].add(
        family([(c["difference"], made[c["trial"]], base) for c in leaders])
    )
    tallies["leaders among each other, valid"].add(
        family([(p["difference"], made[p["a"]], made[p["b"]]) for p in record["pairs"]])
    )
    if record["winner"] != record["baseline"]:
        tested = record["test"]["difference"]
        tallies["winner against the baseline, test"].add(family([(tested, winner, base)]))
        on_valid = next(c for c in leaders if c["trial"] == record["winner"])["difference"]
        both = tested["resolved"] and on_valid["resolved"] and tested["mean"] < 0 and on_valid["mean"] < 0
        tallies["the headline: better on valid and on test"].add(family([({**tested, "resolved": both}, winner, base)]))
        effects = _effects(opened, here, record, winner, trials[record["winner"]].params)
        tallies["effects of the winner's modules, valid"].add(family([(r, winner, c) for r, c in effects]))
    best = min(t.value for t in trials if t.value is not None)
    confirmed = next(c for c in record["candidates"] if c["trial"] == record["winner"])["valid"]["mae"]["mean"]
    spans.append(confirmed - best)
    opened.folder.release()


def _effects(
    opened: Opened, here: Engine, record: Mapping[str, Any], winner: Candidate, params: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], Candidate]]:
    """Return the effect of each module of the winner with the configuration that it was switched off in."""
    found = switches(opened.space, params, opened.extra)
    seeds, folder = confirm.effect_seeds(opened.config), opened.folder.path / "confirm"
    pipeline.train_candidates(opened, here, SIZE, [s.candidate for s in found], seeds, "explain")
    there = [s.candidate for s in found if has_members(folder, s.candidate, seeds)]
    labels, clusters = opened.valid.labels, videos(opened.valid.ids)
    full = load(folder, winner, seeds, states=False)
    differences = [between(full, load(folder, c, seeds, states=False), "mae", "mosi", labels, clusters) for c in there]
    return list(zip(resolve(differences), there, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="null")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first study")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tallies: dict[str, Tally] = defaultdict(Tally)
    spans: list[float] = []
    for k in range(given.first, given.first + given.studies):
        with tempfile.TemporaryDirectory() as folder:
            one_study(given.problem, k, Path(folder), tallies, spans)
        sys.stderr.write(f"{k + 1 - given.first} of {given.studies}\n")
    sys.stdout.write(table(given.problem, given.studies, tallies, spans))


def table(problem: str, studies: int, tallies: Mapping[str, Tally], spans: Sequence[float]) -> str:
    """Return the result as Markdown."""
    lines = [
        f"## Problem `{problem}`, {studies} studies\n",
        "| claims | intervals | cover the truth | claims made | false | studies with a false claim |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, tally in tallies.items():
        share = f"{tally.false_studies} of {tally.studies} ({tally.false_studies / max(tally.studies, 1):.1%})"
        covered = f"{np.mean(tally.covered):.1%}" if tally.covered else ""
        lines.append(f"| {name} | {len(tally.covered)} | {covered} | {tally.claims} | {tally.false} | {share} |")
    span = estimate(spans)
    lines.append(
        f"\nThe winner's MAE on fresh seeds is above the best value of its search by {span.mean:.4f} "
        f"[{span.low:.4f}, {span.high:.4f}].\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
