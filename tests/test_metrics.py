"""Every metric against hand-computed numbers and an independent slow implementation in plain loops; F1 also against
scikit-learn's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from mmsa_core.errors import UserError
from mmsa_core.metrics import DIRECTIONS, METRICS, evaluate, mae_rows, objective_rows

KEYS = {
    "mosi": ["mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"],
    "sims": ["mae", "corr", "acc2", "f1", "acc3", "acc5"],
}


def half_even(value: float) -> int:
    return round(value)  # Python rounds half to even, too


def slow_f1(p: list[int], y: list[int]) -> float:
    total = 0.0
    for label in set(y):
        hits = sum(a == b == label for a, b in zip(p, y, strict=True))
        precision = hits / p.count(label) if label in p else 0.0
        recall = hits / y.count(label)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        total += y.count(label) / len(y) * f1
    if y:
        assert total == pytest.approx(f1_score(y, p, average="weighted", zero_division=0))
    return total


def share(pairs: list[tuple[Any, Any]]) -> float:
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0


def slow_corr(p: list[float], y: list[float]) -> float:
    if max(p) == min(p) or max(y) == min(y):
        return 0.0  # our rule: MMSA's is NaN
    if max(p) - min(p) < 1e-3 or max(y) - min(y) < 1e-3:
        return math.nan  # rounding decides
    mp, my = math.fsum(p) / len(p), math.fsum(y) / len(y)
    top = math.fsum((a - mp) * (b - my) for a, b in zip(p, y, strict=True))
    return top / math.sqrt(math.fsum((a - mp) ** 2 for a in p) * math.fsum((b - my) ** 2 for b in y))


def interval(value: float, edges: list[float]) -> int:
    """MMSA's loop: the interval (edges[i], edges[i + 1]] that holds the value."""
    return next(i for i in range(len(edges) - 1) if edges[i] < value <= edges[i + 1])


def slow(p: list[float], y: list[float], convention: str, dtype: type = np.float64) -> dict[str, float]:
    """Return every metric; ``dtype`` is that of the data, in which edges are compared."""
    if convention == "sims":
        p, y = ([min(max(v, -1.0), 1.0) for v in values] for values in (p, y))
    out = {
        "mae": math.fsum(abs(a - b) for a, b in zip(p, y, strict=True)) / len(y),
        "corr": slow_corr(p, y),
    }
    if convention == "sims":
        cuts = {"acc2": [-1.01, 0, 1.01], "acc3": [-1.01, -0.1, 0.1, 1.01], "acc5": [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01]}
        cuts = {k: [float(dtype(edge)) for edge in edges] for k, edges in cuts.items()}
        classes = {k: ([interval(v, e) for v in p], [interval(v, e) for v in y]) for k, e in cuts.items()}
        out |= {k: share(list(zip(*pair, strict=True))) for k, pair in classes.items()}
        return out | {"f1": slow_f1(*classes["acc2"])}
    has0 = [(int(a >= 0), int(b >= 0)) for a, b in zip(p, y, strict=True)]
    non0 = [(int(a > 0), int(b > 0)) for a, b in zip(p, y, strict=True) if b != 0]
    for name, pairs in (("has0", has0), ("non0", non0)):
        out[f"acc2_{name}"] = share(pairs)
        out[f"f1_{name}"] = slow_f1([a for a, _ in pairs], [b for _, b in pairs])
    for name, limit in (("acc5", 2), ("acc7", 3)):
        rounded = [[half_even(min(max(v, -limit), limit)) for v in values] for values in (p, y)]
        out[name] = share(list(zip(*rounded, strict=True)))
    return out


def test_mosi_against_hand_computed_numbers() -> None:
    # has0 pairs (guess, truth): (1,1) (0,1) (0,0) (1,0) -> accuracy 2/4; F1 of both classes 1/2
    # non0 drops the second row: (1,1) (0,0) (1,0) -> 2/3; F1+ = 2/3, F1- = 2/3
    # acc7: 3|2, 0|0, -3|-3, 1|-1 -> 2/4; acc5: 2|2, 0|0, -2|-2, 1|-1 -> 3/4
    got = evaluate([3.4, -0.5, -2.5001, 0.5001], [2.0, 0.0, -3.0, -1.0])
    assert got == pytest.approx(
        {
            "mae": (1.4 + 0.5 + 0.4999 + 1.5001) / 4,
            "corr": np.corrcoef([3.4, -0.5, -2.5001, 0.5001], [2.0, 0.0, -3.0, -1.0])[0, 1],
            "acc2_has0": 0.5,
            "f1_has0": 0.5,
            "acc2_non0": 2 / 3,
            "f1_non0": 2 / 3,
            "acc5": 0.75,
            "acc7": 0.5,
        }
    )


