"""What other tools do to a study: enqueue, begin and add trials that are no points of its space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from search.cli import main
from search.ledger import Ledger
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.trials import best_trial, leaders, open_study, summary
from search.yaml_io import write_yaml
from tests.search import tiny
from tests.search.tiny import drain, pretend, ran, study

WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "outside the range": ({"optimizer.lr": 0.5}, "optimizer.lr: must be in [0.001, 0.03], got 0.5"),
    "not a number": ({"optimizer.lr": float("nan")}, "optimizer.lr: must be in [0.001, 0.03], got nan"),
    "no such choice": ({"fusion": "tensor"}, "fusion: must be one of the choice, got 'tensor'; known: concat, sum"),
    "another type": ({"heads.dropout": "much"}, "heads.dropout: must be in [0.0, 0.5], got 'much'"),
    "a list": ({"fusion": ["sum"]}, "fusion: must be one of the choice"),
    "no such parameter": ({"optimizer.rate": 0.01}, "there is no parameter 'optimizer.rate'"),
    "of an arm that is not there": ({"alignment.text-audio.cka.weight": 0.1}, "there is no parameter"),
    "a wrong one beside a right one": ({"fusion": "sum", "optimizer.lr": -1}, "optimizer.lr: must be in"),
}


def states(source: Ledger) -> list[str]:
    return [t.state.name for t in source.study.get_trials(deepcopy=False)]


def finished(run: Path, **changes: Any) -> Ledger:
    source = tiny.ledger(study(pruner="none", **changes), run)
    drain(source, pretend)
    source.close()
    return source


# ---- trials that wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrongly_enqueued_trial_fails_alone(tmp_path: Path, kind: str, deterministic: bool) -> None:
    params, reason = WRONG[kind]
    finished(tmp_path / "run").study.enqueue_trial(dict(params))
    config = study(pruner="none", budget={"trials": 10})
    source = tiny.ledger(config, tmp_path / "run", deterministic=deterministic)
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 6 + ["FAIL"] + ["COMPLETE"] * 3, "it counts as one of the ten"
    found = summary(source.study, config, running=False)
    assert (found["state"], found["counts"]["failed"]) == ("finished", 1)
    assert reason in found["trials"][6]["reason"]


def test_several_wrong_ones_do_not_stop_the_study(tmp_path: Path) -> None:
    """They are more than ``max_failure_rate`` of all, which is for trials that were trained."""
    before = finished(tmp_path / "run", budget={"trials": 8})
    for _ in range(2):
        for params, _ in WRONG.values():
            before.study.enqueue_trial(dict(params))
    before.study.enqueue_trial({"fusion": "sum"})
    source = tiny.ledger(study(pruner="none", budget={"trials": 28}), tmp_path / "run")
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 8 + ["FAIL"] * 16 + ["COMPLETE"] * 4 and source.message == ""
    assert source.study.get_trials()[24].params["fusion"] == "sum", "part of a point is enough"


def test_a_budget_that_wrong_ones_use_up(tmp_path: Path) -> None:
    before = finished(tmp_path / "run")
    for _ in range(5):
        before.study.enqueue_trial({"optimizer.lr": 0.5})
    source = tiny.ledger(study(pruner="none", budget={"trials": 9}), tmp_path / "run")
    assert source.pending() and drain(source, pretend) == [] and not source.pending()
    assert states(source) == ["COMPLETE"] * 6 + ["FAIL"] * 3 + ["WAITING"] * 2


def test_a_setting_of_an_arm_that_is_not_chosen_does_nothing(tmp_path: Path) -> None:
    params = {"alignment.text-audio": "none", "alignment.text-audio.coral.weight": 0.5}
    finished(tmp_path / "run").study.enqueue_trial(params)
    source = tiny.ledger(study(pruner="none", budget={"trials": 7}), tmp_path / "run")
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 7
    assert "alignment.text-audio.coral.weight" not in source.study.get_trials()[6].params


def test_a_configuration_that_is_none_fails(tmp_path: Path) -> None:
    finished(tmp_path / "run").study.enqueue_trial({}, user_attrs={"config": {"fusion": 3}})
    source = tiny.ledger(study(pruner="none", budget={"trials": 8}), tmp_path / "run")
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 6 + ["FAIL", "COMPLETE"]


# ---- trials that run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
def test_trials_that_other_tools_began_and_left(tmp_path: Path, deterministic: bool) -> None:
    """One is empty, one has a value outside the range, one a parameter of its own, one another kind of range."""
    before = finished(tmp_path / "run")
    before.study.ask()
    before.study.ask().suggest_float("optimizer.lr", 0.1, 0.9, log=True)
    before.study.ask().suggest_float("mine", 0.0, 1.0)
    with suppress(ValueError):
        before.study.ask().suggest_int("heads.dropout", 0, 1)
    config = study(pruner="none", budget={"trials": 12})
    source = tiny.ledger(config, tmp_path / "run", deterministic=deterministic)
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 7 + ["FAIL"] * 2 + ["COMPLETE"] * 3
    reasons = [t["reason"] for t in summary(source.study, config, running=False)["trials"][7:9]]
    assert "optimizer.lr: must be in [0.001, 0.03]" in reasons[0] and "no parameter 'mine'" in reasons[1]


# ---- trials that are added with their values -------------------------------------------------------------------------


def added(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], value: float = 1e-6) -> FrozenTrial:
    return create_trial(value=value, params=dict(params), distributions=dict(distributions))


STRANGE = (
    added({}, {}),
    added({"optimizer.lr": 0.7}, {"optimizer.lr": FloatDistribution(0.1, 0.9, log=True)}),
    added({"mine": 1.0}, {"mine": FloatDistribution(0.0, 2.0)}),
)


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cmaes", "nsga2"])
def test_what_was_added_neither_leads_nor_breaks_the_search(tmp_path: Path, sampler: str) -> None:
    before = finished(tmp_path / "run", sampler=sampler, budget={"trials": 12})
    best = best_trial(before.study)
    before.study.add_trials(STRANGE)
    config = study(pruner="none", sampler=sampler, budget={"trials": 21})
    source = tiny.ledger(config, tmp_path / "run")
    drain(source, pretend)
    assert states(source) == ["COMPLETE"] * 21 and best is not None
    found = summary(source.study, config, running=False)
    assert not {12, 13, 14} & {found["best"]["number"], *found["front"], *(t.number for t in leaders(source.study, 99))}
    assert found["origins"]["added"]["trials"] == 3 and found["origins"]["added"]["best"] is None


def test_a_study_whose_first_trial_is_not_the_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    open_study(study(), RunFolder(tmp_path / "run")).enqueue_trial({"fusion": "sum"})
    with pytest.raises(UserError, match="storage: trial 0 of study 'tiny' is of another tool, where the baseline must"):
        tiny.ledger(study(), tmp_path / "run")


def test_other_choices_of_a_parameter_are_refused(tmp_path: Path) -> None:
    """Optuna would raise an error of its own when such a parameter is drawn, or a model of the trials is made."""
    source = finished(tmp_path / "run")
    source.study.add_trial(added({"fusion": "x"}, {"fusion": CategoricalDistribution(("x", "y"))}))
    with pytest.raises(UserError, match=r"trial 6 of study 'tiny', .* has other choices for fusion than concat, sum"):
        tiny.ledger(study(), tmp_path / "run")


# ---- a whole run -----------------------------------------------------------------------------------------------------


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(arguments)
    return capsys.readouterr().out


def changed(folder: Path, params: Sequence[Mapping[str, Any]]) -> None:
    made = open_study(StudyConfig.load(folder / "resolved.yaml"), RunFolder(folder))
    for some in params:
        made.enqueue_trial(dict(some))
    made.ask().suggest_float("optimizer.lr", 0.1, 0.9, log=True)
    made.add_trials(STRANGE)


def test_a_finished_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To its report, with every kind of such trials; and a budget below what is done is met."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.npz", planted(0, train=96, valid=32, test=32))
    seeds, rungs = {"confirm": 2, "effects": 2, "leaders": 1}, {"epochs": [1, 2]}
    tree = {**study(seeds=seeds, rungs=rungs, budget={"trials": 4}, population=2, resources={"workers": 1}).resolved()}
    write_yaml(Path("study.yaml"), {**tree, "data": {"path": "data.npz", "modalities": ["text", "audio"]}})
    run = partial(ran, "run", "study.yaml", "--out", "run")
    run("budget.trials=4")
    changed(Path("run"), [{"optimizer.lr": 0.5}, {"fusion": "tensor"}, {"nothing": 1}])
    assert json.loads(run("budget.trials=14", "--json"))["winner"] not in range(4, 10)
    found = json.loads(called(capsys, "status", "run", "--json"))
    assert [t["state"] for t in found["trials"][4:10]] == ["failed"] * 3 + ["complete"] * 3
    assert [t["state"] for t in found["trials"]].count("failed") == 3 and found["state"] == "finished"
    assert "trial 5 failed: tiny: space: fusion: must be one of the choice" in called(capsys, "status", "run")
    report = Path("run/report/report.md").read_text(encoding="utf-8")
    assert "3 trials were added by other tools and left out." in report
    called(capsys, "export", "run")
    assert "budget.trials: 3 is met, as 14 trials have ended" in run("budget.trials=3")
    assert "tiny: finished, 14 trials (the budget of 3 is met)" in called(capsys, "status", "run")
