"""Planted data: made so that the best combination of modules, and the error it can reach, are known beforehand.

Each sample has hidden vectors t (2), a (4) and v (4), all standard normal. Row s of a modality is W z + n_s, with one
random W per modality and fresh noise n_s, so that the mean over time nearly reveals z. With e standard normal,

    "modules":  y = clip(0.5 t_1 + 0.5 sum_k a_k v_k + 0.3 e, -3, 3)
    "null":     y = clip(t_1 + 0.3 e, -3, 3)

In "modules" neither audio nor vision says anything about y alone, only their products do: low_rank fusion, which
multiplies, finds them, while concatenation has to learn each product from few samples. In "null" audio and vision are
unrelated to y, so no fusion and no alignment can help (more parameters can hurt). Knowing t, a and v exactly leaves a
MAE of 0.3 sqrt(2 / pi) = 0.239, slightly less by the clipping; :func:`noise_floor` gives it for the very samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.npz import write
from mmsa_core.data.source import SPLITS
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

Problem: TypeAlias = Literal["modules", "null"]
NOISE = 0.3
"""Standard deviation of what no model can predict."""
BOUND = 3.0
CLIPS = 5
"""Samples of one video."""


class Shape(NamedTuple):
    """A planted modality: size of its hidden vector, width of its rows, and shortest and longest sequence."""

    hidden: int
    dim: int
    shortest: int
    longest: int


SHAPES = {"text": Shape(2, 20, 3, 12), "audio": Shape(4, 8, 8, 20), "vision": Shape(4, 6, 4, 10)}


def planted(
    seed: int, train: int = 600, valid: int = 200, test: int = 300, problem: Problem = "modules"
) -> dict[str, Split]:
    """Return train, valid and test, with videos of their own each; a split does not depend on the others' sizes."""
    return {name: split for name, (split, _) in _generate(seed, (train, valid, test), problem).items()}


def noise_floor(
    seed: int, train: int = 600, valid: int = 200, test: int = 300, problem: Problem = "modules"
) -> dict[str, float]:
    """Return by split the MAE of the noise-free label: what a model that knew the formula and z would reach."""
    made = _generate(seed, (train, valid, test), problem)
    return {name: float(np.abs(split.labels - clean).mean()) for name, (split, clean) in made.items()}


def write_planted(
    path: str | Path, seed: int, train: int = 600, valid: int = 200, test: int = 300, problem: Problem = "modules"
) -> None:
    """Write :func:`planted` data in the native format."""
    write(path, planted(seed, train, valid, test, problem))


def _generate(seed: int, sizes: tuple[int, int, int], problem: Problem) -> dict[str, tuple[Split, NDArray[np.float32]]]:
    if problem not in get_args(Problem):
        raise UserError(f"problem: must be 'modules' or 'null', got {problem!r}")
    root, *streams = np.random.default_rng(seed).spawn(1 + len(SPLITS))
    maps = {m: root.standard_normal((s.hidden, s.dim)) for m, s in SHAPES.items()}
    made: dict[str, tuple[Split, NDArray[np.float32]]] = {}
    for name, size, rng in zip(SPLITS, sizes, streams, strict=True):
        hidden = {m: rng.standard_normal((size, s.hidden)) for m, s in SHAPES.items()}
        clean = _clean_labels(hidden, problem)
        noisy = clean + NOISE * rng.standard_normal(size)
        lengths = {m: rng.integers(s.shortest, s.longest + 1, size) for m, s in SHAPES.items()}
        features = {m: _sequences(rng, hidden[m] @ maps[m], lengths[m], SHAPES[m].longest) for m in SHAPES}
        ids = tuple(f"{name}{i // CLIPS:04d}$_${i % CLIPS}" for i in range(size))
        made[name] = Split(ids, features, lengths, _clip(noisy), {}, ()), _clip(clean)
    return made


def _clean_labels(hidden: dict[str, NDArray[np.float64]], problem: Problem) -> NDArray[np.float64]:
    main: NDArray[np.float64] = hidden["text"][:, 0]
    if problem == "null":
        return main
    products: NDArray[np.float64] = (hidden["audio"] * hidden["vision"]).sum(axis=1)
    return 0.5 * main + 0.5 * products


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