def test_sims_against_hand_computed_numbers() -> None:
    # clipped predictions: 1, 0, -0.05, -1; labels: 0.6, 0.2, 0, -0.8
    # acc2 (zero is negative): pos|pos, neg|pos, neg|neg, neg|neg -> 3/4; F1+ = 2/3, F1- = 4/5, two rows each -> 11/15
    # acc3: pos|pos, neutral|pos, neutral|neutral, neg|neg -> 3/4; acc5: strong|weak, 0|weak, 0|0, strong|strong -> 2/4
    got = evaluate([1.5, 0.0, -0.05, -7.0], [0.6, 0.2, 0.0, -0.8], "sims")
    corr = np.corrcoef([1, 0, -0.05, -1], [0.6, 0.2, 0, -0.8])[0, 1]
    want = {"mae": (0.4 + 0.2 + 0.05 + 0.2) / 4, "corr": corr, "acc2": 0.75, "f1": 11 / 15, "acc3": 0.75, "acc5": 0.5}
    assert got == pytest.approx(want)


@pytest.mark.parametrize(("value", "even"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2)])
def test_halves_round_to_even(value: float, even: int) -> None:
    odd = 2 * value - even
    assert evaluate([value], [even])["acc7"] == 1.0
    assert evaluate([value], [odd])["acc7"] == 0.0


def test_values_outside_the_range_fall_into_the_outer_class() -> None:
    assert evaluate([9.0, -9.0], [3.0, -3.0])["acc7"] == 1.0
    assert evaluate([9.0, -9.0], [2.0, -2.0])["acc5"] == 1.0


def test_zero_is_non_negative_in_mosi_and_negative_in_sims() -> None:
    assert evaluate([0.0], [2.0])["acc2_has0"] == 1.0
    assert evaluate([0.0], [2.0])["acc2_non0"] == 0.0
    assert evaluate([0.0], [-0.4], "sims")["acc2"] == 1.0
    assert evaluate([0.0], [0.4], "sims")["acc2"] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sims_edges_are_closed_on_the_right_in_the_dtype_of_the_data(dtype: type) -> None:
    edges = np.array([-0.7, -0.1, 0.1, 0.7], dtype)
    inside = np.array([-0.9, -0.5, 0.0, 0.5], dtype)
    assert evaluate(edges, inside, "sims")["acc5"] == 1.0
    assert evaluate(np.nextafter(edges, dtype(1)), inside, "sims")["acc5"] == 0.0


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_degenerate_inputs_give_zero_and_never_raise(convention: Any) -> None:
    for p, y in [([0.1] * 3, [1.0, -1.0, 0.5]), ([0.3, -0.2, 0.5], [0.0] * 3), ([0.1], [0.1]), ([0.1] * 3, [0.1] * 3)]:
        got = evaluate(p, y, convention)
        assert got["corr"] == 0.0
        assert all(math.isfinite(v) for v in got.values())
    nothing = evaluate([1.0, -1.0], [0.0, 0.0])
    assert (nothing["acc2_non0"], nothing["f1_non0"]) == (0.0, 0.0)


def test_weights_of_f1_are_the_true_support() -> None:
    # guess 1,1,1,0 truth 1,0,0,0: F1+ = 1/2 (support 1), F1- = 1/2 (support 3); swapped arguments would weigh 3 and 1
    p, y = [1.0, 1.0, 1.0, -1.0], [1.0, -1.0, -1.0, -1.0]
    assert evaluate(p, y)["f1_has0"] == pytest.approx(0.5)
    p = [1.0, 1.0, -1.0, -1.0]
    assert evaluate(p, y)["f1_has0"] == pytest.approx((2 / 3 + 3 * 4 / 5) / 4)


EDGES = [sign * edge for edge in (0.0, 0.1, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5) for sign in (1, -1)]
values = st.one_of(st.sampled_from(EDGES), st.floats(-4, 4))
rows = st.lists(st.tuples(values, values), min_size=1, max_size=12)


