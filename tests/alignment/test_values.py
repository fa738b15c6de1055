"""Every alignment against a slow, obvious loop or a closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.func import vmap

from mmsa_core import registry
from mmsa_core.alignment._logm import divided_differences, log_matrix
from mmsa_core.tensors import Pair
from tests.alignment.pairs import Array, as_pair, build, chance, make, orthogonal_matrix, value

PAIRING_BLIND = ("cmd", "coral", "coral_private", "log_coral", "mmd")
PAIRED = (
    "barlow",
    "cka",
    "contrastive",
    "cross_correlation",
    "cross_prediction",
    "hsic",
    "inter_alignment",
    "intra_contrastive",
    "orthogonal",
    "related_pairs",
    "relational",
    "sentiment_contrastive",
    "vicreg",
)


def test_the_lists_here_cover_every_alignment() -> None:
    assert sorted((*PAIRING_BLIND, *PAIRED)) == list(registry.names("alignment"))


# what an alignment can and cannot see


@pytest.mark.parametrize("name", PAIRING_BLIND)
def test_blind_to_pairing(name: str) -> None:
    x, y = make()
    alignment = build(name, 4)
    assert value(alignment, x, np.roll(y, 3, 0)) == pytest.approx(value(alignment, x, y), rel=1e-9)


@pytest.mark.parametrize("name", PAIRED)
def test_sees_pairing(name: str) -> None:
    x, y = make()
    alignment = build(name, 4)
    assert value(alignment, x, np.roll(y, 3, 0)) != pytest.approx(value(alignment, x, y), rel=1e-3)


@pytest.mark.parametrize("name", ["barlow", "cka", "vicreg"])
def test_chance_is_the_mean_over_all_pairings(name: str) -> None:
    x, y = make(rows=5, dim_x=3, dim_y=3)
    alignment = build(name, 3)
    mean = np.mean([value(alignment, x, y[list(order)]) for order in itertools.permutations(range(5))])
    assert chance(alignment, x, y) == pytest.approx(mean, rel=1e-9)


def test_barlow_chance_leaves_constant_columns_out() -> None:
    x, y = make(rows=5, dim_x=3, dim_y=3)
    x[:, 1] = 2.0
    y[:, 0] = -1.0
    alignment = build("barlow", 3)
    mean = np.mean([value(alignment, x, y[list(order)]) for order in itertools.permutations(range(5))])
    assert chance(alignment, x, y) == pytest.approx(mean, rel=1e-9)


# coral and its relatives


def test_coral_is_the_distance_of_numpy_covariances() -> None:
    x, y = make()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((cx - cy) ** 2).sum() / (4 * 4**2)
    assert value(build("coral", 4), x, y) == pytest.approx(expected, rel=1e-12)
    assert chance(build("coral", 4), x, y) == pytest.approx(((cx**2).sum() + (cy**2).sum()) / 64, rel=1e-12)


def test_coral_gradient_is_the_analytic_one() -> None:
    """reference/base_model.md 1.5: dL/dM_i = H M_i (C_i - C_j) / (d^2 (n - 1)), with the other sign for M_j."""
    x, y = make()
    n, d = x.shape
    pair = as_pair(x, y)
    tx, ty = pair.x.requires_grad_(), pair.y.requires_grad_()
    gx, gy = torch.autograd.grad(build("coral", d)(pair), [tx, ty])
    h = np.eye(n) - 1 / n
    gap = np.cov(x, rowvar=False) - np.cov(y, rowvar=False)
    np.testing.assert_allclose(gx.numpy(), h @ x @ gap / (d**2 * (n - 1)), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(gy.numpy(), -h @ y @ gap / (d**2 * (n - 1)), rtol=1e-9, atol=1e-14)


def test_coral_is_blind_to_means_and_minimal_at_collapse() -> None:
    x, y = make()
    alignment = build("coral", 4)
    assert value(alignment, x + 5, y - 3) == pytest.approx(value(alignment, x, y), rel=1e-9)
    assert value(alignment, x * 0, y * 0) == 0


def test_repulsion_is_unbounded_with_coral_and_bounded_with_its_private_form() -> None:
    x, y = make()
    assert value(build("coral", 4), x * 100, y) > 1e6 * value(build("coral", 4), x, y)
    assert value(build("coral_private", 4), x * 100, y) == pytest.approx(value(build("coral_private", 4), x, y))


def test_coral_private_is_the_cosine_of_covariances() -> None:
    x, y = make()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = np.trace(cx @ cy) / np.linalg.norm(cx) / np.linalg.norm(cy)
    assert value(build("coral_private", 4), x, y) == pytest.approx(expected, rel=1e-12)
    left, right = x * [1, 1, 0, 0], y * [0, 0, 1, 1]
    assert value(build("coral_private", 4), left, right) == pytest.approx(0, abs=1e-12)


def log_of(covariance: Array, eps: float) -> Array:
    values, vectors = np.linalg.eigh(covariance + eps * np.eye(len(covariance)))
    result: Array = vectors @ np.diag(np.log(values)) @ vectors.T
    return result


@pytest.mark.parametrize("rows", [11, 3])
def test_log_coral_is_the_distance_of_logarithms(rows: int) -> None:
    x, y = make(rows)
    lx, ly = (log_of(np.cov(v, rowvar=False), 1e-2) for v in (x, y))
    alignment = build("log_coral", 4, eps=1e-2)
    assert value(alignment, x, y) == pytest.approx(((lx - ly) ** 2).sum() / 64, rel=1e-6)
    rotations = [orthogonal_matrix(4, seed) for seed in range(4000)]
    mean = np.mean([((lx - q @ ly @ q.T) ** 2).sum() / 64 for q in rotations])
    assert chance(alignment, x, y) == pytest.approx(mean, rel=0.03)


def test_log_matrix_gradient_holds_where_eigenvalues_coincide() -> None:
    """Against central differences, at a matrix with a threefold eigenvalue and a direction that splits it."""
    rng = np.random.default_rng(2)
    q = orthogonal_matrix(4)
    matrix = q @ np.diag([0.5, 0.5, 0.5, 2.0]) @ q.T
    weight, direction = (v + v.T for v in rng.normal(size=(2, 4, 4)))
    m = torch.tensor(matrix, requires_grad=True)
    eps = torch.tensor(1e-3, dtype=torch.float64)
    (g,) = torch.autograd.grad((log_matrix(m, eps) * torch.tensor(weight)).sum(), [m])
    step = 1e-5
    up, down = (log_of(matrix + s * step * direction, 1e-3) for s in (1, -1))
    expected = ((up - down) * weight).sum() / (2 * step)
    assert float((g * torch.tensor(direction)).sum()) == pytest.approx(expected, rel=1e-6)


def test_log_matrix_is_finite_for_covariances_with_zero_columns() -> None:
    draws = torch.Generator().manual_seed(0)
    for _ in range(1000):
        values = torch.randn(16, 32, generator=draws).relu()
        values[:, torch.rand(32, generator=draws) < torch.rand(1, generator=draws)] = 0
        centred = values - values.mean(0)
        assert log_matrix(centred.T @ centred / 15, torch.tensor(1e-3)).isfinite().all()


def test_divided_differences_are_exact_at_every_distance() -> None:
    values = torch.tensor([1e-6, 1.0, 1.0, 1.0 + 1e-7, 1.09, 1.3, 50.0], dtype=torch.float64)
    found = divided_differences(values).numpy()
    for i, j in itertools.product(range(len(values)), repeat=2):
        a, b = float(values[i]), float(values[j])
        expected = 1 / a if a == b else math.log1p((a - b) / b) / (a - b)
        assert found[i, j] == pytest.approx(expected, rel=1e-7)


def test_log_coral_is_nan_for_a_diverged_member_and_says_so_for_it_alone() -> None:
    x, y = make()
    pair = as_pair(x, y)
    both = torch.stack([pair.x, torch.full_like(pair.x, torch.nan)])
    alignment = build("log_coral", 4)
    found = vmap(lambda v: alignment(pair._replace(x=v)))(both)
    assert float(found[0]) == pytest.approx(value(alignment, x, y)) and torch.isnan(found[1])


# distributions


@pytest.mark.parametrize(("kernels", "bandwidth"), [(5, 1.0), (1, 0.5), (3, 2.0)])
def test_mmd_is_the_loop(kernels: int, bandwidth: float) -> None:
    x, y = make(rows=6)
    pooled = np.concatenate([x, y])
    distances = [[float(((a - b) ** 2).sum()) for b in pooled] for a in pooled]
    base = bandwidth * np.sum(distances) / (12 * 11)

    def k(i: int, j: int) -> float:
        widths = [base * 2.0 ** (p - kernels // 2) for p in range(kernels)]
        return float(np.mean([math.exp(-distances[i][j] / w) for w in widths]))

    def mean(first: range, second: range) -> float:
        return float(np.mean([k(i, j) for i in first for j in second]))

    one, two = range(6), range(6, 12)
    alignment = build("mmd", 4, kernels=kernels, bandwidth=bandwidth)
    expected = mean(one, one) + mean(two, two) - 2 * mean(one, two)
    assert value(alignment, x, y) == pytest.approx(expected, rel=1e-9)
    assert chance(alignment, x, y) == pytest.approx(mean(one, one) + mean(two, two), rel=1e-9)


def test_mmd_is_0_for_equal_samples_and_free_of_scale_and_place() -> None:
    x, y = make()
    alignment = build("mmd", 4)
    assert value(alignment, x, x[::-1].copy()) == pytest.approx(0, abs=1e-12)
    assert value(alignment, 7 * x + 3, 7 * y + 3) == pytest.approx(value(alignment, x, y), rel=1e-9)


@pytest.mark.parametrize("shift", [0.3, -2.0])
def test_cmd_of_a_shift_is_c_sqrt_d(shift: float) -> None:
    """reference/methods.md 11: a shift by c costs exactly c sqrt(d)."""
    x, _ = make()
    assert value(build("cmd", 4), x + shift, x) == pytest.approx(abs(shift) * math.sqrt(4), rel=1e-9)


@pytest.mark.parametrize("moments", [1, 2, 5])
def test_cmd_is_the_loop(moments: int) -> None:
    x, y = make()
    expected = float(np.linalg.norm(x.mean(0) - y.mean(0)))
    for k in range(2, moments + 1):
        gaps = [
            np.mean([(r[j] - x[:, j].mean()) ** k for r in x]) - np.mean([(r[j] - y[:, j].mean()) ** k for r in y])
            for j in range(4)
        ]
        expected += float(np.linalg.norm(gaps))
    assert value(build("cmd", 4, moments=moments), x, y) == pytest.approx(expected, rel=1e-9)


# pairing


def cross_entropy_loop(x: Array, y: Array, temperature: float) -> float:
    """InfoNCE from x to y, one row at a time."""
    total = 0.0
    for i, a in enumerate(x):
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature for b in y]
        total += math.log(sum(math.exp(c) for c in cosines)) - cosines[i]
    return total / len(x)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrastive_is_the_loop(temperature: float) -> None:
    x, y = make()
    expected = (cross_entropy_loop(x, y, temperature) + cross_entropy_loop(y, x, temperature)) / 2
    assert value(build("contrastive", 4, temperature=temperature), x, y) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("rows", [2, 11])
def test_contrastive_on_constant_features_is_log_n(rows: int) -> None:
    """reference/methods.md 7e."""
    x = np.full((rows, 4), 1.5)
    alignment = build("contrastive", 4)
    assert value(alignment, x, -2 * x) == pytest.approx(math.log(rows), rel=1e-12)
    assert chance(alignment, x, x) == pytest.approx(math.log(rows), rel=1e-12)


def test_contrastive_with_orthonormal_partners() -> None:
    """log(1 + (n - 1) exp(-1 / temperature)): each partner at cosine 1, all others at 0."""
    x = np.eye(4)
    expected = math.log(1 + 3 * math.exp(-1 / 0.5))
    assert value(build("contrastive", 4, temperature=0.5), x, 3 * x) == pytest.approx(expected, rel=1e-7)


def correlations(x: Array, y: Array) -> Array:
    return np.array([[np.corrcoef(a, b)[0, 1] for b in y.T] for a in x.T])


@pytest.mark.parametrize("off_diagonal", [5e-3, 0.5])
def test_barlow_is_the_loop(off_diagonal: float) -> None:
    x, y = make()
    r = correlations(x, y)
    expected = 0.0
    for i, j in itertools.product(range(4), repeat=2):
        expected += (1 - r[i, j]) ** 2 if i == j else off_diagonal * r[i, j] ** 2
    assert value(build("barlow", 4, off_diagonal=off_diagonal), x, y) == pytest.approx(expected, rel=1e-6)


def test_barlow_of_white_identical_features_is_0_and_of_constant_ones_d() -> None:
    q = orthogonal_matrix(9)
    x = q - q.mean(0)
    white = np.linalg.qr(x[:, :4])[0]
    white = np.linalg.qr(white - white.mean(0))[0]
    assert value(build("barlow", 4), white, 3 * white + 1) == pytest.approx(0, abs=1e-9)
    assert value(build("barlow", 4), np.ones((9, 4)), white) == pytest.approx(4)


@pytest.mark.parametrize(("name", "expected"), [("barlow", 4), ("cka", 1), ("cross_correlation", 0), ("hsic", 0)])
def test_constant_features_have_no_correlation_in_float32_either(name: str, expected: float) -> None:
    """Rounding leaves about 1e-7 of the column after centring, which must not be standardised into a signal."""
    constant = torch.linspace(0.1, 99.7, 4).expand(11, 4)
    assert (constant - constant.mean(0)).any()
    pair = Pair(
        constant, torch.tensor(make()[1]).float(), torch.ones(11, dtype=torch.bool), torch.zeros(11), torch.zeros(11, 1)
    )
    assert registry.build("alignment", name, 4, 4)(pair) == expected


def test_cka_is_the_gram_matrix_form() -> None:
    x, y = make(dim_y=3)
    h = np.eye(11) - 1 / 11
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741 - the paper's letters
    expected = 1 - (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)
    assert value(build("cka", 4, 3), x, y) == pytest.approx(expected, rel=1e-9)


def test_cka_of_a_rotated_scaled_moved_copy_is_0() -> None:
    x, _ = make()
    assert value(build("cka", 4), x, 0.3 * x @ orthogonal_matrix(4) + 2) == pytest.approx(0, abs=1e-9)


def test_vicreg_is_the_loop() -> None:
    x, y = make()
    x = 0.5 * x  # so that the hinge is at work

    def hinge(v: Array) -> float:
        return float(np.mean([max(0.0, 1 - math.sqrt(np.var(c, ddof=1) + 1e-4)) for c in v.T]))

    def others(v: Array) -> float:
        c = np.cov(v, rowvar=False)
        return float(sum(c[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4)

    assert hinge(x) > 0
    expected = 2 * ((x - y) ** 2).mean() + 3 * (hinge(x) + hinge(y)) + 4 * (others(x) + others(y))
    alignment = build("vicreg", 4, invariance=2.0, variance=3.0, covariance=4.0)
    assert value(alignment, x, y) == pytest.approx(expected, rel=1e-6)


# private


def test_orthogonal_is_the_loop() -> None:
    x, y = make(dim_y=3)
    x1, y1 = x - x.mean(0), y - y.mean(0)
    x1, y1 = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x1, y1))
    entries = [sum(x1[n, i] * y1[n, j] for n in range(11)) ** 2 for i in range(4) for j in range(3)]
    assert value(build("orthogonal", 4, 3), x, y) == pytest.approx(np.mean(entries), rel=1e-9)


def test_orthogonal_gradient_does_not_reward_shrinking() -> None:
    x, y = make()
    pair = as_pair(x - x.mean(0), y)
    moved = pair._replace(x=pair.x.requires_grad_())
    (g,) = torch.autograd.grad(build("orthogonal", 4)(moved), [moved.x])
    assert float((g * moved.x.detach()).sum()) == pytest.approx(0, abs=1e-12) and g.abs().max() > 1e-3


def test_cross_correlation_is_the_mean_squared_correlation() -> None:
    x, y = make(dim_y=3)
    assert value(build("cross_correlation", 4, 3), x, y) == pytest.approx((correlations(x, y) ** 2).mean(), rel=1e-9)


def test_cross_correlation_mean_over_pairings_is_one_over_n_less_1() -> None:
    x, y = make(rows=5, dim_x=3, dim_y=3)
    alignment = build("cross_correlation", 3)
    values = [value(alignment, x, y[list(order)]) for order in itertools.permutations(range(5))]
    assert np.mean(values) == pytest.approx(1 / 4, rel=1e-9)


def centred_gram(v: Array, bandwidth: float) -> Array:
    n = len(v)
    distances = np.array([[((a - b) ** 2).sum() for b in v] for a in v])
    gram = np.exp(-distances / (bandwidth * distances.sum() / (n * (n - 1))))
    h = np.eye(n) - 1 / n
    result: Array = h @ gram @ h
    return result


@pytest.mark.parametrize("bandwidth", [0.5, 1.0])
def test_hsic_is_the_matrix_form(bandwidth: float) -> None:
    x, y = make(dim_y=3)
    k, l = centred_gram(x, bandwidth), centred_gram(y, bandwidth)  # noqa: E741 - the paper's letters
    expected = np.trace(k @ l) / np.linalg.norm(k) / np.linalg.norm(l)
    assert value(build("hsic", 4, 3, bandwidth=bandwidth), x, y) == pytest.approx(expected, rel=1e-9)


def test_hsic_sees_what_correlation_cannot() -> None:
    x = np.linspace(-1, 1, 41)[:, None]
    parabola = x**2
    noise = np.random.default_rng(0).normal(size=x.shape)
    assert value(build("cross_correlation", 1), x, parabola) == pytest.approx(0, abs=1e-9)
    assert value(build("hsic", 1), x, parabola) > 3 * value(build("hsic", 1), x, noise)
