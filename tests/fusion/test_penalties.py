"""The losses that fusions have of their own, against loops, closed forms, and a short training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmsa_core.fusion.cross_prediction import CrossPrediction, info_nce
from mmsa_core.fusion.misa import MISA, discrepancy, error, overlap
from mmsa_core.plugin import RegularizedFusion

ROWS = 12
VALID = torch.arange(ROWS) % 4 != 1
ALL = torch.ones(ROWS, dtype=torch.bool)


def make(dim: int, seed: int = 0) -> Tensor:
    """Return bounded rows, as sigmoids are; those that are not valid are NaN."""
    rows = torch.rand(ROWS, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(VALID[:, None], rows, torch.nan)


def make_parts(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return parts that a common cause relates, and their availability; what is missing is NaN."""
    g = torch.Generator().manual_seed(seed)
    cause, maps = (torch.randn(*size, 4, generator=g, dtype=torch.float64) for size in ((ROWS * 4,), (3, 4)))
    parts = torch.einsum("bi,mij->bmj", cause, maps).relu()
    available = torch.rand(ROWS * 4, 3, generator=g) < 0.8
    return torch.where(available[:, :, None], parts, torch.nan), available


def test_discrepancy_is_the_loop_over_moments() -> None:
    x, y = make(3), make(3, seed=1)
    a, b = x[VALID].numpy(), y[VALID].numpy()
    gap = chance = 0.0
    for k in range(1, 6):
        mine, theirs = (v.mean(0) if k == 1 else ((v - v.mean(0)) ** k).mean(0) for v in (a, b))
        gap += math.sqrt(((mine - theirs) ** 2).sum())
        chance += math.sqrt((mine**2).sum() + (theirs**2).sum())
    assert discrepancy(x, y, VALID).item() == pytest.approx(gap / chance, rel=1e-9)
    assert discrepancy(x, x, VALID) == 0


def test_a_shift_costs_its_length_and_nothing_else() -> None:
    """reference/methods.md 11: CMD of a shift by c in every dimension is c sqrt(d); here over the chance value."""
    x = make(3)
    chance = discrepancy(x, x + 0.2, VALID) ** -1 * 0.2 * math.sqrt(3)
    moments = [(x[VALID] - x[VALID].mean(0)).pow(k).mean(0) for k in range(2, 6)]
    mean = x[VALID].mean(0)
    expected = (mean.square().sum() + (mean + 0.2).square().sum()).sqrt() + sum(
        math.sqrt(2) * m.norm() for m in moments
    )
    torch.testing.assert_close(chance, expected)


def test_overlap_is_the_loop_and_between_0_and_1() -> None:
    x, y = make(3), make(3, seed=1)
    rows = []
    for v in (x, y):
        centred = v[VALID].numpy() - v[VALID].numpy().mean(0)
        rows.append(centred / np.sqrt((centred**2).sum(1, keepdims=True)))

    def square(a: int, b: int) -> float:
        total = 0.0
        for i, j in itertools.product(range(rows[a].shape[1]), range(rows[b].shape[1])):
            total += float(sum(p * q for p, q in zip(rows[a][:, i], rows[b][:, j], strict=True))) ** 2
        return total

    assert overlap(x, y, VALID).item() == pytest.approx(square(0, 1) / math.sqrt(square(0, 0) * square(1, 1)), rel=1e-9)
    assert overlap(x, x, VALID).item() == pytest.approx(1)
    assert overlap(x, 3 * x, VALID).item() == pytest.approx(1)
    apart = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(3, 1).double()
    assert overlap(apart[:, :1], apart[:, 1:], ALL).item() == pytest.approx(0)


