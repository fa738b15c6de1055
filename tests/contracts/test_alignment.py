"""What every alignment must do, for every file found in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from mmsa_core import registry
from mmsa_core.alignment._kinds import ConditionalAlignment, Need
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_near,
    assert_same_alone_and_together,
    float_settings,
    gradients,
    members,
)

NAMES = registry.names("alignment")
ROLES = {n: registry.load("alignment", n).role for n in NAMES}
SHARED = [n for n in NAMES if ROLES[n] == "shared"]
PRIVATE = [n for n in NAMES if ROLES[n] == "private"]
CLASSES = {n: registry.load("alignment", n) for n in NAMES}
NEEDS: dict[str, frozenset[str]] = {
    n: c.needs if issubclass(c, ConditionalAlignment) else frozenset() for n, c in CLASSES.items()
}
ROWS, DIM = 14, 6
every = pytest.mark.parametrize("name", NAMES)


def build(name: str, dim: int = DIM, /, **settings: Any) -> Alignment:
    torch.manual_seed(0)
    alignment: Alignment = registry.build("alignment", name, dim, dim, **settings)
    return alignment


def make_pair(seed: int = 0, rows: int = ROWS, dim: int = DIM) -> Pair:
    """Return related, but not identical, modalities with all rows valid."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=g)
    y = 0.6 * x.flip(1) + torch.randn(rows, dim, generator=g) + 0.3
    labels, joint = torch.randn(rows, generator=g), torch.randn(rows, 5, generator=g)
    return Pair(x, y, torch.ones(rows, dtype=torch.bool), labels, joint)


