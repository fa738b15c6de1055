"""Numbers of a report as text: metrics by the name that papers print, means with intervals, durations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from search.statistics import Estimate

MINUS = "\N{MINUS SIGN}"
LABELS = {
    "mae": "MAE",
    "corr": "Corr",
    "acc2": "Acc-2",
    "f1": "F1",
    "acc2_has0": "Acc-2, with 0",
    "f1_has0": "F1, with 0",
    "acc2_non0": "Acc-2, without 0",
    "f1_non0": "F1, without 0",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
}


def label(metric: str) -> str:
    """Return a metric's name as papers print it."""
    return LABELS.get(metric, metric)


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Return a number with a real minus sign.

    >>> number(-0.0004), number(-0.5, 2, signed=True), number(0.25, 2, signed=True)
    ('0.000', '\N{MINUS SIGN}0.50', '+0.25')
    """
    if not math.isfinite(value):
        return str(value).replace("inf", "∞").replace("-", MINUS)
    if abs(value) >= 1e5:
        return f"{value:{'+' if signed else ''}.3g}".replace("-", MINUS)
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def read(record: Mapping[str, Any]) -> Estimate:
    """Return the estimate that a JSON record holds."""
    return Estimate(**{field.name: record[field.name] for field in fields(Estimate)})


def is_resolved(record: Mapping[str, Any]) -> bool:
    """Tell whether a difference's sign is claimed: after correction where its record has one."""
    return bool(record["resolved"]) if "resolved" in record else read(record).excludes_zero


def chance(p: float) -> str:
    """Return what a p-value is, as it stands after the p.

    >>> chance(0.0000123), chance(0.0312), chance(0.4)
    ('< 0.001', '= 0.031', '= 0.40')
    """
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def interval(estimate: Estimate, signed: bool = False) -> str:
    """Return mean and 95 % interval, with as many digits as the interval's width asks for.

    >>> interval(Estimate(0.8475, 0.004, 10, 0.8446, 0.8504, 0.0013, 9, 0))
    '0.848 [0.845, 0.850]'
    """
    half = (estimate.high - estimate.low) / 2
    digits = min(6, max(3, math.ceil(-math.log10(half)))) if half > 0 else 3
    mean = number(estimate.mean, digits, signed)
    if estimate.n == 1:
        return f"{mean} (one seed, no interval)"
    return f"{mean} [{number(estimate.low, digits, signed)}, {number(estimate.high, digits, signed)}]"


def spread(estimate: Estimate) -> str:
    """Return mean and standard deviation."""
    return number(estimate.mean, 4) + (f" ± {number(estimate.std, 4)}" if estimate.n > 1 else "")


def seeds(count: int) -> str:
    return f"{count} fresh seed{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> duration(23.1), duration(150), duration(7260)
    ('23 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def thousands(count: int) -> str:
    """Return a whole number with its digits in groups of three.

    >>> thousands(12345)
    '12 345'
    """
    return f"{count:,}".replace(",", " ")


def place_name(place: str) -> str:
    """Return a place in a configuration as short as readers know it.

    >>> place_name("alignment.text-audio"), place_name("encoders.text"), place_name("fusion")
    ('text-audio', 'text encoder', 'fusion')
    """
    kind, _, at = place.partition(".")
    return at if kind == "alignment" else f"{at} encoder" if kind == "encoders" else place


def by_resolution(explained: Mapping[str, Any] | None, part: str) -> list[Mapping[str, Any]]:
    """Return the entries of a part of ``explain.json``, the resolved ones first."""
    return sorted((explained or {}).get(part, []), key=lambda e: not e["resolved"])
