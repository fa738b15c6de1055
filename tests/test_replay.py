"""A replay is the step it was recorded from, bit for bit."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mmsa_core import population as engine
from mmsa_core import replay
from mmsa_core.loader import SplitTensors
from mmsa_core.population import Population
from mmsa_core.replay import record
from tests.members import several
from tests.test_population import assert_rows_equal, company, course, every

Splits = tuple[SplitTensors, SplitTensors]
NEVER = 10**9


@every
def test_every_plug_in_replayed_is_as_it_was(
    kind: str, name: str, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = splits
    specs = company(kind, name, 3)
    monkeypatch.setattr(engine, "MET", NEVER)
    plain = Population(specs, train)
    expected = course(plain, valid, (1, 2, 3))
    monkeypatch.setattr(engine, "MET", 1)
    replayed = Population(specs, train)
    found = course(replayed, valid, (1, 2, 3))
    assert len(replayed.replays) >= 1 and None not in replayed.replays.values()
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
    assert_rows_equal(replayed, range(3), plain)


def test_a_shape_is_recorded_when_it_has_come_often_enough(splits: Splits) -> None:
    population = Population(several(2), splits[0])  # 45 rows: batches of 16, 16 and 13
    for epoch, sizes in ((1, set()), (2, set()), (3, set()), (4, {16}), (7, {16}), (8, {16, 13})):
        while population.met[13] < epoch:
            population.train_epoch(population.met[13] + 1)
        assert set(population.replays) == sizes


def test_dropping_and_restoring_record_anew(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MET", 1)
    train, valid = splits
    one, other = Population(several(4), train), Population(several(4), train)
    one.train_epoch(1)
    other.train_epoch(1)
    saved = {n: t.clone() for n, t in one.state().items()}
    one.train_epoch(2)
    one.restore(saved)
    assert not one.replays and not one.met
    for population in (one, other):
        population.keep([0, 2])
        assert not population.replays and not population.met
    for mine, theirs in zip(course(one, valid, (2, 3)), course(other, valid, (2, 3)), strict=True):
        assert torch.equal(mine, theirs)


def test_stored_tensors_and_constants() -> None:
    weights, steps, table = torch.ones(3, 4), torch.zeros(3), torch.arange(4.0)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        steps.add_(1)
        room = torch.zeros(3)
        room.add_(steps)
        return (weights.T[1] * x + table.square().sum() + room), room

    x = torch.tensor([1.0, 2.0, 3.0])
    first, again = record(step, (x,), (weights, steps))
    assert again is not None
    assert first[0].tolist() == [16.0, 17.0, 18.0] and steps.tolist() == [1.0] * 3
    weights.fill_(2.0)
    for k in (2.0, 3.0):
        value, room = again(10 * x)
        assert value.tolist() == [20 + 14 + k, 40 + 14 + k, 60 + 14 + k]
        assert room.tolist() == steps.tolist() == [k] * 3


def test_what_cannot_change_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, table = torch.ones(2, 3), torch.arange(3.0)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        unused = x.exp()
        return ((weights.mT.unsqueeze(0)[0] * x.view(2)).sum(1) + table.exp().cumsum(0) + 0 * unused.detach().shape[0],)

    x = torch.tensor([1.0, 2.0])
    _, again = record(step, (x,), (weights,))
    assert again is not None
    recorder = replay._Recorder((x,))
    with recorder:
        (expected,) = again(x)
    assert [c.function.name().split(".")[0] for c in recorder.calls] == [
        "aten::mul",
        "aten::sum",
        "aten::add",
        "aten::add",
    ]
    assert torch.equal(expected, step(x)[0])


def test_views_that_are_made_in_place() -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        row = (x + 1).unsqueeze_(0)
        return (row.expand(3, 2).clone().transpose_(0, 1), row.squeeze_(0), (x[None] * 2).t_())

    _, again = record(step, (torch.zeros(2),), ())
    assert again is not None
    x = torch.tensor([5.0, 7.0])
    for mine, theirs in zip(again(x), step(x), strict=True):
        assert torch.equal(mine, theirs)


def test_results_of_several_tensors() -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        low, high = torch.aminmax(x)
        return (*x.split([1, 2]), torch.stack(torch.sort(x).values.unbind()[:2]), high - low)

    _, again = record(step, (torch.tensor([3.0, 1.0, 2.0]),), ())
    assert again is not None
    x = torch.tensor([5.0, 7.0, 4.0])
    for mine, theirs in zip(again(x), step(x), strict=True):
        assert torch.equal(mine, theirs)


def test_recording_keeps_no_intermediate_result() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def step(x: Tensor) -> tuple[Tensor, ...]:
        middle = x.exp()
        alive.append(weakref.ref(middle))
        total = middle.sum()
        del middle
        assert alive[0]() is None
        return (total,)

    _, again = record(step, (torch.ones(3),), ())
    assert again is not None and again(torch.zeros(3))[0] == 3


def test_what_is_too_long_or_changes_shapes_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(x: Tensor) -> tuple[Tensor, ...]:
        for _ in range(10):
            x = x + 1
        return (x,)

    def reshaping(x: Tensor) -> tuple[Tensor, ...]:
        return ((x + 1).resize_(1, 2),)

    assert record(long, (torch.zeros(2),), ())[1] is not None
    monkeypatch.setattr(replay, "LONGEST", 9)
    (value,), again = record(long, (torch.zeros(2),), ())
    assert value.tolist() == [10.0, 10.0] and again is None
    (value,), again = record(reshaping, (torch.zeros(2),), ())
    assert value.tolist() == [[1.0, 1.0]] and again is None


def test_a_change_that_is_not_seen_is_not_recorded() -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        with _disable_current_modes():
            part = x[1:]
        return (part + 1,)

    (value,), again = record(step, (torch.zeros(3),), ())
    assert value.tolist() == [1.0, 1.0] and again is None
