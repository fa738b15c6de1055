"""Labels that a modality predicts by itself, cross-fitted by video: against scikit-learn, one fit after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmsa_core import loader
from mmsa_core.data import cross_fit
from mmsa_core.data.cross_fit import FOLDS, PENALTIES, cross_fitted, deal, time_average
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from mmsa_core.labels.out_of_fold import OutOfFoldLabels
from mmsa_core.loader import SplitTensors
from mmsa_core.population import Population
from tests.members import member

Array = NDArray[np.float64]
Splits = tuple[SplitTensors, SplitTensors]
CPU = torch.device("cpu")
ROWS, DIM, VIDEOS = 90, 7, 23


class Case:
    """Videos of other lengths with an offset of their own, features that say something, rows without the modality."""

    def __init__(self, seed: int = 0, rows: int = ROWS, videos: int = VIDEOS, told: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.domains = np.concatenate([np.arange(videos), rng.integers(0, videos, rows - videos)]).astype(np.int64)
        offsets = rng.normal(0, 0.5, (videos, DIM))[self.domains]
        hidden = rng.normal(0, 1, (rows, DIM)) + offsets
        signal = hidden[:, :3] @ np.array([1.0, -0.7, 0.5])
        self.features: Array = hidden * np.logspace(-2, 2, DIM) + 3.0
        self.labels = np.clip(told * signal + rng.normal(0, 0.6, rows), -3, 3).astype(np.float32)
        self.present: NDArray[np.bool_] = rng.random(rows) > 0.15

    def predicted(self, **changes: Any) -> NDArray[np.float32]:
        given = {"features": self.features, "labels": self.labels, "present": self.present, "domains": self.domains}
        return cross_fitted(**{**given, **changes})


def slow(case: Case) -> tuple[Array, list[float]]:
    """Return predictions by scikit-learn, fold by fold, and the penalties that were chosen."""
    fold, y = deal(case.domains), case.labels.astype(np.float64)

    def fitted(seen: NDArray[np.bool_], rows: NDArray[np.bool_], penalty: float) -> Array:
        train = seen & case.present
        model = make_pipeline(StandardScaler(), Ridge(alpha=penalty * int(train.sum())))
        model.fit(case.features[train], y[train])
        return np.clip(model.predict(case.features[rows]), y[seen].min(), y[seen].max())

    result, chosen = np.empty(len(y)), []
    for held in range(fold.max() + 1):
        errors = []
        for penalty in PENALTIES:
            total = 0.0
            for inner in set(range(fold.max() + 1)) - {held}:
                rows = (fold == inner) & case.present
                total += float(((fitted((fold != held) & (fold != inner), rows, penalty) - y[rows]) ** 2).sum())
            errors.append(total)
        chosen.append(float(PENALTIES[int(np.argmin(errors))]))
        own = fold == held
        result[own] = np.where(case.present[own], fitted(~own, own, chosen[-1]), y[~own].mean())
    return result, chosen


def test_equals_a_slow_loop_of_ridge_regressions() -> None:
    penalties = set()
    for case in (Case(), Case(seed=1, told=0.3), Case(seed=2, told=0.0), Case(seed=3, rows=31, videos=4)):
        expected, chosen = slow(case)
        np.testing.assert_allclose(case.predicted(), expected, rtol=1e-4, atol=1e-5)
        penalties.update(chosen)
    assert len(penalties) >= 3, "other data must want other penalties"


def test_says_what_the_features_know_and_no_more() -> None:
    for told, low, high in ((1.0, 0.7, 0.95), (0.0, -0.35, 0.2)):
        case = Case(told=told, rows=300, videos=60)
        corr = np.corrcoef(case.predicted()[case.present], case.labels[case.present])[0, 1]
        assert low < corr < high, told


def test_clips_of_a_video_are_never_on_both_sides() -> None:
    """All clips of a video are one row, and its label a coin: whoever has seen a clip knows it, nobody else can."""
    rng = np.random.default_rng(0)
    domains = np.repeat(np.arange(40), 6)
    features, labels = rng.normal(0, 1, (40, 60))[domains], rng.choice([-2.0, 2.0], 40)[domains].astype(np.float32)
    present = np.ones(240, bool)
    by_video = cross_fitted(features, labels, present, domains)
    by_clip = cross_fitted(features, labels, present, np.arange(240))
    assert np.abs(by_clip - labels).mean() < 0.3, "as one fold for each clip would have it"
    assert np.abs(by_video - labels).mean() > 1.6


@pytest.mark.parametrize("held", range(FOLDS))
def test_no_label_of_a_fold_reaches_its_own_targets(held: int) -> None:
    """Not by the fit, the penalty, the mean or the range: other labels, also far out of it, leave them as they are."""
    case = Case()
    own = deal(case.domains) == held
    noised = case.labels.copy()
    noised[own] = np.random.default_rng(1).normal(0, 30, own.sum())
    before, after = case.predicted(), case.predicted(labels=noised)
    assert np.array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).mean() > 0.9


def test_deals_whole_videos_evenly() -> None:
    rng = np.random.default_rng(0)
    domains = rng.integers(0, 50, 400) ** 2 // 50
    folds = deal(domains)
    assert all(len(set(folds[domains == d])) == 1 for d in set(domains.tolist()))
    counts = np.bincount(folds)
    assert len(counts) == FOLDS and counts.max() - counts.min() <= 0.1 * len(domains)
    assert np.array_equal(folds, deal(domains + 7))
    assert np.bincount(deal(np.arange(23))).tolist() == [5, 5, 5, 4, 4]
    assert deal(np.array([4, 4, 9])).tolist() == [0, 0, 1]


def test_is_deterministic_and_blind_to_units() -> None:
    case = Case()
    first = case.predicted()
    assert np.array_equal(first, case.predicted())
    units = np.logspace(4, -4, DIM)
    np.testing.assert_allclose(case.predicted(features=case.features * units + 50 * units), first, rtol=1e-3, atol=1e-4)


def test_constant_features_give_the_mean_of_the_other_folds() -> None:
    case = Case()
    fold = deal(case.domains)
    rounding = 5 + 5e-12 * case.labels[:, None].repeat(DIM, 1).astype(np.float64)  # as of means over other lengths
    for features in (np.zeros((ROWS, DIM)), np.full((ROWS, DIM), 0.1), np.full((ROWS, DIM), -1e30), rounding):
        made = case.predicted(features=features, present=np.ones(ROWS, bool))
        for f in range(FOLDS):
            np.testing.assert_allclose(made[fold == f], case.labels[fold != f].mean(), rtol=1e-5)
    some = case.features.copy()
    some[:, 2] = 5.0
    some[:, 4] = np.where(case.domains == 3, 1.0, 0.0)  # constant for whoever does not see that video
    assert np.isfinite(case.predicted(features=some)).all()


def test_a_missing_modality_is_harmless() -> None:
    case = Case()
    fold = deal(case.domains)
    odd = np.where(case.present[:, None], case.features, 1e9)
    made = case.predicted()
    assert np.array_equal(made, case.predicted(features=odd)), "what a missing row holds does not matter"
    for f in range(FOLDS):
        own = (fold == f) & ~case.present
        np.testing.assert_allclose(made[own], case.labels[fold != f].mean(), rtol=1e-5)
    nowhere = case.predicted(present=np.zeros(ROWS, bool))
    once = case.predicted(present=np.arange(ROWS) == 8)
    lone = case.predicted(present=fold == 2)
    for found in (nowhere, once, lone):
        assert np.isfinite(found).all() and np.abs(found).max() <= 3
    for f in range(FOLDS):
        np.testing.assert_allclose(nowhere[fold == f], case.labels[fold != f].mean(), rtol=1e-5)


def test_needs_three_videos() -> None:
    case = Case(rows=12, videos=2)
    with pytest.raises(
        UserError, match=r"labels: 'out_of_fold' .* needs 3 videos in the training split .*, got 2; use"
    ):
        case.predicted()
    assert np.isfinite(Case(rows=12, videos=3).predicted()).all()


def test_time_average_is_that_of_the_real_rows() -> None:
    split = planted(0, train=9, valid=4, test=4)["train"]
    lengths = split.lengths["audio"].copy()
    lengths[2] = 0
    features = split.features["audio"].copy()
    features[np.arange(features.shape[1]) >= lengths[:, None]] = np.nan  # what is not real must never matter
    made = time_average(replace(split, features={"audio": features}, lengths={"audio": lengths}), "audio")
    for i, n in enumerate(lengths):
        expected = features[i, :n].astype(np.float64).mean(0) if n else np.zeros(features.shape[2])
        np.testing.assert_allclose(made[i], expected, rtol=1e-12)


def out_of_fold(train: SplitTensors, **changes: Any) -> OutOfFoldLabels:
    config = member(1, labels="out_of_fold", **changes).config
    return OutOfFoldLabels(train.table(config), 8, 8)


def test_the_generator_hands_out_what_was_predicted(splits: Splits) -> None:
    train, split = splits[0], splits[0].split
    generator = out_of_fold(train)
    videos = np.unique([i.split("$_$")[0] for i in split.ids], return_inverse=True)[1]
    rows = torch.tensor([40, 3, 17, 0])
    targets, counts = generator.targets(rows)
    for k, m in enumerate(("text", "audio", "vision")):
        present = split.lengths[m] > 0
        expected = cross_fitted(time_average(split, m), split.labels, present, videos)
        np.testing.assert_array_equal(targets[:, k].numpy(), expected[rows.numpy()])
        np.testing.assert_array_equal(generator.counts[:, k].numpy(), present)
    assert torch.equal(counts, generator.counts[rows]) and 0 < generator.counts.mean() < 1
    assert len(generator.table.unique()) > 45, "they are not the labels"


def test_only_who_asks_pays_and_once(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, asked = SplitTensors(splits[0].split, CPU), []

    def watched(features: Array, *given: Any) -> NDArray[np.float32]:
        asked.append(features.shape[1])
        return cross_fit.cross_fitted(features, *given)

    monkeypatch.setattr(loader, "cross_fitted", watched)
    for labels in ("none", "ulgm", "copied", "human"):
        Population([member(1, labels=labels)], train)
    assert not asked
    Population([member(k, labels="out_of_fold") for k in (1, 2, 3)], train)
    assert asked == [20, 8, 6]
    Population([member(1, labels="out_of_fold", encoders={"text": "linear", "vision": "pool"}, alignment={})], train)
    assert asked == [20, 8, 6]


def test_padding_and_rows_without_labels_change_nothing(splits: Splits) -> None:
    split = splits[0].split
    expected = out_of_fold(splits[0])
    padded = {m: np.pad(f, ((0, 0), (0, 5), (0, 0))) for m, f in split.features.items()}
    other: Split = replace(split, features=padded, unlabeled=splits[1].split)
    found = out_of_fold(SplitTensors(other, CPU))
    assert torch.equal(found.table, expected.table) and torch.equal(found.counts, expected.counts)


def test_unimodal_heads_learn_from_it(splits: Splits) -> None:
    """The targets reach the loss, and a row without the modality does not."""
    train = splits[0]
    population = Population([member(k, labels="out_of_fold") for k in (1, 2)], train)
    other = Population([member(k, labels="copied") for k in (1, 2)], train)
    losses = torch.stack([population.train_epoch(e) for e in range(1, 9)])
    assert torch.isfinite(losses).all() and (losses[-1] < losses[0]).all()
    assert not torch.equal(losses[0], other.train_epoch(1))