def assert_equals_slow(predictions: list[float], labels: list[float], convention: Any, dtype: type) -> None:
    p, y = np.array(predictions, dtype), np.array(labels, dtype)
    got, want = evaluate(p, y, convention), slow(p.tolist(), y.tolist(), convention, dtype)
    assert list(got) == KEYS[convention]
    assert {k: v for k, v in got.items() if k != "corr"} == pytest.approx(
        {k: v for k, v in want.items() if k != "corr"}
    )
    assert -1 <= got["corr"] <= 1
    if not math.isnan(want["corr"]):
        assert got["corr"] == pytest.approx(want["corr"], abs=1e-6)


@given(rows)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_equals_the_slow_implementation(convention: Any, dtype: type, pairs: list[tuple[float, float]]) -> None:
    assert_equals_slow([a for a, _ in pairs], [b for _, b in pairs], convention, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_edges_and_single_classes_equal_the_slow_implementation(convention: Any, dtype: type) -> None:
    """Every edge and its neighbours against every other, and labels or predictions all of one class or value."""
    step = (dtype(-9), dtype(9))
    near = [float(v) for edge in EDGES for v in (dtype(edge), *(np.nextafter(dtype(edge), s) for s in step))]
    for value in near:
        assert_equals_slow([value] * len(near), near, convention, dtype)
        assert_equals_slow(near, [value] * len(near), convention, dtype)
        assert_equals_slow([value], [-value], convention, dtype)
    for sign in (1, -1):
        one_class = [sign * abs(v) + sign * 0.05 for v in near]
        assert_equals_slow(near, one_class, convention, dtype)
        assert_equals_slow(one_class, near, convention, dtype)
    assert_equals_slow(near, near, convention, dtype)
    assert_equals_slow(near, near[::-1], convention, dtype)


@given(st.lists(rows.map(lambda r: [a for a, _ in r]), min_size=1, max_size=4), rows)
@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_rows_equal_one_by_one(convention: Any, members: list[list[float]], pairs: list[tuple[float, float]]) -> None:
    y = np.array([b for _, b in pairs])
    p = np.array([np.resize(m, len(y)) for m in members])
    for name in KEYS[convention]:
        got = objective_rows(name, p, y, convention)
        assert got.tolist() == [evaluate(row, y, convention)[name] for row in p]


def test_a_diverged_member_does_not_touch_the_others() -> None:
    p = np.array([[1.0, 2.0], [np.nan, 2.0], [0.0, 2.0], [np.inf, 0.0]])
    got = objective_rows("mae", p, [1.0, 2.0])
    np.testing.assert_array_equal(got, [0.0, np.nan, 0.5, np.nan])
    assert objective_rows("corr", np.full((2, 2), np.nan), [1.0, 2.0]).shape == (2,)
    assert objective_rows("mae", np.zeros((0, 2)), [1.0, 2.0]).shape == (0,)


def test_float32_is_summed_in_double() -> None:
    p = np.full((1, 100_000), 0.1, np.float32)
    assert mae_rows(p, np.zeros(100_000, np.float32))[0] == pytest.approx(np.float32(0.1), rel=1e-12)


def test_directions_cover_every_metric() -> None:
    assert {k for keys in KEYS.values() for k in keys} == set(DIRECTIONS)
    assert [k for k, d in DIRECTIONS.items() if d == "minimize"] == ["mae"]
    assert {k: list(v) for k, v in METRICS.items()} == KEYS


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"must agree in N, got \[1, 2\] and \[3\]"):
        evaluate([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(UserError, match=r"shape \[N\], got \[2, 1\]"):
        evaluate([[1.0], [2.0]], [1.0, 2.0])
    with pytest.raises(UserError, match="target"):
        evaluate([1.0, 2.0], [[1.0], [2.0]])
    with pytest.raises(UserError, match="predictions must be finite, got nan"):
        evaluate([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(UserError, match="predictions must be finite, got inf"):
        evaluate([1.0, math.inf], [1.0, 2.0])
    with pytest.raises(UserError, match="labels must be finite, got nan"):
        evaluate([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(UserError, match="labels must be finite"):
        objective_rows("mae", [[1.0, 2.0]], [1.0, math.inf])
    with pytest.raises(UserError, match="at least one sample"):
        evaluate([], [])
    with pytest.raises(UserError, match="did you mean 'sims'"):
        evaluate([1.0], [1.0], "simms")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no metric 'acc-7'; did you mean 'acc7'"):
        objective_rows("acc-7", [[1.0]], [1.0])
    with pytest.raises(UserError, match="must be numbers"):
        evaluate(["a"], [1.0])
