"""The reservoir, what is replayed of it, the order of the domains and the combined prediction."""

from __future__ import annotations

from copy import deepcopy
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors, take
from mmsa_core.model import Member
from mmsa_core.noise import mix
from mmsa_core.population import Population, draw_epoch
from mmsa_core.strategies.replay import Replay
from tests.members import member as small_member
from tests.members import optimizer
from tests.strategies.course import make_data, make_member, predicted, set_key, step, viewed

BATCH = torch.tensor([3, 0, 7, 11, 5])


def build(**settings: Any) -> Replay:
    strategy: Replay = registry.build("strategies", "replay", MODALITIES, **settings)
    strategy.drawing.salt, strategy.storing.salt = mix("layer", "drawing"), mix("layer", "storing")
    return strategy


def strategy_of(member: Member) -> Replay:
    found = member.model.strategy
    assert isinstance(found, Replay)
    return found


def stream(seed: int, count: int, memory: int, batch: int = 7) -> Replay:
    """Return what a memory holds after the rows 0 to ``count`` - 1, whose predictions are theirs times 10."""
    strategy = build(memory=memory)
    for start, rows in enumerate(torch.arange(count).split(batch)):
        set_key(strategy, mix(seed, start))
        strategy._store(rows, 10.0 * rows)
    return strategy


def test_each_row_is_kept_with_the_same_probability() -> None:
    count, memory, runs = 60, 10, 300
    kept = np.zeros(count)
    for seed in range(runs):
        kept[stream(seed, count, memory).rows.numpy()] += 1
    assert kept.sum() == runs * memory, "no row is in memory twice"
    expected, share = runs * memory / count, memory / count
    # the variance of being among 10 of 60; the counts sum to a constant, which takes a degree of freedom
    statistic = ((kept - expected) ** 2).sum() / (expected * (1 - share)) * (count - 1) / count
    assert stats.chi2.sf(statistic, count - 1) > 1e-3
    assert stats.chi2.cdf(statistic, count - 1) > 1e-3


def test_pairs_are_kept_together_as_often_as_by_chance() -> None:
    count, memory, runs = 20, 8, 1000
    together = np.zeros((count, count))
    for seed in range(runs):
        rows = stream(seed, count, memory, batch=5).rows.numpy()
        together[np.ix_(rows, rows)] += 1
    share = memory * (memory - 1) / (count * (count - 1))
    pairs = together[np.triu_indices(count, 1)]
    assert np.abs(pairs / runs - share).max() < 4.5 * np.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_equals_algorithm_r_row_by_row(batch: int) -> None:
    strategy = build(memory=10)
    slots: list[int] = []
    met = 0
    for start, rows in enumerate(torch.arange(60).split(batch)):
        set_key(strategy, mix(3, start))
        bits = strategy.storing.bits((len(rows),)).tolist()
        for row, drawn in zip(rows.tolist(), bits, strict=True):
            met += 1
            if met <= 10:
                slots.append(row)
            elif drawn % met < 10:
                slots[drawn % met] = row
        strategy._store(rows, 10.0 * rows)
    assert strategy.rows.tolist() == slots and int(strategy.seen) == met == 60
    assert torch.equal(strategy.predictions, 10.0 * strategy.rows)


def test_rows_replayed_are_drawn_uniformly_from_what_is_filled() -> None:
    for count, filled in ((6, 6), (60, 10)):
        strategy = stream(1, count, memory=10)
        strategy.appended = 40
        drawn = []
        for key in range(60):
            set_key(strategy, 104729 * key)
            drawn.append(strategy._places())
        counts = torch.cat(drawn).bincount(minlength=10)
        assert not counts[filled:].any() and stats.chisquare(counts[:filled].numpy()).pvalue > 1e-3


def test_an_empty_memory_repeats_the_batch_without_weight() -> None:
    data = make_data(missing=False)
    member, joint = make_member("replay", data, memory=10, replayed=7), make_member("none", data)
    shown, _, _ = viewed(member, data, BATCH)
    assert shown.tolist() == [3, 0, 7, 11, 5, 3, 0, 7, 11, 5, 3, 0]
    (loss, grads), (same, others) = step(member, data, BATCH), step(joint, data, BATCH)
    torch.testing.assert_close(loss, same)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_by_hand() -> None:
    data = make_data()
    settings = {"memory": 10, "replayed": 6, "changes": {"labels": "copied"}}
    member = make_member("replay", data, supervised=0.7, distill=0.3, **settings)
    idle = make_member("replay", data, supervised=0.0, distill=0.0, **settings)
    later = torch.tensor([2, 4, 6])
    for m in (member, idle):
        step(m, data, BATCH, key=1)
    shown, whole, _ = viewed(member, data, later, key=2)
    memory = strategy_of(member)
    kept = dict(zip(memory.rows[:5].tolist(), memory.predictions[:5].tolist(), strict=True))
    assert set(shown[3:].tolist()) <= set(BATCH.tolist())
    predictions = member.model(whole).prediction.detach()[3:]
    target = torch.tensor([kept[r] for r in shown[3:].tolist()])
    expected = 0.7 * (predictions - data.labels[shown[3:]]).abs().mean() + 0.3 * (predictions - target).square().mean()
    loss, without = (step(m, data, later, key=2)[0] for m in (member, idle))
    torch.testing.assert_close(loss - without, expected, rtol=1e-4, atol=1e-6)
    joint = make_member("none", data, changes={"labels": "copied"})
    torch.testing.assert_close(without, step(joint, data, later)[0])


