"""The population contract: a member's numbers depend on its configuration and seed alone, not on its company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmsa_core import registry
from mmsa_core.loader import SplitTensors, widths
from mmsa_core.model import Member
from mmsa_core.noise import Dropout, Noise, mix, salt_layers
from mmsa_core.population import MemberSpec, Population, adamw
from tests.contracts.stacking import float_settings, stackable_encoders
from tests.members import member, optimizer, several
from tests.strategies.course import parts

Splits = tuple[SplitTensors, SplitTensors]
KINDS = ("encoders", "fusion", "alignment", "labels", "weighting", "strategies")
PLUGINS = [
    (kind, name) for kind in KINDS for name in (stackable_encoders() if kind == "encoders" else registry.names(kind))
]
every = pytest.mark.parametrize(("kind", "name"), PLUGINS, ids=["-".join(p) for p in PLUGINS])


def with_plugin(kind: str, name: str, variant: int) -> dict[str, Any]:
    """Return the parts of a configuration that use a plug-in with the float settings of a variant."""
    settings = {"name": name, **float_settings(kind, name, variant)}
    if kind == "encoders":
        return {"encoders": {m: {**settings, "dim": 8} for m in ("text", "audio", "vision")}}
    if kind == "alignment":
        weighted = {**settings, "weight": 0.1 * (variant + 1)}
        return {"alignment": {"text-audio": weighted, "audio-vision": {**weighted, "place": "encoder"}}}
    if kind == "strategies":
        return parts(**settings)
    return {kind: settings}


def company(kind: str, name: str, count: int = 4) -> list[MemberSpec]:
    """Return members that differ in the plug-in's floats, the optimiser's and the seed."""
    return [member(k + 1, optimizer=optimizer(k), **with_plugin(kind, name, k)) for k in range(count)]


def course(population: Population, valid: SplitTensors, epochs: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Train for ``epochs``; return the losses [epoch, member] and the last predictions [member, row]."""
    losses = torch.stack([population.train_epoch(e) for e in epochs])
    return losses, population.predict(valid.batch(population.config))


def assert_rows_equal(one: Population, rows: Sequence[int], other: Population) -> None:
    """Assert that rows of a population are bit for bit the members that are left in another."""
    left = len(other)
    index = list(rows)
    mine, theirs = one.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name in mine.keys() - {"steps"}:
        assert torch.equal(mine[name][index], theirs[name][:left]), name
    assert mine["steps"] == theirs["steps"]


def test_plug_ins_were_found() -> None:
    assert {kind for kind, _ in PLUGINS} == set(KINDS) and len(PLUGINS) >= 20


