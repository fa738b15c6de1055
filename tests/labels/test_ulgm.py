"""Self-MM's labels against a slow reading of its code: one sample, one modality, one class at a time, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from mmsa_core import registry
from mmsa_core.labels.ulgm import UnimodalLabelGeneration
from mmsa_core.loader import SplitTensors, take
from mmsa_core.population import Population
from mmsa_core.tensors import Batch, LabelTable, Outputs
from tests.members import member, optimizer

Array = NDArray[np.float64]
ROWS, FUSED, POST = 23, 6, 4
KINDS = ("fusion", "text", "audio", "vision")
CLASSES = ("positive", "negative")
LONE = 4


class SlowLabels:
    """Reference, from the description of Self-MM's trainer in reference/base_model.md, section 2.2."""

    def __init__(self, labels: Array, exclude_zero: bool, bound: float, widths: Mapping[str, int]) -> None:
        self.exclude_zero, self.bound, self.moved, self.clamped = exclude_zero, bound, 0, 0
        self.kinds = list(widths)
        self.labels = {k: labels.copy() for k in self.kinds}
        self.features = {k: np.zeros((len(labels), width)) for k, width in widths.items()}
        self.centres: dict[str, tuple[Array | None, Array | None]] = {}
        self.find_centres()

    def update(self, rows: list[int], features: dict[str, Array], epoch: int) -> None:
        if epoch > 1:
            self.move(rows, features, epoch)
        for k in self.kinds:
            for i, row in enumerate(rows):
                self.features[k][row] = features[k][i]
        self.find_centres()

    def find_centres(self) -> None:
        """Compute every class mean anew from all rows, those not seen yet (zeros) included."""
        for k in self.kinds:
            positive, negative = [], []
            for f, y in zip(self.features[k], self.labels[k], strict=True):
                if y > 0 or (y == 0 and not self.exclude_zero):
                    positive.append(f)
                elif y < 0:
                    negative.append(f)
            self.centres[k] = (np.mean(positive, 0) if positive else None, np.mean(negative, 0) if negative else None)

    def take_labels(self, labels: Array) -> None:
        """Go on from other labels [row, kind]: one that should be exactly 0 has the sign, so the class, of rounding."""
        self.labels = {k: labels[:, i].copy() for i, k in enumerate(self.kinds)}
        self.find_centres()

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
            for k in self.kinds[1:]:
                own = self.relative(k, features[k][i])
                if own is None or fused is None:
                    continue  # our rule: without both classes a label stays; the original becomes NaN
                by_ratio, by_shift = own / (fused + 1e-8) * target, target + own - fused
                mean = 0.5 * by_ratio + 0.5 * by_shift
                new = min(max(mean, -self.bound), self.bound)
                self.moved, self.clamped = self.moved + 1, self.clamped + (new != mean)
                n = epoch
                self.labels[k][row] = (n - 1) / (n + 1) * self.labels[k][row] + 2 / (n + 1) * new

    def empty(self) -> set[tuple[str, str]]:
        """Return the classes without a row, by the representation."""
        pairs = [(k, c, centre) for k in self.kinds for c, centre in zip(CLASSES, self.centres[k], strict=True)]
        return {(k, c) for k, c, centre in pairs if centre is None}


def widths_of(modalities: int) -> dict[str, int]:
    return {k: FUSED if k == "fusion" else POST for k in KINDS[: modalities + 1]}


def generator(
    labels: Array, *, modalities: int = 3, exclude_zero: bool = True, floor: float = 0.0
) -> UnimodalLabelGeneration:
    table = LabelTable(torch.tensor(labels, dtype=torch.float32), None, modalities)
    made: UnimodalLabelGeneration = registry.build(
        "labels", "ulgm", table, FUSED, POST, exclude_zero=exclude_zero, floor=floor
    )
    return made


def outputs(features: Mapping[str, Array]) -> Outputs:
    """Return a model's outputs of which only the representations mean anything."""
    fused, *parts = (torch.tensor(f, dtype=torch.float32) for f in features.values())
    n = len(fused)
    nothing, each = torch.full((n,), torch.nan), torch.full((n, len(parts)), torch.nan)
    return Outputs(nothing, each, fused, tuple(parts), (), (), fused)


