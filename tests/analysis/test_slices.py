"""Slices divide a split, do not know the model, and score as the whole does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmsa_core.analysis import slices
from mmsa_core.analysis.slices import (
    Reference,
    Slice,
    absolute_errors,
    interaction,
    label_strength,
    largest_videos,
    lengths,
    metrics,
    partitions,
    refer,
    sign_agreement,
    skill,
)
from mmsa_core.data.cross_fit import PENALTIES, deal, time_average, transferred
from mmsa_core.data.split import Split, videos
from mmsa_core.data.synthetic import planted
from mmsa_core.metrics import Convention, evaluate

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def both() -> tuple[Split, Split]:
    """Train and test with some modalities missing and videos of very different sizes."""
    made = planted(4, train=120, test=90)
    rng = np.random.default_rng(1)
    found = []
    for name in ("train", "test"):
        split = made[name]
        gone = {m: rng.random(len(split)) < 0.1 for m in split.features}
        video = np.minimum(rng.geometric(0.15, len(split)), 12)
        labels = np.where(rng.random(len(split)) < 0.1, 0, split.labels).astype(np.float32)
        found.append(
            replace(
                split,
                ids=tuple(f"v{v}$_${i}" for i, v in enumerate(video)),
                features={
                    m: np.where(gone[m][:, None, None], 0, x).astype(np.float32) for m, x in split.features.items()
                },
                lengths={m: np.where(gone[m], 0, n) for m, n in split.lengths.items()},
                labels=labels,
            )
        )
    return found[0], found[1]


def tiny(labels: list[float], **alone: list[float]) -> tuple[Split, Reference]:
    """Return a split of one-row sequences, and reference predictions; ``fused`` is one of ``alone``; NaN is missing."""
    fused = np.array(alone.pop("fused"), np.float32)
    found = {m: np.array(v, np.float32) for m, v in alone.items()}
    here = {m: np.isfinite(v).astype(np.int64) for m, v in found.items()}
    features = {m: np.ones((len(labels), 1, 1), np.float32) for m in found}
    ids = tuple(f"v$_${i}" for i in range(len(labels)))
    split = Split(ids, features, here, np.array(labels, np.float32), {}, ())
    return split, Reference({m: np.nan_to_num(v) for m, v in found.items()}, fused, 0.0)


def members(of: Slice) -> list[int]:
    return np.flatnonzero(of.rows).tolist()


# ---- slices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_slices_of_a_group_divide_the_rows(both: tuple[Split, Split], convention: Convention) -> None:
    train, test = both
    if convention == "sims":
        train, test = (replace(s, labels=s.labels / 3) for s in both)
    reference = refer(train, test)
    parts = partitions(test, reference, convention)
    predictions = np.random.default_rng(0).normal(0, 1, (3, len(test))).astype(np.float32)
    errors = absolute_errors(predictions, test.labels, convention)
    groups = {p.group for p in parts}
    assert groups == {"all", "label strength", "interaction", "signs", "length", "video"}
    for group in groups:
        own = [p for p in parts if p.group == group]
        assert np.array_equal(np.sum([p.rows for p in own], 0), np.ones(len(test))), f"{group} is no partition"
        assert all(p.rows.any() for p in own) and len({p.name for p in own}) == len(own)
        total = sum(p.rows.sum() * errors[:, p.rows].mean() for p in own)
        assert total == pytest.approx(len(test) * errors.mean(), abs=1e-12 * len(test))


def test_what_divides_nothing_is_left_out() -> None:
    split, reference = tiny([1.0, 2.0], text=[1.0, 2.0], fused=[1.0, 2.0])
    assert [(p.group, p.name) for p in partitions(split, reference, "mosi")] == [
        ("all", "all rows"),
        ("label strength", "weak (up to 1)"),
        ("label strength", "medium (up to 2)"),
    ]


def test_interaction_types() -> None:
    right, wrong, near, gone = 1.0, -1.0, 1.5, float("nan")
    rows = {  # text, audio, vision, fused
        "redundant": (right, right, near, right),
        "unique to text": (right, wrong, wrong, near),
        "unique to vision": (wrong, wrong, near, right),
        "shared by two": (right, wrong, right, right),
        "synergy": (wrong, wrong, wrong, right),
        "loss by fusion": (wrong, right, wrong, wrong),
        "wrong for all": (wrong, wrong, gone, wrong),
    }
    text, audio, vision, fused = (list(column) for column in zip(*rows.values(), strict=True))
    split, reference = tiny([1.0] * len(rows), text=text, audio=audio, vision=vision, fused=fused)
    found = interaction(split, reference, 0.5)
    assert list(found) == ["redundant", "unique to text", "unique to audio", *list(rows)[2:]]
    for name, mask in found.items():
        assert np.flatnonzero(mask).tolist() == ([list(rows).index(name)] if name in rows else []), name


def test_a_missing_modality_is_not_right_and_has_no_sign() -> None:
    gone = float("nan")
    split, reference = tiny([0.1, 0.1], text=[gone, 0.0], audio=[0.2, -0.2], vision=[0.1, 0.4], fused=[0.1, 0.1])
    assert interaction(split, reference, 0.2)["shared by two"].tolist() == [True, False]
    assert sign_agreement(split, reference)["modalities in conflict"].tolist() == [False, True]
    alone = replace(split, features={"text": split.features["text"]})
    assert interaction(alone, Reference({"text": reference.fused}, reference.fused, 0.0), 0.2) == {}


def test_label_strength_has_the_conventions_edges() -> None:
    labels = [0.0, -0.2, 1.0, -1.2, 2.0, 2.2, -3.0]
    split, _ = tiny(labels, text=labels, fused=labels)
    mosi = {n: np.flatnonzero(rows).tolist() for n, rows in label_strength(split, "mosi").items()}
    assert mosi == {"neutral (0)": [0], "weak (up to 1)": [1, 2], "medium (up to 2)": [3, 4], "strong (over 2)": [5, 6]}
    labels = [0.0, -0.1, 0.1, 0.2, -0.7, 0.8, 1.0]
    split, _ = tiny(labels, text=labels, fused=labels)
    sims = [np.flatnonzero(rows).tolist() for rows in label_strength(split, "sims").values()]
    assert sims == [[0, 1, 2], [3, 4], [5, 6]], "0.1 and 0.7 as float32 are not above their edges, as in the metrics"


def test_lengths_are_divided_at_terciles_of_the_text() -> None:
    split, _ = tiny([0.0] * 10, text=[0.0] * 10, fused=[0.0] * 10)
    split = replace(split, lengths={"text": np.array([0, 9, 1, 2, 3, 4, 5, 6, 7, 8])})
    assert {n: np.flatnonzero(rows).tolist() for n, rows in lengths(split).items()} == {
        "no text": [0],
        "short (up to 3 rows)": [2, 3, 4],
        "middle (4 to 6 rows)": [5, 6, 7],
        "long (over 6 rows)": [1, 8, 9],
    }
    one = replace(split, lengths={"text": np.ones(10, np.int64)})
    assert sum(rows.any() for rows in lengths(one).values()) == 1
    assert lengths(replace(split, lengths={"text": np.zeros(10, np.int64)})) == {}


def test_only_videos_with_enough_rows_stand_alone() -> None:
    sizes = {"a": 30, "b": 9, "c": 10, "d": 12}
    ids = tuple(f"{v}$_${i}" for v, n in sizes.items() for i in range(n))
    split, _ = tiny([0.0] * len(ids), text=[0.0] * len(ids), fused=[0.0] * len(ids))
    found = largest_videos(replace(split, ids=ids))
    assert {n: int(rows.sum()) for n, rows in found.items()} == {"a": 30, "d": 12, "c": 10, "the other videos": 9}
    many = tuple(f"{i % 30}$_${i}" for i in range(300))
    split, _ = tiny([0.0] * 300, text=[0.0] * 300, fused=[0.0] * 300)
    assert len(largest_videos(replace(split, ids=many))) == slices.ENOUGH + 1


# ---- reference models ------------------------------------------------------------------------------------------------


def test_the_reference_is_a_ridge_regression_of_the_training_split(both: tuple[Split, Split]) -> None:
    train, test = both
    reference, y = refer(train, test), train.labels.astype(np.float64)
    fold = deal(videos(train.ids))
    assert reference.median == np.median(train.labels)

    def fitted(x: NDArray[np.float64], rows: NDArray[np.bool_], penalty: float) -> Ridge:
        model = make_pipeline(StandardScaler(), Ridge(alpha=penalty * int(rows.sum())))
        return model.fit(x[rows], y[rows])

    for m in train.features:
        x, present = time_average(train, m), train.lengths[m] > 0
        errors = []
        for penalty in PENALTIES:
            total = 0.0
            for held in range(fold.max() + 1):
                model, rows = fitted(x, present & (fold != held), penalty), present & (fold == held)
                guess = np.clip(model.predict(x[rows]), y.min(), y.max())
                total += float(((guess - y[rows]) ** 2).sum())
            errors.append(total)
        best = fitted(x, present, PENALTIES[int(np.argmin(errors))]).predict(time_average(test, m))
        expected = np.where(test.lengths[m] > 0, np.clip(best, y.min(), y.max()), y.mean())
        np.testing.assert_allclose(reference.alone[m], expected, rtol=1e-4, atol=1e-5)


def test_the_reference_never_sees_the_labels_of_the_split(both: tuple[Split, Split]) -> None:
    train, test = both
    one, other = refer(train, test), refer(train, replace(test, labels=test.labels[::-1].copy()))
    assert np.array_equal(one.fused, other.fused)
    assert all(np.array_equal(one.alone[m], other.alone[m]) for m in one.alone)
    errors = {m: np.abs(p - test.labels).mean() for m, p in (one.alone | {"fused": one.fused}).items()}
    constant = np.abs(one.median - test.labels).mean()
    assert max(errors["fused"], min(errors[m] for m in one.alone)) < 0.97 * constant, "they know something"


def test_one_video_takes_the_strongest_penalty() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (30, 3)), rng.normal(0, 1, 30).astype(np.float32)
    there = np.ones(30, bool)
    made = transferred(x, y, there, np.zeros(30, np.int64), x, there)
    strong = make_pipeline(StandardScaler(), Ridge(alpha=PENALTIES[0] * 30)).fit(x, y).predict(x)
    np.testing.assert_allclose(made, strong, rtol=1e-4, atol=1e-6)


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_skill_of_the_constant_and_of_the_truth(convention: Convention) -> None:
    labels = np.array([-1.4, -0.2, 0.0, 0.6, 2.0], np.float32)
    for median in (0.0, 0.4, 1.5):
        constant = absolute_errors(np.full((2, 5), median, np.float32), labels, convention).mean()
        assert skill(float(constant), labels, median, convention) == pytest.approx(0, abs=1e-12)
        assert skill(0.0, labels, median, convention) == 1
        assert skill(float(constant) * 1.5, labels, median, convention) == pytest.approx(-0.5)
    assert skill(0.3, np.zeros(4, np.float32), 0.0, convention) is None, "nothing to be better than"


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_metrics_are_the_mean_over_members_of_the_usual_ones(convention: Convention) -> None:
    rng = np.random.default_rng(2)
    predictions, labels = rng.normal(0, 1.5, (4, 40)).astype(np.float32), rng.normal(0, 1, 40).astype(np.float32)
    each = [evaluate(p, labels, convention) for p in predictions]
    found = metrics(predictions, labels, convention)
    assert found.keys() == each[0].keys()
    for name, value in found.items():
        assert value == pytest.approx(np.mean([e[name] for e in each]), rel=1e-12)
    errors = absolute_errors(predictions, labels, convention)
    assert errors.mean(1) == pytest.approx([e["mae"] for e in each], rel=1e-12)


def test_metrics_that_rows_cannot_tell() -> None:
    predictions = np.ones((2, 4), np.float32)
    neutral = metrics(predictions, np.zeros(4, np.float32), "mosi")
    assert {n for n, v in neutral.items() if v is None} == {"corr", "acc2_non0", "f1_non0"}
    assert metrics(predictions[:, :2], np.array([0, 1], np.float32), "mosi")["corr"] is None
    assert None not in metrics(predictions, np.array([0, 1, 1, 2], np.float32), "mosi").values()
