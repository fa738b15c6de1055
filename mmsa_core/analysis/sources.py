"""What a prediction may be made from: blocks of features of modalities, and views, which are the blocks of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmsa_core.analysis.stacked import Block, Stack
from mmsa_core.data.cross_fit import CONSTANT, deal, time_average
from mmsa_core.data.split import Split

Array = NDArray[np.float64]
COMPONENTS = 128
"""Most principal components of a modality, by variance."""
LEADING = 8
"""Components of a modality whose products are features, too."""
LARGEST = 5.0
"""Of a standardised number: products make outliers worse."""
CHUNK = 25
"""Labels whose predictions are in memory at once."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Averages over time [N, d] by modality (0 where missing), where it is there [N], and each row's video [N]."""

    averages: Mapping[str, Array]
    present: Mapping[str, NDArray[np.bool_]]
    videos: NDArray[np.int64]

    @staticmethod
    def of(splits: Sequence[Split], videos: NDArray[np.int64]) -> Sources:
        """Take the rows of several splits together."""
        modalities = splits[0].features
        averages = {m: np.concatenate([time_average(s, m) for s in splits]) for m in modalities}
        return Sources(averages, {m: np.concatenate([s.lengths[m] > 0 for s in splits]) for m in modalities}, videos)


@dataclass(frozen=True)
class View:
    """The modalities that a prediction is made from; whether products between them are features is ``products``."""

    modalities: tuple[str, ...]
    products: bool = True

    def holds(self, block: tuple[str, ...], product: bool) -> bool:
        """Tell whether a block of these modalities belongs to it."""
        return set(block) <= set(self.modalities) and (self.products or not product or block[0] == block[1])


def views(modalities: Sequence[str]) -> list[View]:
    """Return each modality, each pair (also without products between the two), and all."""
    subsets = [s for size in range(1, len(modalities) + 1) for s in combinations(modalities, size)]
    return [View(s) for s in subsets] + [View(s, products=False) for s in subsets if len(s) == 2]


class Predictor:
    """Predicts labels from every view, each video from other ones."""

    def __init__(self, sources: Sources) -> None:
        parts = {m: _components(sources.averages[m], sources.present[m]) for m in sources.averages}
        self.views = views(list(parts))
        fold = deal(sources.videos)
        linear = [v.modalities for v in self.views if v.products]
        crossed = [(a, b) for i, a in enumerate(parts) for b in list(parts)[i:]]
        blocks = [Block(np.concatenate([parts[m] for m in s], 1), fold) for s in linear]
        blocks += [Block(_products(parts[a], parts[b], a == b), fold) for a, b in crossed]
        kinds = [(s, False) for s in linear] + [(s, True) for s in crossed]
        self._members = [[i for i, kind in enumerate(kinds) if v.holds(*kind)] for v in self.views]
        self._stack = Stack(blocks, fold)

    def predict(self, labels: Array) -> tuple[Array, Array]:
        """Return predictions [view, N] of ``labels`` [N], and those of who knows nothing [N]."""
        made, means = self._stack.predict(labels[None], self._members)
        return made[:, 0], means[0]

    def explained(self, labels: Array) -> Array:
        """Return the held-out R2 [view, label] of ``labels`` [label, N]."""
        found = []
        for start in range(0, len(labels), CHUNK):
            part = labels[start : start + CHUNK]
            made, means = self._stack.predict(part, self._members)
            found.append(1 - ((made - part) ** 2).sum(-1) / ((means - part) ** 2).sum(-1))
        return np.concatenate(found, 1)


def _components(average: Array, present: NDArray[np.bool_]) -> Array:
    """Return the leading principal components [N, c] of standardised features, scaled so that all variances add up to
    1; rows that lack the modality stand at the mean."""
    seen = average[present] if present.any() else average
    mean, deviation = seen.mean(0), seen.std(0)
    varies = deviation > CONSTANT * np.abs(mean)
    x = np.where(varies, (average - mean) / np.where(varies, deviation, 1.0), 0.0).clip(-LARGEST, LARGEST)
    x = np.where(present[:, None], x, 0.0)
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = vectors[:, ::-1][:, :COMPONENTS]
    total = np.maximum(values, 0.0).sum() / len(x)
    return np.asarray(x @ kept / np.sqrt(total) if total > 0 else np.zeros((len(x), 1)))


def _products(a: Array, b: Array, same: bool) -> Array:
    """Return the products of the leading components of two modalities, or of one with itself, variances adding up to
    1."""
    one, two = (_unit(x[:, :LEADING]) for x in (a, b))
    pairs = np.triu_indices(one.shape[1]) if same else tuple(np.indices((one.shape[1], two.shape[1])).reshape(2, -1))
    made = one[:, pairs[0]] * two[:, pairs[1]]
    made = made - made.mean(0)
    total = made.var(0).sum()
    return np.asarray(made / np.sqrt(total) if total > 0 else made)


def _unit(x: Array) -> Array:
    """Return the columns with deviation 1; those that hardly vary are 0."""
    deviation = x.std(0)
    varies = deviation > CONSTANT * deviation.max()
    return np.asarray(np.where(varies, x / np.where(varies, deviation, 1.0), 0.0).clip(-LARGEST, LARGEST))
