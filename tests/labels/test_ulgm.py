"""Self-MM's labels against a slow reading of its code: one sample, one modality, one class at a time, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core import registry
from mmsa_core.labels.ulgm import UnimodalLabelGeneration
from mmsa_core.tensors import LabelTable, Outputs

Array = NDArray[np.float64]
ROWS, BATCH, FUSED, POST = 23, 5, 6, 4  # the last batch of an epoch has 3 rows
KINDS = ("fusion", "text", "audio", "vision")


class SlowLabels:
    """Reference, from the description of Self-MM's trainer in reference/base_model.md, section 2.2."""

    def __init__(self, labels: Array, exclude_zero: bool, bound: float) -> None:
        self.exclude_zero, self.bound, self.moved, self.clamped = exclude_zero, bound, 0, 0
        self.labels = {k: labels.copy() for k in KINDS}
        self.features = {k: np.zeros((len(labels), FUSED if k == "fusion" else POST)) for k in KINDS}
        self.centres: dict[str, tuple[Array | None, Array | None]] = {}
        self.find_centres()

    def update(self, rows: list[int], features: dict[str, Array], epoch: int) -> None:
        if epoch > 1:
            self.move(rows, features, epoch)
        for k in KINDS:
            for i, row in enumerate(rows):
                self.features[k][row] = features[k][i]
        self.find_centres()

    def find_centres(self) -> None:
        """Compute every class mean anew from all rows, those not seen yet (zeros) included."""
        for k in KINDS:
            positive, negative = [], []
            for f, y in zip(self.features[k], self.labels[k], strict=True):
                if y > 0 or (y == 0 and not self.exclude_zero):
                    positive.append(f)
                elif y < 0:
                    negative.append(f)
            self.centres[k] = (np.mean(positive, 0) if positive else None, np.mean(negative, 0) if negative else None)

    def relative(self, k: str, feature: Array) -> float | None:
        positive, negative = self.centres[k]
        if positive is None or negative is None:
            return None
        to_positive, to_negative = np.linalg.norm(feature - positive), np.linalg.norm(feature - negative)
        return float((to_negative - to_positive) / (to_positive + 1e-8))

    def move(self, rows: list[int], features: dict[str, Array], epoch: int) -> None:
        for i, row in enumerate(rows):
            fused = self.relative("fusion", features["fusion"][i])
            target = self.labels["fusion"][row]
            for k in KINDS[1:]:
                own = self.relative(k, features[k][i])
                if own is None or fused is None:
                    continue  # our rule: without both classes a label stays; the original becomes NaN
                by_ratio, by_shift = own / (fused + 1e-8) * target, target + own - fused
                mean = 0.5 * by_ratio + 0.5 * by_shift
                new = min(max(mean, -self.bound), self.bound)
                self.moved, self.clamped = self.moved + 1, self.clamped + (new != mean)
                n = epoch
                self.labels[k][row] = (n - 1) / (n + 1) * self.labels[k][row] + 2 / (n + 1) * new


def table(labels: Array) -> LabelTable:
    return LabelTable(torch.tensor(labels, dtype=torch.float32), None, 3)


def generator(labels: Array, *, exclude_zero: bool = True, floor: float = 0.0) -> UnimodalLabelGeneration:
    made: UnimodalLabelGeneration = registry.build(
        "labels", "ulgm", table(labels), FUSED, POST, exclude_zero=exclude_zero, floor=floor
    )
    return made


def outputs(features: dict[str, Array]) -> Outputs:
    """Return a model's outputs of which only the representations mean anything."""
    own = {k: torch.tensor(f, dtype=torch.float32) for k, f in features.items()}
    n = len(own["fusion"])
    parts = tuple(own[k] for k in KINDS[1:])
    return Outputs(torch.full((n,), torch.nan), torch.full((n, 3), torch.nan), own["fusion"], parts, (), ())


def draw_labels(rng: np.random.Generator, high: float, case: str) -> Array:
    labels = np.round(rng.uniform(-high, high, ROWS), 1)
    labels[0], labels[1], labels[[2, 9, 17]] = high, -high, 0.0
    if case == "no negative":
        labels = np.abs(labels)
    return labels.astype(np.float32).astype(np.float64)


