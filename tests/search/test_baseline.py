"""A baseline that the study names and that is no point of the space: trial 0 carries its configuration, the samplers
learn from the others, and every later stage and page can do with it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import optuna
import pandas as pd
import pytest
import yaml

from mmsa_core.config import MemberConfig
from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from search import confirm, export, pipeline, show
from search.configs import modules, read_config
from search.explain.importance import importances
from search.explain.switches import removals, switches
from search.ledger import Ledger
from search.pipeline import Opened
from search.populations import Task
from search.report.build import page, write_report
from search.report.collect import RunRecord, collect
from search.report.facts import facts
from search.report.headline import headline
from search.report.tables import tables
from search.sampling import PointsSampler, make_sampler
from search.study import StudyConfig
from search.trials import (
    BASELINE,
    CONFIG,
    ORIGIN,
    POPULATION,
    baseline_trial,
    configuration,
    is_outside,
    leaders,
    open_study,
    summary,
)  # fmt: skip
from search.yaml_io import read_yaml, write_yaml
from tests.search import tiny
from tests.search.test_confirm import SEEDS, SIZE, Inline
from tests.search.tiny import drain, pretend, records, study

SAMPLERS = get_args(StudyConfig.model_fields["sampler"].annotation)
OUTSIDE: dict[str, Any] = {
    "encoders": {
        "text": {"name": "lstm", "dim": 3, "hidden": 4},
        "audio": {"name": "pool", "dim": 4, "hidden": 4},
        "vision": "pool",
    },
    "alignment": {"text-audio": {"name": "cka", "weight": 0.2}, "audio-vision": "coral"},
    "fusion": "gated",
    "labels": "ulgm",
    "weighting": {"name": "static", "text": 1.0, "vision": 0.5},
    "width": 6,
    "heads": {"dim": 4, "dropout": 0.2},
    "optimizer": {"lr": 0.004, "vision": 0.1},
    "epochs": 99,
    "patience": 3,
}
"""Encoder, width, fusion and alignment that the tiny space does not have, and a modality too many."""


def outside(**changes: Any) -> StudyConfig:
    return study(**{"baseline": OUTSIDE, "data": {"modalities": ["text", "audio"]}, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


# ---- the study file --------------------------------------------------------------------------------------------------


def load(folder: Path, baseline: str, *overrides: str) -> StudyConfig:
    text = f"study: x\nbudget: {{trials: 3}}\nrungs: {{epochs: [1, 5]}}\nspace: quick\n{baseline}\n"
    (folder / "x.yaml").write_text(text, encoding="utf-8")
    return StudyConfig.load(folder / "x.yaml", overrides)


def test_a_shipped_name_a_path_beside_the_study_and_a_mapping(tmp_path: Path) -> None:
    write_yaml(tmp_path / "own.yaml", read_config("dma").to_dict())
    expected = replace(read_config("dma"), epochs=5)
    inline = yaml.safe_dump(read_config("dma").to_dict(), default_flow_style=True, width=9999)
    for line in ("baseline: dma", "baseline: own.yaml", f"baseline: {inline}"):
        config = load(tmp_path, line)
        assert config.named_baseline() == expected, line
        assert config.resolved()["baseline"] == expected.to_dict(), "written out, not a name"
        write_yaml(tmp_path / "resolved.yaml", config.resolved())
        assert StudyConfig.load(tmp_path / "resolved.yaml").resolved() == config.resolved()
    assert load(tmp_path, "").named_baseline() is None and load(tmp_path, "").resolved()["baseline"] is None
    assert load(tmp_path, "baseline: null").named_baseline() is None


def test_overrides_reach_into_the_baseline(tmp_path: Path) -> None:
    changes = ["encoders.text.model=mine", "encoders.audio=pool", "encoders.audio.dim=3", "optimizer.lr=1e-2"]
    found = load(tmp_path, "", "baseline=dma", *(f"baseline.{c}" for c in changes)).named_baseline()
    assert found is not None
    assert found.encoders["text"].params["model"] == "mine"
    assert found.encoders["audio"].to_dict() == {"name": "pool", "dim": 3}
    assert found.optimizer.lr == 0.01


def test_it_has_the_studys_modalities_and_last_rung(tmp_path: Path) -> None:
    found = load(tmp_path, "baseline: dma", "data.modalities=[text, audio]", "rungs.epochs=[2, 7]").named_baseline()
    assert found is not None
    assert found.modalities == ("text", "audio") and not found.alignment
    assert (found.epochs, found.patience) == (7, 8)


@pytest.mark.parametrize(
    ("line", "overrides", "match"),
    [
        (
            "baseline: selfmm",
            [],
            r"x\.yaml: configuration: there is no shipped configuration 'selfmm'; did you mean 's",
        ),
        ("baseline: nowhere/b.yaml", [], r"x\.yaml: nowhere/b\.yaml: there is no such file"),
        ("baseline: 3", [], r"x\.yaml: baseline: must be a shipped name, a path, or a mapping, got 3"),
        (
            "baseline: {encoders: {text: pool}, fussion: sum}",
            [],
            r"x\.yaml: baseline: unknown key 'fussion'; did you m",
        ),
        ("baseline: {fusion: sum}", [], r"x\.yaml: baseline\.encoders: must be a mapping, got None"),
        ("baselin: dma", [], r"x\.yaml: baselin: unknown key; did you mean 'baseline'\?"),
        (
            "baseline: dma",
            ["baseline.optimzer.lr=1"],
            r"x\.yaml: override optimzer\.lr: config: unknown key 'optimzer'",
        ),
        (
            "",
            ["baseline.optimizer.lr=1"],
            r"x\.yaml: override baseline\.optimizer\.lr: the study names no baseline; add",
        ),
        (
            "baseline: {encoders: {audio: pool}}",
            ["data.modalities=[text]"],
            r"x\.yaml: baseline: has encoders of audio, and the study has text only",
        ),
    ],
)
def test_a_wrong_baseline(tmp_path: Path, line: str, overrides: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        load(tmp_path, line, *overrides)
    assert "\n" not in str(error.value)


# ---- asking ----------------------------------------------------------------------------------------------------------


def test_trial_0_carries_its_configuration_and_trains_alone(run: Path) -> None:
    config = outside(budget={"trials": 7})
    source = tiny.ledger(config, run, size=3)
    tasks = drain(source, pretend)
    named = config.named_baseline()
    assert named is not None and named.modalities == ("text", "audio")
    first, *others = source.study.get_trials()
    assert (first.params, first.user_attrs[ORIGIN]) == ({}, BASELINE)
    assert first.user_attrs[CONFIG] == named.to_dict()
    assert [[s.trial for s in t.slots] for t in tasks] == [[0], [1, 2, 3], [4, 5, 6]]
    assert tasks[0].slots[0].config == {**named.to_dict(), "epochs": 4}
    assert configuration(first, source.space, 4) == tasks[0].slots[0].config
    for trial, slot in zip(others, [s for t in tasks[1:] for s in t.slots], strict=True):
        assert not is_outside(trial) and trial.params
        assert (
            configuration(trial, source.space, 4) == slot.config == {**source.space.config(trial.params), "epochs": 4}
        )
    assert json.loads(json.dumps(summary(source.study, config, running=False)))["trials"][0]["params"] == {}


def test_every_trial_has_the_last_rungs_epochs(run: Path) -> None:
    space = {**tiny.SPACE, "epochs": 9}
    for config, folder in ((study(space=space), run / "inside"), (outside(space=space), run / "outside")):
        source = tiny.ledger(config, folder)
        drain(source, pretend)
        for trial in source.study.get_trials():
            assert configuration(trial, source.space, 4)["epochs"] == 4
            assert read_yaml(folder / f"trials/{trial.number:04d}/config.yaml")["epochs"] == 4


def test_it_is_written_into_its_folder(run: Path) -> None:
    source = tiny.ledger(outside(budget={"trials": 2}), run)
    drain(source, pretend)
    assert read_yaml(run / "trials/0000/config.yaml")["fusion"] == {"name": "gated"}
    assert read_yaml(run / "trials/0001/config.yaml")["fusion"]["name"] in ("concat", "sum")


@pytest.mark.parametrize("deterministic", [False, True])
def test_it_is_taken_up_where_it_was_left(tmp_path: Path, deterministic: bool) -> None:
    """The driver dies while trial 0 trains, and once more before trial 0 has a population."""
    config = outside(budget={"trials": 7})
    whole = tiny.ledger(config, tmp_path / "whole", deterministic=deterministic)
    drain(whole, pretend)
    left = tiny.ledger(config, tmp_path / "left", deterministic=deterministic)
    task = left.next()
    assert isinstance(task, Task)
    del left
    again = tiny.ledger(config, tmp_path / "left", deterministic=deterministic)
    first = again.next()
    assert first == task
    again.finish(task.name, pretend(task, again.report))
    drain(again, pretend)
    asked = tiny.ledger(config, tmp_path / "asked", deterministic=deterministic)
    asked.study.ask()
    del asked
    unlabelled = tiny.ledger(config, tmp_path / "asked", deterministic=deterministic)
    drain(unlabelled, pretend)
    for source in (again, unlabelled):
        assert [r["state"] for r in records(source)].count("RUNNING") == 0 and len(records(source)) == 7
        trial = source.study.get_trials()[0]
        assert (trial.params, trial.value) == ({}, records(whole)[0]["value"])
        assert trial.user_attrs[CONFIG] == whole.study.get_trials()[0].user_attrs[CONFIG]
    if deterministic:
        assert records(again) == records(whole)


def test_a_point_that_means_the_same_is_the_baseline_again(run: Path) -> None:
    """Written differently, the defaults of the space are known for the baseline: another seed, and no leader."""
    config = study(budget={"trials": 4}, pruner="none")
    same = complete(MemberConfig.from_dict(config.search_space().baseline()[0])).to_dict()
    same["encoders"] = {m: {**e, "dropout": 0} for m, e in same["encoders"].items()}
    source = tiny.ledger(study(budget={"trials": 4}, pruner="none", baseline=same), run)
    source.study.enqueue_trial(tiny.BASELINE)
    drain(source, pretend)
    marks = [t.user_attrs[POPULATION]["fingerprint"] for t in source.study.get_trials()]
    seeds = [t.user_attrs[POPULATION]["seeds"] for t in source.study.get_trials()]
    assert marks[0] == marks[1] and seeds[0] != seeds[1] and seeds[0] == seeds[2]
    assert 1 not in [t.number for t in leaders(source.study, 9)] and len(leaders(source.study, 9)) == 2
    assert baseline_trial(source.study).number == 0


# ---- samplers and importances ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_past_a_trial_without_parameters(run: Path, sampler: str) -> None:
    source = tiny.ledger(outside(sampler=sampler, budget={"trials": 16}, pruner="none"), run)
    drain(source, pretend)
    found = source.study.get_trials()
    assert [t.state.name for t in found] == ["COMPLETE"] * 16
    assert all(source.space.config(t.params) for t in found[1:])
    explained = importances(source.study)
    assert set(explained) == {"ped_anova", "fanova"}
    for values in explained.values():
        assert {"fusion", "optimizer.lr", "heads.dropout"} <= set(values)


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "nsga2"])
def test_relative_samplers_still_model_the_space(run: Path, sampler: str) -> None:
    """Without the view they would see no parameter that all trials have, and draw at random for ever."""
    config = outside(sampler=sampler, budget={"trials": 15}, pruner="none")
    source = tiny.ledger(config, run)
    drain(source, pretend)
    number = source.study.ask().number
    trial = source.study.get_trials()[number]
    made, other = make_sampler(config, 0, {}), make_sampler(config, 0, {})
    assert isinstance(made, PointsSampler) and isinstance(other, PointsSampler)
    assert other._sampler.infer_relative_search_space(source.study, trial) == {}
    space = made.infer_relative_search_space(source.study, trial)
    assert {"optimizer.lr", "heads.dropout"} <= set(space)
    assert made.sample_relative(source.study, trial, space) is not None


def test_few_points_say_nothing_about_importance(run: Path) -> None:
    source = tiny.ledger(outside(budget={"trials": 4}, pruner="none"), run)
    drain(source, pretend)
    assert len(source.study.get_trials()) == 4
    assert importances(source.study) == {}, "three points and the baseline"


def test_the_baseline_is_compared_at_the_rungs_but_never_pruned(run: Path) -> None:
    source = tiny.ledger(outside(budget={"trials": 7}), run)
    drain(source, lambda task, report: pretend(task, report, lambda slot, epoch: 9.0 if slot.trial == 0 else 1 / epoch))
    first = source.study.get_trials()[0]
    assert (first.state.name, first.intermediate_values, first.value) == ("COMPLETE", {1: 9.0, 2: 9.0}, 9.0)


# ---- effects ---------------------------------------------------------------------------------------------------------


def test_modules_are_compared_with_the_named_baselines() -> None:
    """Fusion: the baseline's where the space has it, else the default; a pair: none, which every pair has."""
    space = study(space=tiny.space("fusion", {"choice": {"concat": {}, "sum": {}, "gated": {}}})).search_space()
    params = {
        **tiny.BASELINE,
        "alignment.text-audio": "coral",
        "alignment.text-audio.coral.weight": 0.4,
        "fusion": "sum",
    }
    for fusion, against in (("gated", "gated"), ("tensor", "concat"), ("sum", None)):
        base = modules({**OUTSIDE, "fusion": fusion})
        found = {s.place: s for s in switches(space, params, {"epochs": 4}, base)}
        assert found["alignment.text-audio"].against == "none"
        assert (found["fusion"].against if "fusion" in found else None) == against
        if against:
            assert found["fusion"].candidate.config["fusion"]["name"] == against


