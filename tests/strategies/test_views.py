"""Which modalities are shown: rates, independence, what stays, and what is the same in every epoch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.plugin import Strategy
from mmsa_core.population import Population
from mmsa_core.strategies._views import alone, kept
from mmsa_core.tensors import Batch
from tests.members import member
from tests.strategies.course import make_data, make_member, set_key

ROWS = 4000


def build(name: str, modalities: tuple[str, ...] = MODALITIES, /, **settings: Any) -> Strategy:
    strategy: Strategy = registry.build("strategies", name, modalities, **settings)
    return strategy


def full(count: int = ROWS, modalities: int = 3) -> Batch:
    return Batch((), torch.ones(count, modalities, dtype=torch.bool))


def shown(strategy: Strategy, batch: Batch, key: int = 1, rows: Tensor | None = None) -> Tensor:
    set_key(strategy, key)
    return strategy.view(batch, torch.arange(len(batch.available)) if rows is None else rows).available


def subsets_by_formula(rate: float, modalities: int) -> dict[tuple[bool, ...], float]:
    """Return the probability of each subset: independent, and any one of them where none would be left."""
    found = {s: float(np.prod([1 - rate if m else rate for m in s])) for s in product([False, True], repeat=modalities)}
    nothing = found.pop((False,) * modalities)
    for k in range(modalities):
        found[tuple(j == k for j in range(modalities))] += nothing / modalities
    return found


def assert_frequencies(seen: Tensor, expected: dict[tuple[bool, ...], float]) -> None:
    counts = dict.fromkeys(expected, 0)
    for row in seen.tolist():
        counts[tuple(row)] += 1
    likely = [s for s, p in expected.items() if p > 0]
    assert sum(counts[s] for s in likely) == len(seen)
    observed, frequencies = [counts[s] for s in likely], [expected[s] * len(seen) for s in likely]
    assert stats.chisquare(observed, frequencies).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 1.0])
def test_dropout_has_the_probability_of_every_subset(p: float) -> None:
    assert_frequencies(shown(build("modality_dropout", p=p), full()), subsets_by_formula(p, 3))
    two = build("modality_dropout", ("text", "vision"), p=p)
    assert_frequencies(shown(two, full(modalities=2), key=77), subsets_by_formula(p, 2))


def test_dropout_hides_the_stated_share() -> None:
    seen = shown(build("modality_dropout", p=0.4), full(40000)).float()
    torch.testing.assert_close(1 - seen.mean(0), torch.full((3,), 0.4 - 0.4**3 / 3), atol=0.01, rtol=0)


def test_dropout_is_anew_at_every_step() -> None:
    strategy = build("modality_dropout", p=0.5)
    one, other = shown(strategy, full(), key=1), shown(strategy, full(), key=2)
    assert torch.equal(one, shown(strategy, full(), key=1))
    agree = (one == other).float().mean()
    rate = 1 - (0.5 - 0.5**3 / 3)
    assert abs(float(agree) - (rate**2 + (1 - rate) ** 2)) < 0.02, "as two independent draws agree"


@pytest.mark.parametrize(("name", "settings"), [("modality_dropout", {"p": 1.0}), ("incomplete", {"keep": 0.0})])
def test_at_the_end_of_the_range_one_of_those_available_is_left(name: str, settings: dict[str, float]) -> None:
    available = torch.tensor([[True, True, False]]).expand(ROWS, 3)
    seen = shown(build(name, **settings), Batch((), available))
    assert (seen.sum(1) == 1).all() and not seen[:, 2].any()
    assert stats.binomtest(int(seen[:, 0].sum()), ROWS).pvalue > 1e-3


def test_a_modality_alone_is_always_shown() -> None:
    for strategy in (build("modality_dropout", ("audio",), p=1.0), build("incomplete", ("audio",), keep=0.0)):
        assert shown(strategy, full(modalities=1)).all()


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_incomplete_has_the_probability_of_every_subset(keep: float) -> None:
    assert_frequencies(shown(build("incomplete", keep=keep), full()), subsets_by_formula(1 - keep, 3))


def test_single_shows_one_of_them_uniformly_and_keep_is_idle() -> None:
    seen = shown(build("incomplete", subsets="single"), full())
    assert_frequencies(seen, {(True, False, False): 1 / 3, (False, True, False): 1 / 3, (False, False, True): 1 / 3})
    for keep in (0.0, 1.0):
        assert torch.equal(shown(build("incomplete", subsets="single", keep=keep), full()), seen)


def test_incomplete_is_a_function_of_row_and_draw() -> None:
    strategy = build("incomplete", keep=0.4)
    whole = shown(strategy, full())
    assert torch.equal(shown(strategy, full(), key=99), whole), "the step does not matter"
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shown(strategy, full(), rows=order), whole[order]), "nor does the place in the batch"
    assert torch.equal(shown(build("incomplete", keep=0.4), full()), whole), "nor the member"
    other = shown(build("incomplete", keep=0.4, draw=1), full())
    assert 0.3 < (other != whole).float().mean() < 0.6


def test_incomplete_shows_a_modality_whatever_the_others_in_use() -> None:
    three = shown(build("incomplete", keep=0.5), full())
    two = shown(build("incomplete", ("text", "vision"), keep=0.5), full(modalities=2))
    decided = three[:, 0] & three[:, 2]
    assert decided.any() and two[decided].all()


def test_a_higher_keep_shows_more_and_never_others() -> None:
    before = shown(build("incomplete", keep=0.0), full())
    for keep in (0.1, 0.4, 0.7, 1.0):
        now = shown(build("incomplete", keep=keep), full())
        assert not (before & ~now).any() and now.sum() > before.sum()
        before = now
    assert before.all()


def test_subsets_of_neighbouring_rows_and_draws_are_independent() -> None:
    seen = shown(build("incomplete", keep=0.5), full(20000)).double()
    other = shown(build("incomplete", keep=0.5, draw=1), full(20000)).double()
    for shift in (1, 2, 16):
        for k in range(3):
            assert abs(np.corrcoef(seen[shift:, k], seen[:-shift, k])[0, 1]) < 0.03
    assert all(abs(np.corrcoef(seen[:, k], other[:, k])[0, 1]) < 0.03 for k in range(3))


def test_training_shows_the_same_in_every_epoch_and_to_every_member(
    splits: tuple[SplitTensors, SplitTensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = splits[0]
    seen: dict[int, set[tuple[bool, ...]]] = {}
    cls = registry.load("strategies", "incomplete")
    given = cls.view

    def watched(self: Strategy, batch: Batch, rows: Tensor) -> Batch:
        view: Batch = given(self, batch, rows)
        for row, left in zip(_plain(rows).flatten().tolist(), _plain(view.available).reshape(-1, 3), strict=True):
            seen.setdefault(row, set()).add(tuple(left.tolist()))
        return view

    monkeypatch.setattr(cls, "view", watched)
    population = Population([member(k, strategy={"name": "incomplete", "keep": 0.5}) for k in (1, 2)], train)
    for epoch in (1, 2, 3):
        population.train_epoch(epoch)
    assert seen.keys() == set(range(len(train))) and all(len(s) == 1 for s in seen.values())


def _plain(tensor: Tensor) -> Tensor:
    """Return what a tensor holds for all members."""
    inner: Tensor = torch._C._functorch.get_unwrapped(tensor)
    return inner


def test_prediction_uses_all_there_is() -> None:
    data = make_data()
    plain = make_member("none", data)
    for name, settings in (("incomplete", {"keep": 0.0}), ("modality_dropout", {"p": 1.0})):
        found = make_member(name, data, **settings)
        found.load_state_dict(plain.state_dict(), strict=False)
        for member_ in (plain, found):
            member_.eval()
        assert torch.equal(found.model(data.batch).prediction, plain.model(data.batch).prediction)


def test_kept_decides_every_row_by_itself() -> None:
    draws = torch.tensor([[0.2, 0.6, 0.4], [0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.5, 0.5, 0.1]])
    there = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    expected = torch.tensor([[0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]]).bool()
    assert torch.equal(kept(draws, 0.5, there), expected)


def test_alone_is_one_modality_and_as_good_as_nothing_of_the_others() -> None:
    data = make_data()
    for k in range(3):
        batch = alone(data.batch, k)
        assert torch.equal(batch.features[k].values, data.batch.features[k].values)
        for j in {0, 1, 2} - {k}:
            assert batch.features[j].values.shape[1] == 1 and not batch.features[j].mask.any()
            assert not batch.available[:, j].any()
        assert torch.equal(batch.available[:, k], data.batch.available[:, k])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("modality_dropout", {"p": 1.1}, r"modality_dropout.p: must lie between 0 .* and 1 .*, got 1.1"),
        ("incomplete", {"keep": -0.1}, r"incomplete.keep: must lie between 0 .* and 1 .*, got -0.1"),
        ("incomplete", {"subsets": "pairs"}, r"incomplete.subsets: must be 'any' or 'single', got 'pairs'"),
    ],
)
def test_refusals(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **settings)
