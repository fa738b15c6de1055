"""What the small verbs print: status, spaces, plug-ins, metrics, predictions, benchmarks."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from mmsa_core.errors import UserError
from search.spreadsheet import cell

if TYPE_CHECKING:
    from mmsa_core.train import Objective
    from search.pipeline import Opened


def status(run: Path, watch: bool, as_json: bool) -> None:
    """Print a study's progress, once or every two seconds until it ends."""
    from search.run_folder import RunFolder
    from search.trials import read_study, summary

    folder = RunFolder(run)
    config = folder.config()
    while True:
        found = summary(read_study(config, folder), config, running=folder.driver() is not None)
        _print_status(found, as_json)
        if not watch or found["state"] != "running":
            return
        time.sleep(2)


def space(name: str, sample: int, seed: int, as_json: bool) -> None:
    """Print a space's size and random configurations of it."""
    from search.space import Space

    found = Space.load(name)
    count, samples = found.count(), found.random(sample, seed)
    if as_json:
        _json({"space": found.source, **asdict(count), "samples": samples})
        return
    print(f"{found.source}: {count.structures:,} structures, {count.continuous} further parameters")  # noqa: T201
    for config in samples:
        print("---\n" + yaml.safe_dump(config, sort_keys=False).rstrip())  # noqa: T201


