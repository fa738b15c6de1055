"""Several runs side by side: their confirmed winners and baselines, and which of the winners is better.

Nothing is trained and the test split stays closed: members' predictions of the valid split are read from the run
folders and scored with its labels; of the test split, what each run recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmsa_core.data.dataset import open_source
from mmsa_core.data.source import LABELS
from mmsa_core.data.split import videos
from mmsa_core.errors import UserError
from mmsa_core.metrics import objective_rows
from search.configs import modules
from search.confirm import read_record
from search.fingerprints import check_folder
from search.members import Candidate, Confirmed, load
from search.report.wording import interval, label, number, read
from search.run_folder import RunFolder
from search.space import Space
from search.statistics import Estimate, compare, resolve, welch
from search.study import StudyConfig
from search.trials import configuration, read_study, recorded_trial, summary
from search.yaml_io import read_yaml

AGREE = 1e-4
"""How far the metric of filed predictions may be from what the run recorded before its data counts as changed."""


@dataclass(frozen=True)
class Finished:
    """A run whose winner is confirmed: its settings, ``confirm.json``, the winner's members, the ids and labels of its
    valid split (None where the data is gone or has changed), and its line of the table."""

    path: Path
    config: StudyConfig
    record: Mapping[str, Any]
    members: Confirmed
    valid: tuple[tuple[str, ...], NDArray[np.float32]] | None
    row: dict[str, Any]

    @property
    def objective(self) -> tuple[str, str]:
        return self.record["metric"], self.record["convention"]

    def estimate(self, split: str) -> Estimate | None:
        """Return the winner's estimate of the study's metric on a split."""
        found = self.row["winner"][split]
        return None if found is None else read(found)


def compared(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the runs' lines and the differences of every two winners, with Holm's correction over the pairs.

    Raises:
        UserError: fewer than two runs, one that is no run folder, or one in which nothing is confirmed.
    """
    places = [run.resolve() for run in runs]
    if len(places) < 2:
        raise UserError(f"compare: needs two or more run folders, got {len(places)}; name the others too")
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"compare: {run} is there twice; name every run folder once")
    found = [read_run(run) for run in runs]
    pairs: list[dict[str, Any]] = []
    differences: dict[str, list[tuple[int, Estimate]]] = {"valid": [], "test": []}
    for k, (a, b) in enumerate(combinations(found, 2)):
        kind, why, valid, test = difference(a, b)
        pairs.append({"a": str(a.path), "b": str(b.path), "kind": kind, "why": why, "valid": None, "test": None})
        for split, estimate in (("valid", valid), ("test", test)):
            if estimate is not None:
                differences[split].append((k, estimate))
    for split, own in differences.items():
        for (k, _), record in zip(own, resolve([e for _, e in own]), strict=True):
            pairs[k][split] = record
    return {"runs": [run.row for run in found], "pairs": pairs}


def difference(a: Finished, b: Finished) -> tuple[str, str, Estimate | None, Estimate | None]:
    """Return how two winners can be compared ("paired", "unpaired" or "none"), why, and their difference a - b on valid
    and on test.

    Paired by seed and row, over videos, where both trained on the same seeds and the valid rows are the same; on test,
    of which only means over seeds are kept, Welch's interval over seeds.
    """
    if a.objective != b.objective:
        return "none", "not comparable: other metric", None, None
    labelled = a.valid is not None and b.valid is not None and _same(a.valid, b.valid)
    if not labelled and a.row["data"]["fingerprint"] != b.row["data"]["fingerprint"]:
        return "none", "not comparable: other data", None, None
    test = _welch(a.estimate("test"), b.estimate("test"))
    seeds = [s for s in a.members.seeds if s in b.members.seeds]
    if not labelled or a.valid is None:
        return "unpaired", "the data is gone or has changed", _welch(a.estimate("valid"), b.estimate("valid")), test
    if len(seeds) < 2:
        return "unpaired", "other seeds", _welch(a.estimate("valid"), b.estimate("valid")), test
    ids, labels = a.valid
    own = [run.members.of(seeds) for run in (a, b)]
    metric, convention = a.objective
    valid = compare(metric, convention, own[0], own[1], labels, videos(ids))  # type: ignore[arg-type]  # from JSON
    return "paired", f"{len(seeds)} common seeds, {valid.clusters} videos", valid, test


