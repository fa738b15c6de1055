"""Explaining a study whose truth is known: a function of the configuration with one interaction and an idle switch."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from search.confirm import ConfirmPlan, effect_seeds
from search.explain.effects import effects
from search.explain.fanova import fanova
from search.explain.importance import SHARED, conditions, importances, judged
from search.explain.interactions import crossed, interactions, merged
from search.explain.marginals import Trials, arms, marginals
from search.explain.measure import Measure, named
from search.explain.path import STEPS, path, reached, spared, steps
from search.explain.sample import SAMPLE, sampled
from search.explain.stage import explained
from search.explain.surrogate import Surrogate, config_path
from search.explain.switches import completed, effective, switches
from search.explain.units import Ends
from search.members import Candidate
from search.populations import Outcome, Result, Task
from search.race import at_once
from search.space import Space
from search.trials import CONFIG, POPULATION
from tests.search import tiny
from tests.search.test_confirm import filed
from tests.search.tiny import study

EPOCHS = 4


def tree() -> dict[str, Any]:
    """Return the tiny space with a third fusion and an encoder that does nothing for the metric."""
    own = copy.deepcopy(tiny.SPACE)
    pool = {"dim": 4, "hidden": 4, "dropout": 0.0}
    own["encoders"]["audio"] = {"choice": {"pool": pool, "linear": {"dim": 4, "dropout": 0.0}}}
    own["fusion"] = {"choice": {"concat": {}, "sum": {}, "gated": {}}}
    return own


def truth(config: Mapping[str, Any]) -> float:
    """Return the metric: sum fusion and coral each lower it, both together lower it further; which audio encoder there
    is does nothing; coral's weight and the rate have a best value."""
    full = completed(config)
    coral = "text-audio" in full["alignment"]
    fused = full["fusion"]["name"] == "sum"
    weight = math.log10(full["alignment"]["text-audio"]["weight"]) if coral else -1.0
    rate = math.log10(full["optimizer"]["lr"])
    return 1.0 - 0.2 * fused - 0.1 * coral - 0.15 * (coral and fused) + 0.1 * abs(weight + 1) + 0.1 * abs(rate + 2.5)


def searched(space: Space, trials: int = 150) -> optuna.Study:
    """Return a study of random trials, after the baseline, that were told the truth."""
    found = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(0))
    found.enqueue_trial(space.baseline()[1])
    for _ in range(trials):
        trial = found.ask()
        trial.set_user_attr(POPULATION, {})
        found.tell(trial, truth(space.sample(trial)))
    return found


SPACE = Space.parse(tree())
STUDY = searched(SPACE)
TRIALS = Trials(STUDY.get_trials(), SPACE, EPOCHS)
WINNER = {
    "encoders.audio": "linear", "alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.1,
    "fusion": "sum", "heads.dropout": 0.1, "optimizer.lr": 0.003,
}  # fmt: skip


def candidate(params: Mapping[str, Any], name: str) -> Candidate:
    return Candidate(name, {**SPACE.config(params), "epochs": EPOCHS})


def trained(folder: Path, config: Any, candidates: Sequence[Candidate]) -> list[str]:
    """File members whose mean absolute error is the truth, a share of their seed and a little noise of their own."""
    _, valid, _ = tiny.scaled()
    source = ConfirmPlan(partial(at_once, candidates, effect_seeds(config)), folder, 99, config, "explain")
    names = []
    while isinstance(task := source.next(), Task):
        outcomes = []
        for slot in task.slots:
            noise = random.Random(f"{slot.seed} {effective(slot.config)}").gauss(0, 0.003)
            error = truth(slot.config) + 1e-2 * (slot.seed % 7) + noise
            flipped = np.where(np.arange(len(valid.labels)) % 2, error, -error).astype(np.float32)
            state = {"w": np.zeros(1, np.float32)}
            outcomes.append(Outcome(error, 3, [], valid.labels + flipped, config=dict(slot.config), state=state))
        source.finish(task.name, Result(outcomes, False, 1.0, 10))
        names.append(effective(task.slots[0].config))
    return names


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("explained")
    config = study(space=tree(), seeds={"search": 1, "confirm": 8, "effects": 8})
    _, valid, _ = tiny.scaled()
    names: list[str] = []
    found = explained(
        STUDY, TRIALS, Measure(config, folder, valid), candidate(SPACE.baseline()[1], "trial 0"),
        candidate(WINNER, "trial 9"), switches(SPACE, WINNER, {"epochs": EPOCHS}), list(WINNER),
        lambda some: names.extend(trained(folder, config, some)),
    )  # fmt: skip
    assert len(set(names)) == len(names), "equal configurations are trained once, however they are written"
    return found


