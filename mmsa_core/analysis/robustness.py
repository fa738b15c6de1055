"""What a model's predictions become when modalities are missing or noisy. The model is not trained again.

Source: MultiBench, Liang et al., NeurIPS 2021, arXiv:2107.07502, section 3.3, and HEMM, Liang et al., 2024,
arXiv:2407.03418. Deviations from MultiBench's code: every entry gets noise of its own (there one number per time step
is added to all features), the input stays as it is, padding gets no noise, and the area under a curve does not depend
on how many points it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal, TypeAlias, get_args

import numpy as np

from mmsa_core.data.split import Split
from mmsa_core.noise import mix

Kind: TypeAlias = Literal["noise", "drop", "structured"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS = tuple(p / 10 for p in range(11))


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every non-empty subset, the smallest first: 2^M - 1.

    >>> subsets(["text", "audio"])
    [('text',), ('audio',), ('text', 'audio')]
    """
    return [s for size in range(1, len(modalities) + 1) for s in combinations(modalities, size)]


def keep_only(split: Split, modalities: Sequence[str]) -> Split:
    """Return the split without all other modalities: their length is 0, as where the data lacks them, and no text is
    left for an encoder that reads it itself."""
    gone = [m for m in split.features if m not in modalities]
    features = {m: np.zeros_like(x) if m in gone else x for m, x in split.features.items()}
    lengths = {m: np.zeros_like(n) if m in gone else n for m, n in split.lengths.items()}
    if "text" not in gone:
        return replace(split, features=features, lengths=lengths)
    texts = ("",) * len(split.raw_text)
    tokens = None if split.text_bert is None else np.zeros_like(split.text_bert)
    return replace(split, features=features, lengths=lengths, raw_text=texts, text_bert=tokens)


def spoilt(split: Split, modality: str, kind: Kind, seed: int, levels: Sequence[float] = LEVELS) -> Iterator[Split]:
    """Yield the split with the real rows of ``modality`` spoilt at each level in 0..1; at 0 it is the split itself.

    ``noise`` adds normal numbers of deviation ``level``, in standardised features; ``drop`` sets each entry, and
    ``structured`` each whole time step, to 0 (the training mean) with probability ``level``. The draws are made once,
    so a curve's points differ by the level alone.
    """
    values, real = split.features[modality], split.real_rows(modality)[:, :, None]
    rng = np.random.default_rng(mix("robustness", seed, modality, kind))
    if kind == "noise":
        drawn = np.where(real, rng.standard_normal(values.shape, np.float32), np.float32(0))
    else:
        drawn = rng.random(values.shape if kind == "drop" else (*values.shape[:2], 1), np.float32)
    for level in levels:
        if level == 0:
            yield split
        else:
            changed = values + np.float32(level) * drawn if kind == "noise" else values * (drawn >= level)
            yield replace(split, features={**split.features, modality: changed.astype(np.float32, copy=False)})


def area(levels: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under a curve whose levels begin at 0 and end at 1, by the trapezoid rule: a mean value.

    >>> area([0.0, 0.1, 1.0], [2.0, 2.0, 2.0])
    2.0
    """
    assert levels[0] == 0 and levels[-1] == 1, "an area needs a curve from 0 to 1"
    return float(np.trapezoid(values, levels))