def read_run(path: Path) -> Finished:
    """Read a run's confirmed winner.

    Raises:
        UserError: it is no run folder, or nothing is confirmed.
    """
    folder = RunFolder(path)
    config = folder.config()
    record = read_record(path / "confirm")
    if record is None:
        raise UserError(f"{path}: nothing is confirmed yet; run or confirm first")
    study, space, facts = read_study(config, folder), config.search_space(), folder.facts()
    check_folder(study, config, folder)
    trial = recorded_trial(study, record["winner"])
    candidate = Candidate(f"trial {trial.number}", configuration(trial, space, config.rungs.epochs[-1]))
    members = load(path / "confirm", candidate, record["seeds"], states=False)
    row = {
        "run": str(path),
        "study": config.study,
        "data": {"name": Path(config.data.path or "").name, "fingerprint": facts["data_fingerprint"]},
        "objective": {k: record[k] for k in ("metric", "direction", "convention")},
        "space": {"name": _name(path, config, space), "fingerprint": space.fingerprint()},
        "trials": summary(study, config, running=False, trials=False)["used"]["trials"],
        "seeds": len(members.seeds),
        **{role: _candidate(record, role) for role in ("winner", "baseline")},
    }
    return Finished(path, config, record, members, _valid(config, record, members), row)


def show(runs: Sequence[Path], as_json: bool) -> None:
    """Print the runs side by side, and the differences of their winners.

    Raises:
        UserError: as :func:`compared`.
    """
    found = compared(runs)
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201
        return
    for table in (_runs(found["runs"]), _pairs(found["pairs"])):
        Console().print(table)


def _candidate(record: Mapping[str, Any], role: str) -> dict[str, Any]:
    own = next(c for c in record["candidates"] if c["trial"] == record[role])
    test = record.get("test", {}).get(role)
    metric = record["metric"]
    return {
        "trial": own["trial"],
        "modules": modules(own["config"]),
        "valid": own["valid"][metric],
        "test": None if test is None else test[metric],
    }


def _name(path: Path, config: StudyConfig, space: Space) -> str | None:
    """Return the space's name where the study file gives one and it still means this space."""
    given = read_yaml(path / "study.yaml").get("space") if (path / "study.yaml").exists() else None
    try:
        named = config.model_copy(update={"space": given}).search_space() if isinstance(given, str) else None
    except UserError:
        return None
    return Path(str(given)).stem if named is not None and named.fingerprint() == space.fingerprint() else None


def _valid(
    config: StudyConfig, record: Mapping[str, Any], members: Confirmed
) -> tuple[tuple[str, ...], NDArray[np.float32]] | None:
    """Return ids and labels of a run's valid split, or None where they are not what the members were judged by."""
    try:
        source = open_source(Path(config.data.path or ""))
        ids = tuple(str(i) for i in source.read("valid/id").tolist())
        labels = source.read(f"valid/{LABELS}").astype(np.float32)
    except (UserError, KeyError):
        return None
    if members.predictions.shape[1] != len(labels):
        return None
    metric = record["metric"]
    now = float(np.mean(objective_rows(metric, members.predictions, labels, record["convention"])))
    own = next(c for c in record["candidates"] if c["trial"] == record["winner"])
    return (ids, labels) if abs(now - own["valid"][metric]["mean"]) < AGREE else None


def _same(a: tuple[tuple[str, ...], NDArray[np.float32]], b: tuple[tuple[str, ...], NDArray[np.float32]]) -> bool:
    return a[0] == b[0] and np.array_equal(a[1], b[1])


def _welch(a: Estimate | None, b: Estimate | None) -> Estimate | None:
    return None if a is None or b is None else welch(a, b)


def _runs(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "candidate", "valid", "test"):
        table.add_column(column, overflow="fold")
    for row in rows:
        data, space = row["data"], row["space"]
        studied = (
            f"{row['run']}\n{row['study']}: {data['name']} {data['fingerprint'][:8]}, "
            f"{label(row['objective']['metric'])}, space {space['name'] or space['fingerprint']}, "
            f"{row['trials']} trials, {row['seeds']} seeds"
        )
        base = row["baseline"]["modules"]
        for role in ("winner", "baseline") if row["winner"]["trial"] != row["baseline"]["trial"] else ("baseline",):
            own = row[role]
            changed = ", ".join(f"{k}={v}" for k, v in own["modules"].items() if v != base.get(k))
            named = f"{role}, trial {own['trial']}{': ' + changed if changed else ''}"
            table.add_row(studied, named, *(_interval(own[split]) for split in ("valid", "test")))
            studied = ""
    return table


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("winner of", "minus that of", "valid", "p (Holm)", "test, seeds alone", "p (Holm)", "compared"):
        table.add_column(column, overflow="fold")
    for pair in pairs:
        cells = [text for split in ("valid", "test") for text in (_interval(pair[split], signed=True), _p(pair[split]))]
        kind = pair["why"] if pair["kind"] == "none" else f"{pair['kind']}: {pair['why']}"
        table.add_row(pair["a"], pair["b"], *cells, kind)
    return table


def _interval(record: Mapping[str, Any] | None, signed: bool = False) -> str:
    return "" if record is None else interval(read(record), signed).replace("[", "\\[")


def _p(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    p = "<0.001" if record["p_adjusted"] < 0.001 else number(record["p_adjusted"])
    return f"{p}{' resolved' if record['resolved'] else ''}"
