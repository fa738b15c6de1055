"""The planted problems: hidden vectors and labels made so that one kind of module must win, and how well it can do.

Each problem says how the hidden vectors of the three modalities and the label's signal come about, and what the best
prediction from those vectors is; :mod:`mmsa_core.data.synthetic` adds the label's noise and makes sequences of the
vectors. All letters are independent standard normal numbers unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsa_core.config import MODALITIES

Array = NDArray[np.float64]
LENGTHS = {"text": (3, 12), "audio": (8, 20), "vision": (4, 10)}
"""Shortest and longest sequence."""
INCOMPLETE = np.array([p for p in product((True, False), repeat=len(MODALITIES)) if any(p) and not all(p)])
"""Every combination of modalities that lacks some [combination, modality]."""


class Shape(NamedTuple):
    """A planted modality: size of its hidden vector, width of its rows, and shortest and longest sequence."""

    hidden: int
    dim: int
    shortest: int
    longest: int


class Truth(NamedTuple):
    """What is hidden behind some samples: vectors by modality [N, hidden], the label without noise [N], the best
    prediction from the vectors [N], and which modalities are there [N, modality] (all where None)."""

    hidden: dict[str, Array]
    signal: Array
    best: Array
    available: NDArray[np.bool_] | None = None


class Sizes(NamedTuple):
    """Samples by split; ``unlabeled`` rows come beside train."""

    train: int = 600
    valid: int = 200
    test: int = 300
    unlabeled: int = 0


Draw = Callable[[np.random.Generator, int, bool], Truth]
"""Draws samples; whether they are for training is the last argument."""


class Recipe(NamedTuple):
    """A problem: who draws it, the shapes of its modalities, the label noise's standard deviation, and its sizes."""

    draw: Draw
    shapes: Mapping[str, Shape]
    noise: float = 0.3
    sizes: Sizes = Sizes()


def _modules(rng: np.random.Generator, size: int, train: bool) -> Truth:
    """y = 0.5 t_1 + 0.5 sum_k a_k v_k: neither audio nor vision says anything of y alone, only their products do.

    Fusion low_rank or tensor, which multiply, find them; concat has to learn each product from few samples.
    """
    z = _normal(rng, size, (2, 4, 4))
    signal = 0.5 * z["text"][:, 0] + 0.5 * (z["audio"] * z["vision"]).sum(axis=1)
    return Truth(z, signal, signal)


def _null(rng: np.random.Generator, size: int, train: bool) -> Truth:
    """y = t_1: audio and vision are unrelated to y, so no fusion and no alignment can help, and a report must say
    so."""
    z = _normal(rng, size, (2, 4, 4))
    signal = z["text"][:, 0]
    return Truth(z, signal, signal)


def _gating(rng: np.random.Generator, size: int, train: bool, *, aspects: int) -> Truth:
    """y = mean of the aspects (times the root of their number): of each, text or audio tells the truth and the other
    lies, i.e. says something independent. The sign of vision's k-th number tells who; its size, exp(0.5 e), nothing.

    Fusion gated (or what can multiply by a function of vision) switches each aspect; concat has to build every switch
    from hinges in its head.
    """
    z = _normal(rng, size, (aspects, aspects, aspects))
    sign = np.where(rng.random((size, aspects)) < 0.5, 1.0, -1.0)
    signal = np.where(sign > 0, z["text"], z["audio"]).sum(axis=1) * aspects**-0.5
    return Truth({**z, "vision": sign * np.exp(0.5 * z["vision"])}, signal, signal)


def _shared(rng: np.random.Generator, size: int, train: bool, *, others: int, blur: float, scale: float) -> Truth:
    """y = scale (s_1 + s_2) / sqrt 2, and text and audio each see s with noise ``blur`` among ``others`` dimensions of
    their own; vision is unrelated.

    What text and audio have in common is all there is to know, and pairing shows it without any label: a shared
    alignment of text-audio leaves 2 dimensions to learn from the few labels, where none has to learn 2 (2 + others).
    """
    own = _normal(rng, size, (others, others, 4))
    s = rng.standard_normal((size, 2))
    views = [s + blur * rng.standard_normal(s.shape) for _ in range(2)]
    hidden = {m: np.concatenate([view, own[m]], axis=1) for m, view in zip(("text", "audio"), views, strict=True)}
    known = _posterior(views, [blur, blur])
    return Truth({**hidden, "vision": own["vision"]}, scale * _sum(s), scale * _sum(known))


