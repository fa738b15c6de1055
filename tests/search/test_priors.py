"""First trials that the data's interactions advise: which points they are, and that nothing is excluded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmsa_core.analysis.advice import Advice
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import Problem, planted, write_planted
from mmsa_core.errors import UserError
from search import pipeline, priors
from search.ledger import Ledger
from search.populations import Task
from search.run_folder import RunFolder
from search.space import Space
from search.study import StudyConfig
from search.trials import INTERACTIONS, NOTE, ORIGIN, origins
from search.yaml_io import write_yaml
from tests.search import tiny

ALIGN = Advice("alignment.text-audio", ("cka", "coral"), "text and audio say the same")
FUSE = Advice("fusion", ("low_rank", "sum"), "they add up")
CORAL = {"alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.1}


def train(problem: Problem = "shared", rows: int = 400) -> Split:
    raw = planted(0, train=rows, problem=problem)["train"]
    return Scaler.fit(raw).apply(raw)


def test_one_trial_for_each_advice_and_one_for_all() -> None:
    space = tiny.study().search_space()
    found = priors.first_trials(space, [ALIGN, FUSE], 40)
    assert [t.params for t in found] == [
        {**tiny.BASELINE, **CORAL, "fusion": "sum"},
        {**tiny.BASELINE, **CORAL},
        {**tiny.BASELINE, "fusion": "sum"},
    ]
    assert {t.origin for t in found} == {INTERACTIONS}
    assert [t.note for t in found] == [
        "all advised modules together, alignment.text-audio=coral, fusion=sum",
        "alignment.text-audio=coral, as text and audio say the same",
        "fusion=sum, as they add up",
    ]
    assert all(space.config(t.params) for t in found)


def test_one_piece_of_advice_is_one_trial() -> None:
    space = tiny.study().search_space()
    assert [t.params for t in priors.first_trials(space, [FUSE], 40)] == [{**tiny.BASELINE, "fusion": "sum"}]
    twice = [FUSE, replace(FUSE, arms=("concat",))]
    assert len(priors.first_trials(space, twice, 40)) == 1, "the first advice on a place counts"
    assert priors.first_trials(space, [], 40) == []


def test_a_quarter_of_the_budget() -> None:
    space = tiny.study().search_space()
    assert [len(priors.first_trials(space, [ALIGN, FUSE], n)) for n in (3, 7, 8, 12, 400)] == [0, 1, 2, 3, 3]


def test_what_the_space_lacks_is_dropped_and_said(tmp_path: Path) -> None:
    config = tiny.study(budget={"trials": 16})
    space = config.search_space()
    advised = [replace(ALIGN, place="alignment.audio-vision"), replace(FUSE, arms=("tensor", "gated")), ALIGN]
    source = Ledger(config, space, RunFolder(tmp_path), 4, first=priors.first_trials(space, advised, 16))
    kept = [t for t in source.study.get_trials() if t.user_attrs[ORIGIN] == INTERACTIONS]
    assert [t.user_attrs[NOTE] for t in kept] == ["alignment.text-audio=coral, as text and audio say the same"]
    said = origins(source.study)[INTERACTIONS]["dropped"]
    assert len(said) == 3
    assert "all advised modules" in said[0] and "there is no parameter 'alignment.audio-vision'" in said[0]
    assert "there is no parameter 'alignment.audio-vision'" in said[1]
    assert "must be one of the choice, got 'tensor'" in said[2]


def test_advice_keeps_to_what_others_decide() -> None:
    """A strategy that decides the fusion leaves no fusion to advise: the trial with both is the strategy's."""
    space = Space.load("modules")
    both = [replace(FUSE, arms=("low_rank",)), Advice("strategy", ("alternating",), "text leads")]
    together = priors.first_trials(space, both, 40)[0]
    assert space.config(together.params)["fusion"]["name"] == "sum"


def test_the_planted_answers_are_advised() -> None:
    (fusion,) = priors.first_trials(Space.load("planted"), priors.advice(train("modules")), 40)
    assert fusion.params["fusion"] == "low_rank"
    (shared,) = priors.first_trials(Space.load("planted"), priors.advice(train("shared")), 40)
    assert shared.params["alignment.text-audio"] == "cka"


def test_data_that_says_nothing() -> None:
    few = train(rows=16)
    with pytest.raises(UserError, match=r"priors: interactions: .* got 16 rows in .*, or set priors: none"):
        priors.check(few)
    constant = replace(train(rows=100), labels=np.zeros(100, np.float32))
    with pytest.raises(UserError, match=r"priors: interactions: all 100 labels are 0.*, or set priors: none"):
        priors.check(constant)
    priors.check(train(rows=100))


def test_a_study_begins_with_what_is_advised(tmp_path: Path) -> None:
    write_planted(tmp_path / "planted.npz", 0, train=400, valid=32, test=32)
    data = {"path": str(tmp_path / "planted.npz")}
    tree = {"study": "t", "budget": {"trials": 8}, "space": "planted", "data": data, "priors": "interactions"}
    write_yaml(tmp_path / "study.yaml", tree)

    def opened(*overrides: str) -> pipeline.Opened:
        config = StudyConfig.load(tmp_path / "study.yaml", overrides)
        return pipeline.open_new(config, tmp_path / "study.yaml", tmp_path / "run", dry=True)

    advised = opened()
    (fusion,) = pipeline.first_trials(advised)
    (tmp_path / "run").mkdir()
    source = Ledger(advised.config, advised.space, advised.folder, 4, first=[fusion])
    assert isinstance(task := source.next(), Task)
    assert task.slots[0].config["fusion"] == {"name": "concat"}, "the baseline is first"
    assert isinstance(task := source.next(), Task)
    assert [s.config["fusion"]["name"] for s in task.slots] == ["low_rank"]
    assert pipeline.first_trials(opened("priors=none")) == []
    with pytest.raises(UserError, match="priors: interactions: takes two modalities or three, got text alone"):
        opened("data.modalities=[text]")