def with_gradient(alignment: Alignment, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its gradients with respect to both modalities."""
    x, y = pair.x.clone().requires_grad_(), pair.y.clone().requires_grad_()
    loss = alignment(pair._replace(x=x, y=y))
    gx, gy = gradients(loss, [x, y])
    return loss, gx, gy


def test_some_were_found() -> None:
    assert len(SHARED) >= 3 and len(PRIVATE) >= 3


@every
def test_is_a_scalar_at_or_above_0_that_both_modalities_feel(name: str) -> None:
    loss, gx, gy = with_gradient(build(name), make_pair())
    assert loss.shape == () and torch.isfinite(loss) and loss >= 0
    for g in (gx, gy):
        assert torch.isfinite(g).all() and (g.abs().sum(1) > 0).all()


@every
@pytest.mark.parametrize(
    "case", ["constant", "zero", "one constant", "one row", "huge", "small", "equal rows in pairs"]
)
def test_degenerate_features_are_finite(name: str, case: str) -> None:
    p = make_pair()
    pair = {
        "constant": p._replace(x=torch.full_like(p.x, 3.7), y=torch.full_like(p.y, -123.4)),
        "zero": p._replace(x=torch.zeros_like(p.x), y=torch.zeros_like(p.y)),
        "one constant": p._replace(x=torch.full_like(p.x, 0.1)),
        "one row": Pair(*(t[:1] for t in p)),
        "huge": p._replace(x=p.x * 1e3, y=p.y * 1e3),
        "small": p._replace(x=p.x * 1e-4, y=p.y * 1e-4),
        "equal rows in pairs": Pair(*(torch.cat([t, t]) for t in p)),
    }[case]
    alignment = build(name)
    loss, gx, gy = with_gradient(alignment, pair)
    for value in (loss, gx, gy, alignment.chance(pair)):
        assert torch.isfinite(value).all()
    assert alignment.chance(pair) > 0


@every
def test_rounding_of_constant_features_is_not_taken_for_a_signal(name: str) -> None:
    """Float32 leaves about 1e-7 of a constant column after centring: normalised, that would look like a signal."""
    pair = make_pair()
    constant = torch.linspace(0.1, 99.7, DIM).expand(ROWS, DIM)
    assert (constant - constant.mean(0)).any()
    _, gx, gy = with_gradient(build(name), pair._replace(x=constant))
    assert gx.abs().max() < 100 and gy.abs().max() < 100


@every
@pytest.mark.parametrize("valid_rows", [0, 1])
def test_fewer_than_two_valid_rows_give_0(name: str, valid_rows: int) -> None:
    pair = make_pair()
    pair = pair._replace(valid=torch.arange(ROWS) < valid_rows)
    alignment = build(name)
    loss, gx, gy = with_gradient(alignment, pair)
    assert loss == 0 and not gx.any() and not gy.any()
    assert alignment.chance(pair) > 0


@every
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e9])
def test_invalid_rows_do_not_exist(name: str, junk: float) -> None:
    valid = torch.arange(ROWS) % 3 != 1
    pair = make_pair()._replace(valid=valid)
    kept = Pair(*(t[valid] for t in pair))
    hidden = torch.where(valid[:, None], torch.zeros(()), torch.tensor(junk))
    pair = Pair(pair.x + hidden, pair.y + hidden, valid, pair.labels + hidden[:, 0], pair.joint + hidden)
    alignment = build(name)
    loss, gx, gy = with_gradient(alignment, pair)
    expected, ex, ey = with_gradient(alignment, kept)
    assert_near(loss, expected)
    assert_near(gx[valid], ex)
    assert_near(gy[valid], ey)
    assert not gx[~valid].any() and not gy[~valid].any()
    assert_near(alignment.chance(pair), alignment.chance(kept))


@every
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    """Where rows are compared with their neighbours, a rotation leaves them neighbours; their noise is their place's.

    Rows that are not valid lie between, so that neighbours are not just those at hand.
    """
    valid = torch.arange(ROWS) % 3 != 1
    pair, alignment = make_pair(), build(name)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    if "order" in NEEDS[name]:
        alignment.eval()
        order = torch.arange(ROWS).roll(5)
        pair = pair._replace(valid=valid)
    shuffled = Pair(*(t[order] for t in pair))
    loss, gx, _ = with_gradient(alignment, pair)
    other, ox, _ = with_gradient(alignment, shuffled)
    assert_near(loss, other)
    assert_near(gx[order], ox)
    assert_near(alignment.chance(pair), alignment.chance(shuffled))


@every
def test_members_give_the_same_alone_and_together(name: str) -> None:
    pairs = [make_pair(seed) for seed in range(3)]
    valid = torch.stack([torch.arange(ROWS) != k for k in range(3)])
    inputs = [torch.stack(fields) for fields in zip(*pairs, strict=True)]
    inputs[2] = valid
    made = members("alignment", name, DIM, DIM)
    assert_same_alone_and_together(made, inputs, lambda run, *fields: run(Pair(*fields)))
    chances = vmap(lambda *fields: made[0].chance(Pair(*fields)))(*inputs)  # type: ignore[operator]
    for k in range(3):
        assert_near(chances[k], made[0].chance(Pair(*(i[k] for i in inputs))))  # type: ignore[operator]


@every
def test_a_member_that_diverged_does_not_disturb_the_others(name: str) -> None:
    alignment = build(name)
    pair = make_pair()

    def run(other: float) -> tuple[Tensor, Tensor]:
        x = torch.stack([pair.x, torch.full_like(pair.x, other)]).requires_grad_()
        both = vmap(lambda v: alignment(pair._replace(x=v)))(x)
        return both, gradients(both.sum(), [x])[0]

    (healthy, g), (beside_nan, h) = run(1.0), run(float("nan"))
    assert torch.equal(healthy[0], beside_nan[0]) and torch.equal(g[0], h[0])
    assert torch.isnan(beside_nan[1]), "divergence must show, not pass for a constant feature"


@every
def test_chance_has_no_gradient(name: str) -> None:
    pair = make_pair()
    pair = pair._replace(x=pair.x.requires_grad_(), y=pair.y.requires_grad_())
    chance = build(name).chance(pair)
    assert chance.shape == () and chance > 0 and not chance.requires_grad


@pytest.mark.parametrize("name", SHARED)
def test_shared_unmet_is_about_chance_and_met_far_below(name: str) -> None:
    alignment = trained_or_not(name, lambda seed: apart(name, seed))
    unmet = apart(name, seed=1000)
    assert 0.5 < alignment(unmet) / alignment.chance(unmet) < 2.1
    alignment = trained_or_not(name, lambda seed: together(name, seed))
    met = together(name, seed=1000)
    assert alignment(met) / alignment.chance(met) < (0.65 if "entropy" in NEEDS[name] else 0.15)


def apart(name: str, seed: int, rows: int = 64, dim: int = 16) -> Pair:
    """Return modalities with nothing in common: other directions, other means, no dependence."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, dim, generator=g), torch.randn(rows, dim, generator=g)
    labels, joint = torch.randn(rows, generator=g), torch.randn(rows, 5, generator=g)
    first = (torch.arange(dim) < dim // 2).float()
    gap = 0 if "common mean" in NEEDS[name] else 4
    return Pair((x + gap) * first, (y + gap) * (1 - first), torch.ones(rows, dtype=torch.bool), labels, joint)


def together(name: str, seed: int, rows: int = 64, dim: int = 16) -> Pair:
    """Return modalities that are equal, to each other and to what is fused; where labels decide, they follow them."""
    g = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(rows, dim, generator=g), torch.randn(rows, generator=g)
    if "labels" in NEEDS[name]:  # two samples per direction, with a label of their own
        x = torch.cat([torch.eye(dim), -torch.eye(dim)]).repeat(rows // (2 * dim), 1)
        labels = 10.0 * torch.arange(2 * dim).repeat(rows // (2 * dim))
    return Pair(x, x, torch.ones(rows, dtype=torch.bool), labels, x)


def trained_or_not(name: str, draw: Callable[[int], Pair]) -> Alignment:
    """Return the alignment; where it must learn first, with parameters of its own trained on other batches."""
    alignment = build(name, 16)
    if "training" in NEEDS[name]:
        optimizer = torch.optim.Adam(alignment.parameters(), 1e-2)
        for seed in range(300):
            optimizer.zero_grad()
            alignment(draw(seed)).backward()
            optimizer.step()
    return alignment


def test_needs_are_known_and_those_with_parameters_say_so() -> None:
    assert {n for n in NAMES if any(True for _ in build(n).parameters())} == {
        n for n in NAMES if "training" in NEEDS[n]
    }
    assert set().union(*NEEDS.values()) == set(get_args(Need))


@pytest.mark.parametrize("name", PRIVATE)
def test_private_identical_is_chance_and_nothing_is_above_it(name: str) -> None:
    alignment = build(name)
    pair = make_pair()
    same = pair._replace(y=pair.x)
    torch.testing.assert_close(alignment(same), alignment.chance(same), rtol=1e-4, atol=0)
    for scale in (1e-2, 1.0, 1e2):
        scaled = pair._replace(x=pair.x * scale)
        assert 0 <= alignment(scaled) <= alignment.chance(scaled) * 1.0001
        torch.testing.assert_close(alignment(scaled), alignment(pair), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", [n for n in NAMES if not registry.load("alignment", n).equal_dims])
def test_widths_may_differ(name: str) -> None:
    pair = make_pair()
    alignment = registry.build("alignment", name, DIM, 4)
    loss, gx, gy = with_gradient(alignment, pair._replace(y=pair.y[:, :4]))
    assert torch.isfinite(loss) and gx.any() and gy.any()


@every
def test_weight_0_is_the_same_as_absent(name: str) -> None:
    pair = make_pair()
    x = pair.x.clone().requires_grad_()
    alignment = build(name)
    moved = pair._replace(x=x)
    with_it = x.square().mean() + torch.zeros(()) * alignment(moved) / alignment.chance(moved)
    (g,) = torch.autograd.grad(with_it, [x])
    (expected,) = torch.autograd.grad(x.square().mean(), [x])
    assert torch.equal(g, expected)


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("alignment", name, DIM, DIM)


@every
def test_state_round_trip(name: str) -> None:
    one, other = build(name, DIM, **float_settings("alignment", name, 2)), build(name)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(make_pair()), other(make_pair()))


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("alignment", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200