def draw_labels(rng: np.random.Generator, high: float, case: str) -> Array:
    labels = np.round(rng.uniform(-high, high, ROWS), 1)
    labels[0], labels[1], labels[[2, 9, 17]] = high, -high, 0.0
    if case == "no negative":
        labels = np.abs(labels)
    if case == "no positive":
        labels = -np.abs(labels)
    if case == "all zero":
        labels = np.zeros(ROWS)
    return labels.astype(np.float32).astype(np.float64)


def draw_features(rng: np.random.Generator, labels: Array, epoch: int, modalities: int) -> dict[str, Array]:
    """Return representations after a ReLU that carry a little of the label and drift from epoch to epoch."""
    made = {}
    for j, (k, width) in enumerate(widths_of(modalities).items()):
        direction = np.linspace(-1, 1.5 + j, width)
        raw = rng.normal(0.3, 1, (len(labels), width)) + 0.5 * epoch * labels[:, None] * direction / (j + 1)
        made[k] = np.maximum(raw, 0).astype(np.float32).astype(np.float64)
    return made


CASES = {
    "both classes": (5, 3, 0.0),  # rows of a batch (so the last of an epoch has 3), modalities, floor
    "both classes, a floor": (5, 3, 0.25),
    "both classes, batches of one": (1, 3, 0.0),
    "both classes, a last batch of one": (11, 3, 0.0),
    "both classes, two modalities": (5, 2, 0.0),
    "both classes, one modality": (5, 1, 0.0),
    "no negative": (5, 3, 0.0),
    "no positive": (5, 3, 0.0),
    "all zero": (5, 3, 0.0),
}