def _private(rng: np.random.Generator, size: int, train: bool) -> Truth:
    """y = 0.8 (s_1 + s_2) / sqrt 2 + 0.2 (a_1 + a_2) / sqrt 2 + 0.5 (v_1 + v_2) / sqrt 2: text sees s with noise 0.6,
    audio a, vision v. In training, by accident, vision sees s too (with noise 0.8); elsewhere something independent
    takes its place.

    What vision shares with text is a trap, what counts is its own: a private alignment of text-vision makes vision drop
    the copy (text's, being clearer, stays), a shared one makes it keep nothing else, and none uses both.
    """
    z = _normal(rng, size, (2, 2, 2))
    s, instead = rng.standard_normal((size, 2)), rng.standard_normal((size, 2))
    text = s + 0.6 * z["text"]
    copy = (s if train else instead) + 0.8 * rng.standard_normal((size, 2))
    own = 0.2 * _sum(z["audio"]) + 0.5 * _sum(z["vision"])
    known = _posterior([text, copy], [0.6, 0.8]) if train else _posterior([text], [0.6])
    hidden = {"text": text, "audio": z["audio"], "vision": np.concatenate([z["vision"], copy], axis=1)}
    return Truth(hidden, 0.8 * _sum(s) + own, 0.8 * _sum(known) + own)


def _missing(rng: np.random.Generator, size: int, train: bool) -> Truth:
    """y = (s_1 + s_2) / sqrt 2, and every modality sees s with noise 0.5 beside 2 dimensions of its own. Training is
    complete; elsewhere each sample has one or two modalities, every such combination equally often.

    A model that never missed anything adds up three parts and takes a missing one for 0; strategy modality_dropout or
    incomplete teaches it to make do with what there is.
    """
    own = _normal(rng, size, (2, 2, 2))
    s = rng.standard_normal((size, 2))
    views = [s + 0.5 * rng.standard_normal(s.shape) for _ in MODALITIES]
    hidden = {m: np.concatenate([view, own[m]], axis=1) for m, view in zip(MODALITIES, views, strict=True)}
    there = np.ones((size, len(MODALITIES)), bool) if train else INCOMPLETE[rng.integers(0, len(INCOMPLETE), size)]
    seen = np.where(there[:, :, None], np.stack(views, axis=1), 0.0).sum(axis=1)
    known = seen / (there.sum(axis=1, keepdims=True) + 0.5**2)
    return Truth(hidden, _sum(s), _sum(known), there)


def _normal(rng: np.random.Generator, size: int, widths: Sequence[int]) -> dict[str, Array]:
    return {m: rng.standard_normal((size, width)) for m, width in zip(MODALITIES, widths, strict=True)}


def _sum(values: Array) -> Array:
    """Return the sum of the columns, scaled to the variance of one."""
    total: Array = values.sum(axis=1) * values.shape[1] ** -0.5
    return total


def _posterior(views: Sequence[Array], noises: Sequence[float]) -> Array:
    """Return the mean of a standard normal s, given views s + noise e."""
    weights = [noise**-2 for noise in noises]
    total: Array = np.tensordot(weights, np.stack(views), axes=1) / (1 + sum(weights))
    return total


def _shapes(*sizes: tuple[int, int]) -> dict[str, Shape]:
    """Return the shapes of text, audio and vision from their hidden sizes and widths."""
    return {m: Shape(*size, *LENGTHS[m]) for m, size in zip(MODALITIES, sizes, strict=True)}


PROBLEMS = {
    "modules": Recipe(_modules, _shapes((2, 20), (4, 8), (4, 6))),
    "gating": Recipe(partial(_gating, aspects=4), _shapes((4, 8), (4, 8), (4, 8)), sizes=Sizes(800, 300, 400)),
    "shared": Recipe(
        partial(_shared, others=14, blur=0.2, scale=0.8),
        _shapes((16, 20), (16, 20), (4, 6)),
        noise=0.8,
        sizes=Sizes(200, 300, 400),
    ),
    "private": Recipe(_private, _shapes((2, 16), (2, 8), (4, 12)), noise=0.4, sizes=Sizes(400, 300, 400)),
    "missing": Recipe(_missing, _shapes((4, 20), (4, 8), (4, 6)), sizes=Sizes(600, 300, 400)),
    "unlabeled": Recipe(
        partial(_shared, others=24, blur=0.3, scale=0.9),
        _shapes((26, 30), (26, 30), (4, 6)),
        noise=0.6,
        sizes=Sizes(120, 300, 400, 1500),
    ),
    "null": Recipe(_null, _shapes((2, 20), (4, 8), (4, 6))),
}
