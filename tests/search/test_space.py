"""The grammar of a space, what it refuses, and that its configurations, parameters and counts agree with each other."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmsa_core import registry
from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from search.overrides import plain
from search.shipped import shipped
from search.space import Count, Space
from search.yaml_io import read_yaml, write_yaml


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


TREE: dict[str, Any] = yaml.safe_load("""
encoders:
  text: {name: pool, dim: {choice: [16, 32], default: 32}, dropout: {float: [0.0, 0.5], default: 0.1}}
  audio:
    choice:
      pool: {dim: 16}
      lstm: {dim: 16, hidden: {int: [16, 64], step: 16, default: 32}}
alignment:
  audio-vision:
    choice:
      none: {}
      coral: {weight: {float: [0.001, 1.0], log: true, default: 0.1}, place: {choice: [projection, encoder]}}
fusion: concat
rates: {choice: [0, 0.5]}
flag: {choice: [true, false]}
optimizer: {lr: {float: [0.0001, 0.01], log: true}, betas: [0.9, 0.999]}
""")


def test_baseline_is_made_of_the_defaults() -> None:
    config, params = Space.parse(TREE).baseline()
    assert config == {
        "encoders": {"text": {"name": "pool", "dim": 32, "dropout": 0.1}, "audio": {"name": "pool", "dim": 16}},
        "alignment": {"audio-vision": {"name": "none"}},
        "fusion": "concat",
        "rates": 0.0,
        "flag": True,
        "optimizer": {"lr": pytest.approx(0.001), "betas": [0.9, 0.999]},
    }
    assert params == {
        "encoders.text.dim": 32,
        "encoders.text.dropout": 0.1,
        "encoders.audio": "pool",
        "alignment.audio-vision": "none",
        "rates": 0.0,
        "flag": True,
        "optimizer.lr": config["optimizer"]["lr"],
    }


def test_arms_yield_their_name_and_children_and_dotted_parameters() -> None:
    space = Space.parse(TREE)
    params = {**space.baseline()[1], "alignment.audio-vision": "coral", "alignment.audio-vision.coral.weight": 0.5}
    with pytest.raises(UserError, match=r"space: alignment\.audio-vision\.coral\.place: the parameter is missing"):
        space.config(params)
    config = space.config({**params, "alignment.audio-vision.coral.place": "encoder"})
    assert config["alignment"]["audio-vision"] == {"name": "coral", "weight": 0.5, "place": "encoder"}


def test_structural_is_everything_but_floats() -> None:
    space = Space.parse(TREE)
    params = {
        **space.baseline()[1],
        "encoders.audio": "lstm",
        "encoders.audio.lstm.hidden": 32,
        "alignment.audio-vision": "coral",
        "alignment.audio-vision.coral.weight": 0.5,
        "alignment.audio-vision.coral.place": "encoder",
    }
    floats = {"encoders.text.dropout", "rates", "optimizer.lr", "alignment.audio-vision.coral.weight"}
    assert set(params) - set(space.structural(params)) == floats
    mixed = Space.parse({"a": {"choice": ["none", 0.5]}, "b": {"choice": [0.1, 0.5]}})
    assert mixed.structural({"a": 0.5, "b": 0.5}) == {"a": 0.5}
    with pytest.raises(UserError, match=r"no parameter 'encoders\.audi'; did you mean 'encoders\.audio'"):
        space.structural({"encoders.audi": "lstm"})


def test_count_by_hand() -> None:
    # text dim 2 x audio (1 + 4) x pair (1 + 2) x flag 2
    assert Space.parse(TREE).count() == Count(structures=60, continuous=4)


def structures_by_enumeration(space: Space) -> set[tuple[Any, ...]]:
    grids: dict[str, list[Any]] = {}
    for name, d in space.distributions().items():
        if isinstance(d, optuna.distributions.CategoricalDistribution):
            grids[name] = list(d.choices)
        elif isinstance(d, optuna.distributions.IntDistribution):
            grids[name] = list(range(d.low, d.high + 1, d.step))
        else:
            grids[name] = [d.low]  # type: ignore[attr-defined]
    found = set()
    for point in itertools.product(*grids.values()):
        params = dict(zip(grids, point, strict=True))
        used: dict[str, Any] = {}

        class Fixed:
            def suggest(self, name: str, *_: Any, used: Any = used, params: Any = params, **__: Any) -> Any:
                used[name] = params[name]
                return params[name]

            suggest_categorical = suggest_float = suggest_int = suggest

        space.sample(Fixed())
        found.add(tuple(sorted((k, v) for k, v in space.structural(used).items())))
    return found


def test_count_equals_enumeration() -> None:
    space = Space.parse(TREE)
    assert len(structures_by_enumeration(space)) == space.count().structures


def test_sampling_through_optuna_and_the_round_trip() -> None:
    space = Space.parse(TREE)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=5))
    study.enqueue_trial(space.baseline()[1])
    for i in range(25):
        trial = study.ask()
        config = space.sample(trial)
        assert space.config(trial.params) == config
        assert all(trial.distributions[k] == space.distributions()[k] for k in trial.params)
        if i == 0:
            assert (config, dict(trial.params)) == space.baseline()
        study.tell(trial, config["optimizer"]["lr"])
    assert {t.params["encoders.audio"] for t in study.trials} == {"pool", "lstm"}


def test_a_held_structure_comes_back_from_optuna() -> None:
    space = Space.parse(TREE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    first = study.ask()
    space.sample(first)
    held = space.structural(first.params)
    study.enqueue_trial(held)
    second = study.ask()
    space.sample(second)
    assert space.structural(second.params) == held
    assert second.params["optimizer.lr"] != first.params["optimizer.lr"]


scalars = st.one_of(
    st.integers(-5, 5), st.sampled_from(["a", "b", "none"]), st.floats(-2, 2).map(lambda v: round(v, 3))
)
names = st.sampled_from(["a", "b", "c-d", "e_f"])


def ranges(kind: str, ends: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.tuples(ends, ends).filter(lambda e: e[0] < e[1])
    plain = pairs.map(lambda e: {kind: list(e)})
    return plain | pairs.filter(lambda e: e[0] > 0).map(lambda e: {kind: list(e), "log": True})


choices = st.lists(scalars, min_size=1, max_size=3, unique_by=lambda v: v if isinstance(v, str) else float(v))
leaves = (
    scalars
    | choices.map(lambda v: {"choice": v})
    | ranges("int", st.integers(-4, 9))
    | ranges("float", st.floats(-4, 9).map(lambda v: round(v, 2)))
)
trees = st.recursive(
    st.dictionaries(names, leaves, min_size=1, max_size=3),
    lambda inner: st.dictionaries(
        names,
        leaves
        | inner
        | st.dictionaries(names, inner | st.just({}), min_size=1, max_size=2).map(lambda a: {"choice": a}),
        min_size=1,
        max_size=3,
    ),
    max_leaves=6,
)


@given(trees, st.integers(0, 2**31))
def test_config_of_params_equals_sample(tree: dict[str, Any], seed: int) -> None:
    space = Space.parse(tree)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    config = space.sample(trial)
    assert space.config(trial.params) == config
    assert set(trial.params) <= set(space.leaves())
    config, params = space.baseline()
    assert space.config(params) == config
    assert Space.parse(plain(space.tree)).fingerprint() == space.fingerprint()


@given(trees)
def test_count_equals_enumeration_on_any_tree(tree: dict[str, Any]) -> None:
    space = Space.parse(tree)
    if space.count().structures <= 200 and len(space.leaves()) <= 6:
        assert len(structures_by_enumeration(space)) == space.count().structures


def test_random_is_seeded_and_stays_inside() -> None:
    space = Space.parse(TREE)
    assert space.random(5, 1) == space.random(5, 1) != space.random(5, 2)
    rates = [c["optimizer"]["lr"] for c in space.random(200, 3)]
    assert all(0.0001 <= r <= 0.01 for r in rates)
    assert 60 < sum(r < 0.001 for r in rates) < 140  # log-uniform: half of them below the geometric middle
    ints = Space.parse({"n": {"int": [1, 8], "log": True}}).random(300, 0)
    assert {c["n"] for c in ints} == set(range(1, 9))
    ones = [c["n"] for c in Space.parse({"n": {"int": [1, 2], "log": True}}).random(2000, 0)].count(1)
    assert ones / 2000 == pytest.approx(math.log(1.5 / 0.5) / math.log(2.5 / 0.5), abs=0.03)  # as Optuna draws


def test_defaults_of_ranges_are_their_middles() -> None:
    tree = {
        "a": {"float": [0, 1]},
        "b": {"float": [0.01, 1], "log": True},
        "c": {"int": [0, 10], "step": 5},
        "d": {"int": [1, 9]},
    }
    assert Space.parse(tree).baseline()[0] == {"a": 0.5, "b": pytest.approx(0.1), "c": 5, "d": 5}
    assert Space.parse({"a": {"int": [1, 100], "log": True}}).baseline()[0] == {"a": 10}


def test_config_takes_optunas_table_types_and_ignores_other_arms() -> None:
    space = Space.parse(TREE)
    params = {**space.baseline()[1], "encoders.text.dim": 32.0, "encoders.audio.lstm.hidden": 16, "rates": 0}
    config = space.config(params)
    assert repr(config["encoders"]["text"]["dim"]) == "32"
    assert repr(config["rates"]) == "0.0"
    assert config["encoders"]["audio"] == {"name": "pool", "dim": 16}


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"optimizer.lrr": 0.1}, r"no parameter 'optimizer\.lrr'; did you mean 'optimizer\.lr'"),
        ({"optimizer.lr": 0.1}, r"optimizer\.lr: must be in \[0\.0001, 0\.01\], got 0\.1"),
        ({"optimizer.lr": "0.1"}, r"optimizer\.lr: must be in"),
        ({"optimizer.lr": True}, r"optimizer\.lr: must be in"),
        ({"encoders.audio": "gru"}, r"encoders\.audio: must be one of the choice, got 'gru'; known: pool, lstm"),
        ({"flag": 1}, r"flag: must be one of the choice, got 1"),
        ({"encoders.audio": "lstm", "encoders.audio.lstm.hidden": 20}, r"hidden: must be in \[16, 64\], got 20"),
    ],
)
def test_config_refuses(params: dict[str, Any], match: str) -> None:
    space = Space.parse(TREE, "x.yaml")
    with pytest.raises(UserError, match=rf"^x\.yaml: .*{match}"):
        space.config({**space.baseline()[1], **params})


REFUSED = [
    ("a: {choice: []}", r"a: choice needs at least one arm, got \[\]"),
    ("a: {choice: {}}", r"a: choice needs at least one arm"),
    ("a: {choice: x}", r"a: choice needs a list of values or a mapping of arms, got 'x'"),
    ("a: {choice: [x, y, x]}", r"a: every arm must be there once, got 'x'"),
    ("a: {choice: [1, 1.0]}", r"a: every arm must be there once, got 1\.0"),
    ("a: {choice: [[1], 2]}", r"a: must be one number or name, got \[1\]"),
    ("a: {choice: [x, null]}", r"a: a value is needed, got null"),
    ("a: {choice: {x: }}", r"a\.x: must be a mapping \(key: value\), got null; write \{\}"),
    ("a: {choice: {x: {name: y}}}", r"a\.x: the arm itself gives the key, got 'name'"),
    ("a: {choice: {16: {}}}", r"a: a name must be of letters.*got 16"),
    ("a: {choice: {a.b: {}}}", r"a: a name must be of letters.*got 'a\.b'"),
    ("a: {choice: {true: {}}}", r"a: a name must be text.*got true; quote it"),
    ("a: {choice: [true, coral]}", r"a: bare no/off/yes/on are booleans among other values.*quote them"),
    ("a: {name: false}", r"a\.name: a name must be text, got false; quote it, or use none"),
    ("a: {choice: [x, y], default: z}", r"a\.default: must be one of the choice, got 'z'"),
    ("a: {choice: [true, false], default: 1}", r"a\.default: must be one of the choice, got 1"),
    (
        "a: {choice: {coral: {}, cmd: {}}, default: corall}",
        r"a\.default: must be an arm, got 'corall'; did you mean 'coral'",
    ),
    ("a: {choice: {coral: {}}, default: [1]}", r"a\.default: must be an arm, got \[1\]"),
    ("a: {float: [1, 0]}", r"a: a range needs low < high, got \[1, 0\]"),
    ("a: {float: [1, 1]}", r"a: a range needs low < high"),
    ("a: {int: [3, 2]}", r"a: a range needs low < high"),
    ("a: {float: [0, 1], log: true}", r"a: a log range needs low > 0, got 0\.0"),
    ("a: {int: [0, 4], log: true}", r"a: a log range needs low > 0, got 0"),
    ("a: {float: [0, 1], default: 2}", r"a: the default must lie in \[0\.0, 1\.0\], got 2\.0"),
    ("a: {int: [0, 4], default: 5}", r"a: the default must be one of 0, 1, \.\.\., 4, got 5"),
    ("a: {int: [0, 4], step: 2, default: 3}", r"a: the default must be one of 0, 2, \.\.\., 4, got 3"),
    ("a: {int: [0, 5], step: 2}", r"a: high must be low plus a multiple of step 2, got 5; write 4 or 6"),
    ("a: {int: [1, 5], step: 2, log: true}", r"a: a log range has no step, got 2"),
    ("a: {int: [0, 5], step: 0}", r"a: step must be at least 1, got 0"),
    ("a: {int: [0.5, 5]}", r"a: must be a whole number, got 0\.5"),
    ("a: {int: [0, true]}", r"a: must be a whole number, got true"),
    (f"a: {{int: [0, {2**53 + 1}]}}", r"a: must be within 2\^53"),
    (f"a: {{int: [0, {10**400}]}}", r"a whole number must be below 2\^63"),
    ("a: {float: [0, 1], log: 1}", r"a: log must be true or false, got 1"),
    ("a: {float: [0, 1, 2]}", r"a: float needs two ends, got \[0, 1, 2\]; write float: \[low, high\]"),
    ("a: {int: 3}", r"a: int needs two ends, got 3"),
    ("a: {float: [0, .inf]}", r"a: must be finite, got inf"),
    ("a: {float: [0, .nan]}", r"a: must be finite, got nan"),
    ("a: .nan", r"a: must be finite, got nan"),
    ("a: {float: [0, x]}", r"a: must be a number, got 'x'"),
    ("a: {float: [0, null]}", r"a: a value is needed, got null"),
    ("a: {float: [1e-3, 1]}", r"a: this number is text in YAML 1\.1, got '1e-3'; write 0\.001 without quotes"),
    ("a: {float: [1e-5, 1]}", r"got '1e-5'; write 1\.0e-05 without quotes"),
    ("a: {b: 1e-3}", r"a\.b: this number is text in YAML 1\.1, got '1e-3'"),
    ("a: {choice: [1.0e5, 2.0]}", r"a: this number is text in YAML 1\.1, got '1\.0e5'; write 100000\.0"),
    ("a: {b: }", r"a\.b: a value is needed, got null; write it, or `none`"),
    ("a: [1, null]", r"a: a value is needed"),
    ("a: {float: [0, 1], defualt: 0.5}", r"a: unknown key beside float, got 'defualt'; did you mean 'default'"),
    ("a: {choice: [1, 2], log: true}", r"a: unknown key beside choice, got 'log'; known: default"),
    ("a: {float: [0, 1], int: [0, 1]}", r"a: unknown key beside float, got 'int'"),
    ("a: {chioce: [x, y]}", r"a: unknown kind of leaf, got 'chioce'; did you mean 'choice'"),
    ("a: {flaot: [0, 1], default: 0.5}", r"a: unknown kind of leaf, got 'flaot'; did you mean 'float'"),
    ("a: {b: 1, default: 2}", r"a: default stands beside choice, float or int"),
    ("a b: 1", r"a name must be of letters, digits, _ and -, got 'a b'"),
    ("{choice: [a, b]}", r"the top level must be a mapping of settings"),
    ("{}", r"the top level must be a mapping of settings, got \{\}"),
    ("[1, 2]", r"the top level must be a mapping"),
    ("x", r"the top level must be a mapping"),
    ("a: no", r"line 1: bare no means true or false in YAML; quote it, or write none"),
    ("a:\n  choice: {off: {}, coral: {}}", r"line 2: bare off means true or false"),
    ("a: {choice: [On, coral]}", r"line 1: bare On means"),
    ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' is written twice"),
    ("a: {b: 1, b: 2}", r"line 1: the key 'b' is written twice"),
    ("a: {b: 1", r"line 1: expected ',' or '\}'"),
    ("a: 1\n\tb: 2", r"line 2: found character"),
    ("a: &x {b: *x}", r"line 1: \*x stands inside its own anchor"),
    ("{[1]: 2}", r"line 1: found unhashable key"),
    ("a: !!python/object:os.system {}", r"line 1: the tag .* is not read; leave it out"),
    ("--- \na: 1\n---\nb: 2", r"line 3: but found another document"),
    ("a: \x01", r"not valid YAML: unacceptable character"),
    ("", r"the file is empty"),
    ("# nothing", r"the file is empty"),
]


@pytest.mark.parametrize(("text", "match"), REFUSED, ids=[t[:40] for t, _ in REFUSED])
def test_refuses(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"(?s)x\.yaml: .*{match}") as error:
        Space.load(path)
    assert "\n" not in str(error.value)


def test_refuses_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: there is no such file"):
        Space.load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="no shipped space 'quik'; did you mean 'quick'"):
        Space.load("quik")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        Space.load(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        Space.load(str(tmp_path) + "/")


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    data = {
        "b": [1e-5, 1e20, 0.1, True],
        "a": {"no": "no", "x": "1e-3", "d": "2024-01-01", "e": None, "u": "é"},
        "t": (1,),
    }
    for _ in range(2):
        write_yaml(path, data)
    assert read_yaml(path) == {**data, "t": [1]}
    assert list(read_yaml(path)) == ["b", "a", "t"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]
    with pytest.raises(yaml.YAMLError):
        write_yaml(path, {"a": object()})
    assert read_yaml(path) == {**data, "t": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]
    for name in shipped("space"):
        write_yaml(path, Space.load(name).tree)
        assert Space.load(path).fingerprint() == Space.load(name).fingerprint()


def test_quoted_words_and_dates_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: {choice: ['no', 'on']}\nb: 2024-01-01\nc: {choice: {'off': {}}}")
    assert Space.load(tmp_path / "x.yaml").baseline()[0] == {"a": "no", "b": "2024-01-01", "c": {"name": "off"}}


def test_override_replaces_leaves_narrows_arms_and_goes_through_them() -> None:
    space = Space.parse(TREE)
    assert space.override("optimizer.lr", 0.5).baseline()[0]["optimizer"]["lr"] == 0.5
    assert "optimizer.lr" not in space.override("optimizer.lr", 0.5).leaves()
    lstm = space.override("encoders.audio", "lstm")
    assert lstm.baseline()[0]["encoders"]["audio"] == {"name": "lstm", "dim": 16, "hidden": 32}
    assert lstm.count().structures == 2 * 4 * 3 * 2
    fixed = space.override("alignment.audio-vision.coral.weight", 0.2)
    assert "alignment.audio-vision.coral.weight" not in fixed.leaves()
    wide = space.override("optimizer.lr", {"float": [0.1, 0.2]})
    assert wide.baseline()[0]["optimizer"]["lr"] == pytest.approx(0.15)
    assert space.baseline() == Space.parse(TREE).baseline()
    for key, value, match in [
        ("optimzer.lr", 1, "override optimzer.lr: unknown key 'optimzer'; did you mean 'optimizer'"),
        ("encoders.audio", "lstmm", "there is no arm 'lstmm'; did you mean 'lstm'"),
        ("encoders.audio", [1], "there is no arm"),
        ("encoders.audio.gru.dim", 1, "unknown key 'gru'"),
        ("fusion.name", 1, "'fusion' has no settings below it, got 'name'"),
        ("optimizer.lr", None, r"optimizer\.lr: a value is needed"),
    ]:
        with pytest.raises(UserError, match=match):
            space.override(key, value)


def test_an_anchor_used_twice_is_overridden_once(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &x {choice: {p: {w: {float: [0, 1]}}}}\nb: *x")
    assert set(Space.load(tmp_path / "x.yaml").override("a.p.w", 0.5).leaves()) == {"a", "b", "b.p.w"}


def test_fingerprint_knows_the_order_of_arms_but_not_of_keys() -> None:
    def mark(text: str) -> str:
        return Space.parse(yaml.safe_load(text)).fingerprint()

    assert len(mark("a: 1")) == 12
    assert mark("{a: 1, b: {float: [0, 1]}}") == mark("{b: {float: [0.0, 1.0], default: 0.5}, a: 1}")
    different = [
        "a: 1",
        "a: 1.0",
        "a: '1x'",
        "a: {choice: [1, 2]}",
        "a: {choice: [2, 1]}",
        "a: {int: [1, 2]}",
        "a: {float: [1, 2]}",
    ]
    different += [
        "a: {choice: {x: {}, y: {}}}",
        "a: {choice: {y: {}, x: {}}}",
        "a: {choice: {x: {}, y: {}}, default: y}",
    ]
    assert len({mark(text) for text in different}) == len(different)


def test_restrict_drops_what_names_an_absent_modality() -> None:
    space = Space.load("modules").restrict(["text", "audio"])
    config = space.baseline()[0]
    assert list(config["encoders"]) == ["text", "audio"]
    assert list(config["alignment"]) == ["text-audio", "audio-teacher"]
    assert set(config["weighting"]) == {"name", "text", "audio"}
    assert not [name for name in space.leaves() if "vision" in name]
    assert Space.load("modules").restrict(["text"]).baseline()[0]["alignment"] == {}
    without = Space.load("modules").restrict(["audio", "vision"]).baseline()[0]
    assert list(without["alignment"]) == ["audio-vision"], "no text, no teacher"
    with pytest.raises(UserError, match="there is no 'visual'"):
        space.restrict(["visual"])


def test_shipped_spaces_give_configurations_that_the_model_accepts() -> None:
    assert shipped("space") == ("modules", "paper", "planted", "quick")
    for name in shipped("space"):
        for modalities in (["text", "audio", "vision"], ["text", "audio"], ["audio", "vision"], ["text"]):
            space = Space.load(name).restrict(modalities)
            assert not MemberConfig.from_dict(space.baseline()[0]).alignment
            assert space.baseline()[0]["labels"] in ("none", {"name": "none"})
            for config in space.random(40, 1):
                check_plugins(MemberConfig.from_dict(config))


def check_plugins(config: MemberConfig) -> None:
    pairs = [("alignment", pair.alignment) for pair in config.alignment.values()]
    encoders = [("encoders", plugin) for plugin in config.encoders.values()]
    single = [("fusion", config.fusion), ("labels", config.labels), ("weighting", config.weighting)]
    for kind, plugin in [*pairs, *encoders, *single]:
        if plugin.name != "none":
            registry.arguments(kind, plugin.name, dict(plugin.params), kind)
    for pair in config.alignment.values():
        assert pair.place == "projection" or not registry.load("alignment", pair.alignment.name).equal_dims


def test_modules_offers_every_alignment_encoder_and_fusion() -> None:
    leaves = Space.load("modules").distributions()
    for name, kind in [("alignment.text-audio", "alignment"), ("encoders.audio", "encoders"), ("fusion", "fusion")]:
        choice = leaves[name]
        assert isinstance(choice, optuna.distributions.CategoricalDistribution)
        assert set(choice.choices) - {"none"} == set(registry.names(kind)) - {"bert"}


def test_import_is_light() -> None:
    code = (
        "import sys, search.space, search.study; print({'torch', 'ray', 'optuna', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
