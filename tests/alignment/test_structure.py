"""Losses that compare how the samples lie to each other: loops, invariances and what each takes for chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.alignment.pairs import Array, as_pair, build, chance, cosine, make, orthogonal_matrix, slopes, value

# inter_alignment


def rows_of(v: Array, temperature: float) -> list[dict[int, float]]:
    """Each row's softmax over the other rows."""
    result = []
    for i, a in enumerate(v):
        terms = {j: math.exp(cosine(a, b) / temperature) for j, b in enumerate(v) if j != i}
        result.append({j: t / sum(terms.values()) for j, t in terms.items()})
    return result


def divergence_loop(teacher: Array, student: Array, temperature: float) -> float:
    """The mean over rows of KL(teacher || student)."""
    pairs = zip(rows_of(teacher, temperature), rows_of(student, temperature), strict=True)
    return sum(t[j] * math.log(t[j] / s[j]) for t, s in pairs for j in t) / len(teacher)


@pytest.mark.parametrize("temperature", [4.0, 0.1])
def test_inter_alignment_is_the_loop(temperature: float) -> None:
    x, y = make(dim_y=3)
    joint = np.random.default_rng(3).normal(size=(11, 6))
    expected = (divergence_loop(joint, x, temperature) + divergence_loop(joint, y, temperature)) / 2
    assert expected > 0
    alignment = build("inter_alignment", 4, 3, temperature=temperature)
    assert value(alignment, x, y, joint=joint) == pytest.approx(expected, rel=1e-6)


def test_inter_alignment_of_the_teacher_itself_is_0_with_no_gradient() -> None:
    """reference/methods.md 8e; rotating and scaling rows leaves the similarities alone."""
    x, _ = make()
    turned = 3 * x @ orthogonal_matrix(4)
    alignment = build("inter_alignment", 4, temperature=0.5)
    assert value(alignment, x, turned, joint=x) == pytest.approx(0, abs=1e-12)
    assert all(g.abs().max() < 1e-12 for g in slopes(alignment, as_pair(x, turned, joint=x)))


@pytest.mark.parametrize("seed", range(20))
def test_inter_alignment_is_never_below_0(seed: int) -> None:
    x, y = make(seed=seed)
    assert value(build("inter_alignment", 4, temperature=10.0 ** (seed % 4 - 2)), x, y) > 0


def test_inter_alignment_has_no_gradient_to_the_teacher() -> None:
    gx, gy, joint = slopes(build("inter_alignment", 4), as_pair(*make()))
    assert not joint.any() and gx.any() and gy.any()


@pytest.mark.parametrize("temperature", [4.0, 0.3])
def test_chance_of_inter_alignment_is_the_mean_over_all_pairings_with_the_teacher(temperature: float) -> None:
    x, y = make(rows=5)
    joint = np.random.default_rng(3).normal(size=(5, 3))
    alignment = build("inter_alignment", 4, temperature=temperature)
    orders = [list(order) for order in itertools.permutations(range(5))]
    mean = np.mean([value(alignment, x, y, joint=joint[order]) for order in orders])
    assert chance(alignment, x, y, joint=joint) == pytest.approx(mean, rel=1e-9)


def test_chance_of_inter_alignment_holds_for_collapsed_and_for_unrelated_modalities() -> None:
    """Against uniform rows alone, unrelated modalities would come out at about 2."""
    constant = np.full((11, 4), 1.5)
    alignment = build("inter_alignment", 4)
    assert value(alignment, constant, constant) == pytest.approx(chance(alignment, constant, constant), rel=1e-9)
    uniform = chance(alignment, constant, constant)
    over = [(value(alignment, *pair), chance(alignment, *pair)) for pair in (make(seed=s) for s in range(20))]
    assert np.mean([v / c for v, c in over]) == pytest.approx(1, abs=0.1)
    assert np.mean([v / uniform for v, _ in over]) > 1.6


def test_inter_alignment_means_the_same_for_every_batch_size() -> None:
    """The mean over rows, not over entries: batches of 32 and 128 of the same law cost about the same."""
    rng = np.random.default_rng(0)
    found = []
    for rows in (32, 128):
        x, y, joint = (rng.normal(size=(rows, 4)) for _ in range(3))
        found.append(value(build("inter_alignment", 4), x, y, joint=joint))
    assert found[1] == pytest.approx(found[0], rel=0.2)