@pytest.mark.parametrize("count", [4, 32])
def test_alone_and_in_company(splits: Splits, count: int) -> None:
    train, valid = splits
    specs = several(count)
    together = Population(specs, train)
    losses, predictions = course(together, valid, (1, 2, 3))
    assert losses.shape == (3, count) and torch.isfinite(losses).all() and len(set(losses[2].tolist())) == count
    for k in (0, 1, count - 1):
        alone = Population([specs[k]], train)
        own, guess = course(alone, valid, (1, 2, 3))
        torch.testing.assert_close(losses[:, [k]], own, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(predictions[[k]], guess, rtol=1e-3, atol=1e-3)
        for epoch in (1, 7):
            for mine, theirs in zip(together._order(epoch), alone._order(epoch), strict=True):
                assert torch.equal(mine[k], theirs[0])


def test_order_visits_every_row_and_follows_seed_and_epoch(splits: Splits) -> None:
    population = Population(several(4), splits[0])
    order, keys = population._order(1)
    assert torch.equal(order.sort(1).values, torch.arange(45).expand(4, -1)) and keys.shape == (4, 3)
    assert torch.equal(order[0], order[1]) and torch.equal(keys[0], keys[1])  # members 0 and 1 share a seed
    later, later_keys = population._order(2)
    for one, other, a, b in ((order[1], order[2], keys[1], keys[2]), (order[1], later[1], keys[1], later_keys[1])):
        assert not torch.equal(one, other) and not torch.equal(a, b)


@every
def test_every_plug_in_alone_and_in_company(kind: str, name: str, splits: Splits) -> None:
    train, valid = splits
    specs = company(kind, name)
    losses, predictions = course(Population(specs, train), valid, (1, 2))
    own, guess = course(Population([specs[2]], train), valid, (1, 2))
    torch.testing.assert_close(losses[:, [2]], own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predictions[[2]], guess, rtol=1e-3, atol=1e-3)


@every
def test_dropping_members_leaves_the_rest_as_they_were(kind: str, name: str, splits: Splits) -> None:
    train, valid = splits
    specs = company(kind, name)
    whole, shrinking = Population(specs, train), Population(specs, train)
    left = [0, 1, 2, 3]
    for epoch, kept in ((1, [0, 1, 2, 3]), (2, [1, 2, 3]), (3, [3])):
        if kept != left:
            shrinking.keep([left.index(k) for k in kept])
        left = kept
        losses, predictions = course(whole, valid, [epoch])
        fewer, guesses = course(shrinking, valid, [epoch])
        assert len(shrinking) == len(left)
        assert torch.equal(losses[:, left], fewer) and torch.equal(predictions[left], guesses)
        assert_rows_equal(whole, left, shrinking)


def test_a_large_population_shrinks_bit_for_bit(splits: Splits) -> None:
    train, valid = splits
    specs = several(32)
    whole, shrinking = Population(specs, train), Population(specs, train)
    left = list(range(32))
    for epoch, count in enumerate((32, 17, 5, 2, 1), start=1):
        kept = left[:: len(left) // count][-count:]
        shrinking.keep([left.index(k) for k in kept])
        left = kept
        losses, predictions = course(whole, valid, [epoch])
        fewer, guesses = course(shrinking, valid, [epoch])
        assert fewer.shape == (1, count) and guesses.shape == (count, 20)
        assert torch.equal(losses[:, left], fewer) and torch.equal(predictions[left], guesses)
        assert_rows_equal(whole, left, shrinking)
        states = shrinking.model_states()
        assert all(len(t) == count for t in states.values())


def test_keeping_all_and_a_member_of_its_own_change_nothing(splits: Splits) -> None:
    train, valid = splits
    for count in (1, 3):
        one, other = Population(several(count), train), Population(several(count), train)
        other.keep(range(count))
        for mine, theirs in zip(course(one, valid, (1, 2)), course(other, valid, (1, 2)), strict=True):
            assert torch.equal(mine, theirs)


def test_equals_an_ordinary_training_loop(splits: Splits) -> None:
    """The same members one by one as plain modules: autograd, ``clip_grad_norm_`` and ``torch.optim.AdamW``."""
    train, valid = splits
    specs = several(3)
    population = Population(specs, train)
    losses, predictions = course(population, valid, (1, 2, 3))
    for k, spec in enumerate(specs):
        expected, guess, clipped = ordinary(spec, train, valid, epochs=3)
        torch.testing.assert_close(losses[:, k], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(predictions[k], guess, rtol=1e-3, atol=1e-3)
        assert clipped > 0, "the test must see the clip at work"


def ordinary(spec: MemberSpec, train: SplitTensors, valid: SplitTensors, epochs: int) -> tuple[Tensor, Tensor, int]:
    """Train one member without the engine; return losses by epoch, predictions, and how many steps were clipped."""
    settings, batch = spec.config.optimizer, train.batch(spec.config)
    torch.manual_seed(mix("weights", spec.seed))
    module = Member(spec.config, widths(batch, spec.config), train.table(spec.config), train.rows)
    salt_layers(module)
    steps = torch.optim.AdamW(module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    losses, clipped = [], 0
    for epoch in range(1, epochs + 1):
        order, keys = (t[0] for t in Population([spec], train)._order(epoch))
        own = []
        for key, rows in zip(keys, order.split(spec.config.batch_size), strict=True):
            for layer in module.modules():
                if isinstance(layer, Noise):
                    layer.key.copy_(key)
            (loss,) = module(batch, rows, train.labels, torch.tensor(epoch))
            steps.zero_grad()
            loss.backward()
            for parameter in module.parameters():  # the engine decays what has no gradient yet, as a zero does
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            clipped += bool(nn.utils.clip_grad_norm_(module.parameters(), settings.clip) > settings.clip)
            steps.step()
            own.append(loss.detach())
        losses.append(torch.stack(own).mean())
    module.eval()
    with torch.no_grad():
        return torch.stack(losses), module.model(valid.batch(spec.config)).prediction, clipped


def test_clip_equals_clip_grad_norm(splits: Splits) -> None:
    train = splits[0]
    limits = (1e-3, 0.5, 1e6)
    specs = [member(1, optimizer={"clip": c}, batch_size=45) for c in limits]
    population = Population(specs, train)
    population.train_epoch(1)
    free = population.moment1[2] / 0.1  # the first moment after one step is (1 - 0.9) times the gradient
    for k, limit in enumerate(limits):
        parameter = nn.Parameter(torch.zeros_like(free))
        parameter.grad = free.clone()
        norm = nn.utils.clip_grad_norm_([parameter], limit)
        torch.testing.assert_close(population.moment1[k] / 0.1, parameter.grad, rtol=1e-4, atol=1e-8)
        assert (norm > limit) == (limit < 1e6)


@pytest.mark.parametrize("path", ["a kernel per row", "one matrix"])
def test_adamw_equals_torch(path: str) -> None:
    members, size, cut = 3, 50, 20
    random = torch.Generator().manual_seed(0)
    start = torch.randn(members, size, generator=random)
    lr, decay = torch.tensor([1e-3, 0.1, 3e-2]), torch.tensor([0.0, 0.3, 1e-2])
    factors = torch.tensor([1.0, 1.0, 1.0]) if path == "a kernel per row" else torch.tensor([0.5, 1.0, 0.0])
    rates = lr[:, None] if path == "a kernel per row" else torch.cat(
        [(lr * factors)[:, None].expand(-1, cut), lr[:, None].expand(-1, size - cut)], 1
    )  # fmt: skip
    parts = [[nn.Parameter(s) for s in row.clone().split([cut, size - cut])] for row in start]
    optimizers = [
        torch.optim.AdamW(
            [{"params": [a], "lr": float(rate * f)}, {"params": [b], "lr": float(rate)}], weight_decay=float(wd)
        )
        for (a, b), rate, f, wd in zip(parts, lr, factors, decay, strict=True)
    ]
    weights, moments = start.clone(), (torch.zeros_like(start), torch.zeros_like(start))
    for step in range(1, 21):
        gradient = torch.randn(members, size, generator=random) * torch.logspace(-6, 2, size)
        adamw(weights, gradient.clone(), moments, step, rates, decay)
        for row, optimizer_, g in zip(parts, optimizers, gradient, strict=True):
            for p, own in zip(row, g.split([cut, size - cut]), strict=True):
                p.grad = own.clone()
            optimizer_.step()
        expected = torch.stack([torch.cat(list(row)).detach() for row in parts])
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    assert (weights - start).abs().max() > 0.1


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_an_encoders_rate_acts_on_that_encoder_alone(splits: Splits, modality: str) -> None:
    factors = (1.0, 0.5, 0.0)
    settings = {"lr": 1e-2, "weight_decay": 0.1, "clip": 1e6}
    specs = [member(1, optimizer={**settings, modality: f}, batch_size=45, labels="copied") for f in factors]
    population = Population(specs, splits[0])
    before = population.weights.detach().clone()
    population.train_epoch(1)
    moved = population._parameters(population.weights.detach() - before)
    prefix = f"model.encoders.{('text', 'audio', 'vision').index(modality)}."
    assert any(n.startswith(prefix) for n in moved) and not all(n.startswith(prefix) for n in moved)
    for name, step in moved.items():
        assert step[0].abs().max() > 1e-3
        if name.startswith(prefix):
            torch.testing.assert_close(step[1], 0.5 * step[0], rtol=1e-3, atol=1e-6)
            assert not step[2].any()
        else:
            assert torch.equal(step[1], step[0]) and torch.equal(step[2], step[0])


def test_rates_of_encoders_and_one_rate_agree(splits: Splits) -> None:
    """Members with and without own rates of encoders take different code paths on a CPU."""
    train, valid = splits
    one = Population([member(1), member(2)], train)
    own = {"lr": 5e-3, "text": 1.0 + 1e-7}  # not 1 as a Python float, 1 after rounding to float32
    other = Population([member(1, optimizer=own), member(2, optimizer=own)], train)
    assert one.rates.shape == (2, 1) and other.rates.shape == other.weights.shape
    for mine, theirs in zip(course(one, valid, (1, 2)), course(other, valid, (1, 2)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", registry.names("alignment"))
def test_weight_0_is_no_alignment(splits: Splits, name: str) -> None:
    train, valid = splits

    def members(weight: float | None) -> list[MemberSpec]:
        """Return a member that keeps its alignment, and one whose alignment has ``weight``, or none at all."""
        pair = {} if weight is None else {"text-vision": {"name": name, "weight": weight}}
        return [member(k, alignment=pair, optimizer=optimizer(k)) for k in (1, 2)]

    absent, zero, on = (Population(members(w), train) for w in (None, 0.0, 0.5))
    (a, p), (b, q), (c, _) = (course(x, valid, (1, 2, 3)) for x in (absent, zero, on))
    own, same, moved = (x._parameters(x.weights) for x in (absent, zero, on))
    # parameters of the alignment's own have no gradient, but a longer row's norm may be summed in another order
    rounding = 0.0 if same.keys() == own.keys() else 1e-6
    for mine, theirs in ((a, b), (p, q), *((own[n], same[n]) for n in own)):
        torch.testing.assert_close(theirs, mine, rtol=rounding, atol=rounding)
    assert not torch.equal(a, c) and any(not torch.equal(own[n], moved[n]) for n in own)


def test_a_members_weight_0_among_others(splits: Splits) -> None:
    train, valid = splits

    def pair(weight: float) -> dict[str, Any]:
        return {"alignment": {"audio-vision": {"name": "mmd", "weight": weight}}}

    mixed = Population([member(1, **pair(0.0)), member(1, **pair(0.5))], train)
    absent = Population([member(1, alignment={}), member(1, alignment={})], train)
    (a, p), (b, q) = course(mixed, valid, (1, 2)), course(absent, valid, (1, 2))
    assert torch.equal(a[:, 0], b[:, 0]) and torch.equal(p[0], q[0]) and not torch.equal(a[:, 1], b[:, 1])


def test_state_round_trip_goes_on_bit_for_bit(splits: Splits) -> None:
    train, valid = splits
    one, other = Population(several(3), train), Population(several(3), train)
    one.train_epoch(1)
    saved = {n: t.clone() for n, t in one.state().items()}
    untouched = {n: t.clone() for n, t in saved.items()}
    other.restore(saved)
    for mine, theirs in zip(course(one, valid, (2, 3)), course(other, valid, (2, 3)), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(saved[n], untouched[n]) for n in saved), "going on must not write into the checkpoint"


def test_prediction_in_chunks_is_that_of_the_whole(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid = splits
    population = Population(several(2), train)
    whole = population.predict(valid.batch(population.config))
    monkeypatch.setattr("mmsa_core.population.EVALUATION_FLOATS", 1000)
    chunked = population.predict(valid.batch(population.config))
    assert whole.shape == (2, 20)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_dropout_that_drops_nothing_rests(splits: Splits) -> None:
    """The numbers are those of a mask that keeps all; one member that drops keeps the layer awake for the others."""
    train, valid = splits
    specs = [member(k, heads={"dim": 8, "dropout": 0.0}, optimizer=optimizer(k)) for k in (1, 2)]
    resting, waking = Population(specs, train), Population(specs, train)
    layers = {n: m for n, m in waking.template.named_modules() if isinstance(m, Dropout)}
    assert {n for n, m in layers.items() if m.idle} >= {"model.head.dropout"}
    assert not layers["model.encoders.0.dropout"].idle
    for layer in layers.values():
        layer.idle = False
    for mine, theirs in zip(course(resting, valid, (1, 2)), course(waking, valid, (1, 2)), strict=True):
        assert torch.equal(mine, theirs)
    mixed = Population([specs[0], member(3, heads={"dim": 8, "dropout": 0.5})], train)
    assert not any(m.idle for n, m in mixed.template.named_modules() if isinstance(m, Dropout) and "head" in n)


def test_members_of_other_signature_are_refused(splits: Splits) -> None:
    with pytest.raises(AssertionError, match="one signature"):
        Population([member(1), member(1, width=9)], splits[0])


def test_making_a_population_leaves_the_global_seed_alone(splits: Splits) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = Population(several(2), splits[0])
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(4)
    assert torch.equal(one.weights, Population(several(2), splits[0]).weights)
    assert torch.equal(one.weights[0], one.weights[1])  # the same seed
    assert not torch.equal(one.weights[0], Population([member(2)], splits[0]).weights[0])
