"""What modalities say alike, alone and together: planted answers are found, chance is not, and the advice follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsa_core.analysis.advice import advise, record
from mmsa_core.analysis.held_out import Comparison, Quantity
from mmsa_core.analysis.interactions import Interactions, agreement, measure, shuffled
from mmsa_core.analysis.sources import Sources
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.synthetic import CLIPS, Problem, planted
from mmsa_core.errors import UserError

Array = NDArray[np.float64]
PARTS = ("redundancy", "unique_first", "unique_second", "synergy", "products")
Found = Callable[[Problem], Interactions]


@pytest.fixture(scope="module")
def found() -> Found:
    """Return the interactions of a planted problem's training split, each measured once."""
    known: dict[str, Interactions] = {}

    def of(problem: Problem) -> Interactions:
        if problem not in known:
            train = planted(0, problem=problem)["train"]
            videos = np.arange(len(train)) // CLIPS
            known[problem] = measure(Sources.of([Scaler.fit(train).apply(train)], videos), train.labels)
        return known[problem]

    return of


def pair(i: Interactions, first: str, second: str) -> Comparison:
    return next(c for c in (*i.pairs, *i.one_versus_rest) if (c.first, c.second) == (first, second))


def resolved(i: Interactions) -> set[str]:
    """Return what is resolved, as "text|audio synergy"."""
    return {
        f"{c.first}|{c.second} {p}"
        for c in (*i.pairs, *i.one_versus_rest)
        for p in PARTS
        if getattr(c, p) is not None and getattr(c, p).resolved
    }


def sources(rng: np.random.Generator, rows: int, clips: int = 4, **widths: int) -> Sources:
    """Return normal features, with an offset of every video."""
    videos = np.arange(rows) // clips
    averages = {m: rng.standard_normal((rows, d)) + rng.standard_normal((rows, d))[videos] for m, d in widths.items()}
    return Sources(averages, dict.fromkeys(widths, np.ones(rows, bool)), videos)


def test_synergy_of_a_planted_product(found: Found) -> None:
    """``modules``: y = t_1 / 2 + sum_k a_k v_k / 2 + 0.3 e; neither audio nor vision says anything alone."""
    i = found("modules")
    c = pair(i, "audio", "vision")
    assert c.products is not None
    assert c.synergy.resolved and c.products.resolved
    assert 0.5 < c.synergy.value < 0.5 * np.log2(1.34 / 0.34)
    assert not {p for p in resolved(i) if p.startswith("audio|vision")} - {
        "audio|vision synergy",
        "audio|vision products",
    }
    assert {p for p in resolved(i) if p.startswith(("text|audio ", "text|vision "))} <= {
        "text|audio unique_first",
        "text|vision unique_first",
    }
    assert [(a.place, a.arms[:2]) for a in advise(i) if a.place == "fusion"] == [("fusion", ("low_rank", "tensor"))]
    assert "audio and vision stand only in products" in next(a.reason for a in advise(i) if a.place == "fusion")


def test_synergy_of_a_planted_switch(found: Found) -> None:
    """``gating``: vision says whether text or audio tells the truth."""
    i = found("gating")
    for first in ("text", "audio"):
        c = pair(i, first, "vision")
        assert c.products is not None and c.products.resolved and c.synergy.resolved
        assert not c.unique_second.resolved and not c.redundancy.resolved
    assert next(a for a in advise(i) if a.place == "fusion").arms[0] == "low_rank"
    assert not [a for a in advise(i) if a.place == "alignment.text-audio" and "cka" in a.arms], (
        "they say as much, not the same"
    )


def test_redundancy_of_a_planted_repetition(found: Found) -> None:
    """``shared``: text and audio see the same, and vision nothing."""
    i = found("shared")
    c = pair(i, "text", "audio")
    assert c.redundancy.resolved and c.redundancy.value > 0.25
    assert c.discrete["redundancy"] > 0.1, "the other estimator sees it, too"
    assert not {p for p in resolved(i) if "vision" in p and "synergy" in p}
    assert not pair(i, "text", "vision").redundancy.resolved
    assert "cka" in next(a for a in advise(i) if a.place == "alignment.text-audio").arms
    assert not [a for a in advise(i) if a.place in ("fusion", "alignment.audio-vision")]


