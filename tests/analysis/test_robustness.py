"""Missing and noisy modalities: what changes, what must not, and areas under curves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mmsa_core.analysis.robustness import KINDS, LEVELS, Kind, area, keep_only, spoilt, subsets
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted


@pytest.fixture(scope="module")
def split() -> Split:
    """Standard normal features on real rows; some samples lack audio."""
    made = planted(0, train=2, valid=2, test=300)["test"]
    rng = np.random.default_rng(0)
    lengths = {**made.lengths, "audio": np.where(np.arange(300) % 10 == 0, 0, made.lengths["audio"])}
    bare = replace(made, lengths=lengths, raw_text=("x",) * 300, text_bert=np.ones((300, 3, 4), np.int64))
    features = {
        m: rng.standard_normal(x.shape).astype(np.float32) * bare.real_rows(m)[:, :, None]
        for m, x in made.features.items()
    }
    return replace(bare, features=features)


def frozen(split: Split) -> dict[str, bytes]:
    return {m: x.tobytes() + split.lengths[m].tobytes() for m, x in split.features.items()}


def test_subsets_are_all_but_the_empty_one() -> None:
    found = subsets(["text", "audio", "vision"])
    assert len(found) == len(set(found)) == 7
    assert found[0] == ("text",) and found[3] == ("text", "audio") and found[-1] == ("text", "audio", "vision")


def test_what_is_not_kept_is_missing_as_in_the_data(split: Split) -> None:
    before = frozen(split)
    audio = keep_only(split, ["audio"])
    assert (
        (audio.lengths["text"] == 0).all() and not audio.features["text"].any() and not audio.features["vision"].any()
    )
    assert np.array_equal(audio.lengths["audio"], split.lengths["audio"]) and audio.features["audio"].any()
    assert audio.raw_text == ("",) * 300 and audio.text_bert is not None and not audio.text_bert.any()
    assert audio.ids == split.ids and audio.labels is split.labels
    text = keep_only(split, ["text", "vision"])
    assert text.raw_text == split.raw_text and text.text_bert is split.text_bert
    everything = keep_only(split, list(split.features))
    assert frozen(everything) == before == frozen(split), "the split itself is never changed"


@pytest.mark.parametrize("kind", KINDS)
def test_level_0_is_the_split_itself_and_only_one_modalitys_real_rows_change(split: Split, kind: Kind) -> None:
    before = frozen(split)
    made = list(spoilt(split, "audio", kind, 3))
    assert len(made) == len(LEVELS) == 11 and made[0] is split
    padding = ~split.real_rows("audio")
    for one in made[1:]:
        assert one.features["audio"].dtype == np.float32 and not one.features["audio"][padding].any()
        assert one.features["text"] is split.features["text"] and one.lengths is split.lengths
        assert not np.array_equal(one.features["audio"], split.features["audio"])
    assert frozen(split) == before
    again = list(spoilt(split, "audio", kind, 3))
    other = list(spoilt(split, "audio", kind, 4))
    assert all(np.array_equal(a.features["audio"], b.features["audio"]) for a, b in zip(made, again, strict=True))
    assert not np.array_equal(made[5].features["audio"], other[5].features["audio"])
    assert not np.array_equal(
        next(spoilt(split, "text", kind, 3, [0.5])).features["text"][:, :2, :2], made[5].features["audio"][:, :2, :2]
    )


def test_noise_has_its_deviation_in_every_entry(split: Split) -> None:
    real = split.real_rows("audio")
    for level, made in zip(LEVELS[1:], spoilt(split, "audio", "noise", 0, LEVELS[1:]), strict=True):
        added = (made.features["audio"] - split.features["audio"])[real]
        assert added.mean() == pytest.approx(0, abs=4 * level / math.sqrt(added.size))
        assert added.std() == pytest.approx(level, rel=4 / math.sqrt(2 * added.size))
        neighbours = np.corrcoef(added.T)[np.triu_indices(added.shape[1], 1)]
        assert np.abs(neighbours).max() < 5 / math.sqrt(len(added)), "one draw per time step would give 1"


def test_what_is_dropped_is_0_at_its_rate_and_the_rest_as_it_was(split: Split) -> None:
    values, real = split.features["audio"], split.real_rows("audio")
    gone = np.zeros_like(values, bool)
    for level, made in zip(LEVELS, spoilt(split, "audio", "drop", 0), strict=True):
        now = made.features["audio"]
        dropped = (now == 0) & (values != 0)
        share, count = dropped[real].mean(), dropped[real].size
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / count) + 1e-12)
        assert np.array_equal(now[~dropped], values[~dropped])
        assert dropped[gone].all(), "what is gone at a level is gone at every higher one"
        gone = dropped
    assert gone[real].all(), "at 1 nothing is left"


def test_structured_drop_takes_whole_time_steps(split: Split) -> None:
    real = split.real_rows("audio")
    for level, made in zip(LEVELS, spoilt(split, "audio", "structured", 0), strict=True):
        dropped = (made.features["audio"] == 0)[real]
        assert np.array_equal(dropped.all(1), dropped.any(1))
        share, count = dropped[:, 0].mean(), len(dropped)
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / count) + 1e-12)


def test_areas() -> None:
    assert area(LEVELS, [0.7] * 11) == pytest.approx(0.7, abs=1e-15)
    assert area([0.0, 1.0], [0.2, 0.6]) == pytest.approx(0.4)
    assert (
        area(LEVELS, [2 * p for p in LEVELS])
        == pytest.approx(area([0.0, 0.25, 1.0], [0.0, 0.5, 2.0]))
        == pytest.approx(1)
    )
    assert area([0.0, 0.5, 1.0], [0.0, 0.0, 1.0]) == pytest.approx(0.25), "by the width, whatever the grid"
    with pytest.raises(AssertionError, match="from 0 to 1"):
        area([0.1, 1.0], [1.0, 1.0])
