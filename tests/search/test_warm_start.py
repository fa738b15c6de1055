"""Studies that start from other runs: whose leaders are taken, where they land in the space, and what they gained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmsa_core.config import MemberConfig
from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from search import pipeline, warm_start
from search.ledger import Ledger
from search.nearest import nearest_point, untaken
from search.origins import origin_sentences
from search.populations import Task
from search.report.build import write_report
from search.run_folder import RunFolder
from search.space import Space
from search.study import LeaderConfig, StudyConfig, WarmStartConfig
from search.trials import BASELINE, INTERACTIONS, SEARCH, WARM_START, FirstTrial, leaders, origins, summary
from search.yaml_io import read_yaml, write_yaml
from tests.search import tiny
from tests.search.tiny import drain, pretend, study

POINT = {**tiny.BASELINE, "alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.02, "fusion": "sum"}


def whole(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    return complete(MemberConfig.from_dict(space.config(params))).to_dict()


def finished_run(path: Path, trials: int = 12, **changes: Any) -> Ledger:
    """Make a run folder whose search is over."""
    source = tiny.ledger(study(**{"budget": {"trials": trials}, "pruner": "none", **changes}), path)
    drain(source, pretend)
    write_yaml(path / "resolved.yaml", source.config.resolved())
    return source


# ---- the nearest point -----------------------------------------------------------------------------------------------


def test_a_point_of_the_space_is_its_own_nearest() -> None:
    space = study().search_space()
    assert nearest_point(space, whole(space, POINT)) == POINT
    assert untaken(whole(space, POINT), whole(space, POINT))[0] == 0
    modules = Space.load("modules")
    for seed, config in enumerate(modules.random(20, 3)):
        own = complete(MemberConfig.from_dict(config)).to_dict()
        params = nearest_point(modules, own)
        again = whole(modules, dict(params))
        assert untaken(own, again)[0] == 0, (seed, own, again)


def test_what_the_space_lacks_is_at_its_default() -> None:
    wide = Space.parse(
        {
            **tiny.space("optimizer.lr", {"float": [0.0001, 0.5]}),
            "fusion": {"choice": {"tensor": {"dim": {"int": [2, 9]}}, "sum": {}}},
            "width": {"int": [4, 64]},
        }
    )
    theirs = whole(wide, {**POINT, "optimizer.lr": 0.4, "fusion": "tensor", "fusion.tensor.dim": 7, "width": 32})
    narrow = Space.parse({**tiny.SPACE, "width": {"int": [4, 12], "step": 4}, "batch_size": {"choice": [16, 64]}})
    found = nearest_point(narrow, theirs)
    assert found == {
        "alignment.text-audio": "coral",
        "alignment.text-audio.coral.weight": 0.02,
        "fusion": "concat",
        "heads.dropout": 0.1,
        "optimizer.lr": 0.03,
        "width": 12,
        "batch_size": 16,
    }
    ours = whole(narrow, found)
    missed, settings = untaken(theirs, ours)
    lost = {"fusion.name", *(f"fusion.{k}" for k in theirs["fusion"] if k != "name"), "optimizer.lr", "width"}
    assert (missed, settings) == (len(lost) + 1, missed + (settings - missed)), "and batch_size: 32 is no option"
    assert settings - missed > 10


def test_a_setting_of_another_arm_is_not_taken() -> None:
    space = Space.parse({**tiny.SPACE, "fusion": {"choice": {"low_rank": {"rank": {"int": [2, 8]}}, "sum": {}}}})
    theirs = whole(study().search_space(), POINT)
    theirs["fusion"] = {"name": "another", "rank": 7}
    assert nearest_point(space, theirs)["fusion.low_rank.rank"] == 5, "the default"
    theirs["fusion"] = {"name": "low_rank", "rank": 7}
    assert nearest_point(space, theirs)["fusion.low_rank.rank"] == 7


@pytest.mark.parametrize(("theirs", "ours"), [(1, 2), (9, 8), (5, 5), (True, 4), ("x", 4), (5.4, 5)])
def test_numbers_go_to_the_nearest(theirs: object, ours: int) -> None:
    space = Space.parse({"width": {"int": [2, 8], "default": 4}})
    assert nearest_point(space, {"width": theirs}) == {"width": ours}


# ---- the leaders of a run --------------------------------------------------------------------------------------------


def test_confirmed_leaders_come_first(tmp_path: Path) -> None:
    source = finished_run(tmp_path)
    best = [t.number for t in leaders(source.study, 9)]
    assert len(best) > 5 and best[2] != 0
    assert [(w.trial, w.confirmed) for w in warm_start.leaders_of(tmp_path)] == [(n, False) for n in best[:5]]
    (tmp_path / "confirm").mkdir()
    candidates: list[dict[str, Any]] = [
        {"trial": best[3], "dropped_after": 5},
        {"trial": best[2], "dropped_after": None},
        {"trial": 0, "dropped_after": None},
    ]
    own = {"winner": best[2], "baseline": 0, "candidates": candidates}
    record = {"metric": "mae", "seeds": [1], "test": {}, **own}
    (tmp_path / "confirm" / "confirm.json").write_text(json.dumps(record))
    found = warm_start.leaders_of(tmp_path)
    assert [(w.trial, w.confirmed) for w in found] == [
        (best[2], True), (best[3], True), (best[0], False), (best[1], False), (best[4], False),
    ]  # fmt: skip
    params = source.study.get_trials()[best[2]].params
    assert found[0].config == complete(MemberConfig.from_dict({**source.space.config(params), "epochs": 4})).to_dict()
    record["winner"] = 0
    (tmp_path / "confirm" / "confirm.json").write_text(json.dumps(record))
    assert 0 in [w.trial for w in warm_start.leaders_of(tmp_path)], "a baseline that won is a leader"


def test_runs_take_turns_within_a_quarter_of_the_budget(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished_run(tmp_path / name, sampler="random", seeds={"search": 1, "base": ord(name)})
    given = study(budget={"trials": 24}, warm_start=[str(tmp_path / "a"), str(tmp_path / "b")])
    config = warm_start.with_leaders(given, RunFolder(tmp_path / "new"))
    found = warm_start.first_trials(config, config.search_space())
    assert [t.note.split(",")[0] for t in found] == ["a", "b"] * 3
    assert all(t.origin == WARM_START and t.note.endswith(": all of its settings taken") for t in found)
    many = config.model_copy(update={"budget": config.budget.model_copy(update={"trials": 400})})
    assert len(warm_start.first_trials(many, many.search_space())) == 10


def test_a_study_keeps_what_it_started_with(tmp_path: Path) -> None:
    finished_run(tmp_path / "old")
    folder = RunFolder(tmp_path / "new")
    given = study(warm_start=[str(tmp_path / "old")])
    config = warm_start.with_leaders(given, folder)
    assert config.warm_start[0].leaders is not None
    folder.path.mkdir()
    write_yaml(folder.path / "resolved.yaml", config.resolved())
    shutil.rmtree(tmp_path / "old")
    assert warm_start.with_leaders(given, folder) == config
    assert StudyConfig.load(folder.path / "resolved.yaml").warm_start == config.warm_start
    assert warm_start.with_leaders(folder.config(), RunFolder(tmp_path / "third")).warm_start == config.warm_start
    with pytest.raises(UserError, match=r"warm_start: .*old: no run folder is here"):
        warm_start.with_leaders(given, RunFolder(tmp_path / "third"))


def test_runs_that_have_no_leader(tmp_path: Path) -> None:
    write_yaml(tmp_path / "resolved.yaml", study().resolved())
    with pytest.raises(UserError, match=r"warm_start: .*: none of its trials is complete"):
        warm_start.leaders_of(tmp_path)  # not even a baseline
    tiny.ledger(study(), tmp_path)
    with pytest.raises(UserError, match=r"warm_start: .*: none of its trials is complete"):
        warm_start.leaders_of(tmp_path)


def test_other_modalities(tmp_path: Path) -> None:
    finished_run(tmp_path)
    leader = warm_start.leaders_of(tmp_path)[0]

    def points(modalities: list[str]) -> list[FirstTrial]:
        runs = (WarmStartConfig(run="runs/old", leaders=(leader,)),)
        config = study(data={"modalities": modalities}).model_copy(update={"warm_start": runs})
        return warm_start.first_trials(config, config.search_space())

    (text,) = points(["text"])
    assert "alignment.text-audio" not in text.params
    assert text.note == f"old, trial {leader.trial}: all of its settings taken"
    with pytest.raises(UserError, match=r"warm_start: old, trial \d+: has encoders of text, audio, .* vision only"):
        vision = {**tiny.SPACE, "encoders": {**tiny.SPACE["encoders"], "vision": {"name": "pool"}}}
        config = study(data={"modalities": ["vision"]}, space=vision)
        runs = (WarmStartConfig(run="runs/old", leaders=(leader,)),)
        warm_start.first_trials(config.model_copy(update={"warm_start": runs}), config.search_space())


@pytest.mark.parametrize("value", ["runs/a", 3, [4]])
def test_a_wrong_list_of_runs(value: object) -> None:
    with pytest.raises(UserError, match=r"warm_start: must be a list of run folders, e.g. \[runs/other\], got"):
        study(warm_start=value)


# ---- first trials in the ledger --------------------------------------------------------------------------------------


def test_first_trials_follow_the_baseline(tmp_path: Path) -> None:
    config = study(budget={"trials": 9})
    first = [
        FirstTrial(POINT, WARM_START, "old, trial 3"),
        FirstTrial({**POINT, "optimizer.lr": 0.02}, WARM_START, "old, trial 4"),
        FirstTrial({**tiny.BASELINE, "fusion": "tensor"}, INTERACTIONS, "fusion=tensor"),
        FirstTrial(dict(tiny.BASELINE), INTERACTIONS, "nothing"),
    ]
    source = Ledger(config, config.search_space(), _folder(tmp_path), 4, first=first)
    tasks = drain(source, pretend)
    assert [sorted({s.trial for s in t.slots}) for t in tasks][:2] == [[0, 3], [1, 2]], "populations of one structure"
    trials = source.study.get_trials()
    assert [trials[n].params for n in (1, 2)] == [first[0].params, first[1].params]
    found = origins(source.study)
    assert {k: v["trials"] for k, v in found.items()} == {BASELINE: 1, WARM_START: 2, SEARCH: 6, INTERACTIONS: 0}
    assert found[WARM_START]["notes"] == ["old, trial 3", "old, trial 4"]
    values = [t.value for t in trials[1:3]]
    assert found[WARM_START]["best"] == min(v for v in values if v is not None)
    dropped = found[INTERACTIONS]["dropped"]
    assert "must be one of the choice, got 'tensor'" in dropped[0]
    assert dropped[1] == "nothing: the same configuration waits already"
    assert summary(source.study, config, running=False)["origins"] == found

    again = Ledger(config, config.search_space(), RunFolder(tmp_path), 4, first=first)
    assert len(again.study.get_trials()) == 9, "a study that is not new enqueues nothing"


def test_a_point_keeps_to_what_others_decide(tmp_path: Path) -> None:
    """A leader whose strategy decides its fusion is completed, not refused."""
    space = Space.load("modules")
    config = complete(MemberConfig.from_dict({**space.baseline()[0], "strategy": "alternating", "fusion": "sum"}))
    params = nearest_point(space, config.to_dict())
    assert params["strategy"] == "alternating" and "fusion" not in params
    assert space.config(params)["fusion"]["name"] == "sum"


@pytest.mark.parametrize(
    ("warm", "own", "sign", "said"),
    [
        (0.5, 0.6, 1.0, "ahead of"),
        (0.5, 0.6, -1.0, "behind"),
        (0.5, 0.5, 1.0, "level with"),
    ],
)
def test_what_they_gained_is_said(warm: float, own: float, sign: float, said: str) -> None:
    empty: dict[str, Any] = {"notes": [], "dropped": []}
    found = {
        WARM_START: {
            "trials": 2,
            "complete": 1,
            "best": warm,
            "number": 1,
            "notes": ["a, trial 3"],
            "dropped": ["b: x"],
        },
        SEARCH: {"trials": 7, "complete": 3, "best": own, "number": 9, **empty},
    }
    sentences = origin_sentences(found, "mae", sign)
    assert sentences == [
        f"2 trials taken from other runs: the best, trial 1, reached mae {warm:.4f}, {said} the best of the search's "
        f"own 7, {own:.4f} of trial 9.",
        "a, trial 3.",
        "dropped: b: x.",
        f"The best value of all was reached by trial {9 if sign * (own - warm) < 0 else 1}.",
    ]
    assert origin_sentences({SEARCH: found[SEARCH]}, "mae", sign) == []
    none = {**found, WARM_START: {**found[WARM_START], "best": None, "number": None}}
    assert origin_sentences(none, "mae", sign)[0] == "2 trials taken from other runs: none is complete."


# ---- a whole study ---------------------------------------------------------------------------------------------------


def test_from_study_to_report(tmp_path: Path) -> None:
    data = tmp_path / "planted.npz"
    write_planted(data, 0, train=64, valid=32, test=32)
    finished_run(tmp_path / "old")
    tree = {**study(budget={"trials": 8}).resolved(), "data": {"path": str(data), "modalities": ["text", "audio"]}}
    write_yaml(tmp_path / "study.yaml", {**tree, "warm_start": ["old"]})
    config = StudyConfig.load(tmp_path / "study.yaml")
    opened = pipeline.open_new(config, tmp_path / "study.yaml", tmp_path / "new")
    opened.folder.release()
    assert read_yaml(tmp_path / "new" / "resolved.yaml")["warm_start"][0]["run"] == str(tmp_path / "old")
    first = pipeline.first_trials(opened)
    assert len(first) == 2
    source = Ledger(opened.config, opened.space, opened.folder, 2, first=first)
    assert isinstance(source.next(), Task)
    drain(source, pretend)
    write_report(tmp_path / "new")
    assert "2 trials taken from other runs" in (tmp_path / "new" / "report" / "report.md").read_text()


def _folder(path: Path) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def test_a_leader_is_written_out() -> None:
    leader = LeaderConfig(trial=3, confirmed=True, config={"width": 4})
    config = study().model_copy(update={"warm_start": (WarmStartConfig(run="/runs/a", leaders=(leader,)),)})
    assert StudyConfig.check(config.resolved()).warm_start == config.warm_start
