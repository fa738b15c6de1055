"""Planted data: made so that the best combination of modules, and the error it can reach, are known beforehand.

A problem of :mod:`mmsa_core.data.problems` draws a hidden vector z per modality and the label's signal. Row s of a
modality is W z + 0.5 n_s, with one random W per modality and fresh standard normal noise n_s, so that the mean over
time nearly reveals z. The label is the signal with normal noise, clipped to -3..3. What no model can go below is
:func:`noise_floor`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.npz import write
from mmsa_core.data.problems import PROBLEMS, Array, Recipe, Sizes
from mmsa_core.data.source import SPLITS, UNLABELED
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError, nearest

Problem: TypeAlias = Literal["modules", "gating", "shared", "private", "missing", "unlabeled", "null"]
BOUND = 3.0
CLIPS = 5
"""Samples of one video."""


def planted(
    seed: int,
    train: int | None = None,
    valid: int | None = None,
    test: int | None = None,
    problem: Problem = "modules",
    unlabeled: int | None = None,
) -> dict[str, Split]:
    """Return train, valid and test, with videos of their own each; a split does not depend on the others' sizes.

    Sizes are the problem's where they are None; ``unlabeled`` rows come with train.

    Raises:
        UserError: there is no such problem.
    """
    made = _generate(seed, (train, valid, test, unlabeled), problem)
    splits: dict[str, Split] = {name: made[name][0] for name in SPLITS}
    if UNLABELED in made:
        rows = made[UNLABELED][0]
        rows = replace(rows, labels=np.zeros_like(rows.labels))
        splits["train"] = replace(splits["train"], unlabeled=rows)
    return splits


def noise_floor(
    seed: int,
    train: int | None = None,
    valid: int | None = None,
    test: int | None = None,
    problem: Problem = "modules",
) -> dict[str, float]:
    """Return by split the MAE of the best prediction from the hidden vectors of the modalities that are there.

    Without the clipping it is ``sqrt(2 / pi)`` times the deviation of what they do not tell: 0.239 where they tell all
    but a noise of 0.3.
    """
    made = _generate(seed, (train, valid, test, 0), problem)
    return {name: float(np.abs(split.labels - best).mean()) for name, (split, best) in made.items()}


def write_planted(
    path: str | Path,
    seed: int,
    train: int | None = None,
    valid: int | None = None,
    test: int | None = None,
    problem: Problem = "modules",
    unlabeled: int | None = None,
) -> None:
    """Write :func:`planted` data in the native format."""
    write(path, planted(seed, train, valid, test, problem, unlabeled))


def _generate(
    seed: int, sizes: tuple[int | None, ...], problem: Problem
) -> dict[str, tuple[Split, NDArray[np.float32]]]:
    """Return the splits, rows without labels as one of their own, with the best prediction for each."""
    if problem not in get_args(Problem):
        raise UserError(f"problem: there is no {problem!r}{nearest(problem, get_args(Problem))}")
    recipe = PROBLEMS[problem]
    wanted = Sizes(*(own if size is None else size for size, own in zip(sizes, recipe.sizes, strict=True)))
    root, *streams = np.random.default_rng(seed).spawn(1 + len(wanted))
    maps = {m: root.standard_normal((s.hidden, s.dim)) for m, s in recipe.shapes.items()}
    parts = zip((*SPLITS, UNLABELED), wanted, streams, strict=True)
    return {name: _split(name, size, rng, recipe, maps) for name, size, rng in parts if size > 0 or name in SPLITS}


def _split(
    name: str, size: int, rng: np.random.Generator, recipe: Recipe, maps: dict[str, Array]
) -> tuple[Split, NDArray[np.float32]]:
    truth = recipe.draw(rng, size, name in ("train", UNLABELED))
    noisy = truth.signal + recipe.noise * rng.standard_normal(size)
    lengths = {m: rng.integers(s.shortest, s.longest + 1, size) for m, s in recipe.shapes.items()}
    if truth.available is not None:
        lengths = {m: n * there for (m, n), there in zip(lengths.items(), truth.available.T, strict=True)}
    features = {m: _sequences(rng, truth.hidden[m] @ maps[m], lengths[m], recipe.shapes[m].longest) for m in maps}
    ids = tuple(f"{name}{i // CLIPS:04d}$_${i % CLIPS}" for i in range(size))
    return Split(ids, features, lengths, _clip(noisy), {}, ()), _clip(truth.best)


def _sequences(
    rng: np.random.Generator, centres: NDArray[np.float64], lengths: NDArray[np.int64], longest: int
) -> NDArray[np.float32]:
    """Repeat each centre [N, d] over time with noise on every row, and zeros behind its length."""
    samples, dim = centres.shape
    rows = centres[:, None, :] + 0.5 * rng.standard_normal((samples, longest, dim))
    rows[np.arange(longest) >= lengths[:, None]] = 0.0
    return rows.astype(np.float32)


def _clip(labels: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.clip(labels, -BOUND, BOUND).astype(np.float32)