# relational


def relative(v: Array) -> Array:
    """Distances of rows of length 1 over their mean, the diagonal left out."""
    rows = [r / np.linalg.norm(r) for r in v]
    distances = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
    result: Array = distances / (distances.sum() / (len(v) * (len(v) - 1)))
    return result


def smooth(gap: float) -> float:
    return 0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5


def relational_loop(x: Array, y: Array) -> float:
    a, b = relative(x), relative(y)
    pairs = list(itertools.permutations(range(len(x)), 2))
    return sum(smooth(a[i, j] - b[i, j]) for i, j in pairs) / len(pairs)


def test_relational_is_the_loop() -> None:
    x, y = make(dim_y=3)
    assert value(build("relational", 4, 3), x, y) == pytest.approx(relational_loop(x, y), rel=1e-5)


def test_relational_is_linear_where_distances_differ_by_more_than_their_mean() -> None:
    """Two tight groups of rows, and the same rows paired across: distances of 0 meet those of 2."""
    x = np.array([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01]])
    y = x[[0, 2, 1, 3]]
    assert max(abs(relative(x) - relative(y)).ravel()) > 1
    assert value(build("relational", 2), x, y) == pytest.approx(relational_loop(x, y), rel=1e-3)


def test_relational_is_0_for_itself_and_free_of_rotation_and_of_each_rows_scale() -> None:
    """reference/methods.md 2e."""
    x, y = make()
    alignment = build("relational", 4)
    assert value(alignment, x, x) == 0
    scales = np.random.default_rng(0).uniform(0.1, 10, (11, 1))
    assert value(alignment, x, scales * x @ orthogonal_matrix(4)) == pytest.approx(0, abs=1e-12)
    assert value(alignment, scales * x @ orthogonal_matrix(4), y) == pytest.approx(value(alignment, x, y), rel=1e-9)


def test_relational_permuting_both_changes_nothing_and_permuting_one_costs() -> None:
    """reference/methods.md 2e."""
    x, y = make()
    order = np.random.default_rng(0).permutation(11)
    alignment = build("relational", 4)
    assert value(alignment, x[order], y[order]) == pytest.approx(value(alignment, x, y), rel=1e-9)
    assert value(alignment, x, x[order]) > 0.01


def test_relational_gradient_is_that_of_each_side_with_the_other_held() -> None:
    """Central differences of one direction, with the distances of the other side as fixed numbers."""
    x, y = make(rows=6)
    gx, gy, _ = slopes(build("relational", 4), as_pair(x, y))
    for moved, held, found in ((x, y, gx), (y, x, gy)):
        for i, j in ((0, 0), (2, 3), (5, 1)):
            step = np.zeros_like(moved)
            step[i, j] = 1e-5
            slope = (relational_loop(moved + step, held) - relational_loop(moved - step, held)) / 2e-5
            assert float(found[i, j]) == pytest.approx(slope / 2, rel=1e-4, abs=1e-9)  # the mean of two directions


def test_relational_chance_is_the_mean_over_all_pairings() -> None:
    x, y = make(rows=5, dim_x=8, dim_y=8)
    assert np.ptp(relative(x)[~np.eye(5, dtype=bool)]) < 1 and np.ptp(relative(y)[~np.eye(5, dtype=bool)]) < 1
    alignment = build("relational", 8)
    mean = np.mean([value(alignment, x, y[list(order)]) for order in itertools.permutations(range(5))])
    assert chance(alignment, x, y) == pytest.approx(mean, rel=1e-5)


def test_relational_chance_is_above_the_mean_where_distances_differ_much() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01]])
    alignment = build("relational", 2)
    mean = np.mean([value(alignment, x, x[list(order)]) for order in itertools.permutations(range(4))])
    assert mean < chance(alignment, x, x) < 2 * mean


def test_relational_rounding_between_equal_rows_stays_small_in_float32() -> None:
    rows = torch.linspace(0.1, 99.7, 16).expand(20, 16)
    pair = as_pair(*make(rows=20, dim_x=16, dim_y=16))
    pair = pair._replace(x=rows, y=pair.y.float(), labels=pair.labels.float(), joint=pair.joint.float())
    gx, _, _ = slopes(build("relational", 16).float(), pair)
    assert gx.abs().max() < 1e-2