def test_the_whole_record(explanation: dict[str, Any]) -> None:
    assert list(explanation) == [
        "importance", "conditional", "effects", "interactions", "path", "spared", "marginals", "arms", "surrogate",
        "importance_sample",
    ]  # fmt: skip
    assert explanation["surrogate"]["r2"] > 0.8 and explanation["surrogate"]["trials"] == 150


def test_effects_are_the_truth(explanation: dict[str, Any]) -> None:
    rows = {row["module"]: row for row in explanation["effects"]}
    assert list(rows) == ["fusion", "alignment.text-audio", "encoders.audio"], "the largest gain first"
    for place, expected in (("fusion", -0.35), ("alignment.text-audio", -0.25), ("encoders.audio", 0.0)):
        assert rows[place]["difference"]["mean"] == pytest.approx(expected, abs=0.005)
        assert rows[place]["resolved"] == (expected != 0)
        assert rows[place]["p_adjusted"] == rows[place]["difference"]["p_adjusted"] >= rows[place]["p"]
    assert rows["alignment.text-audio"]["sentence"].startswith("coral on text-audio lowers MAE by 0.2")
    assert rows["encoders.audio"]["sentence"].startswith("encoder linear of audio against pool is not resolved")


def test_the_path_takes_the_best_step_first(explanation: dict[str, Any]) -> None:
    """Fusion alone is worth 0.2, coral alone 0.1 but 0.25 after it, and the encoder nothing."""
    way = explanation["path"]
    assert [step["changed"] for step in way] == [[], ["fusion"], ["alignment.text-audio"], ["encoders.audio"]]
    assert (way[1]["before"], way[1]["after"]) == (["concat"], ["sum"])
    assert [s["difference"]["mean"] for s in way[1:]] == pytest.approx([-0.2, -0.25, 0.0], abs=0.005)
    assert [s["difference"]["resolved"] for s in way[1:]] == [True, True, False]
    assert way[1]["sentence"].startswith("fusion sum instead of concat: lowers MAE by 0.2")
    for step in way:
        assert step["predicted"] == pytest.approx(truth(step_config(step["step"])), abs=0.08)


