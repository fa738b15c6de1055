"""Real rows come first, whatever the file's padding; statistics see real rows only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmsa_core.data.rows import left_align
from mmsa_core.data.scaler import CLIP, Scaler
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

SEQUENCES = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    elements=st.sampled_from([0, 0, 1, -2.5]),
)


def slow(sequence: np.ndarray) -> list[list[float]]:
    rows = sequence.tolist()
    while rows and not any(rows[0]):
        rows.pop(0)
    while rows and not any(rows[-1]):
        rows.pop()
    return rows


def as_split(features: np.ndarray, lengths: np.ndarray, modality: str = "audio") -> Split:
    n = len(features)
    return Split(tuple(map(str, range(n))), {modality: features}, {modality: lengths}, np.zeros(n, np.float32), {}, ())


@settings(max_examples=60, deadline=None)
@given(SEQUENCES)
def test_left_align_is_the_obvious_loop(values: np.ndarray):
    aligned, lengths = left_align(values, None)
    for before, after, length in zip(values, aligned, lengths, strict=True):
        assert after[:length].tolist() == slow(before)
        assert not after[length:].any()
    assert aligned.shape[1] == max(1, lengths.max())


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.integers(0, 3), st.integers(0, 3))
def test_padding_at_either_end_changes_nothing(values: np.ndarray, front: int, behind: int):
    padded = np.pad(values, ((0, 0), (front, behind), (0, 0)))
    for a, b in zip(left_align(values, None), left_align(padded, None), strict=True):
        np.testing.assert_array_equal(a, b)


def test_given_lengths_decide():
    row = np.ones((1, 1), np.float32)
    zero = 0 * row
    behind = np.stack(
        [np.concatenate(s) for s in ((row, zero, row, 9 * row), (zero, row, zero, zero), (zero,) * 4, (row,) * 4)]
    )
    aligned, lengths = left_align(behind, np.array([3, 3, 2, 0]))
    assert aligned[..., 0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert lengths.tolist() == [3, 3, 0, 0], "no value at all is a missing modality, whatever the file says"


def test_padding_in_front_with_given_lengths():
    front = np.array([[0, 0, 0, 5], [0, 2, 0, 3], [1, 2, 3, 4]], np.float32)[..., None]
    aligned, lengths = left_align(front, np.array([2, 3, 4]))
    assert aligned[..., 0].tolist() == [[0, 5, 0, 0], [2, 0, 3, 0], [1, 2, 3, 4]]
    assert lengths.tolist() == [2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (5, 4, 2), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    arrays(np.int64, 5, elements=st.integers(0, 4)),
    st.integers(0, 3),
)
def test_scaler_ignores_padding(values: np.ndarray, lengths: np.ndarray, more: int):
    values[np.arange(4) >= lengths[:, None]] = 0
    short = as_split(values, lengths)
    long = as_split(np.pad(values, ((0, 0), (0, more), (0, 0))), lengths)
    scaled, other = Scaler.fit(short).apply(short), Scaler.fit(long).apply(long)
    np.testing.assert_array_equal(scaled.features["audio"], other.features["audio"][:, :4])
    result = scaled.features["audio"]
    assert np.isfinite(result).all() and np.abs(result).max() <= CLIP
    assert not result[~short.real_rows("audio")].any()


def test_scaler_is_a_z_score_of_the_training_rows(small: dict[str, Split]):
    scaler = Scaler.fit(small["train"])
    scaled = scaler.apply(small["train"])
    for m in small["train"].features:
        rows = scaled.features[m][scaled.real_rows(m)]
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(rows.std(0), 1, atol=1e-4)
    x = small["test"].features["text"][0, 0]
    expected = (x - scaler.mean["text"]) / scaler.std["text"]
    np.testing.assert_allclose(scaler.apply(small["test"]).features["text"][0, 0], np.clip(expected, -5, 5), rtol=1e-5)


def test_constant_and_missing_features_become_zero():
    values = np.full((3, 2, 2), 0.1, np.float32)
    values[:, 0, 1] = [1, 2, 3]
    train = as_split(values, np.array([2, 2, 2]))
    other = as_split(values + 7, np.array([2, 2, 1]))
    assert not Scaler.fit(train).apply(other).features["audio"][..., 0].any()
    absent = as_split(0 * values, np.array([0, 0, 0]))
    assert not Scaler.fit(absent).apply(other).features["audio"].any()


def test_scaler_as_plain_arrays(small: dict[str, Split]):
    scaler = Scaler.fit(small["train"])
    plain = scaler.to_dict()
    assert set(plain) == {f"{m}.{k}" for m in ("text", "audio", "vision") for k in ("mean", "std")}
    again = Scaler.from_dict(plain).apply(small["test"])
    for m, values in scaler.apply(small["test"]).features.items():
        np.testing.assert_array_equal(again.features[m], values)


def test_scaler_refuses_other_features(small: dict[str, Split]):
    scaler = Scaler.fit(as_split(np.ones((3, 2, 8), np.float32), np.array([2, 2, 2])))
    with pytest.raises(UserError, match="text: the features have width 20 but the model was trained on width 0"):
        scaler.apply(small["test"])
    with pytest.raises(UserError, match="audio: the features have width 3 but the model was trained on width 8"):
        scaler.apply(as_split(np.ones((3, 2, 3), np.float32), np.array([2, 2, 2])))