@pytest.mark.parametrize("labels", ["copied", "none"])
def test_memory_keeps_the_prediction_that_was_nearest(labels: str) -> None:
    data = make_data()
    member = make_member("replay", data, memory=30, replayed=4, changes={"labels": labels})
    with torch.no_grad():
        outputs = member.model(take(data.batch, torch.arange(24)))
    step(member, data, torch.arange(24))
    assert strategy_of(member).rows[:24].tolist() == list(range(24)) and int(strategy_of(member).seen) == 24
    chosen = set()
    for i in range(24):
        answers = {-1: float(outputs.prediction[i])}
        if labels != "none":
            answers |= {m: float(outputs.unimodal[i, m]) for m in range(3) if data.batch.available[i, m]}
        best = min(answers, key=lambda m: abs(answers[m] - float(data.labels[i])))
        chosen.add(best)
        assert float(strategy_of(member).predictions[i]) == pytest.approx(answers[best], rel=1e-5, abs=1e-6)
    assert chosen == ({-1, 0, 1, 2} if labels != "none" else {-1})


def test_predictions_are_weighted_by_running_scales() -> None:
    data = make_data()
    member = make_member("replay", data, memory=30, replayed=4, changes={"labels": "copied"})
    expected = deepcopy(strategy_of(member).scales)
    for key in range(4):
        step(member, data, BATCH, key)
        outputs, own = member.model(take(data.batch, BATCH)), data.labels[BATCH, None]
        errors = torch.cat([outputs.prediction[:, None] - own, outputs.unimodal - own], 1).abs().detach()
        expected.update(errors, torch.cat([torch.ones(5, 1).bool(), data.batch.available[BATCH]], 1))
    torch.testing.assert_close(strategy_of(member).scales.errors, expected.errors)
    found = predicted(member, data.batch)
    member.eval()
    with torch.no_grad():
        outputs = member.model.outputs(data.batch)
    weights = (expected.errors / expected.counts) ** -2
    for i in range(24):
        there = [0] + [1 + m for m in range(3) if data.batch.available[i, m]]
        answers = [float(outputs.prediction[i]), *outputs.unimodal[i].tolist()]
        mean = sum(float(weights[k]) * answers[k] for k in there) / sum(float(weights[k]) for k in there)
        assert float(found[i]) == pytest.approx(mean, rel=1e-4, abs=1e-5)


def test_without_unimodal_heads_predictions_are_the_fusions() -> None:
    data = make_data()
    member = make_member("replay", data, memory=30)
    for key in range(3):
        step(member, data, BATCH, key)
    found = predicted(member, data.batch)
    member.eval()
    assert torch.equal(found, member.model.outputs(data.batch).prediction)


@pytest.mark.parametrize("settings", [{"memory": 0}, {"replayed": 0}])
def test_nothing_is_replayed_without_memory_or_rows(settings: dict[str, int]) -> None:
    data = make_data()
    member, joint = make_member("replay", data, **settings), make_member("none", data)
    for key in range(3):
        shown, _, _ = viewed(member, data, BATCH, key)
        assert torch.equal(shown, BATCH)
        (loss, grads), (same, others) = step(member, data, BATCH, key), step(joint, data, BATCH, key)
        assert torch.equal(loss, same) and all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_memory_follows_the_members_own_seed_alone(splits: tuple[SplitTensors, SplitTensors]) -> None:
    train = splits[0]
    settings = {"name": "replay", "memory": 12, "replayed": 6}
    specs = [small_member(seed, optimizer=optimizer(k), strategy=settings) for k, seed in enumerate((1, 1, 2, 3))]
    together, alone = Population(specs, train), Population([specs[2]], train)
    for epoch in (1, 2, 3):
        together.train_epoch(epoch)
        alone.train_epoch(epoch)
    rows = together.model_states()["strategy.rows"]
    assert torch.equal(rows[0], rows[1]), "the same seed, another learning rate"
    assert torch.equal(rows[2], alone.model_states()["strategy.rows"][0])
    assert not torch.equal(rows[0], rows[2]) and not torch.equal(rows[2], rows[3])
    assert together.model_states()["strategy.seen"].tolist() == [3 * len(train)] * 4
    assert (rows >= 0).all() and (rows < len(train)).all()


def test_an_epoch_goes_through_the_domains_one_by_one(splits: tuple[SplitTensors, SplitTensors]) -> None:
    train = splits[0]
    domains = train.rows.domains.numpy()
    spec = small_member(1, strategy="replay")
    visits: list[list[int]] = []
    inside = []
    for epoch in (1, 2):
        order, _ = draw_epoch(1, epoch, spec.config, train)
        assert sorted(order.tolist()) == list(range(len(train)))
        visits.append([int(d) for d, _ in groupby(domains[order])])
        assert len(visits[-1]) == len(set(domains.tolist())) > 2
        inside.append(order.tolist())
    assert visits[0] == visits[1] and inside[0] != inside[1]
    other, _ = draw_epoch(2, 1, spec.config, train)
    assert [int(d) for d, _ in groupby(domains[other])] != visits[0], "another member, another order"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": -1}, r"memory and replayed must be 0 .* or more, got -1 and 32"),
        ({"distill": -0.5}, "supervised and distill must be 0 or more, got 1.0 and -0.5"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_replayed_rows_reach_no_label_generator() -> None:
    """Self-MM's labels move for the batch's own rows alone."""
    data = make_data(missing=False)
    member = make_member("replay", data, memory=10, replayed=6, changes={"labels": "ulgm"})
    for epoch in (1, 2, 3):
        before = _labels(member)
        step(member, data, BATCH, key=epoch, epoch=epoch)
        step(member, data, torch.tensor([1, 2]), key=10 + epoch, epoch=epoch)
        changed = (_labels(member) != before).any(1).nonzero()[:, 0].tolist()
        assert set(changed) <= {0, 1, 2, 3, 5, 7, 11}


def _labels(member: Member) -> Tensor:
    buffers = dict(member.named_buffers())
    return buffers["labels.features"].clone()
