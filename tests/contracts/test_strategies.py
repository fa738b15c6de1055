"""What every strategy must do, for every file found in the folder and for one to three modalities."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES
from mmsa_core.loader import SplitTensors
from mmsa_core.model import Member
from mmsa_core.noise import Noise
from mmsa_core.plugin import ProjectingStrategy, Strategy
from mmsa_core.population import MemberSpec, Population
from mmsa_core.predict import predict
from tests.contracts.stacking import assert_floats_are_buffers, float_settings
from tests.members import member as small_member
from tests.members import optimizer
from tests.strategies.course import Data, make_data, make_member, parts, predicted, spoiled, step, viewed

Splits = tuple[SplitTensors, SplitTensors]
NAMES = registry.names("strategies")
NEUTRAL: dict[str, dict[str, Any] | None] = {
    "alternating": None,  # it has no setting that is joint training
    "incomplete": {"keep": 1.0},
    "modality_dropout": {"p": 0.0},
    "replay": {"memory": 0},
    "unimodal_coding": {"weight": 0.0},
    "unlabeled": {"extra": 0},
}
"""Settings with which a strategy is joint training."""
SMALL: dict[str, dict[str, Any]] = {"replay": {"memory": 10, "replayed": 4}, "unlabeled": {"extra": 5}}
"""Structures that few samples exercise."""
BATCHES = [torch.tensor([3, 0, 7, 11, 5]), torch.tensor([1, 2, 4, 6, 8]), torch.tensor([9, 10])]
every = pytest.mark.parametrize("name", NAMES)
any_modalities = pytest.mark.parametrize("modalities", [MODALITIES, ("text", "audio"), ("vision",)], ids="-".join)


def build(name: str, data: Data, modalities: tuple[str, ...] = MODALITIES, **changes: Any) -> Member:
    return make_member(name, data, modalities, **SMALL.get(name, {}), changes=changes)


def course(member: Member, data: Data) -> list[Tensor]:
    """Train for an epoch and more without moving the weights; return all losses and gradients."""
    results = []
    for key, rows in enumerate([*BATCHES, BATCHES[0]]):
        loss, grads = step(member, data, rows, key)
        results += [loss, *grads]
    return results


def state(member: Member) -> dict[str, Tensor]:
    strategy = member.model.strategy
    assert strategy is not None
    return {n: b.clone() for n, b in strategy.named_buffers()}


def test_some_were_found_and_their_neutral_settings_are_known() -> None:
    assert len(NAMES) >= 6 and set(NAMES) == set(NEUTRAL)


@every
def test_says_what_it_needs_and_whether_it_streams(name: str) -> None:
    cls = registry.load("strategies", name)
    assert issubclass(cls, Strategy) and not inspect.isabstract(cls)
    assert {"forces", "streams"} <= vars(cls).keys() and isinstance(cls.streams, bool)


@every
@any_modalities
def test_shapes_and_the_batchs_rows_come_first(name: str, modalities: tuple[str, ...]) -> None:
    data = make_data(modalities, unlabeled=7)
    member = build(name, data, modalities)
    counts = set()
    for key, rows in enumerate(BATCHES):
        shown, whole, view = viewed(member, data, rows, key)
        assert torch.equal(shown[: len(rows)], rows) and (shown >= 0).all() and (shown < 31).all()
        assert view.available.shape == whole.available.shape == (len(shown), len(modalities))
        for mine, given in zip(view.features, whole.features, strict=True):
            assert torch.equal(mine.values, given.values) and torch.equal(mine.mask, given.mask)
        loss, _ = step(member, data, rows, key)
        assert loss.shape == () and torch.isfinite(loss)
        counts.add(len(shown) - len(rows))
    assert len(counts) == 1, "how many rows are added is structure"
    assert predicted(member, data.batch).shape == (31,)


@every
@any_modalities
def test_a_view_hides_and_never_invents(name: str, modalities: tuple[str, ...]) -> None:
    data = make_data(modalities)
    member = build(name, data, modalities)
    for key in range(20):
        rows = torch.arange(24)
        _, whole, view = viewed(member, data, rows, key)
        assert not (view.available & ~whole.available).any()
        assert torch.equal(view.available.any(1), whole.available.any(1)), "one stays where there was one"
        step(member, data, rows, key)


@every
@any_modalities
@pytest.mark.parametrize("junk", [float("nan"), 1e9])
@pytest.mark.parametrize("labels", ["none", "copied"])
def test_what_is_hidden_never_matters(name: str, modalities: tuple[str, ...], junk: float, labels: str) -> None:
    """Neither what the data lacks nor what the strategy hides, in the loss, gradients, state and predictions."""
    data = make_data(modalities, unlabeled=7)
    clean = build(name, data, modalities, labels=labels)
    lacking = data._replace(batch=spoiled(data.batch, ~data.batch.available, junk))
    for key, rows in enumerate([*BATCHES, BATCHES[0]]):
        dirty = deepcopy(clean)
        _, _, view = viewed(clean, data, rows, key)
        hidden = ~data.batch.available
        hidden[rows] = ~view.available[: len(rows)]
        spoilt = lacking._replace(batch=spoiled(data.batch, hidden, junk))
        (loss, grads), (same, others) = step(clean, data, rows, key), step(dirty, spoilt, rows, key)
        assert torch.equal(loss, same)
        assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))
        assert all(torch.equal(b, state(dirty)[n]) for n, b in state(clean).items())
        assert torch.equal(predicted(clean, data.batch), predicted(clean, lacking.batch))


@pytest.mark.parametrize("name", [n for n in NAMES if NEUTRAL.get(n) is not None])
@pytest.mark.parametrize("labels", ["none", "ulgm"])
def test_neutral_settings_are_joint_training(
    name: str, labels: str, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, apart from the order of the samples."""
    neutral = NEUTRAL[name]
    assert neutral is not None
    monkeypatch.setattr(registry.load("strategies", name), "streams", False)

    def losses(changes: dict[str, Any]) -> Tensor:
        specs = [small_member(k, labels=labels, optimizer=optimizer(k), **changes) for k in (1, 2)]
        population = Population(specs, splits[0])
        return torch.stack([population.train_epoch(e) for e in (1, 2, 3)])

    joint = losses({})
    assert torch.equal(losses(parts(name, **neutral)), joint)
    if name != "unlabeled":  # these data have no such rows
        assert not torch.equal(losses(parts(name, **SMALL.get(name, {}))), joint)


