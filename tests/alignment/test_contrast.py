"""Losses that pick a row's partner, or rows of like label, out of candidates: loops, closed forms and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.tensors import Pair
from tests.alignment.pairs import Array, as_pair, build, chance, cosine, log_softmax_at, make, slopes, value

LABELS = np.array([-3.0, -1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 2.0, 2.5, 3.0])


# contrastive with soft negatives


def softened_loop(x: Array, y: Array, labels: Array, temperature: float, soften: float) -> float:
    """InfoNCE from x to y whose negatives weigh by the distance of their labels."""
    total = 0.0
    for i, a in enumerate(x):
        weights = [1.0 if i == j else 1 - math.exp(-abs(labels[i] - labels[j]) / soften) for j in range(len(y))]
        terms = [w * math.exp(cosine(a, b) / temperature) for w, b in zip(weights, y, strict=True)]
        total -= math.log(terms[i] / sum(terms))
    return total / len(x)


@pytest.mark.parametrize("soften", [0.1, 1.0, 3.0])
def test_soft_negatives_are_the_loop(soften: float) -> None:
    x, y = make()
    alignment = build("contrastive", 4, temperature=0.3, soften=soften)
    expected = (softened_loop(x, y, LABELS, 0.3, soften) + softened_loop(y, x, LABELS, 0.3, soften)) / 2
    assert value(alignment, x, y, LABELS) == pytest.approx(expected, rel=1e-7)


def test_soften_0_is_bit_for_bit_what_knows_no_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, 8, generator=draws).requires_grad_() for _ in range(2))
    pair = Pair(x, y, torch.ones(20, dtype=torch.bool), torch.randn(20, generator=draws).round(), torch.zeros(20, 1))
    alignment = build("contrastive", 8).float()
    lengths = [v.square().sum(1, keepdim=True).rsqrt() * v for v in (x, y)]
    logits = lengths[0] @ lengths[1].T / 0.1
    plain = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).sum() / 40
    assert torch.equal(alignment(pair), plain)
    mine, theirs = (torch.autograd.grad(loss, [x, y]) for loss in (alignment(pair), plain))
    assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert torch.equal(alignment.chance(pair), torch.tensor(20.0).log())


def test_soften_near_0_spares_equal_labels_alone() -> None:
    x, y = make()
    nothing = build("contrastive", 4, soften=1e-9)
    assert value(nothing, x, y, np.arange(11.0)) == pytest.approx(value(build("contrastive", 4), x, y), rel=1e-9)
    assert value(nothing, x, y, LABELS) < value(build("contrastive", 4), x, y)


def test_soften_lowers_the_loss_the_more_the_larger_it_is() -> None:
    x, y = make()
    found = [value(build("contrastive", 4, soften=s), x, y, LABELS) for s in (0.0, 0.1, 0.5, 1.0, 3.0)]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]


@pytest.mark.parametrize("soften", [0.1, 1.0, 3.0])
def test_chance_with_soft_negatives_is_the_loss_on_constant_features(soften: float) -> None:
    alignment = build("contrastive", 4, soften=soften)
    constant = np.full((11, 4), 1.5)
    assert chance(alignment, *make(), LABELS) == pytest.approx(value(alignment, constant, constant, LABELS), rel=1e-12)
    assert chance(alignment, *make(), LABELS) < math.log(11)


def test_equal_labels_leave_nothing_to_tell_apart() -> None:
    x, y = make()
    alignment, same = build("contrastive", 4, soften=0.5), np.full(11, 2.0)
    assert value(alignment, x, y, same) == 0 and chance(alignment, x, y, same) == pytest.approx(math.log(2))
    assert not any(g.any() for g in slopes(alignment, as_pair(x, y, same)))


def test_soften_must_not_be_negative() -> None:
    with pytest.raises(
        UserError, match=r"contrastive\.soften: must be 0 \(all negatives count alike\) or more, got -1"
    ):
        build("contrastive", 4, soften=-1.0)


# intra_contrastive


def nt_xent_loop(own: Array, other: Array, temperature: float) -> float:
    """The partner of each row of ``own`` among all of ``other`` and the rest of ``own``."""
    total = 0.0
    for i, a in enumerate(own):
        across = [cosine(a, b) / temperature for b in other]
        within = [cosine(a, c) / temperature for j, c in enumerate(own) if j != i]
        assert len(across + within) == 2 * len(own) - 1
        total -= log_softmax_at(across + within, i)
    return total / len(own)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_intra_contrastive_is_the_loop(temperature: float) -> None:
    x, y = make()
    expected = (nt_xent_loop(x, y, temperature) + nt_xent_loop(y, x, temperature)) / 2
    assert value(build("intra_contrastive", 4, temperature=temperature), x, y) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("rows", [2, 11])
def test_intra_contrastive_collapsed_is_the_log_of_all_candidates(rows: int) -> None:
    """reference/methods.md 8e: log(2 B - 1)."""
    x = np.full((rows, 4), 1.5)
    alignment = build("intra_contrastive", 4)
    assert value(alignment, x, 2 * x) == pytest.approx(math.log(2 * rows - 1), rel=1e-12)
    assert chance(alignment, x, x) == pytest.approx(math.log(2 * rows - 1), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_intra_contrastive_with_orthonormal_partners(temperature: float) -> None:
    """reference/methods.md 8e: log(1 + (2 B - 2) exp(-1 / temperature))."""
    expected = math.log(1 + 6 * math.exp(-1 / temperature))
    alignment = build("intra_contrastive", 4, temperature=temperature)
    assert value(alignment, np.eye(4), 3 * np.eye(4)) == pytest.approx(expected, rel=1e-6)


def test_intra_contrastive_does_not_rest_while_the_modalities_lie_apart() -> None:
    """Partners are each other's nearest across, yet every row resembles its own modality more."""
    x = np.hstack([0.1 * np.eye(4), np.ones((4, 1)), np.zeros((4, 1))])
    y = np.hstack([0.1 * np.eye(4), np.zeros((4, 1)), np.ones((4, 1))])
    over = {n: value(build(n, 6), x, y) / chance(build(n, 6), x, y) for n in ("contrastive", "intra_contrastive")}
    assert over["contrastive"] < 1 and over["intra_contrastive"] > 5


