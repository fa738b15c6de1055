"""Records of every later stage of a run, made up but in the form that the stages write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from search.report.collect import RunRecord
from search.statistics import Estimate, resolve, smallest_visible

MODULES = {
    "alignment.text-audio": "intra_contrastive",
    "alignment.text-vision": "none",
    "alignment.audio-vision": "coral",
    "encoders.text": "attention",
    "fusion": "low_rank",
    "labels": "ulgm",
}
SEEDS, VIDEOS = 20, 31
METRICS = {
    "mae": 0.81,
    "corr": 0.62,
    "acc2_has0": 0.741,
    "f1_has0": 0.742,
    "acc2_non0": 0.758,
    "f1_non0": 0.759,
    "acc5": 0.41,
    "acc7": 0.36,
}


def value(mean: float, half: float = 0.012, n: int = SEEDS) -> Estimate:
    return Estimate(mean, half * 1.6, n, mean - half, mean + half, half / 2.1, n - 1.0, VIDEOS)


def candidate(trial: int, mae: float, config: Mapping[str, Any], dropped: int | None) -> dict[str, Any]:
    n = dropped or SEEDS
    others = {m: value(v + 0.3 * (0.81 - mae), 0.01, n).to_dict() for m, v in METRICS.items() if m != "mae"}
    return {
        "trial": trial,
        "config": config,
        "valid": {"mae": value(mae, 0.012 if dropped is None else 0.03, n).to_dict(), **others},
        "seconds": 1.5 + 0.2 * trial,
        "parameters": 20_000 + 7_000 * trial,
        "best_epoch": 9.5,
        "failures": [],
        "dropped_after": dropped,
        "elo": {
            "rating": 1000 + 900 * (0.85 - mae),
            "low": 990 + 900 * (0.85 - mae),
            "high": 1010 + 900 * (0.85 - mae),
        },
    }


def confirmation(config: Mapping[str, Any], trials: Sequence[int]) -> dict[str, Any]:
    """Six leaders and the baseline, trial 0, of which two dropped out; the first of ``trials`` is the winner."""
    means = [0.781, 0.786, 0.79, 0.801, 0.828, 0.842]
    dropped = [None, None, None, None, 10, 5]
    own = [candidate(t, m, config, d) for t, m, d in zip(trials, means, dropped, strict=True)]
    base = candidate(0, 0.822, config, None)
    gains = resolve([value(c["valid"]["mae"]["mean"] - 0.822) for c in own])
    for entry, gain in zip(own, gains, strict=True):
        entry["difference"] = gain
    base["difference"] = resolve([Estimate(0.0, 0.0, SEEDS, 0.0, 0.0, 0.0, 19.0, VIDEOS)])[0]
    pairs = list(combinations(trials[:4], 2))
    gaps = resolve([value(means[trials.index(a)] - means[trials.index(b)], 0.011) for a, b in pairs])
    test = {
        role: {m: value(v + shift, 0.014).to_dict() for m, v in METRICS.items()}
        for role, shift in (("winner", 0.0), ("baseline", 0.03))
    }
    table = sorted([*own, base], key=lambda c: float(c["valid"]["mae"]["mean"]))
    return {
        "metric": "mae",
        "convention": "mosi",
        "direction": "minimize",
        "seeds": list(range(100, 100 + SEEDS)),
        "baseline": 0,
        "winner": trials[0],
        "rule": "bound",
        "clusters": VIDEOS,
        "race": [
            {"seeds": 5, "entered": [0, *trials], "dropped": [trials[5]]},
            {"seeds": 10, "entered": [0, *trials[:5]], "dropped": [trials[4]]},
            {"seeds": 20, "entered": [0, *trials[:4]], "dropped": []},
        ],
        "members": 115,
        "budget": 140,
        "candidates": table,
        "pairs": [{"a": a, "b": b, "difference": d} for (a, b), d in zip(pairs, gaps, strict=True)],
        "test": {**test, "difference": resolve([value(-0.03, 0.02)])[0]},
        "ensemble": {"valid": METRICS, "test": METRICS},
        "test_openings": 1,
    }


def explanation(leaves: Sequence[str]) -> dict[str, Any]:
    """Effects, interactions, the path, curves and arms; ``leaves`` are the parameters that have an importance."""
    rng = np.random.default_rng(0)
    chosen = {k: v for k, v in MODULES.items() if v != "none"}
    gains = [value(m, 0.015) for m in (-0.03, -0.021, -0.012, -0.006, 0.004)]
    effects = [
        {
            "module": m,
            "choice": c,
            "against": "none",
            "difference": d,
            **{k: d[k] for k in ("p", "p_adjusted", "resolved")},
            "smallest_visible": smallest_visible(e),
            "sentence": f"{m}: {c} changes MAE by {e.mean:+.3f}",
        }
        for (m, c), e, d in zip(chosen.items(), gains, resolve(gains), strict=True)
    ]
    shares = {name: float(s) for name, s in zip(leaves, rng.dirichlet(np.ones(len(leaves))), strict=True)}
    return {
        "importance": {"ped_anova": shares, "fanova": dict(list(shares.items())[::2])},
        "conditional": {leaves[-1]: "fusion = low_rank"},
        "effects": effects,
        "interactions": interactions(list(chosen.items())),
        "path": steps(),
        "spared": None,
        "marginals": [
            marginal(name, log, rng)
            for name, log in (
                ("optimizer.lr", True),
                ("alignment.audio-vision.coral.weight", True),
                ("heads.dropout", False),
            )
        ],
        "arms": [
            {
                "place": place,
                "arm": arm,
                "trials": 12,
                "complete": 3,
                "best": 0.8,
                "mean": 0.84,
                "low": 0.82,
                "high": 0.86,
            }
            for place, arm in (("fusion", "concat"), ("fusion", "low_rank"), ("alignment.audio-vision", "coral"))
        ]
        + [
            {
                "place": "fusion",
                "arm": "mult",
                "trials": 1,
                "complete": 0,
                "best": None,
                "mean": None,
                "low": None,
                "high": None,
            }
        ],
        "surrogate": {"r2": 0.41, "trials": 48},
    }


def interactions(chosen: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    pairs = list(combinations(chosen, 2))
    predicted = np.linspace(-0.02, 0.015, len(pairs))
    contrasts = [value(-0.019, 0.009), value(0.01, 0.02), value(-0.004, 0.012)]
    records: list[Any] = [*resolve(contrasts), *[None] * (len(pairs) - 3)]
    return [
        {
            "modules": [a[0], b[0]],
            "choices": [a[1], b[1]],
            "against": ["none", "none"],
            "predicted": float(p),
            "verified": record is not None,
            "contrast": record,
            "smallest_visible": 0.02 if record else None,
            "sentence": f"{a[0]} and {b[0]}: {p:+.3f} is predicted",
        }
        for (a, b), p, record in zip(pairs, predicted, records, strict=True)
    ]


def steps() -> list[dict[str, Any]]:
    changes = [
        [],
        [("fusion", "concat", "low_rank")],
        [("alignment.text-audio", "none", "intra_contrastive")],
        [
            ("encoders.text", "pool", "attention"),
            ("labels", "none", "ulgm"),
            (
                "settings",
                "encoders.text.dropout 0.1, heads.dropout 0.1",
                "encoders.text.dropout 0.442, heads.dropout 0.18",
            ),
        ],
    ]
    means = [0.822, 0.806, 0.797, 0.781]
    gaps = [None, *resolve([value(b - a, 0.012) for a, b in pairwise(means)])]
    return [
        {
            "step": k,
            "changed": [c[0] for c in change],
            "before": [c[1] for c in change],
            "after": [c[2] for c in change],
            "predicted": m + 0.004,
            "value": value(m).to_dict(),
            "difference": gap,
            "sentence": f"step {k}: MAE {m:.3f}",
        }
        for k, (change, m, gap) in enumerate(zip(changes, means, gaps, strict=True))
    ]


def marginal(name: str, log: bool, rng: np.random.Generator) -> dict[str, Any]:
    x = np.geomspace(0.0003, 0.01, 25) if log else np.linspace(0.0, 0.5, 25)
    mean = 0.83 + 0.02 * np.linspace(-1, 1, 25) ** 2
    points = [[float(rng.choice(x)), float(rng.normal(0.84, 0.02))] for _ in range(40)]
    band = {"mean": mean.tolist(), "low": (mean - 0.01).tolist(), "high": (mean + 0.01).tolist()}
    return {"parameter": name, "log": log, "x": x.tolist(), **band, "points": points}


def holistic() -> dict[str, Any]:
    names = [
        ("all", "all rows"),
        *(("label strength", n) for n in ("neutral", "weak", "strong")),
        *(("interaction", n) for n in ("redundant", "unique to text", "synergy", "wrong for all")),
        *(("length", n) for n in ("shortest quarter", "middle", "longest quarter")),
        ("video", "73jzhE8R1TQ"),
    ]
    slices = [
        {
            "group": g,
            "name": n,
            "n": 300 - 20 * k,
            "videos": 31 - k,
            "metrics": {**METRICS, "corr": None if k == 3 else 0.5},
            "skill": None if k == 4 else 0.3,
            "difference": value(-0.03 + 0.005 * k, 0.02).to_dict(),
            "mae": value(0.7 + 0.03 * k, 0.03).to_dict(),
        }
        for k, (g, n) in enumerate(names)
    ]
    modalities = ("text", "audio", "vision")
    subsets = [s for n in (1, 2, 3) for s in combinations(modalities, n)]
    levels = [p / 10 for p in range(11)]
    curve = [0.81 + 0.3 * p**2 for p in levels]
    return {
        "split": "test",
        "metric": "mae",
        "clusters": VIDEOS,
        "rows": 686,
        "slices": slices,
        "subsets": [
            {
                "modalities": list(s),
                "winner": value(1.2 - 0.1 * len(s)).to_dict(),
                "baseline": value(1.25 - 0.1 * len(s)).to_dict(),
                "skill": 0.1 * len(s),
            }
            for s in subsets
        ],
        "robustness": [
            {
                "modality": m,
                "kind": k,
                "levels": levels,
                "winner": curve,
                "baseline": [v + 0.02 for v in curve],
                "area": {"winner": 0.91, "baseline": 0.93},
                "seeds": 5,
            }
            for m in modalities
            for k in ("noise", "drop", "structured")
        ],
        "calibration": {
            "nominal": [p / 20 for p in range(1, 20)],
            "observed": [min(1.0, p / 19) for p in range(1, 20)],
            "error": 0.021,
            "n": 686,
        },
        "kept_seeds": 5,
    }


def information() -> dict[str, Any]:
    def term(bits: float) -> dict[str, Any]:
        return {"value": bits, "low": bits - 0.01, "high": bits + 0.015, "null_high": 0.02, "resolved": bits > 0.02}

    def entry(first: str, second: str, scale: float) -> dict[str, Any]:
        bits = {"redundancy": 0.12, "unique_first": 0.2, "unique_second": 0.015, "synergy": 0.05}
        products = None if "+" in second else term(0.04 * scale)
        parts = {k: term(scale * v) for k, v in bits.items()}
        return {"first": first, "second": second, **parts, "products": products, "discrete": bits}

    def side(target: str, scale: float) -> dict[str, Any]:
        return {
            "rows": 229,
            "videos": 10,
            "target": target,
            "pairs": [entry(a, b, scale) for a, b in combinations(("text", "audio", "vision"), 2)],
            "one_versus_rest": [entry("text", "audio+vision", scale), entry("audio", "text+vision", scale)],
            "advice": [
                {"place": "alignment.text-audio", "arms": ["coral", "mmd"], "reason": "text and audio share .12 bits"}
            ],
        }

    return {"data": side("label", 1.0), "model": side("prediction", 0.7), "agreement": 0.82}


def whole(run: RunRecord, trials: Sequence[int]) -> dict[str, Any]:
    """Return the records of all later stages, for a run whose trials have these numbers."""
    assert run.confirm is not None
    config = run.candidate(run.confirm["winner"])["config"]
    records = {"confirm": confirmation(config, trials), "explain": explanation(list(run.leaves))}
    return {**records, "holistic": holistic(), "information": information()}