def test_what_two_have_of_their_own(found: Found) -> None:
    """``private``: text and vision say about as much, but what vision is there for is its own."""
    i = found("private")
    c = pair(i, "text", "vision")
    assert c.redundancy.resolved and c.synergy.resolved and c.products is not None and not c.products.resolved
    assert "orthogonal" in next(a for a in advise(i) if a.place == "alignment.text-vision").arms
    assert next(a for a in advise(i) if a.place == "fusion").arms[0] == "concat"


def test_a_dominant_modality_beside_others_that_say_something() -> None:
    rng = np.random.default_rng(0)
    given = sources(rng, 300, text=4, audio=4)
    given.averages["audio"][:, 0] += given.averages["text"][:, 0]
    labels = given.averages["text"][:, 0] + 0.3 * rng.standard_normal(300)
    i = measure(given, labels.astype(np.float32))
    assert [(a.place, a.arms[0]) for a in advise(i)] == [
        ("alignment.text-audio", "orthogonal"),
        ("strategy", "modality_dropout"),
    ]


def test_nothing_where_nothing_is(found: Found) -> None:
    """``null``: only text says something."""
    i = found("null")
    expected = {f"text|{o} unique_first" for o in ("audio", "vision", "audio+vision")}
    assert resolved(i) == expected | {"audio|text+vision unique_second", "vision|text+audio unique_second"}
    assert advise(i) == [], "nothing can help"


@pytest.mark.parametrize("clips", [1, 10])
def test_chance_resolves_little(clips: int) -> None:
    """12 times unrelated labels, which rows of one video have in common where it has several."""
    false = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        given = sources(rng, 150, clips, text=6, audio=4)
        labels = rng.standard_normal(150) + rng.standard_normal(150)[given.videos]
        false += bool(resolved(measure(given, labels.astype(np.float32))))
    assert false <= 2


def test_what_adds_up_needs_no_product() -> None:
    rng = np.random.default_rng(0)
    given = sources(rng, 300, text=6, audio=4)
    labels = given.averages["text"][:, 0] + given.averages["audio"][:, 0] + 0.5 * rng.standard_normal(300)
    i = measure(given, labels.astype(np.float32))
    (c,) = i.pairs
    assert i.one_versus_rest == ()
    assert c.synergy.resolved and c.products is not None and not c.products.resolved
    assert next(a for a in advise(i) if a.place == "fusion").arms[0] == "concat"
    assert "orthogonal" in next(a for a in advise(i) if a.place == "alignment.text-audio").arms, "not the same"


def test_a_curve_in_one_modality_is_no_synergy() -> None:
    rng = np.random.default_rng(0)
    given = sources(rng, 300, text=3, audio=3)
    given.averages["audio"][:] = given.averages["text"] + 0.1 * rng.standard_normal((300, 3))
    labels = given.averages["text"][:, 0] ** 2 + 0.3 * rng.standard_normal(300)
    (c,) = measure(given, labels.astype(np.float32)).pairs
    assert c.redundancy.resolved and c.redundancy.value > 3 * c.synergy.value


def test_does_not_depend_on_scale_and_order_of_modalities_or_on_rows_without_one() -> None:
    rng = np.random.default_rng(0)
    given = sources(rng, 200, text=5, audio=4)
    labels = (given.averages["text"][:, 0] + rng.standard_normal(200)).astype(np.float32)
    present = rng.random(200) > 0.2
    averages = {"text": given.averages["text"], "audio": np.where(present[:, None], given.averages["audio"], 0.0)}
    there = {"text": np.ones(200, bool), "audio": present}
    scaled = {"audio": 100 * averages["audio"] + 7, "text": averages["text"] * np.logspace(-2, 2, 5)}
    (a,) = measure(Sources(averages, there, given.videos), labels).pairs
    (b,) = measure(Sources(scaled, {m: there[m] for m in scaled}, given.videos), 10 * labels + 3).pairs
    for one, two in (("unique_first", "unique_second"), ("redundancy", "redundancy"), ("synergy", "synergy")):
        assert getattr(a, one).value == pytest.approx(getattr(b, two).value, abs=1e-5)
    assert a.unique_first.resolved