# sentiment_contrastive


def graded_loop(x: Array, y: Array, labels: Array, temperature: float, scale: float) -> float:
    total = 0.0
    for i, a in enumerate(x):
        others = [j for j in range(len(y)) if j != i]
        kernel = np.array([math.exp(-abs(labels[i] - labels[j]) / scale) for j in others])
        logits = [cosine(a, y[j]) / temperature for j in others]
        total -= sum(k * log_softmax_at(logits, at) for at, k in enumerate(kernel / kernel.sum()))
    return total / len(x)


@pytest.mark.parametrize(("temperature", "scale"), [(0.1, 0.5), (1.0, 2.0)])
def test_sentiment_contrastive_is_the_loop(temperature: float, scale: float) -> None:
    x, y = make()
    alignment = build("sentiment_contrastive", 4, temperature=temperature, scale=scale)
    loops = (graded_loop(a, b, LABELS, temperature, scale) for a, b in ((x, y), (y, x)))
    assert value(alignment, x, y, LABELS) == pytest.approx(sum(loops) / 2, rel=1e-7)


def test_sentiment_contrastive_of_a_wide_scale_and_uniform_similarities_is_the_log_of_the_others() -> None:
    """reference/methods.md 7e: log(B - 1); with similarities alike the targets do not matter."""
    constant = np.full((11, 4), 2.0)
    for scale in (1e9, 0.5):
        alignment = build("sentiment_contrastive", 4, scale=scale)
        assert value(alignment, constant, constant, LABELS) == pytest.approx(math.log(10), rel=1e-12)
        assert chance(alignment, *make(), LABELS) == pytest.approx(math.log(10), rel=1e-12)