def test_what_can_be_taken_out_of_a_configuration() -> None:
    config = complete(MemberConfig.from_dict(OUTSIDE)).to_dict()
    found = {s.place: s for s in removals(config)}
    assert {p: (s.chosen, s.against) for p, s in found.items()} == {
        "alignment.text-audio": ("cka", "none"),
        "alignment.audio-vision": ("coral", "none"),
        "labels": ("ulgm", "none"),
    }
    off = complete(MemberConfig.from_dict(found["alignment.audio-vision"].candidate.config))
    assert list(off.alignment) == ["text-audio"]
    assert {**off.to_dict(), "alignment": config["alignment"]} == config, "everything else is equal"
    assert complete(MemberConfig.from_dict(found["labels"].candidate.config)).labels.name == "none"
    assert removals({"encoders": {"text": "pool"}}) == []


# ---- a whole run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A study with a baseline of its own that went through all stages."""

    opened: Opened
    record: dict[str, Any]
    explanation: dict[str, Any]
    study: Path

    @property
    def folder(self) -> Path:
        return self.opened.folder.path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All three modalities, so that the baseline has one more than the space; it is named by a path."""
    folder = tmp_path_factory.mktemp("run")
    write_planted(folder / "planted.npz", 0, train=64, valid=32, test=32)
    write_yaml(folder / "base.yaml", OUTSIDE)
    config = study(
        seeds=SEEDS, budget={"trials": 9}, data={"path": str(folder / "planted.npz")}, pruner="none", population=SIZE,
        baseline=str(folder / "base.yaml"),
    )  # fmt: skip
    tree = {**config.model_dump(mode="json"), "objective": {"metric": "mae", "convention": "mosi"}}
    write_yaml(folder / "study.yaml", tree)
    opened = pipeline.open_new(StudyConfig.load(folder / "study.yaml"), folder / "study.yaml", folder / "out")
    engine = Inline()
    pipeline.search(opened, engine.engine, deterministic=False)
    record = pipeline.confirm_stage(opened, engine.engine, SIZE)
    explanation = pipeline.explain_stage(opened, engine.engine, SIZE, record)
    export.write_model(opened, record)
    write_report(opened.folder.path)
    opened.folder.release()
    yield Run(opened, record, explanation, folder / "study.yaml")


def test_the_run_folder_stands_alone(done: Run, tmp_path: Path) -> None:
    resolved = read_yaml(done.folder / "resolved.yaml")["baseline"]
    assert resolved == {**complete(MemberConfig.from_dict(OUTSIDE)).to_dict(), "epochs": 4}
    known = open_study(done.opened.config, done.opened.folder).get_trials()
    assert known[0].user_attrs[CONFIG] == resolved, "and so does the study"
    assert read_yaml(done.folder / "trials/0000/config.yaml") == resolved
    shutil.copytree(done.folder, tmp_path / "moved")
    moved = pipeline.open_run(tmp_path / "moved")
    assert moved.sampled(known[0]) == resolved and moved.config.named_baseline() == done.opened.config.named_baseline()


def test_the_confirmation_has_the_baseline(done: Run) -> None:
    entry = next(c for c in done.record["candidates"] if c["trial"] == 0)
    assert done.record["baseline"] == 0 and entry["config"]["fusion"] == {"name": "gated"}
    assert set(entry["config"]["encoders"]) == {"text", "audio", "vision"}
    assert len(done.record["candidates"]) == 3
    model = export.read_model(done.folder / "best")
    assert model.config.to_dict() == done.record["candidates"][0]["config"]


def test_running_it_again_finds_its_own(done: Run) -> None:
    opened = pipeline.open_new(StudyConfig.load(done.study), done.study, done.folder)
    opened.folder.release()
    source = tiny.ledger(opened.config, done.folder)
    assert source.next() is None and len(source.study.get_trials()) == 9


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("baseline.fusion=sum", r"another baseline: fusion\.name: 'gated' before, 'sum' now; give another --out"),
        ("baseline=self_mm", "another baseline: encoders"),
        ("baseline=null", r"another baseline: \{.*\.\.\. before, null now"),
    ],
)
def test_another_baseline_is_refused(done: Run, override: str, match: str) -> None:
    text = [] if override == "baseline=self_mm" else [override]
    if not text:  # without BERT, which is not at hand
        text = [override, "baseline.encoders.text=pool"]
    with pytest.raises(UserError, match=f"holds a run with {match}"):
        pipeline.open_new(StudyConfig.load(done.study, text), done.study, done.folder)


def test_a_baseline_that_cannot_be_built_is_found_before_training(done: Run, tmp_path: Path) -> None:
    for override, match in (
        ("baseline.fusion=gatedd", r"^baseline: fusion: there is no plug-in 'gatedd'; did you mean 'gated'\?"),
        ("baseline.fusion.rank=3", r"^baseline: fusion: gated has no parameter 'rank'"),
        ("baseline.alignment.audio-vision.place=encoder", r"^baseline: alignment\.audio-vision: coral .* equal dim"),
    ):
        with pytest.raises(UserError, match=match):
            pipeline.open_new(StudyConfig.load(done.study, [override]), done.study, tmp_path / "new", dry=True)
    assert not (tmp_path / "new").exists()


# ---- its report ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reported(done: Run) -> RunRecord:
    return collect(done.folder)


def whole_page(record: RunRecord) -> str:
    return page(record, headline(record), tables(record))


def test_the_tables_make_sense(done: Run, reported: RunRecord) -> None:
    trials = pd.read_csv(done.folder / "report/tables/trials.csv")
    assert list(trials["number"]) == list(range(9)) and trials["role"][0].endswith("baseline")
    assert trials["optimizer.lr"].isna().to_list() == [True] + [False] * 8
    made = tables(reported)
    rows = {row[0]: row[-1] for row in made["trials"].rows}
    assert rows["0"] == "none"
    for number in range(1, 9):
        assert "encoders.text pool" in rows[str(number)] and "encoders.vision none" in rows[str(number)]
        assert "fusion concat" in rows[str(number)] or "fusion sum" in rows[str(number)]
    assert reported.changes(reported.trials[0]) == {}
    assert {row[0] for row in made["importance"].rows} >= {"fusion", "optimizer.lr"}
    assert facts(reported)["Baseline"] == (
        "encoders: text lstm, audio pool, vision pool; alignment: text-audio cka (0.2), audio-vision coral (0.1); "
        "fusion: gated; unimodal labels: ulgm"
    )


def test_a_weighting_of_tasks_that_are_not_there_is_no_difference(reported: RunRecord) -> None:
    """The space has no unimodal labels, so that its weighting is idle; where it has, the two differ."""
    changes = {"baseline": {**OUTSIDE, "weighting": "uncertainty"}}
    record = replace(reported, config=reported.config.model_copy(update=changes))
    assert "weighting" not in record.changes(record.trials[1])
    labelled = replace(record, defaults={**record.defaults, "labels": "copied"})
    found = labelled.changes(labelled.trials[1])
    assert (found["weighting"], found["labels"]) == ("static", "copied")


def test_the_page_of_a_winner_of_the_space(reported: RunRecord) -> None:
    assert reported.winner != 0, "the fixture's winner must be another"
    text = whole_page(reported)
    assert "It differs from the baseline in" in text and "<code>encoders.vision</code> none" in text
    assert "(where the space has it, else the default one)" in text


def test_the_page_when_the_baseline_wins(done: Run, reported: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    record = {**done.record, "winner": 0}
    record["candidates"] = sorted(record["candidates"], key=lambda c: c["trial"] != 0)
    engine = Inline()
    folder = done.folder / "confirm"
    before = (folder / "explain.json").read_bytes()
    explanation = pipeline.explain_stage(done.opened, engine.engine, SIZE, record)
    (folder / "explain.json").write_bytes(before)
    assert {e["module"] for e in explanation["effects"]} == {"alignment.text-audio", "alignment.audio-vision", "labels"}
    assert engine.members == (3 + 3) * SEEDS["effects"], "three removals and their three pairs"
    assert len(explanation["interactions"]) == 3 and explanation["path"] == [] and explanation["spared"] is None
    text = whole_page(replace(reported, confirm=record, explain=explanation))
    assert "It is the baseline: the configuration that the study names." in text
    assert "audio-vision: coral" in text
    show.result(done.opened, {**record, "ensemble": done.record["ensemble"]}, as_json=False)
    printed = capsys.readouterr().out
    assert "(trial 0, the baseline)" in printed and "alignment.audio-vision: coral" in printed
    assert "encoders.text: lstm" in printed


def test_before_confirmation_and_before_the_first_trial(done: Run, tmp_path: Path) -> None:
    shutil.copytree(done.folder, tmp_path / "early", ignore=shutil.ignore_patterns("confirm", "best", "report"))
    assert "Nothing is confirmed yet" in write_report(tmp_path / "early").read_text(encoding="utf-8")
    for name in ("study.log", "trials"):
        path = tmp_path / "early" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder = replace(done.opened, folder=type(done.opened.folder)(tmp_path / "early")).folder
    Ledger(done.opened.config, done.opened.space, folder, SIZE).close()  # the baseline is waiting
    assert "No trial is complete" in write_report(tmp_path / "early").read_text(encoding="utf-8")


def test_optuna_reads_the_study(done: Run) -> None:
    known = open_study(done.opened.config, done.opened.folder)
    frame = known.trials_dataframe()
    assert len(frame) == 9 and frame["params_optimizer.lr"].isna().sum() == 1
    assert isinstance(frame["user_attrs_config"][0], dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a choice of one trial says little
        importances = optuna.importance.get_param_importances(known)
    assert importances and set(importances) <= set(done.opened.space.leaves())
    assert confirm.read_record(done.folder / "confirm") == done.record
