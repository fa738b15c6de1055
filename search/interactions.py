"""What the modalities of a data set say of the label, what a model makes of it, and how both read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmsa_core.atomic import write_text

if TYPE_CHECKING:
    from mmsa_core.analysis.sources import Sources
    from mmsa_core.data.split import Split

NAME = "information.json"
COLUMNS = {
    "redundancy": "alike",
    "unique_first": "first alone",
    "unique_second": "second alone",
    "synergy": "together",
    "products": "products",
}
LEGEND = (
    "Bits that are known of the label: from either alike, from one alone, only from both together, and what of that "
    "takes products of the two. [95 % interval over videos]; (in parentheses) not resolved: chance would show as much."
)


def interactions(path: Path, modalities: str | None, nonfinite: str, as_json: bool) -> None:
    """Print what the modalities say of the labels of the splits train and valid.

    Raises:
        UserError: the data cannot be read, or are too few.
    """
    from mmsa_core.analysis.advice import record
    from mmsa_core.analysis.interactions import measure
    from mmsa_core.data.dataset import open_dataset
    from mmsa_core.data.scaler import Scaler

    wanted = None if modalities is None else [m.strip() for m in modalities.split(",")]
    data = open_dataset(path, wanted, nonfinite)  # type: ignore[arg-type]  # checked by it
    train, valid = data.split("train"), data.split("valid")
    scaler = Scaler.fit(train)
    sources, labels = rows([scaler.apply(train), scaler.apply(valid)])
    found = record(measure(sources, labels))
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201
    else:
        show(found)


def rows(splits: Sequence[Split]) -> tuple[Sources, NDArray[np.float32]]:
    """Return what predictions are made from, and the labels, of several scaled splits together."""
    from mmsa_core.analysis.sources import Sources
    from mmsa_core.data.split import videos

    labels = np.concatenate([split.labels for split in splits])
    return Sources.of(splits, videos([i for split in splits for i in split.ids])), labels


def show(found: Mapping[str, Any]) -> None:
    """Print the table of one INFO record, and its advice."""
    console = Console()
    console.print(f"[bold]{found['rows']} rows of {found['videos']} videos, train and valid[/]")
    table = Table(box=None, pad_edge=False)
    for column in ("first", "second", *COLUMNS.values()):
        table.add_column(column, overflow="fold")
    for c in (*found["pairs"], *found["one_versus_rest"]):
        table.add_row(c["first"], c["second"], *(_cell(c[name]) for name in COLUMNS))
    console.print(table)
    console.print(LEGEND, style="dim", soft_wrap=True)
    for a in found["advice"]:
        console.print(f"[bold]{a['place']}[/]: try {', '.join(a['arms'])}: {a['reason']}", soft_wrap=True)
    if not found["advice"]:
        console.print("No advice: nothing is resolved that speaks for one module or another.")


def write(folder: Path, train: Split, valid: Split, prediction: NDArray[np.float32], inputs: str | None = None) -> None:
    """Write ``information.json``: what the data say of the label, what a model's ``prediction`` of the valid split's
    rows makes of it, how well the two agree, and the ``inputs`` of the confirmation that the model is of; nothing where
    the data are too few to tell."""
    from mmsa_core.analysis.advice import record
    from mmsa_core.analysis.interactions import agreement, measure, obstacle

    sources, labels = rows([train, valid])
    if obstacle(sources, labels) is not None:
        return
    data = measure(sources, labels)
    alone, _ = rows([valid])
    model = None if obstacle(alone, prediction) is not None else measure(alone, prediction, "prediction")
    content = {
        "data": record(data),
        "model": None if model is None else record(model),
        "agreement": None if model is None else agreement(data, model),
        "inputs": inputs,
    }
    write_text(folder / NAME, json.dumps(content, indent=2) + "\n")


def _cell(q: Mapping[str, Any] | None) -> str:
    if q is None:
        return ""
    if not q["resolved"]:
        return f"[dim]({_short(q['value'])})[/]"
    return f"[bold]{_short(q['value'])}[/]\n\\[{_short(q['low'])},{_short(q['high'])}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
