"""The study file: defaults, paths, overrides, and one sentence for every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from mmsa_core import metrics
from mmsa_core.errors import UserError
from search.study import StudyConfig
from search.yaml_io import read_yaml, write_yaml

MINIMAL = "study: demo\nbudget: {trials: 24}\nspace: quick\n"
STUDIES = Path(__file__).parents[2] / "spaces" / "studies"


def load(tmp_path: Path, text: str, *overrides: str, **kwargs: Any) -> StudyConfig:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return StudyConfig.load(path, overrides, **kwargs)


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    resolved = config.resolved()
    assert resolved.pop("space") == read_yaml(Path(__file__).parents[2] / "spaces" / "quick.yaml")
    assert resolved == {
        "study": "demo",
        "data": {
            "path": None,
            "modalities": None,
            "nonfinite": "refuse",
            "text_model": None,
            "text_pooling": "mean",
            "text_layer": -1,
        },
        "objective": {
            "metric": "mae",
            "direction": "minimize",
            "convention": "auto",
            "cost": None,
            "latency_batch": 1,
        },
        "budget": {"trials": 24, "minutes": None},
        "seeds": {"search": 1, "confirm": 20, "effects": 10, "leaders": 6, "base": 0},
        "rungs": {"epochs": [2, 4, 8, 16, 32], "keep": 0.5},
        "population": "auto",
        "baseline": None,
        "warm_start": [],
        "priors": "none",
        "sampler": "tpe",
        "pruner": "none",
        "storage": "journal",
        "resources": {"cpus": 1.0, "gpus": "auto", "workers": "auto"},
        "max_failure_rate": 0.5,
        "keep_weights": "winner",
        "winner": "bound",
    }


@pytest.mark.parametrize(
    ("given", "pruner"),
    [
        ("", "none"),
        ("rungs: {epochs: [4, 8]}", "rungs"),
        ("pruner: rungs", "rungs"),
        ("{rungs: {epochs: [4, 8]}, pruner: median}", "median"),
        ("{rungs: {epochs: [4, 8]}, pruner: none}", "none"),
    ],
)
def test_rungs_that_are_named_end_weak_trials(given: str, pruner: str) -> None:
    tree = {"study": "s", "budget": {"trials": 2}, "space": "quick", **(yaml.safe_load(given) or {})}
    config = StudyConfig.check(tree)
    assert config.pruner == pruner
    assert StudyConfig.check(config.resolved()).pruner == pruner


def test_everything_given_survives_a_resolved_file(tmp_path: Path) -> None:
    text = """