def test_sentiment_contrastive_sees_differences_of_labels_alone() -> None:
    x, y = make()
    alignment = build("sentiment_contrastive", 4)
    expected = value(alignment, x, y, LABELS)
    assert value(alignment, x, y, LABELS + 17) == pytest.approx(expected, rel=1e-12)
    assert value(alignment, x, y, -LABELS) == pytest.approx(expected, rel=1e-12)
    assert value(build("sentiment_contrastive", 4, scale=1.0), x, y, 2 * LABELS) == pytest.approx(expected, rel=1e-12)


def supervised_loop(x: Array, y: Array, labels: Array, temperature: float) -> float:
    """Khosla et al., NeurIPS 2020, arXiv:2004.11362, eq. 2, from x to y: the mean over the rows of the same label."""
    total = 0.0
    for i, a in enumerate(x):
        others = [j for j in range(len(y)) if j != i]
        logits = [cosine(a, y[j]) / temperature for j in others]
        alike = [at for at, j in enumerate(others) if labels[i] == labels[j]]
        total -= float(np.mean([log_softmax_at(logits, at) for at in alike]))
    return total / len(x)


def test_sentiment_contrastive_of_a_narrow_scale_is_supervised_contrast() -> None:
    x, y = make(rows=9)
    labels = np.array([-1.0, -1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 3.0, 3.0])
    alignment = build("sentiment_contrastive", 4, temperature=0.2, scale=1e-3)
    expected = (supervised_loop(x, y, labels, 0.2) + supervised_loop(y, x, labels, 0.2)) / 2
    assert value(alignment, x, y, labels) == pytest.approx(expected, rel=1e-7)


def test_sentiment_contrastive_of_two_rows_has_nothing_to_choose() -> None:
    x, y = make(rows=2)
    assert value(build("sentiment_contrastive", 4), x, y) == 0


def test_scale_must_be_above_0() -> None:
    with pytest.raises(UserError, match=r"sentiment_contrastive\.scale: must be above 0, got 0"):
        build("sentiment_contrastive", 4, scale=0.0)


# cross_prediction


def predicted(network: nn.Module, values: Array) -> Array:
    first, _, second = network.children()
    w1, b1, w2, b2 = (p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    hidden = np.array([[max(0.0, float(w @ row + b)) for w, b in zip(w1, b1, strict=True)] for row in values])
    result: Array = hidden @ w2.T + b2
    return result


def partner_loop(a: Array, b: Array, temperature: float) -> float:
    """Symmetric InfoNCE."""
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i, row in enumerate(one):
            total -= log_softmax_at([cosine(row, c) / temperature for c in other], i)
    return total / (2 * len(a))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_cross_prediction_is_the_loop(temperature: float) -> None:
    x, y = make(dim_y=3)
    alignment = build("cross_prediction", 4, 3, temperature=temperature, hidden=6)
    to_y, to_x = (n for n in alignment.children())
    expected = partner_loop(predicted(to_y, x), y, temperature) + partner_loop(predicted(to_x, y), x, temperature)
    assert value(alignment, x, y) == pytest.approx(expected / 2, rel=1e-7)


def silenced(network: nn.Module) -> Tensor:
    """Make a network say the same of every row; return the weight that did it."""
    weight = list(network.parameters())[2]
    nn.init.zeros_(weight)
    return weight


@pytest.mark.parametrize("target", ["x", "y"])
def test_cross_prediction_has_no_gradient_into_the_target(target: str) -> None:
    """With the network that reads the target silenced, whatever reached it would come through its own branch."""
    alignment = build("cross_prediction", 4, 3)
    to_y, to_x = alignment.children()
    silenced(to_x if target == "y" else to_y)
    gx, gy, _ = slopes(alignment, as_pair(*make(dim_y=3)))
    still, moved = (gy, gx) if target == "y" else (gx, gy)
    assert not still.any() and (moved.abs().sum(1) > 0).all()


def test_cross_prediction_on_constant_features_is_log_n() -> None:
    """reference/methods.md 7e."""
    x = np.full((11, 4), 1.5)
    alignment = build("cross_prediction", 4)
    assert value(alignment, x, -2 * x) == pytest.approx(math.log(11), rel=1e-12)
    assert chance(alignment, x, x) == pytest.approx(math.log(11), rel=1e-12)