def test_shuffles_move_whole_videos() -> None:
    videos = np.array([3, 0, 0, 3, 3, 1, 2, 2, 2, 2])
    orders = shuffled(videos, 50, np.random.default_rng(0))
    rows = np.argsort(videos, kind="stable")
    for order in orders:
        assert sorted(order) == list(range(10))
        moved = videos[order[rows]]
        assert np.count_nonzero(np.diff(moved)) == 3, "every video's rows stay in a line"
    assert len({tuple(o) for o in orders}) > 15
    single = shuffled(np.arange(6), 200, np.random.default_rng(0))
    assert len({tuple(o) for o in single}) > 150


def test_agreement_is_a_cosine(found: Found) -> None:
    modules, shared = found("modules"), found("shared")
    assert agreement(modules, modules) == pytest.approx(1)
    different = agreement(modules, shared)
    assert different is not None and 0 <= different < 0.7
    zero = Quantity(0.0, 0.0, 0.0, 0.0, False)
    nothing = Comparison("text", "audio", zero, zero, zero, zero, zero, {})
    none = replace(modules, pairs=(nothing,) * 3, one_versus_rest=(nothing,) * 3)
    assert agreement(modules, none) is None


def test_what_a_model_uses(found: Found) -> None:
    """A model that is linear in text uses text alone, whatever the label depends on."""
    rng = np.random.default_rng(0)
    given = sources(rng, 200, text=5, audio=4)
    labels = given.averages["text"][:, 0] + given.averages["audio"][:, 0] * given.averages["text"][:, 1]
    model = given.averages["text"][:, 0]
    data, used = measure(given, labels.astype(np.float32)), measure(given, model.astype(np.float32), "prediction")
    assert used.target == "prediction"
    assert resolved(used) == {"text|audio unique_first"}
    assert pair(data, "text", "audio").products.resolved  # type: ignore[union-attr]
    same = agreement(data, used)
    assert same is not None and same < 0.9


def test_records_are_plain_and_alike(found: Found) -> None:
    made = record(found("shared"))
    assert set(made) == {"rows", "videos", "target", "pairs", "one_versus_rest", "advice"}
    assert [(c["first"], c["second"]) for c in made["pairs"]] == [
        ("text", "audio"),
        ("text", "vision"),
        ("audio", "vision"),
    ]
    assert [c["second"] for c in made["one_versus_rest"]] == ["audio+vision", "text+vision", "text+audio"]
    assert set(made["pairs"][0]["synergy"]) == {"value", "low", "high", "null_high", "resolved"}
    assert set(made["pairs"][0]["discrete"]) == {"redundancy", "unique_first", "unique_second", "synergy"}
    for c in (*made["pairs"], *made["one_versus_rest"]):
        for q in (c[p] for p in PARTS if c[p] is not None):
            assert 0 <= q["low"] <= q["high"] and q["value"] >= 0 and q["null_high"] >= 0


@pytest.mark.parametrize(
    ("rows", "clips", "widths", "constant", "sentence"),
    [
        (60, 4, {"text": 3}, False, "takes two modalities or three, got text alone"),
        (20, 2, {"text": 3, "audio": 2}, False, "needs 30 rows in 5 videos .*, got 20 rows in 10"),
        (60, 20, {"text": 3, "audio": 2}, False, "got 60 rows in 3"),
        (60, 4, {"text": 3, "audio": 2}, True, "all 60 labels are 1, so there is nothing to know of them"),
    ],
)
def test_too_little(rows: int, clips: int, widths: dict[str, int], constant: bool, sentence: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.ones(rows) if constant else rng.standard_normal(rows)
    with pytest.raises(UserError, match=sentence):
        measure(sources(rng, rows, clips, **widths), labels.astype(np.float32))