@every
@any_modalities
@pytest.mark.parametrize("case", ["one row", "constant", "all missing", "huge", "constant labels"])
def test_degenerate_batches_are_finite(name: str, modalities: tuple[str, ...], case: str) -> None:
    data = make_data(modalities, missing=case == "one row")
    batch = data.batch
    features = {
        "constant": [f._replace(values=torch.full_like(f.values, 3.7)) for f in batch.features],
        "huge": [f._replace(values=f.values * 1e4) for f in batch.features],
    }.get(case, list(batch.features))
    available = batch.available & (case != "all missing")
    data = data._replace(batch=batch._replace(features=tuple(features), available=available))
    if case == "constant labels":
        data = data._replace(labels=torch.zeros_like(data.labels))
    member = build(name, data, modalities, labels="copied")
    for key in range(8):
        loss, grads = step(member, data, BATCHES[key % 3][:1] if case == "one row" else BATCHES[key % 3], key)
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)
        assert all(torch.isfinite(b).all() for b in state(member).values())
    assert torch.isfinite(predicted(member, data.batch)).all()


@every
def test_draws_follow_the_key_alone(name: str) -> None:
    data = make_data(unlabeled=7)
    one, other = build(name, data), build(name, data)
    before = torch.random.get_rng_state()
    mine, theirs = course(one, data), course(other, data)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's generator is nobody's"
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert all(torch.equal(b, state(other)[n]) for n, b in state(one).items())
    assert one.model.strategy is not None
    draws = any(isinstance(layer, Noise) for layer in one.model.strategy.modules())
    rows = BATCHES[0]
    (shown, _, view), (others, _, changed) = viewed(one, data, rows, 5), viewed(one, data, rows, 6)
    alike = torch.equal(shown, others) and torch.equal(view.available, changed.available)
    alike = alike and torch.equal(step(one, data, rows, 5)[0], step(other, data, rows, 6)[0])
    assert alike != draws