def modules(as_json: bool) -> None:
    """Print every plug-in's card, with the range in which the space ``modules`` searches each parameter."""
    from mmsa_core import registry

    cards = [registry.card(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
    ranges = _ranges()

    def parameter(c: registry.Card, p: registry.Parameter) -> dict[str, Any]:
        return {"kind": p.kind, "default": p.default, "range": ranges.get((c.kind, c.name, p.name))}

    if as_json:
        _json([{**asdict(c), "parameters": {p.name: parameter(c, p) for p in c.parameters}} for c in cards])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "meaning", "parameters"):
        table.add_column(column, overflow="fold")
    for c in cards:
        known = ((p, ranges.get((c.kind, c.name, p.name))) for p in c.parameters)
        said = (f"{p.name}={p.default}" + (f" in {r}".replace("[", "\\[") if r else "") for p, r in known)
        table.add_row(c.kind, f"[bold]{c.name}", c.summary, ", ".join(said))
    Console().print(table)


def _ranges() -> dict[tuple[str, str, str], str]:
    """Return where the space ``modules`` searches: by kind, plug-in and parameter."""
    from search.nodes import Arms, described
    from search.space import Space

    found = {}
    for path, leaf in Space.load("modules").leaves().items():
        place, *_, name, parameter = path.split(".") if path.count(".") > 1 else ("", "", "")
        if place and not isinstance(leaf, Arms):
            found[{"strategy": "strategies"}.get(place, place), name, parameter] = described(leaf)
    return found


def train(
    name: str,
    overrides: Sequence[str],
    data: str,
    seeds: int,
    objective: Objective,
    nonfinite: str,
    out: Path,
    as_json: bool,
) -> None:
    """Train a configuration and print its metrics on the valid split."""
    from search import export
    from search.configs import read_config
    from search.overrides import parse_override

    _one_thread()
    member = read_config(name, map(parse_override, overrides))
    metrics = export.train_model(member, data, range(seeds), objective, nonfinite, out)
    _metrics({"valid": metrics["valid"]}, as_json, {"model": str(out)})


def evaluate(model: Path, data: str | None, split: str, as_json: bool) -> None:
    """Print the metrics of a model's members on a split, and of the mean of their predictions."""
    from mmsa_core.data.split import videos
    from mmsa_core.metrics import evaluate as measure
    from search import export, inference
    from search.judgement import estimates

    _one_thread()
    found = export.read_model(model)
    part = inference.labeled_split(found, data, split)
    convention = found.provenance["convention"]
    with export.counted_opening(model, "evaluate") if split == "test" else nullcontext():
        predictions, interval = found.predict(part), found.interval
        members = export.brief(estimates(predictions, part.labels, convention, videos(part.ids)))
        ensemble = measure(predictions.mean(0), part.labels, convention)
        inside, width = interval.coverage(predictions, part.labels), 2 * float(interval.half(predictions).mean())
    said = f"{inside:.1%} of the labels lie in the {interval.level:.0%} intervals, of mean width {width:.2f}"
    reliability: Any = {"level": interval.level, "coverage": inside, "width": width} if as_json else said
    _metrics({split: members}, as_json, {"ensemble": ensemble, "interval": reliability})


def predict(model: Path, data: str | None, split: str | None, texts: Sequence[str], out: Path | None) -> None:
    """Write predictions as CSV: of texts, of a file of rows without labels, or of a split of a data set."""
    from search import export, inference

    _one_thread()
    found = export.read_model(model)
    if texts and (data is not None or split is not None):
        raise UserError("--text: goes without --data and --split; put texts with features into a file, as raw_text")
    if texts:
        part = inference.texts_alone(found, texts)
    elif data is not None and split is None and inference.is_unlabeled(data):
        part = inference.unlabeled_rows(found, data)
    else:
        part = inference.labeled_split(found, data, split or "test")
    if missing := inference.missing(found, part):
        print(f"{' and '.join(missing)} missing: expect wider errors than the interval says", file=sys.stderr)  # noqa: T201
    predictions = found.predict(part)
    middle, half = predictions.mean(0), found.interval.half(predictions)
    columns = (middle, predictions.std(0), middle - half, middle + half)
    rows = zip(part.ids, *(c.tolist() for c in columns), strict=True)
    if out is None:
        _csv(sys.stdout, rows)
    else:
        with out.open("w", newline="", encoding="utf-8") as file:
            _csv(file, rows)


def verify(model: Path, data: str | None, seeds: int | None, as_json: bool) -> None:
    """Print whether a model trains again to what was recorded.

    Raises:
        UserError: it does not.
    """
    from search import export

    _one_thread()
    found = export.verify(model, data, seeds)
    if as_json:
        _json(found)
    gap = f"largest difference {found['largest_difference']:.2g}"
    text = f"{found['metric']} of {len(found['seeds'])} seeds, recorded and again: {gap}"
    if not found["reproduced"]:
        raise UserError(f"{model}: not reproduced: {text}; compare versions and device in provenance.json")
    if not as_json:
        print(f"reproduced: {text}")  # noqa: T201


def bench(data: str, members: str, name: str | None, as_json: bool) -> None:
    """Print the throughput of populations."""
    from mmsa_core.config import MemberConfig
    from mmsa_core.data.dataset import open_dataset
    from mmsa_core.data.scaler import Scaler
    from mmsa_core.loader import SplitTensors
    from mmsa_core.model import complete
    from mmsa_core.tensors import own_device
    from search import bench as benchmark
    from search.configs import read_config
    from search.space import Space

    _one_thread()
    try:
        sizes = [int(k) for k in members.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UserError(f"--members: must be whole numbers of at least 1 with commas, e.g. 1,4,16, got {members!r}")
    dataset = open_dataset(data)
    if name is None:
        quick = Space.load("quick").restrict(dataset.modalities)
        member = complete(MemberConfig.from_dict(quick.baseline()[0], quick.source))
    else:
        member = complete(read_config(name))
    device = own_device()
    scaler = Scaler.fit(dataset.split("train"))
    train, valid = (SplitTensors(scaler.apply(dataset.split(name)), device) for name in ("train", "valid"))
    rows = benchmark.measure(member, train, valid, sizes)
    on = benchmark.device_name(device)
    if as_json:
        _json(benchmark.to_json(rows, on))
    else:
        print(benchmark.table(rows, on))  # noqa: T201


def describe(path: Path, as_json: bool) -> None:
    """Print what a data file holds."""
    from mmsa_core.data.dataset import open_dataset
    from mmsa_core.data.describe import describe as look

    found = look(open_dataset(path))
    if as_json:
        _json(found)
    else:
        print(yaml.safe_dump(found, sort_keys=False, default_flow_style=None).rstrip())  # noqa: T201


def features(source: Path, target: Path, model: str, pooling: str, layer: int) -> None:
    """Write a data file again with text features of a pre-trained model.

    Raises:
        UserError: the target is no ``.npz``, the file has no raw_text, or the model is not at hand.
    """
    from mmsa_core.data.dataset import open_source
    from mmsa_core.data.text import TextModel, write_with_text_features
    from search.progress import TextProgress

    with TextProgress() as progress:
        maker = TextModel(model, pooling, layer)  # type: ignore[arg-type]  # checked by it
        write_with_text_features(open_source(source), target, maker, progress)


def plant(target: Path, seed: int, problem: str) -> None:
    """Write planted data.

    Raises:
        UserError: the target is no ``.npz``, or there is no such problem.
    """
    from mmsa_core.data.synthetic import write_planted

    if target.suffix != ".npz":
        raise UserError(f"{target}: the target must end in .npz, got suffix {target.suffix!r}")
    write_planted(target, seed, problem=problem)  # type: ignore[arg-type]  # checked by it


def result(opened: Opened, record: Mapping[str, Any], as_json: bool) -> None:
    """Print what a study found: the best configuration, its confirmed metric with interval, and where things are."""
    from search.configs import modules
    from search.trials import is_outside, read_study, recorded_trial

    metric, folder = record["metric"], opened.folder.path
    winner = next(c for c in record["candidates"] if c["trial"] == record["winner"])
    base = next(c for c in record["candidates"] if c["trial"] == record["baseline"])
    page = folder / "report" / "index.html"
    if as_json:
        _json({**record, "report": str(page), "model": str(folder / "best")})
        return
    console = Console()
    if record.get("message"):
        console.print(f"[yellow]{record['message']}")
    trial = recorded_trial(read_study(opened.config, opened.folder), record["winner"])
    params = modules(opened.sampled(trial)) if is_outside(trial) else trial.params
    console.print(
        f"\n[bold]Best configuration[/] (trial {record['winner']}" + (", the baseline)" if winner is base else ")")
    )
    for name, value in params.items():
        console.print(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    for split, best, plain in (
        ("valid", winner["valid"][metric], base["valid"][metric]),
        ("test", record["test"]["winner"][metric], record["test"]["baseline"][metric]),
    ):
        console.print(
            f"[bold]{split} {metric}[/] {_interval(best)} over {best['n']} fresh seeds; baseline {_interval(plain)}"
        )
    mean = record["ensemble"]["test"][metric]
    console.print(
        f"[bold]exported model[/] (the mean of the {winner['valid'][metric]['n']} members) test {metric} {mean:.3f}"
    )
    console.print(f"test split opened {record['test_openings']} time(s)")
    console.print(f"model   {folder / 'best'}", soft_wrap=True)
    console.print(f"report  {page}", soft_wrap=True)


def _interval(e: Mapping[str, float]) -> str:
    return f"{e['mean']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"


def _print_status(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    from mmsa_core.metrics import DIRECTIONS
    from search.origins import origin_sentences
    from search.progress import clock, progressed

    counts, best = found["counts"], found["best"]
    lines = [
        f"{found['study']}: {found['state']}, {progressed(found, ' trials')} "
        f"({', '.join(f'{n} {s}' for s, n in counts.items() if n)}), {clock(found['used']['seconds'])}"
        f"{_overhead(found['overhead'])}",
        "no trial is complete yet"
        if best is None
        else f"best {found['metric']} {best['value']:.4f} (trial {best['number']})",
        *([] if found["cost"] is None else _front(found)),
        *([] if found["after_search"] is None else [f"after the search: {found['after_search']}"]),
    ]
    sign = 1.0 if DIRECTIONS[found["metric"]] == "minimize" else -1.0
    lines += origin_sentences(found["origins"], found["metric"], sign)
    reasons = [f"trial {t['number']} failed: {t['reason']}" for t in found["trials"] if t["reason"]]
    print("\n".join([*lines, *reasons[:5]]))  # noqa: T201


def _overhead(found: Mapping[str, float | None]) -> str:
    """Return the end of a line: ``, overhead 8 ms a trial, 0.9 % of the study's time``."""
    cost, share = found["milliseconds_per_trial"], found["share"]
    if cost is None or share is None:
        return ""
    return f", overhead {cost:.0f} ms a trial, {100 * share:.1f} % of the study's time"


def _front(found: Mapping[str, Any]) -> list[str]:
    """Return a line for every trial that no other beats in both metric and cost."""
    trials = {t["number"]: t for t in found["trials"]}
    shown = [trials[number] for number in found["front"]]
    return [
        f"front: {found['metric']} {t['value']:.4f} at {t['cost']:.6g} {found['cost']} (trial {t['number']})"
        for t in shown
    ]


def _metrics(splits: Mapping[str, Mapping[str, Any]], as_json: bool, more: Mapping[str, Any]) -> None:
    if as_json:
        _json({**splits, **more})
        return
    for split, members in splits.items():
        table = Table(box=None, pad_edge=False)
        for column in (split, "mean", "std", "95 % interval", *(k for k, v in more.items() if isinstance(v, Mapping))):
            table.add_column(column)
        for name, e in members.items():
            others = [f"{v[name]:.4f}" for v in more.values() if isinstance(v, Mapping)]
            table.add_row(
                name,
                f"{e['mean']:.4f}",
                f"{e['std']:.4f}",
                f"[{e['low']:.4f}, {e['high']:.4f}]".replace("[", "\\["),
                *others,
            )
        Console().print(table)
    for key, value in more.items():
        if isinstance(value, str):
            print(f"{key}: {value}")  # noqa: T201


def _csv(file: Any, rows: Iterable[Sequence[Any]]) -> None:
    """Write an id and numbers a line."""
    writer = csv.writer(file)
    writer.writerow(["id", "prediction", "std", "low", "high"])
    writer.writerows([cell(row[0]), *(f"{v:.6f}" for v in row[1:])] for row in rows)


def _json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))  # noqa: T201


def _one_thread() -> None:
    """Two threads on busy cores are several times slower than one."""
    import torch

    torch.set_num_threads(1)
