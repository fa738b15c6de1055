"""Costs before training: parameters as training counts them, and a latency that is a median per utterance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmsa_core import cost
from mmsa_core.cost import Cost, latency, measure, parameters
from mmsa_core.loader import SplitTensors
from mmsa_core.model import SentimentModel
from mmsa_core.population import Population
from mmsa_core.solo import SoloMembers
from mmsa_core.tensors import Batch, Outputs
from mmsa_core.train import Objective, fit
from tests.members import member

Splits = tuple[SplitTensors, SplitTensors]


@pytest.mark.parametrize("changes", [{}, {"labels": "ulgm"}, {"fusion": "tensor", "width": 12}])
def test_parameters_are_those_that_training_counts(splits: Splits, changes: dict[str, object]) -> None:
    spec = member(1, **changes)  # type: ignore[arg-type]
    train, valid = splits
    found = measure(Cost("parameters"), spec, train, valid)
    assert (
        found
        == parameters(spec, train)
        == Population([spec], train).parameters
        == SoloMembers([spec], train).parameters
    )
    short = replace(spec, config=replace(spec.config, epochs=1))
    assert fit([short], train, valid, objective=Objective()).parameters == found > 100


def test_a_member_that_is_fine_tuned(splits: Splits, tiny_bert: Path) -> None:
    """It cannot be stacked, and what is frozen of it is not counted."""
    texts = [SplitTensors(replace(s.split, raw_text=("a good film",) * len(s)), s.device) for s in splits]
    counts = []
    for freeze in (0, 1):
        encoders = {"text": {"name": "bert", "model": str(tiny_bert), "freeze": freeze}, "audio": "pool"}
        spec = member(1, encoders=encoders, alignment={})
        counts.append(parameters(spec, texts[0]))
        assert counts[-1] == SoloMembers([spec], texts[0]).parameters
        assert latency(spec, texts[1], 2) > 0
    assert counts[1] < counts[0]


class Clock:
    """A clock on which the predictions take what they are given, one after the other."""

    def __init__(self, seconds: list[float]) -> None:
        self.now = 0.0
        self.seconds = iter(seconds)
        self.rows: list[int] = []

    def __call__(self, device: torch.device) -> float:
        return self.now

    def predict(self, model: SentimentModel, batch: Batch) -> Outputs | None:
        assert not model.training and not torch.is_grad_enabled()
        self.rows.append(len(batch.available))
        self.now += next(self.seconds)
        return None


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (8, 8), (10**6, None)])
def test_latency_is_the_median_per_utterance(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, batch: int, rows: int | None
) -> None:
    """The first 5 rounds do not count, one that is disturbed does not matter, and a split has only so many rows."""
    expected = len(splits[1]) if rows is None else rows
    clock = Clock([50.0] * 5 + [9.0] + [0.25] * 29)
    monkeypatch.setattr(cost, "_now", clock)
    monkeypatch.setattr(SentimentModel, "forward", lambda model, batch: clock.predict(model, batch))
    assert latency(member(1), splits[1], batch) == pytest.approx(1000 * 0.25 / expected)
    assert clock.rows == [expected] * 35


def test_latency_is_measured_and_draws_no_random_number(splits: Splits) -> None:
    before = torch.random.get_rng_state()
    found = measure(Cost("latency", 4), member(1), *splits)
    assert 0 < found < 1000
    assert torch.equal(before, torch.random.get_rng_state())