def draw_features(rng: np.random.Generator, labels: Array, epoch: int) -> dict[str, Array]:
    """Return representations after a ReLU that carry a little of the label and drift from epoch to epoch."""
    made = {}
    for j, k in enumerate(KINDS):
        width = FUSED if k == "fusion" else POST
        direction = np.linspace(-1, 1.5 + j, width)
        raw = rng.normal(0.3, 1, (len(labels), width)) + 0.5 * epoch * labels[:, None] * direction / (j + 1)
        made[k] = np.maximum(raw, 0).astype(np.float32).astype(np.float64)
    return made


@pytest.mark.parametrize("exclude_zero", [True, False])
@pytest.mark.parametrize("high", [3.0, 1.0])
@pytest.mark.parametrize(("case", "floor"), [("both classes", 0.0), ("both classes", 0.25), ("no negative", 0.0)])
def test_equals_the_slow_reading(exclude_zero: bool, high: float, case: str, floor: float) -> None:
    rng = np.random.default_rng(7)
    labels = draw_labels(rng, high, case)
    mine, slow = generator(labels, exclude_zero=exclude_zero, floor=floor), SlowLabels(labels, exclude_zero, high)
    for epoch in range(1, 7):
        features = draw_features(rng, labels, epoch)
        order = rng.permutation(ROWS)
        for start in range(0, ROWS, BATCH):
            rows = order[start : start + BATCH]
            index = torch.tensor(rows)
            targets, weights = mine.targets(index)
            expected = np.stack([slow.labels[k][rows] for k in KINDS[1:]], 1)
            assert_close(targets, expected)
            assert_close(weights, np.tanh(np.abs(expected - labels[rows][:, None])) + floor)
            if epoch <= 2:
                assert torch.equal(weights, torch.full_like(weights, floor)), "labels first move at the end of epoch 2"
            batch = {k: f[rows] for k, f in features.items()}
            mine.update(index, outputs(batch), torch.tensor(epoch))
            slow.update(list(rows), batch, epoch)
        assert torch.equal(mine.labels[:, 0], torch.tensor(labels, dtype=torch.float32))
        assert_sums(mine, slow)
    steps = 5 * 3 * ROWS if case == "both classes" else 0
    assert slow.moved == steps and steps * 0.1 <= slow.clamped <= steps * 0.6, "both sides of the bound must be seen"


def assert_close(found: Tensor, expected: Array) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-3, atol=1e-3)


def assert_sums(mine: UnimodalLabelGeneration, slow: SlowLabels) -> None:
    """The class sums kept up by differences are those of all rows."""
    for task, (k, sums) in enumerate(zip(KINDS, mine.sums.split([FUSED, POST, POST, POST], 1), strict=True)):
        for c, centre in enumerate(slow.centres[k]):
            count = float(mine.counts[c, task])
            assert (count > 0) == (centre is not None)
            assert_close(sums[c], np.zeros(sums.shape[1]) if centre is None else centre * count)


def test_by_hand() -> None:
    """Two rows, one representation each at its class centre and one in between, by the formulas above."""
    labels = np.array([1.0, -1.0])
    mine = generator(labels)
    zeros = {k: np.zeros((2, FUSED if k == "fusion" else POST)) for k in KINDS}
    first = {k: f.copy() for k, f in zeros.items()}
    for f in first.values():
        f[0, 0], f[1, 0] = 2.0, -2.0
    mine.update(torch.tensor([0, 1]), outputs(first), torch.tensor(1))
    second = {k: f.copy() for k, f in first.items()}
    second["fusion"][0, 0], second["text"][0, 0], second["audio"][0, 0] = 1.0, 0.0, -1.0
    mine.update(torch.tensor([0]), outputs({k: f[:1] for k, f in second.items()}), torch.tensor(2))
    # distances to (2, -2): fusion 1, 3 so alpha 2; text 2, 2 so 0; audio 3, 1 so -2/3; vision 0, 4 so huge: the bound
    # new = y + (own - fused) / 2 * (y + fused) / fused: text 1 - 1.5; audio 1 - 2, which is the bound
    # mean over epochs 1 and 2, weights 1/3 and 2/3
    targets, weights = mine.targets(torch.tensor([0]))
    expected = torch.tensor([[1 / 3 - 0.5 * 2 / 3, 1 / 3 - 1.0 * 2 / 3, 1.0]])
    torch.testing.assert_close(targets, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights, torch.tanh((expected - 1).abs()), rtol=1e-5, atol=1e-6)


def test_bound_is_the_range_of_the_training_labels() -> None:
    assert generator(np.array([0.5, -2.5, 1.0])).bound == 2.5