def step_config(k: int) -> dict[str, Any]:
    params: dict[str, Any] = {**SPACE.baseline()[1], **({"fusion": "sum"} if k > 0 else {})}
    if k > 1:
        params |= {"alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.1}
    return SPACE.config(WINNER if k > 2 else params)


def test_correction_can_take_an_effect_away(tmp_path: Path) -> None:
    """Errors that differ by 0.017, give or take 0.01, over five seeds: p is near 0.02, and three are compared."""
    config = study(space=tree(), seeds={"search": 1, "confirm": 5, "effects": 5})
    best, found = candidate(WINNER, "trial 9"), switches(SPACE, WINNER, {"epochs": EPOCHS})
    seeds, valid = effect_seeds(config), tiny.scaled()[1]
    shifts = {"fusion": [0.01, 0.03, 0.02, 0.005, 0.02]}
    filed(tmp_path, best, config, dict.fromkeys(seeds, 0.5))
    for switch in found:
        own = shifts.get(switch.place, [0.01, -0.01, 0.02, -0.02, 0.001])
        filed(tmp_path, switch.candidate, config, {s: 0.5 + e for s, e in zip(seeds, own, strict=True)})
    row = effects(Measure(config, tmp_path, valid), best, found)[0]
    alone = float(stats.ttest_1samp(shifts["fusion"], 0.0).pvalue)
    assert row["p"] == pytest.approx(alone, rel=1e-3) and 0.05 / 3 < alone < 0.05
    assert row["p_adjusted"] == pytest.approx(3 * alone, rel=1e-3) and not row["resolved"]
    assert "fusion sum against concat is not resolved: MAE differs by \N{MINUS SIGN}0.017" in row["sentence"]
    said = f"resolved by itself (p = {alone:.2g}) but not after correction for 3 comparisons (p = {3 * alone:.2g})"
    assert said in row["sentence"]


def test_what_the_winner_could_do_without(explanation: dict[str, Any]) -> None:
    found = explanation["spared"]
    assert found["step"] == 2 and found["without"] == ["encoders.audio"]
    assert found["sentence"].startswith("without encoder linear of audio instead of pool it would be as good: MAE ")


def test_the_interaction_is_found_and_the_idle_switch_has_none(explanation: dict[str, Any]) -> None:
    rows = explanation["interactions"]
    assert len(rows) == 3 and all(row["verified"] for row in rows)
    assert rows[0]["modules"] == ["alignment.text-audio", "fusion"], "predicted to be the largest"
    assert rows[0]["contrast"]["mean"] == pytest.approx(-0.15, abs=0.01) and rows[0]["contrast"]["resolved"]
    assert rows[0]["predicted"] < -0.05
    assert rows[0]["sentence"].startswith("coral on text-audio and fusion sum help each other: with both, MAE is lower")
    for row in rows[1:]:
        assert "encoders.audio" in row["modules"] and not row["contrast"]["resolved"]
        assert row["contrast"]["mean"] == pytest.approx(0.0, abs=0.01)


def test_a_fourth_pair_is_only_predicted(tmp_path: Path) -> None:
    """The pairs are not trained at all here, as a fourth one would not be."""
    config = study(space=tree(), seeds={"search": 1, "confirm": 3, "effects": 3})
    found = switches(SPACE, WINNER, {"epochs": EPOCHS})
    best = candidate(WINNER, "trial 9")
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    pairs = crossed(best, found, surrogate, lambda tree, name: Candidate(name, tree))
    row = interactions(Measure(config, tmp_path, tiny.scaled()[1]), best, pairs)[0]
    assert not row["verified"] and row["contrast"] is None and row["smallest_visible"] is None
    assert "not trained; the surrogate predicts an interaction of \N{MINUS SIGN}0." in row["sentence"]


# ---- importances -----------------------------------------------------------------------------------------------------


def test_importances_with_a_parameter_of_an_arm() -> None:
    found = importances(STUDY)
    assert set(found) == {"ped_anova", "fanova"}
    for values in found.values():
        assert values["fusion"] > values["encoders.audio"] and values["fusion"] > values["heads.dropout"]
    weight = "alignment.text-audio.coral.weight"
    coral = optuna.create_study()
    coral.add_trials([t for t in STUDY.get_trials() if t.params["alignment.text-audio"] == "coral"])
    own = optuna.importance.get_param_importances(coral, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    assert found["fanova"][weight] == pytest.approx(own[weight]) and own[weight] > own["encoders.audio"]
    common = {name: share for name, share in found["fanova"].items() if name != weight}
    assert sum(common.values()) == pytest.approx(1.0)
    assert conditions(STUDY) == {weight: "alignment.text-audio = coral"}


def test_an_arm_of_few_trials_has_no_share() -> None:
    few = optuna.create_study()
    for k, t in enumerate(STUDY.get_trials()):
        if t.params["alignment.text-audio"] == "none" or k < 30:
            few.add_trial(t)
    coral = [t for t in few.get_trials() if t.params["alignment.text-audio"] == "coral"]
    assert len(coral) > SHARED
    kept = optuna.create_study()
    kept.add_trials([t for t in few.get_trials() if t not in coral[SHARED - 1 :]])
    assert "alignment.text-audio.coral.weight" in importances(few)["fanova"]
    assert "alignment.text-audio.coral.weight" not in importances(kept)["fanova"]
    assert "fusion" in importances(kept)["fanova"]


def test_what_another_choice_decides_is_said_with_all_its_arms() -> None:
    space = Space.load("modules")
    found = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(60):
        trial = found.ask()
        space.sample(trial)
        trial.set_user_attr(POPULATION, {})
        found.tell(trial, 0.5)
    known = conditions(found)
    assert known["weighting"] == "labels = copied | out_of_fold | ulgm"
    assert known["labels.ulgm.floor"] == "labels = ulgm"
    assert "optimizer.lr" not in known and "labels" not in known


# ---- the surrogate ---------------------------------------------------------------------------------------------------


def test_paths_of_a_configuration() -> None:
    assert config_path(SPACE, "alignment.text-audio.coral.weight") == "alignment.text-audio.weight"
    assert config_path(SPACE, "fusion") == "fusion.name"
    assert config_path(SPACE, "optimizer.lr") == "optimizer.lr"
    modules = Space.load("modules")
    for name in modules.leaves():
        assert config_path(modules, name).split(".")[0] == name.split(".")[0]


def test_the_surrogate_takes_any_configuration() -> None:
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    outside = {
        "encoders": {"text": "lstm", "audio": "gru", "vision": "pool"}, "fusion": {"name": "tensor", "dim": 8},
        "alignment": {"audio-vision": {"name": "cka", "weight": 0.0}}, "labels": "ulgm",
    }  # fmt: skip
    found = surrogate.predict([outside, WINNER_CONFIG, SPACE.baseline()[0]])
    assert np.isfinite(found).all() and found[1] < found[2] - 0.2
    np.testing.assert_array_equal(found, surrogate.predict([outside, WINNER_CONFIG, SPACE.baseline()[0]]))


WINNER_CONFIG = SPACE.config(WINNER)


def test_a_baseline_from_outside_is_a_trial_like_others() -> None:
    outside = {"encoders": {"text": "lstm", "audio": "pool", "vision": "pool"}, "fusion": "tensor"}
    surrogate = Surrogate.fit([outside, *TRIALS.configs], [5.0, *TRIALS.values], SPACE)
    assert surrogate.predict([outside])[0] > surrogate.predict([WINNER_CONFIG])[0] + 1


def test_few_trials_have_no_fit_to_tell() -> None:
    for configs in (TRIALS.configs[:1], TRIALS.configs[:3], [TRIALS.configs[0]] * 3):
        surrogate = Surrogate.fit(configs, TRIALS.values[: len(configs)], SPACE)
        assert surrogate.r2 is None and math.isfinite(surrogate.predict([WINNER_CONFIG])[0])


# ---- curves and arms -------------------------------------------------------------------------------------------------


def test_curves_show_where_a_setting_is_best() -> None:
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    found = {c["parameter"]: c for c in marginals(TRIALS, surrogate, list(WINNER))}
    assert set(found) == {"alignment.text-audio.coral.weight", "heads.dropout", "optimizer.lr"}, "the floats"
    weight, dropout = found["alignment.text-audio.coral.weight"], found["heads.dropout"]
    coral = [t for t in TRIALS.complete if t.params["alignment.text-audio"] == "coral"]
    assert weight["points"] == [[t.params["alignment.text-audio.coral.weight"], t.value] for t in coral]
    assert 0.02 < weight["x"][int(np.argmin(weight["mean"]))] < 0.5 and weight["log"], "the truth is 0.1"
    assert max(weight["mean"]) - min(weight["mean"]) > 4 * (max(dropout["mean"]) - min(dropout["mean"]))
    for curve in found.values():
        assert len(curve["x"]) == len(curve["mean"]) == len(curve["low"]) == len(curve["high"])
        assert all(a <= b <= c for a, b, c in zip(curve["low"], curve["mean"], curve["high"], strict=True))
    assert (dropout["x"][0], dropout["x"][-1], dropout["log"]) == (0.0, 0.5, False)


def test_arms_have_their_trials_and_a_mean() -> None:
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    rows = {(r["place"], r["arm"]): r for r in arms(TRIALS, surrogate, 1.0)}
    assert len(rows) == 2 + 2 + 3
    for (place, arm), row in rows.items():
        values = [t.value for t in TRIALS.complete if t.params[place] == arm and t.value is not None]
        assert row["trials"] == row["complete"] == len(values) and row["best"] == min(values)
        assert row["low"] <= row["mean"] <= row["high"]
    gain = rows["fusion", "concat"]["mean"] - rows["fusion", "sum"]["mean"]
    assert gain == pytest.approx(0.2 + 0.15 / 2, abs=0.08), "half of the trials have coral"
    idle = rows["encoders.audio", "pool"]["mean"] - rows["encoders.audio", "linear"]["mean"]
    assert abs(idle) < 0.03


def test_an_arm_that_nothing_finished_with_has_no_mean() -> None:
    ended = [
        t if t.params["fusion"] != "gated" else optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED, params=t.params, distributions=t.distributions
        )
        for t in STUDY.get_trials()
    ]  # fmt: skip
    trials = Trials(ended, SPACE, EPOCHS)
    surrogate = Surrogate.fit(trials.configs, trials.values, SPACE)
    row = next(r for r in arms(trials, surrogate, 1.0) if r["arm"] == "gated")
    assert row["trials"] > 0 and row["complete"] == 0
    assert row["best"] is row["mean"] is row["low"] is row["high"] is None


def test_a_winner_from_outside_has_the_curves_that_all_trials_share() -> None:
    outside = optuna.trial.create_trial(value=1.0, user_attrs={CONFIG: {"encoders": {"text": "pool"}}})
    names = TRIALS.names(outside)
    assert set(names) == {"encoders.audio", "alignment.text-audio", "fusion", "heads.dropout", "optimizer.lr"}


# ---- the units of a path ---------------------------------------------------------------------------------------------


def test_units_lead_from_one_end_to_the_other() -> None:
    configs = [completed(c) for c in Space.load("modules").random(16, seed=3)]
    for first, last in pairwise(configs):
        ends = Ends(first, last)
        assert completed(ends.at([])) == first and completed(ends.at(ends.units)) == last
        assert len(ends.units) > 3 and "weighting" not in ends.units


def test_a_path_is_short_and_every_step_can_be_built() -> None:
    space = Space.load("modules")
    configs = [completed(c) for c in space.random(5, seed=4)]
    values = [float(k % 4) for k in range(len(configs))]
    surrogate = Surrogate.fit(configs, values, space)
    for first, last in pairwise(configs):
        ends = Ends(first, last)
        ways = steps(
            ends, Candidate("a", first), Candidate("b", last), surrogate, 1.0, lambda tree, name: Candidate(name, tree)
        )
        assert 2 <= len(ways) <= STEPS + 1
        done: list[str] = []
        for step in ways:
            done += step.units
            assert effective(step.candidate.config) == effective(ends.at(done))
        assert sorted(done) == sorted(ends.units)
        assert (ways[0].candidate.name, ways[-1].candidate.name) == ("a", "b")


def config(**changes: Any) -> dict[str, Any]:
    return completed({"encoders": {"text": "pool", "audio": "pool"}, **changes})


def test_what_a_strategy_needs_comes_with_it() -> None:
    """Alternating works with sum fusion and without alignment only."""
    first = config(fusion="concat", alignment={"text-audio": "coral"})
    last = config(fusion="sum", strategy="alternating", optimizer={"lr": 0.01})
    ends = Ends(first, last)
    assert set(ends.units) == {"alignment.text-audio", "fusion", "strategy", "optimizer"}
    assert set(ends.together("strategy", [])) == {"alignment.text-audio", "fusion", "strategy"}
    assert ends.together("fusion", []) == ["fusion"] and ends.together("optimizer", []) == ["optimizer"]
    assert ends.together("strategy", ["fusion", "alignment.text-audio"]) == ["strategy"]
    with pytest.raises(UserError, match="alternating needs fusion"):
        completed(ends.at(["strategy"]))


def test_a_modality_leaves_with_its_alignment() -> None:
    first = completed(
        {"encoders": {"text": "pool", "audio": "pool", "vision": "pool"}, "alignment": {"audio-vision": "coral"}}
    )
    ends = Ends(first, config())
    assert set(ends.units) == {"encoders.vision", "alignment.audio-vision"}
    assert set(ends.together("encoders.vision", [])) == set(ends.units)
    assert ends.together("alignment.audio-vision", []) == ["alignment.audio-vision"]
    assert ends.described(["encoders.vision"]) == "no vision instead of pool"


def test_labels_and_their_weighting_are_one_unit() -> None:
    ends = Ends(config(), config(labels="ulgm", weighting="uncertainty"))
    assert ends.units == ["labels"]
    assert ends.changes(["labels"]) == {"labels": ("none", "ulgm"), "weighting": ("none", "uncertainty")}
    assert Ends(config(labels="ulgm"), config(labels="ulgm", weighting="uncertainty")).units == ["labels"]


def test_settings_of_a_module_that_stays_are_settings() -> None:
    first = config(alignment={"text-audio": {"name": "coral", "weight": 0.1}}, heads={"dim": 8})
    last = config(alignment={"text-audio": {"name": "coral", "weight": 0.4}}, heads={"dim": 16}, batch_size=16)
    ends = Ends(first, last)
    assert ends.units == ["optimizer", "settings"]
    assert ends.changes(["settings"]) == {
        "settings": ("alignment.text-audio.weight 0.1, heads.dim 8", "alignment.text-audio.weight 0.4, heads.dim 16")
    }
    assert ends.described(["optimizer"]) == "optimizer (batch_size 16)"
    assert Ends(first, first).units == []


def test_a_step_that_failed_goes_into_the_next(tmp_path: Path) -> None:
    settings = study(space=tree(), seeds={"search": 1, "confirm": 4, "effects": 4})
    first, last = candidate(SPACE.baseline()[1], "trial 0"), candidate(WINNER, "trial 9")
    ends = Ends(completed(first.config), completed(last.config))
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    way = steps(ends, first, last, surrogate, 1.0, lambda tree, name: Candidate(name, tree))
    trained(tmp_path, settings, [way[0].candidate, *(s.candidate for s in way[2:])])
    measure = Measure(settings, tmp_path, tiny.scaled()[1])
    found = path(measure, ends, reached(measure, way))
    assert [s["changed"] for s in found] == [[], ["fusion", "alignment.text-audio"], ["encoders.audio"]]
    assert [s["step"] for s in found] == [0, 1, 2]
    assert spared(measure, ends, way[:1]) is None and path(measure, ends, way[:1]) == []


def test_the_baseline_that_wins_has_no_way() -> None:
    first = candidate(SPACE.baseline()[1], "trial 0")
    surrogate = Surrogate.fit(TRIALS.configs, TRIALS.values, SPACE)
    ends = Ends(completed(first.config), completed(first.config))
    assert steps(ends, first, first, surrogate, 1.0, lambda tree, name: Candidate(name, tree)) == []


def test_trees_are_merged_where_they_do_not_contradict() -> None:
    base = {"a": {"name": "x"}, "b": {"p": {"name": "y"}, "q": {"name": "z"}}, "c": 1}
    one = {"a": {"name": "none"}, "b": base["b"], "c": 1}
    other = {"a": {"name": "x"}, "b": {"p": {"name": "y"}}, "c": 1}
    assert merged(base, one, other) == {"a": {"name": "none"}, "b": {"p": {"name": "y"}}, "c": 1}
    assert merged(base, one, one) == one and merged(base, base, other) == other
    assert merged(base, one, {**base, "a": {"name": "w"}}) is None
    assert merged(base, other, {**base, "b": {"p": {"name": "y"}, "q": {"name": "w"}}}) is None


def test_names_in_sentences() -> None:
    assert named("labels", "ulgm") == "labels ulgm" and named("strategy", "none") == "no strategy"
    assert named("alignment.audio-vision", "none") == "no alignment on audio-vision"
    assert MemberConfig.from_dict(WINNER_CONFIG).fusion.name == "sum"


# ---- a long search is sampled ----------------------------------------------------------------------------------------


def test_a_sample_is_the_whole_up_to_its_size_and_drawn_once_above() -> None:
    whole = list(range(5000))
    assert sampled(whole[:SAMPLE]) == whole[:SAMPLE]
    drawn = sampled(whole)
    assert len(set(drawn)) == SAMPLE and drawn == sorted(drawn) == sampled(whole)
    quarters = np.bincount(np.array(drawn) // 1250)
    assert quarters.min() > 200, "every part of the search is there"
    assert len(np.bincount(np.array(drawn) % 8)) == 8, "and so is every member of a population"


def test_of_a_long_search_importances_and_surrogate_see_the_sample() -> None:
    few = searched(SPACE, 3 * SAMPLE)
    trials = Trials(few.get_trials(), SPACE, EPOCHS)
    assert len(trials.complete) == 3 * SAMPLE and len(trials.configs) == len(trials.values) == SAMPLE
    assert judged(few) == {"trials": SAMPLE, "complete": 3 * SAMPLE}
    kept = optuna.create_study(direction="minimize")
    kept.add_trials(trials.sample)
    assert judged(kept) == {"trials": SAMPLE, "complete": SAMPLE}
    assert importances(few) == importances(kept)
    assert conditions(few) == conditions(kept) == conditions(STUDY)
    surrogate = Surrogate.fit(trials.configs, trials.values, SPACE)
    assert surrogate.n == SAMPLE
    rows = {(row["place"], row["arm"]): row for row in arms(trials, surrogate, 1.0)}
    assert sum(rows["fusion", arm]["complete"] for arm in ("concat", "sum", "gated")) == 3 * SAMPLE
    assert min(row["best"] for row in rows.values()) == min(t.values[0] for t in trials.complete)
    assert all(len(c["points"]) <= SAMPLE for c in marginals(trials, surrogate, list(WINNER)))


@pytest.mark.parametrize("trials", [12, 60])
def test_fanova_is_that_of_optuna(trials: int) -> None:
    """With choices of many arms, numbers on any scale, whole numbers, and one that has a single value."""
    rng = random.Random(trials)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(trials))
    for _ in range(trials):
        trial = study.ask()
        arm = trial.suggest_categorical("arm", list("abcdefgh"))
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        layers = trial.suggest_int("layers", 1, 4)
        trial.suggest_categorical("size", [16, 32, 64])
        trial.suggest_float("fixed", 0.5, 0.5)
        value = ord(arm) % 3 + (math.log10(rate) + 2.5) ** 2 + 0.3 * layers * (arm == "b") + rng.gauss(0, 0.1)
        study.tell(trial, value)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert fanova(study.get_trials()) == pytest.approx(theirs, rel=1e-9, abs=1e-14)


def test_without_variance_there_is_no_fanova() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(10):
        trial = study.ask()
        trial.suggest_float("rate", 0.0, 1.0)
        study.tell(trial, 1.0)
    assert fanova(study.get_trials()) == {}
