"""Choices that decide others: what a strategy needs is fixed with it, and what has no effect is not asked."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from mmsa_core import registry
from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from search.explain.switches import switches
from search.space import Space

PAIR = {"choice": {"none": {}, "cka": {"weight": {"float": [0.01, 1.0], "log": True}}}}
TREE: dict[str, Any] = {
    "encoders": {"text": "pool", "audio": {"choice": {"pool": {}, "linear": {}}}},
    "alignment": {"text-audio": PAIR},
    "fusion": {"choice": {"concat": {}, "sum": {}, "gated": {}}},
    "labels": {"choice": {"none": {}, "copied": {}, "ulgm": {}}},
    "weighting": {"choice": {"static": {"text": {"float": [0.1, 1.0]}}, "uncertainty": {}}},
    "strategy": {"choice": {"none": {}, "alternating": {}}},
}
SPACE = Space.parse(TREE)


def drawn(space: Space, count: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return parameters and configurations that Optuna draws at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [(study.ask(), None) for _ in range(count)]
    return [(t.params, c) for t, c in ((t, space.sample(t)) for t, _ in trials)]


def test_what_is_decided_is_not_asked_and_every_draw_is_sound() -> None:
    seen = set()
    for params, config in drawn(SPACE, 200):
        complete(MemberConfig.from_dict(config))
        assert ("weighting" in params) == (params["labels"] != "none")
        alternating = params["strategy"] == "alternating"
        assert ("fusion" in params) == ("alignment.text-audio" in params) == (not alternating)
        if alternating:
            assert config["fusion"]["name"] == "sum" and config["alignment"]["text-audio"] == {"name": "none"}
        assert SPACE.config(params) == config
        seen.add((params["strategy"], params["labels"]))
    assert len(seen) == 6


def test_structures_are_those_that_can_be_drawn() -> None:
    structures = {tuple(sorted(SPACE.structural(params).items())) for params, _ in drawn(SPACE, 3000)}
    # audio 2 x (labels none 1 + two others x 2 weightings) x (joint: 2 pairs x 3 fusions; alternating: 1)
    assert len(structures) == SPACE.count().structures == 2 * 5 * (6 + 1)


def test_scalar_choices_are_conditioned_too() -> None:
    tree = {**TREE, "fusion": {"choice": ["concat", "sum"]}, "strategy": {"choice": ["none", "alternating"]}}
    space = Space.parse(tree)
    assert space.count().structures == 2 * 5 * (4 + 1)
    for params, config in drawn(space, 60):
        if params["strategy"] == "alternating":
            assert config["fusion"] == "sum" and "fusion" not in params


def test_the_baseline_and_every_arm_are_sound() -> None:
    config, params = SPACE.baseline()
    assert "weighting" not in params and config["weighting"]["name"] == "static"
    arms = [complete(MemberConfig.from_dict(arm)) for arm in SPACE.arms()]
    assert {c.weighting.name for c in arms} == {"none", "static", "uncertainty"}, "also what the defaults decide"
    assert {c.fusion.name for c in arms} == {"concat", "sum", "gated"}


def test_a_choice_without_what_a_strategy_needs_is_refused() -> None:
    space = Space.parse({**TREE, "fusion": {"choice": {"concat": {}, "gated": {}}}})
    message = (
        r"space: fusion: a strategy of the space needs 'sum' here, got \['concat', 'gated'\]; add it to the choice"
    )
    with pytest.raises(UserError, match=message):
        list(space.arms())
    with pytest.raises(UserError, match=message):
        space.count()


def test_a_configuration_that_cannot_work_is_refused() -> None:
    tree = {"encoders": {"text": "pool", "audio": "pool"}, "strategy": "alternating", "fusion": "gated"}
    with pytest.raises(UserError, match=r"strategy: alternating needs fusion: sum, because .*, got 'gated'; "):
        complete(MemberConfig.from_dict(tree))
    tree = {**tree, "fusion": "sum", "alignment": {"text-audio": "cka"}}
    with pytest.raises(UserError, match=r"strategy: alternating needs alignment: none, because .*, got 'cka'"):
        complete(MemberConfig.from_dict(tree))


def test_a_fixed_strategy_conditions_its_space() -> None:
    space = Space.parse({**TREE, "strategy": "alternating"})
    assert all("fusion" not in params for params, _ in drawn(space, 20)) and space.count().structures == 2 * 5


def test_a_switched_strategy_keeps_what_it_had_decided() -> None:
    """So that its effect is its own: joint training with the same fusion."""
    params = {"encoders.audio": "pool", "labels": "none", "strategy": "alternating"}
    (found,) = switches(SPACE, params, {})
    assert found.place == "strategy" and found.candidate.config["fusion"]["name"] == "sum"


def test_every_need_names_a_plug_in() -> None:
    needs = [
        (place, need)
        for name in registry.names("strategies")
        for place, need in registry.load("strategies", name).forces.items()
    ]
    assert needs
    for place, need in needs:
        assert need.arm == "none" or need.arm in registry.names(place), need
        assert need.reason
