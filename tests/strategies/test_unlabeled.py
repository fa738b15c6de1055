"""Rows without labels: which are drawn, and who sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mmsa_core import registry
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors, take
from mmsa_core.plugin import Strategy
from mmsa_core.population import Population
from mmsa_core.tensors import Rows
from tests.members import member, optimizer
from tests.strategies.course import make_data, make_member, set_key, step, viewed

BATCH = torch.tensor([3, 0, 7, 11, 5])


def build(**settings: Any) -> Strategy:
    strategy: Strategy = registry.build("strategies", "unlabeled", ("text", "audio"), **settings)
    return strategy


def test_rows_are_drawn_uniformly_from_those_without_labels() -> None:
    strategy, split = build(extra=50), Rows(30, 20, torch.zeros(50, dtype=torch.int64))
    drawn = []
    for key in range(80):
        set_key(strategy, 7919 * key)
        shown = strategy.select(BATCH, split)
        assert torch.equal(shown[:5], BATCH) and len(shown) == 55
        drawn.append(shown[5:])
    counts = torch.cat(drawn).bincount(minlength=50)
    assert not counts[:30].any()
    assert stats.chisquare(counts[30:].numpy()).pvalue > 1e-3


def test_nothing_is_added_where_there_is_nothing() -> None:
    split = Rows(30, 0, torch.zeros(30, dtype=torch.int64))
    assert build(extra=50).select(BATCH, split) is BATCH
    assert build(extra=0).select(BATCH, split._replace(unlabeled=20)) is BATCH


def test_tasks_do_not_see_them_and_alignments_do() -> None:
    data = make_data(unlabeled=9, missing=False)
    pair = {"alignment": {"text-audio": {"name": "mmd", "weight": 0.7}}}
    plain = make_member("none", data, changes={"labels": "copied"})
    without = make_member("unlabeled", data, extra=6, changes={"labels": "copied"})
    with_pair = make_member("unlabeled", data, extra=6, changes={"labels": "copied", **pair})
    (loss, grads), (same, others), (more, _) = (step(m, data, BATCH) for m in (plain, without, with_pair))
    torch.testing.assert_close(same, loss)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(a, b)
    shown, whole, _ = viewed(with_pair, data, BATCH)
    assert (shown[5:] >= 24).all() and len(shown) == 11
    extra = with_pair.pairs[0](with_pair.model(whole), whole, data.labels[shown])
    alone = take(data.batch, BATCH)
    torch.testing.assert_close(more - same, extra.detach())
    assert not torch.isclose(extra, with_pair.pairs[0](with_pair.model(alone), alone, data.labels[BATCH]))


def test_penalties_of_a_fusion_see_them() -> None:
    data = make_data(unlabeled=9, missing=False)
    changes = {"fusion": {"name": "misa"}}
    plain, with_more = make_member("none", data, changes=changes), make_member("unlabeled", data, changes=changes)
    assert not torch.isclose(step(plain, data, BATCH)[0], step(with_more, data, BATCH)[0], rtol=1e-4)


@pytest.mark.parametrize("alignment", ["related_pairs", "mmd"])
def test_a_whole_training_with_a_file_that_has_some(alignment: str, splits: tuple[SplitTensors, SplitTensors]) -> None:
    labeled = splits[0].split
    some = np.arange(11)
    unlabeled = replace(
        labeled,
        ids=tuple(f"more{i}" for i in some),
        features={m: f[some] for m, f in labeled.features.items()},
        lengths={m: n[some] for m, n in labeled.lengths.items()},
        labels=np.zeros(11, np.float32),
        unimodal={},
    )
    train = SplitTensors(replace(labeled, unlabeled=unlabeled), torch.device("cpu"))
    assert train.rows.unlabeled == 11
    changes = {"alignment": {"audio-vision": alignment}, "strategy": {"name": "unlabeled", "extra": 8}}
    specs = [member(k, optimizer=optimizer(k), **changes) for k in (1, 2, 3)]
    together, alone = Population(specs, train), Population([specs[1]], train)
    joint = Population([member(2, optimizer=optimizer(2), alignment=changes["alignment"])], train)
    batch = splits[1].batch(specs[0].config)
    for epoch in (1, 2, 3):
        losses, own, without = (p.train_epoch(epoch) for p in (together, alone, joint))
        torch.testing.assert_close(losses[[1]], own, rtol=1e-4, atol=1e-5)
        assert torch.isfinite(losses).all() and not torch.isclose(own, without)
    torch.testing.assert_close(together.predict(batch)[[1]], alone.predict(batch), rtol=1e-3, atol=1e-4)


def test_refusal() -> None:
    with pytest.raises(UserError, match=r"unlabeled.extra: must be 0 .* or more, got -1"):
        build(extra=-1)