@pytest.mark.parametrize("exclude_zero", [True, False])
@pytest.mark.parametrize("high", [3.0, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_slow_reading(exclude_zero: bool, high: float, case: str) -> None:
    size, modalities, floor = CASES[case]
    rng = np.random.default_rng(7)
    labels = draw_labels(rng, high, case)
    mine = generator(labels, modalities=modalities, exclude_zero=exclude_zero, floor=floor)
    slow = SlowLabels(labels, exclude_zero, high, widths_of(modalities))
    empty_at_first = slow.empty()
    for epoch in range(1, 7):
        features = draw_features(rng, labels, epoch, modalities)
        order = rng.permutation(ROWS)
        for start in range(0, ROWS, size):
            rows = order[start : start + size]
            weights = assert_step(mine, slow, rows, features, epoch)
            if epoch <= 2:
                assert torch.equal(weights, torch.full_like(weights, floor)), "labels first move at the end of epoch 2"
        assert torch.equal(mine.labels[:, 0], torch.tensor(labels, dtype=torch.float32))
    every_step = 5 * modalities * ROWS
    if case.startswith("both classes"):
        assert slow.moved == every_step and not slow.empty()
        assert every_step * 0.1 <= slow.clamped <= every_step * 0.6, "both sides of the bound must be seen"
    elif case == "no positive" and not exclude_zero:  # then the rows with label 0 are the positive class
        assert slow.moved > 0 and not empty_at_first
    else:
        assert slow.moved == 0 and empty_at_first


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("high", [3.0, 1.0])
def test_a_class_that_becomes_empty(sign: int, high: float) -> None:
    """The one row of a class joins the others by its text: from then on no label of the text moves any more."""
    rng = np.random.default_rng(8)
    labels = -sign * np.round(rng.uniform(0.1, high, ROWS), 1)
    labels[0], labels[LONE] = -sign * high, sign * high
    mine, slow = generator(labels), SlowLabels(labels, True, high, widths_of(3))
    features = draw_features(rng, labels, 1, 3)
    assert_step(mine, slow, np.arange(ROWS), features, 1)
    features["fusion"][LONE] += 0.05  # near its class still, and not so near that its relative distance is infinite
    features["text"][LONE] = features["text"][np.arange(ROWS) != LONE].mean(0).astype(np.float32)
    assert_step(mine, slow, np.array([LONE]), features, 2)
    assert slow.empty() == {("text", "positive" if sign > 0 else "negative")}
    frozen = mine.labels[:, 1].clone()
    assert sign * frozen[LONE] < 0
    for epoch in range(2, 6):
        features = draw_features(rng, labels, epoch, 3)
        for rows in np.array_split(rng.permutation(ROWS), 4):
            assert_step(mine, slow, rows, features, epoch)
    assert torch.equal(mine.labels[:, 1], frozen) and not torch.equal(mine.labels[:, 2], mine.labels[:, 0])


def assert_step(
    mine: UnimodalLabelGeneration, slow: SlowLabels, rows: NDArray[np.int64], features: dict[str, Array], epoch: int
) -> Tensor:
    """Take one batch by both, compare what they give and keep, and return the weights of the labels."""
    index = torch.tensor(rows)
    targets, weights = mine.targets(index)
    expected = np.stack([slow.labels[k][rows] for k in slow.kinds[1:]], 1)
    assert_close(targets, expected)
    distance = np.abs(expected - slow.labels["fusion"][rows][:, None])
    assert_close(weights, np.tanh(distance) + float(mine.floor))
    batch = {k: f[rows] for k, f in features.items()}
    mine.update(index, outputs(batch), torch.tensor(epoch))
    slow.update(list(rows), batch, epoch)
    assert_close(mine.labels, np.stack(list(slow.labels.values()), 1))
    assert_sums(mine, slow)
    return weights


@pytest.mark.parametrize("high", [3.0, 1.0])
@pytest.mark.parametrize(("size", "exclude_zero"), [(16, True), (11, False)])
def test_in_a_population_equals_the_slow_reading(
    splits: tuple[SplitTensors, SplitTensors],
    monkeypatch: pytest.MonkeyPatch,
    high: float,
    size: int,
    exclude_zero: bool,
) -> None:
    """Members that train together, each with its own weights, dropout and order of rows (the last batch of an epoch has
    13 or 1 of the 45), have the labels that the slow reading makes of the same representations."""
    labels = splits[0].split.labels * high / np.abs(splits[0].split.labels).max()
    labels[:4] = 0.0
    train = SplitTensors(replace(splits[0].split, labels=labels), torch.device("cpu"))
    settings = {"name": "ulgm", "exclude_zero": exclude_zero, "floor": 0.1}
    specs = [member(seed, labels=settings, batch_size=size, optimizer=optimizer(seed)) for seed in (1, 2, 3)]
    population = Population(specs, train)
    widths = {"fusion": 8, "text": 8, "audio": 8, "vision": 8}
    slow = [SlowLabels(labels.astype(np.float64), exclude_zero, high, widths) for _ in specs]
    gradient, seen = population._replayed, []

    def watched(rows: Tensor, keys: Tensor, epoch: Tensor) -> tuple[Tensor, Tensor]:
        features = representations(population, rows, keys)
        found = gradient(rows, keys, epoch)
        for k, reference in enumerate(slow):
            own = {kind: f[k].numpy().astype(np.float64) for kind, f in zip(KINDS, features, strict=True)}
            reference.update(rows[k].tolist(), own, int(epoch))
            kept = population.buffers["labels.labels"][k]
            assert_close(kept, np.stack(list(reference.labels.values()), 1))
            reference.take_labels(kept.numpy().astype(np.float64))
            counts = population.buffers["labels.counts"][k].T.tolist()
            assert counts == [
                [np.sum(y > 0 if exclude_zero else y >= 0), np.sum(y < 0)] for y in reference.labels.values()
            ]
        seen.append(rows.shape[1])
        return found

    monkeypatch.setattr(population, "_replayed", watched)
    for epoch in range(1, 7):
        population.train_epoch(epoch)
    assert seen == 6 * ([size] * (45 // size) + [45 % size])
    assert all(s.moved == 5 * 3 * 45 and 0 < s.clamped < s.moved for s in slow)
    assert len({float(np.sum(s.labels["text"])) for s in slow}) == len(specs)


def representations(population: Population, rows: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    """Return what the label generator of every member is about to read: all representations."""

    def one(state: dict[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
        outputs = functional_call(population.template.model, state, (batch,))
        return (outputs.fused, *outputs.representations)

    noise = {n.removeprefix("model."): key for n, key in population._keys(keys).items()}
    with torch.no_grad():
        return vmap(one)({**population._inference(), **noise}, take(population.data, rows))


def assert_close(found: Tensor, expected: Array) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-3, atol=1e-3)


def assert_sums(mine: UnimodalLabelGeneration, slow: SlowLabels) -> None:
    """The class sums kept up by differences are those of all rows."""
    for task, (k, sums) in enumerate(zip(slow.kinds, mine.sums.split(mine.widths, 1), strict=True)):
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
