"""The machine learning reproducibility checklist, with what a run knows filled in and the rest left to the authors.

Source: Pineau et al., JMLR 2021, arXiv:2003.12206 (version 2.0 of the checklist, its items on data, code and
experiments; models and theory are the paper's).
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from search.report.collect import RunRecord
from search.report.facts import commands, facts, splits
from search.report.tables.table import Table
from search.report.wording import duration, label

BLANK = "(for the authors to fill in)"


def checklist(run: RunRecord) -> Table:
    """Return every item with its answer; those that only the authors can answer are marked ``blank``."""
    items = {**_data(run), **_code(run), **_experiments(run)}
    rows = tuple((item, answer or BLANK) for item, answer in items.items())
    marks = tuple("" if answer else "blank" for answer in items.values())
    frame = pd.DataFrame(rows, columns=["item", "answer"])
    return Table("checklist", frame, ("item", "answer"), rows, marks)


def _data(run: RunRecord) -> Mapping[str, str]:
    known = splits(run.facts)
    nonfinite = run.config.data.nonfinite
    return {
        "Number of examples, and details of train / validation / test splits": "" if known == "unknown" else known,
        "Data that were excluded, and pre-processing": (
            "Features z-scored by the training split and clipped at 5 standard deviations; text features: "
            f"{facts(run)['Text features']}; values that are not finite: {nonfinite}. What was excluded before, the "
            "authors know."
        ),
        "The version of the data set": f"fingerprint {run.facts.get('data_fingerprint', 'unknown')}",
        "A link to a downloadable version of the data set": "",
        "For new data, a description of how it was collected, annotated and controlled": "",
    }


def _code(run: RunRecord) -> Mapping[str, str]:
    known = facts(run)
    return {
        "Specification of dependencies": f"{known['Versions']}; Python {run.facts.get('python', 'unknown')}",
        "Training and evaluation code": f"mmsa-search, commit {known['Commit']}",
        "(Pre-)trained models": "the folder best/ of the run" if run.confirm is not None else "",
        "Precise commands that produce the results": "; ".join(commands(run)),
        "A link to the shared code and models": "",
    }


def _experiments(run: RunRecord) -> Mapping[str, str]:
    config, objective = run.config, run.config.objective
    ended = sum(run.count(s) for s in ("complete", "pruned", "failed"))
    return {
        "The range of hyper-parameters considered": f"{len(run.leaves)} parameters: tables/ranges.csv",
        "The method to select the best hyper-parameter configuration": (
            f"{config.sampler} sampler with {config.pruner} pruner over {ended} trials by {label(objective.metric)} of "
            "the validation split; then the leaders and the baseline on fresh seeds"
        ),
        "All hyper-parameters used to generate the results": (
            f"the configuration of trial {run.winner}: All settings, and best/config.yaml"
            if run.winner is not None
            else ""
        ),
        "The exact number of training and evaluation runs": _runs(run),
        "A clear definition of the measure used to report results": (
            f"{label(objective.metric)}, {objective.convention} convention, as in MMSA 2.2.1 (utils/metricsTop.py)"
        ),
        "Central tendency and variation": _statistics(run),
        "The average runtime of each result, or its energy cost": (
            f"{duration(run.seconds)} in all; that of every configuration is in confirmed.csv and trials.csv"
        ),
        "The computing infrastructure": f"{facts(run)['Device']}, {facts(run)['Platform']}",
    }


def _runs(run: RunRecord) -> str:
    search = f"search: {sum(bool(t.epochs) for t in run.trials) * run.config.seeds.search} trainings"
    tested = f"; the test split was opened {run.openings} time{'' if run.openings == 1 else 's'}"
    if run.confirm is None:
        return search + tested
    counts = sum(c["valid"][run.metric]["n"] for c in run.confirm["candidates"])
    return f"{search}; confirmation: {run.confirm.get('members', counts)} trainings with fresh seeds{tested}"


def _statistics(run: RunRecord) -> str:
    if run.confirm is None:
        return ""
    over = "training seeds and videos" if run.confirm.get("clusters") else "training seeds"
    return (
        f"mean, standard deviation and 95 % interval over {over} ({len(run.confirm['seeds'])} seeds); differences "
        "paired by seed"
    )