@every
def test_the_loss_can_be_differentiated_task_by_task(name: str) -> None:
    """As weightings by gradients do, after the state was moved in place."""
    data = make_data(unlabeled=7)
    member = build(name, data, labels="copied")
    course(member, data)
    loss = member(data.batch, BATCHES[0], data.labels, torch.tensor(1)).sum()
    wanted = list(member.parameters())
    first, second = (torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True) for _ in range(2))
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    assert pairs and all(torch.equal(a, b) for a, b in pairs)


@every
def test_predictions_leave_the_state_and_only_training_moves_it(name: str) -> None:
    data = make_data(unlabeled=7)
    member = build(name, data)
    course(member, data)
    before = state(member)
    predicted(member, data.batch)
    assert all(torch.equal(b, before[n]) for n, b in state(member).items())
    assert not any(b.requires_grad for b in state(member).values())


@every
def test_a_sample_is_predicted_alike_in_any_company(name: str) -> None:
    data = make_data(unlabeled=7)
    member = build(name, data, labels="copied")
    course(member, data)
    whole = predicted(member, data.batch)
    for i in (0, 6, 7):
        alone = predicted(member, data.batch._replace(
            features=tuple(type(f)(f.values[i : i + 1], f.mask[i : i + 1]) for f in data.batch.features),
            available=data.batch.available[i : i + 1],
        ))  # fmt: skip
        torch.testing.assert_close(alone[0], whole[i])


@every
def test_floats_are_buffers(name: str) -> None:
    projects = issubclass(registry.load("strategies", name), ProjectingStrategy)
    assert_floats_are_buffers("strategies", name, MODALITIES, *((6,) if projects else ()))


def trained(name: str, train: SplitTensors, labels: str = "copied") -> tuple[Population, list[MemberSpec]]:
    specs = [
        small_member(k, labels=labels, optimizer=optimizer(k), **parts(name, **SMALL.get(name, {}), **floats))
        for k, floats in ((k, float_settings("strategies", name, k)) for k in (1, 2))
    ]
    population = Population(specs, train)
    for epoch in (1, 2):
        population.train_epoch(epoch)
    return population, specs


@every
def test_exported_state_predicts_the_same(name: str, splits: Splits) -> None:
    train, valid = splits
    population, specs = trained(name, train)
    stored = load(save({n: t.contiguous() for n, t in population.model_states().items()}))
    expected = population.predict(valid.batch(specs[0].config))
    found = torch.from_numpy(predict(specs[0].config, stored, valid.split))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(expected[0], expected[1])


@every
def test_a_checkpoint_goes_on_bit_for_bit(name: str, splits: Splits) -> None:
    train, valid = splits
    one, specs = trained(name, train)
    other = Population(specs, train)
    other.restore({n: t.clone() for n, t in one.state().items()})
    batch = valid.batch(specs[0].config)
    for epoch in (3, 4):
        assert torch.equal(one.train_epoch(epoch), other.train_epoch(epoch))
        assert torch.equal(one.predict(batch), other.predict(batch))


@every
@pytest.mark.parametrize("labels", ["none", "copied"])
def test_it_learns_what_every_modality_tells(name: str, labels: str) -> None:
    data = make_data()
    told = [f._replace(values=f.values * 0.3 + data.labels[:, None, None]) for f in data.batch.features]
    data = data._replace(batch=data.batch._replace(features=tuple(told)))
    member = build(name, data, labels=labels)
    optimizer_ = torch.optim.Adam(member.parameters(), 3e-2)
    for epoch in range(40):
        for key, rows in enumerate(torch.arange(24).split(8)):
            _, grads = step(member, data, rows, 3 * epoch + key)
            for parameter, gradient in zip(member.parameters(), grads, strict=True):
                parameter.grad = gradient
            optimizer_.step()
    known = data.batch.available.any(1)
    error = (predicted(member, data.batch) - data.labels)[known].abs().mean()
    guess = (data.labels - data.labels.median())[known].abs().mean()
    assert error < 0.4 * guess


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("strategies", name)
    assert "arXiv:" in card.source and card.summary.endswith(".") and len(card.summary) < 200