@pytest.mark.parametrize("term", [discrepancy, overlap])
def test_what_a_term_is_divided_by_has_no_gradient(term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A chance value with a gradient would reward making it large. Central differences stand for gradients."""
    x, y = make(3).nan_to_num(), make(3, seed=1).nan_to_num()
    moved = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(term(moved, y, VALID), [moved])
    raw, chance = parts_of(term, x, y)
    step = 1e-6
    for n, i in ((0, 0), (2, 1), (7, 2)):
        up, down = x.clone(), x.clone()
        up[n, i] += step
        down[n, i] -= step
        expected = (parts_of(term, up, y)[0] - parts_of(term, down, y)[0]) / (2 * step) / chance
        assert g[n, i].item() == pytest.approx(expected, rel=1e-5)
    assert term(x, y, VALID).item() == pytest.approx(raw / chance)


def parts_of(term: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return a term before it is divided, and what it is divided by."""
    a, b = x[VALID], y[VALID]
    a_centred, b_centred = a - a.mean(0), b - b.mean(0)
    if term is overlap:
        u, v = (nn.functional.normalize(r, dim=1) for r in (a_centred, b_centred))
        return (u.T @ v).square().sum().item(), ((u.T @ u).norm() * (v.T @ v).norm()).item()
    moments = [(a.mean(0), b.mean(0)), *((a_centred.pow(k).mean(0), b_centred.pow(k).mean(0)) for k in range(2, 6))]
    return (
        sum((m - n).norm().item() for m, n in moments),
        sum((m.square().sum() + n.square().sum()).sqrt().item() for m, n in moments),
    )


def test_rounding_of_constant_vectors_is_not_taken_for_a_signal() -> None:
    constant = torch.linspace(0.1, 0.9, 5).expand(37, 5).clone().requires_grad_()
    assert (constant - constant.mean(0)).any()
    varied = torch.rand(37, 5, generator=torch.Generator().manual_seed(0))
    loss = overlap(constant, varied, torch.ones(37, dtype=torch.bool))
    (g,) = torch.autograd.grad(loss, [constant])
    assert loss == 0 and not g.any()


def test_error_is_the_mean_over_valid_rows() -> None:
    x, y = make(3), make(3, seed=1)
    expected = np.mean([(x[n, i] - y[n, i]).item() ** 2 for n in range(ROWS) if VALID[n] for i in range(3)])
    assert error(x, y, VALID).item() == pytest.approx(expected)


def test_misas_penalty_is_its_terms_over_the_rows_that_have_them() -> None:
    torch.manual_seed(0)
    fusion = MISA(3, 4, hidden=3, similar=0.25, different=0.125, reconstruct=0.75).double()
    parts, available = make_parts()
    target = nn.functional.layer_norm(parts, (4,))
    shared = torch.sigmoid(fusion.shared(target))
    private = [torch.sigmoid(fusion.private[m](target[:, m])) for m in range(3)]
    similar, different, errors = [], [], []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = available[:, i] & available[:, j]
        everything = torch.ones(int(both.sum()), dtype=torch.bool)
        similar.append(discrepancy(shared[both, i], shared[both, j], everything))
        different.append(overlap(private[i][both], private[j][both], everything))
    for m in range(3):
        own = available[:, m]
        s, p = shared[own, m], private[m][own]
        different.append(overlap(s, p, torch.ones(len(s), dtype=torch.bool)))
        errors.append((fusion.decoders[m](s + p) - target[own, m]).square().mean())
    expected = 0.25 * sum(similar) / 3 + 0.125 * sum(different) / 6 + 0.75 * sum(errors) / 3
    torch.testing.assert_close(fusion.penalty(parts, available), expected)


def test_misa_reconstructs_what_does_not_move_and_1_is_what_nothing_costs() -> None:
    parts, available = make_parts()
    parts = parts.nan_to_num().requires_grad_()
    fusion = MISA(3, 4, similar=0.0, different=0.0, reconstruct=1.0).double()
    for layer in (fusion.shared, *fusion.private):
        nn.init.zeros_(layer.weight)  # what is decoded does not depend on the parts
    (g,) = torch.autograd.grad(fusion.penalty(parts, available), [parts])
    assert not g.any()
    for layer in fusion.decoders:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    dense = torch.rand_like(parts) + torch.arange(4)  # no row is constant
    assert fusion.penalty(dense, available).item() == pytest.approx(1, abs=1e-3)


def test_misa_of_one_modality_compares_its_own_halves() -> None:
    parts, available = make_parts()
    parts, available = parts[:, :1], available[:, :1]
    fusion = MISA(1, 4, similar=1.0, different=0.0, reconstruct=0.0).double()
    assert fusion.penalty(parts, available) == 0
    fusion = MISA(1, 4, hidden=4, similar=0.0, different=1.0, reconstruct=0.0).double()
    fusion.private[0].load_state_dict(fusion.shared.state_dict())
    assert fusion.penalty(parts, available).item() == pytest.approx(1)


def test_info_nce_is_the_loop() -> None:
    x, y, temperature = make(3), make(3, seed=1), torch.tensor(0.3, dtype=torch.float64)
    there = [n for n in range(ROWS) if VALID[n]]
    a, b = (v.numpy() / np.sqrt((v.numpy() ** 2).sum(1, keepdims=True)) for v in (x, y))
    total = 0.0
    for n in there:
        forth = sum(math.exp(a[n] @ b[k] / 0.3) for k in there)
        back = sum(math.exp(a[k] @ b[n] / 0.3) for k in there)
        total -= (2 * (a[n] @ b[n]) / 0.3 - math.log(forth) - math.log(back)) / 2
    expected = total / len(there) / math.log(len(there))
    assert info_nce(x, y, VALID, temperature).item() == pytest.approx(expected)


def test_info_nce_of_a_guess_is_1_and_of_a_perfect_match_almost_0() -> None:
    """reference/methods.md 7(e) and 8(e): log n on constants; log(1 + (n - 1) e^(-1 / tau)) on orthonormal matches."""
    tau = torch.tensor(0.1, dtype=torch.float64)
    constant, match = torch.full((ROWS, 3), 0.7).double(), torch.eye(ROWS).double()
    assert info_nce(constant, -2 * constant, ALL, tau).item() == pytest.approx(1)
    expected = math.log(1 + (ROWS - 1) * math.exp(-10)) / math.log(ROWS)
    assert info_nce(match, 5 * match, ALL, tau).item() == pytest.approx(expected)


def test_cross_predictions_penalty_is_the_mean_over_directions() -> None:
    torch.manual_seed(0)
    fusion = CrossPrediction(3, 4, weight=0.5, temperature=0.25).double()
    parts, available = make_parts()
    losses = []
    for (i, j), predictor in zip(fusion.directions, fusion.predictors, strict=True):
        both = available[:, i] & available[:, j]
        guess, everything = predictor(parts[both, i]), torch.ones(int(both.sum()), dtype=torch.bool)
        losses.append(info_nce(guess, parts[both, j], everything, torch.tensor(0.25, dtype=torch.float64)))
    torch.testing.assert_close(fusion.penalty(parts, available), 0.5 * sum(losses) / 6)
    assert CrossPrediction(1, 4).double().penalty(parts[:, :1], available[:, :1]) == 0


def test_cross_predictions_targets_get_no_gradient() -> None:
    parts, available = make_parts()
    parts = parts.nan_to_num().requires_grad_()
    fusion = CrossPrediction(3, 4).double()
    for (_, j), predictor in zip(fusion.directions, fusion.predictors, strict=True):
        if j != 0:  # only the first modality is predicted from what the parts hold
            nn.init.zeros_(predictor[0].weight)
    (g,) = torch.autograd.grad(fusion.penalty(parts, available), [parts])
    assert not g[:, 0].any() and g[:, 1].any() and g[:, 2].any()


@pytest.mark.parametrize(
    ("make_fusion", "share"),
    [(lambda: CrossPrediction(3, 4, weight=1.0), 0.5), (lambda: MISA(3, 4, similar=1.0, different=1.0), 0.5)],
    ids=["cross_prediction", "misa"],
)
def test_penalties_can_be_learned(make_fusion: Callable[[], RegularizedFusion], share: float) -> None:
    torch.manual_seed(0)
    fusion = make_fusion().double()
    parts, available = make_parts()
    before = fusion.penalty(parts, available).item()
    steps = torch.optim.Adam(fusion.parameters(), lr=0.01)
    for _ in range(150):
        steps.zero_grad()
        fusion.penalty(parts, available).backward()
        steps.step()
    assert fusion.penalty(parts, available).item() < share * before


def test_predictions_point_to_what_is_missing() -> None:
    torch.manual_seed(0)
    fusion = CrossPrediction(3, 4, weight=1.0).double()
    parts, available = make_parts()
    steps = torch.optim.Adam(fusion.parameters(), lr=0.01)

    def agreement() -> float:
        """Return the mean cosine of text with what fills it in where it is hidden."""
        hidden = torch.tensor([[False, True, True]]) & available
        wanted = available[:, 0] & hidden.any(1)
        filled = fusion(parts, hidden)[:, :4]
        return nn.functional.cosine_similarity(filled[wanted], parts[wanted, 0]).mean().item()

    before = agreement()
    for _ in range(150):
        steps.zero_grad()
        fusion.penalty(parts, available).backward()
        steps.step()
    assert agreement() > max(0.7, before + 0.2)