study: a.b_c-1
data: {path: x.npz, modalities: [vision, text], nonfinite: zero}
objective: {metric: acc3, convention: sims}
budget: {trials: 5, minutes: 2}
seeds: {search: 2, confirm: 4, leaders: 1, base: 7}
rungs: {epochs: [1], keep: 0.25}
population: 8
space: {optimizer: {lr: {float: [0.001, 0.01], log: true}}}
sampler: nsga2
pruner: none
storage: postgresql+psycopg2://me@host/db
resources: {cpus: 0.5, gpus: 0.25, workers: 2}
max_failure_rate: 1
keep_weights: all
"""
    config = load(tmp_path, text)
    assert config.objective.direction == "maximize"
    assert config.data.modalities == ("text", "vision")
    assert config.resources.gpus == 0.25
    write_yaml(tmp_path / "resolved.yaml", config.resolved())
    again = StudyConfig.load(tmp_path / "resolved.yaml")
    assert again == config
    assert again.resolved() == config.resolved() == StudyConfig.check(config.resolved()).resolved()


def test_it_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.budget.trials = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(metrics.DIRECTIONS))
def test_short_objective_takes_the_metrics_direction(tmp_path: Path, name: str) -> None:
    objective = load(tmp_path, f"{MINIMAL}objective: {name}").objective
    assert (objective.metric, objective.direction) == (name, metrics.DIRECTIONS[name])
    assert load(tmp_path, MINIMAL, f"objective={name}").objective == objective
    assert load(tmp_path, f"{MINIMAL}objective: corr", f"objective.metric={name}").objective == objective


def test_overrides_reach_every_part_and_the_space(tmp_path: Path) -> None:
    overrides = [
        "budget.trials=5",
        "budget.minutes=1e-1",
        "seeds.base=3",
        "rungs.epochs=[1, 2]",
        "data.modalities=[text, audio]",
    ]
    config = load(tmp_path, MINIMAL, *overrides, "space.optimizer.lr=1e-3", "space.encoders.audio=lstm")
    assert (config.budget.trials, config.budget.minutes, config.seeds.base) == (5, 0.1, 3)
    assert config.rungs.epochs == (1, 2)
    space = config.search_space()
    assert "optimizer.lr" not in space.leaves()
    built, _ = space.baseline()
    assert (built["encoders"]["audio"]["name"], built["optimizer"]["lr"]) == ("lstm", 0.001)
    assert list(built["encoders"]) == ["text", "audio"]
    assert load(tmp_path, MINIMAL, "space=paper").search_space().source == "spaces/paper.yaml"


def test_paths_are_taken_from_here_or_else_from_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, here = tmp_path / "studies", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    text = "study: x\nbudget: {trials: 1}\ndata: {path: d.npz}\nspace: s.yaml\n"
    (folder / "s.yaml").write_text("a: {float: [0, 1]}")
    assert load(folder, text).data.path == "d.npz"
    (folder / "d.npz").touch()
    assert load(folder, text).data.path == str(folder / "d.npz")
    assert load(folder, text).search_space().baseline()[0] == {"a": 0.5}
    (here / "d.npz").touch()
    (here / "s.yaml").write_text("b: 1")
    assert load(folder, text).data.path == "d.npz"
    assert load(folder, text).search_space().baseline()[0] == {"b": 1}
    assert load(folder, text, data="/other.npz").data.path == "/other.npz"
    assert load(folder, text, "data.path=o.npz").data.path == "o.npz"


REFUSED = [
    ("budget.trails: 5", r"x\.yaml: budget\.trails: unknown key; did you mean 'trials'\?"),
    ("budgt: {}", r"x\.yaml: budgt: unknown key; did you mean 'budget'\?"),
    ("seeds.confrim: 5", r"x\.yaml: seeds\.confrim: unknown key; did you mean 'confirm'\?"),
    ("budget: {}", r"x\.yaml: budget\.trials: the key is missing; add it"),
    ("budget: null", r"x\.yaml: budget: must be a mapping \(key: value\), got null"),
    ("budget: 5", r"x\.yaml: budget: must be a mapping \(key: value\), got 5"),
    ("budget.trials: 0", r"x\.yaml: budget\.trials: must be greater than 0, got 0"),
    ("budget.trials: '5'", r"x\.yaml: budget\.trials: must be a valid integer, got '5'"),
    ("budget.trials: 5.5", r"x\.yaml: budget\.trials: must be a valid integer, got 5\.5"),
    ("budget.trials: true", r"x\.yaml: budget\.trials: must be a valid integer, got true"),
    ("budget.trials: null", r"x\.yaml: budget\.trials: must be a valid integer, got null"),
    (
        "budget.minutes: 1e-3",
        r"budget\.minutes: must be a valid number, got '1e-3'; .*YAML 1\.1, write 0\.001 without quotes",
    ),
    ("budget.minutes: 0", r"x\.yaml: budget\.minutes: must be greater than 0, got 0"),
    ("budget.minutes: .inf", r"x\.yaml: budget\.minutes: must be a finite number, got inf"),
    ("study: null", r"x\.yaml: study: must be a valid string, got null"),
    ("study: 2024", r"x\.yaml: study: must be a valid string, got 2024"),
    ("study: a b", r"x\.yaml: study: must be of letters, digits, .* got 'a b'"),
    ("study: ../x", r"x\.yaml: study: must be of letters"),
    ("study: .hidden", r"x\.yaml: study: must be of letters.* start with a letter or digit, got '\.hidden'"),
    ("data: x.npz", r"x\.yaml: data: must be a mapping \(key: value\), got 'x\.npz'"),
    (
        "data.modalities: [text, audoi]",
        r"x\.yaml: data\.modalities: there is no modality 'audoi'; did you mean 'audio'\?",
    ),
    (
        "data.modalities: []",
        r"x\.yaml: data\.modalities: must be a list of one or more of text, audio, vision, got \[\]",
    ),
    ("data.modalities: text", r"x\.yaml: data\.modalities: must be a list"),
    ("data.modalities: [text, text]", r"x\.yaml: data\.modalities: every modality must be there once"),
    (
        "data.nonfinite: zeros",
        r"x\.yaml: data\.nonfinite: must be one of 'refuse' or 'zero', got 'zeros'; did you mean 'zero'\?",
    ),
    ("objective: acc77", r"x\.yaml: objective: auto has no metric 'acc77'; did you mean 'acc7'\?"),
    ("objective: {metric: acc3, convention: mosi}", r"x\.yaml: objective: mosi has no metric 'acc3'; "),
    ("objective: {metric: acc7, convention: sims}", r"x\.yaml: objective: sims has no metric 'acc7'; "),
    ("objective: {metric: mae, direction: maximize}", r"x\.yaml: objective: mae is to minimize; leave direction out"),
    (
        "objective: {direction: minimise}",
        r"objective\.direction: must be one of .* got 'minimise'; did you mean 'minimize'\?",
    ),
    ("objective: {metric: [mae]}", r"x\.yaml: objective\.metric: must be a valid string, got \['mae'\]"),
    ("objective: {convention: moso}", r"x\.yaml: objective\.convention: must be one of .*; did you mean 'mosi'\?"),
    ("objective: {cost: flops}", r"x\.yaml: objective\.cost: must be one of 'parameters', 'latency' or 'seconds'"),
    ("objective: {cost: latency, latency_batch: 0}", r"objective\.latency_batch: must be greater than 0, got 0"),
    ("objective: {latency_batch: 8}", r"x\.yaml: objective: latency_batch is a setting of cost: latency; leave it out"),
    ("objective: null", r"x\.yaml: objective: must be a mapping"),
    ("seeds.search: 0", r"x\.yaml: seeds\.search: must be greater than 0, got 0"),
    ("seeds.confirm: -1", r"x\.yaml: seeds\.confirm: must be greater than or equal to 2, got -1"),
    ("rungs.epochs: [4, 2]", r"x\.yaml: rungs\.epochs: must be increasing whole numbers from 1 on.*got \[4, 2\]"),
    ("rungs.epochs: [2, 2]", r"x\.yaml: rungs\.epochs: must be increasing"),
    ("rungs.epochs: [0, 2]", r"x\.yaml: rungs\.epochs: must be increasing"),
    ("rungs.epochs: [2.0, 4]", r"x\.yaml: rungs\.epochs: must be increasing"),
    ("rungs.epochs: []", r"x\.yaml: rungs\.epochs: must be increasing"),
    ("rungs.epochs: 8", r"x\.yaml: rungs\.epochs: must be increasing"),
    ("rungs.keep: 1", r"x\.yaml: rungs\.keep: must be less than 1, got 1"),
    ("rungs.keep: 0", r"x\.yaml: rungs\.keep: must be greater than 0, got 0"),
    ("population: 0", r"x\.yaml: population: must be 'auto' or a whole number of at least 1, got 0"),
    ("population: atuo", r"x\.yaml: population: must be 'auto' or a whole number of at least 1, got 'atuo'"),
    ("population: 2.5", r"x\.yaml: population: must be 'auto' or a whole number"),
    ("population: true", r"x\.yaml: population: must be 'auto' or a whole number"),
    ("resources.gpus: -1", r"x\.yaml: resources\.gpus: must be 'auto' or a number of at least 0, got -1"),
    ("resources.gpus: .nan", r"x\.yaml: resources\.gpus: must be 'auto' or a number of at least 0, got nan"),
    ("resources.workers: 0", r"x\.yaml: resources\.workers: must be 'auto' or a whole number"),
    ("resources.cpus: 0", r"x\.yaml: resources\.cpus: must be greater than 0, got 0"),
    ("sampler: tpee", r"x\.yaml: sampler: must be one of .* got 'tpee'; did you mean 'tpe'\?"),
    ("sampler: 1", r"x\.yaml: sampler: must be one of .* got 1; known: tpe, random"),
    ("pruner: hyperbnd", r"x\.yaml: pruner: must be one of .*; did you mean 'hyperband'\?"),
    ("storage: jurnal", r"x\.yaml: storage: must be journal, sqlite or a URL of journal://, .*got 'jurnal'"),
    ("storage: http://x", r"x\.yaml: storage: must be journal, sqlite or a URL"),
    ("max_failure_rate: 2", r"x\.yaml: max_failure_rate: must be less than or equal to 1, got 2"),
    ("space: 3", r"x\.yaml: space: must be a shipped name, a path, or a mapping, got 3"),
    ("space: null", r"x\.yaml: space: must be a shipped name"),
    ("space: quik", r"x\.yaml: space: there is no shipped space 'quik'; did you mean 'quick'\?"),
    ("space: nowhere/s.yaml", r"x\.yaml: nowhere/s\.yaml: there is no such file"),
    ("space: {}", r"x\.yaml: space: the top level must be a mapping of settings"),
    ("space: {optimizer: {lr: {float: [1, 0]}}}", r"x\.yaml: space: optimizer\.lr: a range needs low < high"),
    ("1: x", r"x\.yaml: 1: "),
]


@pytest.mark.parametrize(
    ("key", "name", "others"),
    [("sampler", "cmaes", "random, tpe, gp or nsga2")]
    + [("pruner", name, "rungs or none") for name in ("median", "hyperband", "successive_halving")],
)
def test_what_knows_one_objective_is_refused_with_a_cost(tmp_path: Path, key: str, name: str, others: str) -> None:
    for text, overrides in (
        (f"{MINIMAL}objective: {{cost: parameters}}\n{key}: {name}", []),
        (f"{MINIMAL}{key}: {name}", ["objective.cost=latency"]),
    ):
        with pytest.raises(UserError) as error:
            load(tmp_path, text, *overrides)
        assert str(error.value) == (
            f"{tmp_path / 'x.yaml'}: {key}: {name} knows one objective and the study has a cost; take {others}, "
            f"or no cost, got '{name}'"
        )
    assert getattr(load(tmp_path, f"{MINIMAL}{key}: {name}"), key) == name


def test_the_objectives_by_name(tmp_path: Path) -> None:
    config = load(tmp_path, f"{MINIMAL}objective: {{metric: corr, cost: latency, latency_batch: 32}}")
    assert list(config.objective.directions.items()) == [("corr", "maximize"), ("latency", "minimize")]
    assert StudyConfig.check(config.resolved()).objective == config.objective
    assert load(tmp_path, MINIMAL).objective.directions == {"mae": "minimize"}
    assert load(tmp_path, f"{MINIMAL}objective: corr", "objective.cost=seconds").objective.metric == "corr"


@pytest.mark.parametrize(("change", "match"), REFUSED, ids=[c for c, _ in REFUSED])
def test_refuses(tmp_path: Path, change: str, match: str) -> None:
    tree = yaml.safe_load(MINIMAL)
    ((key, value),) = yaml.safe_load(change).items()
    parent, _, last = str(key).rpartition(".")
    (tree.setdefault(parent, {}) if parent else tree)[last if parent else key] = value
    with pytest.raises(UserError, match=match) as error:
        load(tmp_path, yaml.safe_dump(tree))
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    for key in ("study", "budget", "space"):
        tree = yaml.safe_load(MINIMAL)
        del tree[key]
        with pytest.raises(UserError, match=rf"x\.yaml: {key}: the key is missing; add it"):
            load(tmp_path, yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("budget.trails=5", r"^override budget\.trails: unknown key; did you mean 'trials'\?"),
        ("budget.trials=0", r"^override budget\.trials: must be greater than 0, got 0"),
        ("sampler=tep", r"^override sampler: must be one of"),
        ("study.name=x", r"^override study\.name: study has no keys below it, got 'demo'"),
        ("space.optimzer.lr=1", r"x\.yaml: override optimzer\.lr: unknown key 'optimzer'; did you mean 'optimizer'\?"),
        ("space.optimizer.lr={float: [1, 0]}", r"x\.yaml: spaces/quick\.yaml: optimizer\.lr: a range needs low < high"),
        ("budget", r"override 'budget': must be key=value"),
    ],
)
def test_refused_overrides_name_themselves(tmp_path: Path, override: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load(tmp_path, MINIMAL, override)


def test_broken_files(tmp_path: Path) -> None:
    for text, match in [
        ("", "file is empty"),
        ("- a", "top level must be a mapping"),
        ("study: no", "line 1: bare no"),
    ]:
        with pytest.raises(UserError, match=match):
            load(tmp_path, text)
    with pytest.raises(UserError, match=r"nowhere\.yaml: there is no such file"):
        StudyConfig.load(tmp_path / "nowhere.yaml")


def test_shipped_studies_load() -> None:
    found = sorted(STUDIES.glob("*.yaml"))
    assert {"demo", "mosi"} <= {path.stem for path in found}
    for path in found:
        config = StudyConfig.load(path)
        assert config.search_space().count().structures > 1
        assert StudyConfig.check(config.resolved()).resolved() == config.resolved()


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"study: s\nbudget: {{trials: 4}}\nspace: {'x' * 300}.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be read as UTF-8 text: .*File name too long"):
        StudyConfig.load(tmp_path / "x.yaml")
