"""A configuration as a picture of its modules: inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mmsa_core.config import MODALITIES, NONE, TEACHER

COLUMN, BOX, EDGE = 150, 138, 6
"""Distance of the columns, width of a box, and margin, in the drawing's units."""
LETTERS = 22
"""How many letters of the small text a box holds."""


class _Drawing:
    """Collects SVG elements from top to bottom; ``y`` is how far down the drawing has come."""

    def __init__(self, columns: int) -> None:
        self.width = COLUMN * columns + 2 * EDGE
        self.parts: list[str] = []
        self.y = 0.0

    def box(self, x: float, width: float, lines: Sequence[str], kind: str, height: float) -> None:
        left = x - width / 2
        self.parts.append(
            f'<rect class="{kind}" x="{left:g}" y="{self.y:g}" width="{width:g}" height="{height:g}" rx="5"/>'
        )
        first = self.y + height / 2 - 8 * (len(lines) - 1) + 4.5
        for k, line in enumerate(lines):
            self.text(x, first + 16 * k, line, "name" if k == 0 else "detail")

    def text(self, x: float, y: float, text: str, kind: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def svg(self, description: str) -> str:
        return (
            f'<svg class="diagram" style="max-width:{1.1 * self.width:g}px" viewBox="0 0 {self.width:g} {self.y:g}" '
            f'role="img" aria-label="{escape(description)}">{"".join(self.parts)}</svg>'
        )


def diagram(config: Mapping[str, Any]) -> str:
    """Return a configuration (as in ``confirm.json``) as SVG, from the modalities down to the prediction."""
    present = [m for m in MODALITIES if m in config["encoders"]]
    draw = _Drawing(len(present))
    at = {m: EDGE + COLUMN * (k + 0.5) for k, m in enumerate(present)}
    pairs = {k: p for k, p in config.get("alignment", {}).items() if p["name"] != NONE}
    draw.y = 14
    for m in present:
        draw.text(at[m], draw.y, m, "modality")
    draw.y += 8
    _row(draw, at, {m: _plugin(config["encoders"][m]) for m in present}, "encoder", 46)
    _lanes(draw, at, {k: p for k, p in pairs.items() if p.get("place") == "encoder"})
    _row(draw, at, {m: ["projection", f"dim {config['width']}"] for m in present}, "plain", 42)
    _lanes(draw, at, {k: p for k, p in pairs.items() if p.get("place") != "encoder"})
    if config["labels"]["name"] != NONE:
        _unimodal(draw, at, str(config["labels"]["name"]))
    _wires(draw, at, 14)
    middle, whole = draw.width / 2, draw.width - 2 * EDGE
    draw.box(middle, whole, _plugin(config["fusion"], "fusion: "), "fusion", 46)
    draw.y += 46
    _wires(draw, {"": middle}, 14)
    draw.box(middle, BOX + 24, ["head", _settings(config["heads"])], "plain", 42)
    draw.y += 42
    _wires(draw, {"": middle}, 12)
    draw.text(middle, draw.y + 13, "sentiment", "modality")
    draw.y += 20
    return draw.svg(describe(config))


def describe(config: Mapping[str, Any]) -> str:
    """Return a configuration's modules as one line of text.

    >>> describe({"encoders": {"text": {"name": "pool"}}, "fusion": {"name": "sum"}, "labels": {"name": "none"}})
    'encoders: text pool; alignment: none; fusion: sum; unimodal labels: none'
    """
    encoders = ", ".join(f"{m} {p['name']}" for m, p in config["encoders"].items())
    pairs = ", ".join(f"{k} {p['name']} ({p['weight']:.3g})" for k, p in config.get("alignment", {}).items())
    fusion, labels = config["fusion"]["name"], config["labels"]["name"]
    strategy = config.get("strategy", {"name": NONE})["name"]
    said = f"encoders: {encoders}; alignment: {pairs or NONE}; fusion: {fusion}; unimodal labels: {labels}"
    return said if strategy == NONE else f"{said}; strategy: {strategy}"


def _plugin(part: Mapping[str, Any], prefix: str = "") -> list[str]:
    settings = _settings({k: v for k, v in part.items() if k != "name"})
    return [f"{prefix}{part['name']}", *([settings] if settings else [])]


def _settings(part: Mapping[str, Any], limit: int = 2) -> str:
    """Return the first settings, as many as a box holds; all of them are in the configuration below the picture."""
    shown = [_value(v) if k == "model" else f"{k} {_value(v)}" for k, v in part.items()]
    while limit > 1 and len(" · ".join(shown[:limit])) > LETTERS:
        limit -= 1
    text = " · ".join(shown[:limit])
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _value(value: object) -> str:
    """Return a setting's value; of a path, the last part."""
    return f"{value:.2g}" if isinstance(value, float) else str(value).rpartition("/")[2]


def _row(draw: _Drawing, at: Mapping[str, float], boxes: Mapping[str, list[str]], kind: str, height: float) -> None:
    for m, lines in boxes.items():
        draw.box(at[m], BOX, lines, kind, height)
    draw.y += height
    _wires(draw, at, 14)


def _wires(draw: _Drawing, at: Mapping[str, float], length: float) -> None:
    for x in at.values():
        draw.line([(x, draw.y), (x, draw.y + length)], "wire")
    draw.y += length


def _lanes(draw: _Drawing, at: Mapping[str, float], pairs: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw each aligned pair as a line between the wires of its modalities, with its plug-in and weight on it; from one
    taught by the text's features a line to the side."""
    for name, pair in pairs.items():
        ends = [at[m] for m in name.split("-") if m in at]
        if len(ends) == 1:
            ends.append(ends[0] + COLUMN / 2 - 4)
        start = draw.y
        _wires(draw, at, 48)
        y, (a, b) = start + 13, ends
        draw.line([(a, y), (b, y)], "pair")
        draw.parts += [f'<circle class="joint" cx="{x:g}" cy="{y:g}" r="4"/>' for x in ends if x in at.values()]
        half = 3.6 * len(pair["name"]) + 9
        middle = (a + b) / 2 if name.endswith(TEACHER) else a + COLUMN / 2
        draw.parts.append(
            f'<rect class="chip" x="{middle - half:g}" y="{y - 12:g}" width="{2 * half:g}" height="24" rx="12"/>'
        )
        draw.text(middle, y + 4.5, pair["name"], "name")
        draw.text(middle, y + 26, f"weight {pair['weight']:.2g}", "detail")


def _unimodal(draw: _Drawing, at: Mapping[str, float], labels: str) -> None:
    """Draw a head beside each wire: it learns unimodal labels during training and is not used for prediction."""
    start = draw.y
    _wires(draw, at, 52)
    draw.y = start + 8
    for x in at.values():
        draw.line([(x, start), (x + 38, start), (x + 38, start + 8)], "wire")
        draw.box(x + 38, 62, ["head", labels], "unimodal", 38)
    draw.y = start + 52
