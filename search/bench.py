"""How much faster members train together than one after another on the device at hand, and how many to put together."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile

from mmsa_core.atomic import write_text
from mmsa_core.cache import user_cache
from mmsa_core.config import MemberConfig, fingerprint
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.population import MemberSpec, Population
from mmsa_core.tensors import Batch

BATCHES = 20
"""An epoch of the measurement is at most this many batches."""
SINGLES = 4
"""At most this many of the members are trained one after another; the others would take as long."""
TOLERANCE = 0.1
"""Throughput that is given up for a smaller population."""
TRIALS_PER_MEMBER = 12
"""A population judges one combination, so populations of a twelfth of the trials leave a study a dozen combinations."""
AUTO_MEMBERS = {"cpu": (1, 4, 8, 16), "cuda": (1, 8, 32, 64)}
AUTO_SECONDS = 2.0


@dataclass(frozen=True)
class Row:
    """One population size; seconds are CPU seconds on a CPU. ``peak_bytes`` is None where it cannot be measured."""

    members: int
    member_epochs_per_second: float
    speedup: float
    peak_bytes: int | None


def measure(
    config: MemberConfig,
    train: SplitTensors,
    valid: SplitTensors,
    members: Sequence[int],
    rounds: int = 3,
    budget_seconds: float | None = None,
    *,
    memory: bool = True,
) -> list[Row]:
    """Measure populations of each of ``members`` sizes against the same members trained one after another.

    An epoch is what ``fit`` does in one: training, and predicting the valid split. To bound time it runs on the first
    20 batches of the training rows (fewer where ``budget_seconds`` is short: a wish, kept to within a factor of about
    two) and on the same share of the valid rows; rates are scaled to whole epochs. One after another, 4 members at most
    stand for all: half of them train before the population and half after it, in every round. ``speedup`` is the median
    over the rounds of the ratio of the two times per member (for one member it shows the noise), and
    ``member_epochs_per_second`` is the median rate one after another in the whole run, times ``speedup``. Time is the
    process's CPU time on a CPU, where neighbours disturb wall time, and wall time elsewhere. Set the number of torch's
    threads as in training before. A member alone is a population of one, as ``fit`` trains it,
    which costs what a plain PyTorch loop costs (reports/benchmarks/speed.md).

    ``peak_bytes`` is the growth of what torch has allocated on the device from before a population is made to the
    highest point of an epoch of two batches and all valid rows, plus what members keep per row of the other batches. It
    leaves out the data, which all members share, and scratch memory inside oneDNN or cuDNN. None without ``memory``.

    Sizes that do not fit into the device's memory are left out.

    Raises:
        UserError: no sizes, or one below 1.
    """
    sizes = sorted(set(members))
    if not sizes or sizes[0] < 1:
        raise UserError(f"members: must be one or more whole numbers of at least 1, got {list(members)}; e.g. 1,4,16")
    batches = BATCHES if budget_seconds is None else _affordable(config, train, valid, sizes, rounds, budget_seconds)
    sample = _Sample(config, train, valid, batches)
    singles = [sample.population([seed]) for seed in range(min(SINGLES, sizes[-1]))]
    alone, speedups, peaks = [], [], []
    for size in sizes:
        try:
            pairs = _pairs(sample, singles[:size], size, rounds)
            peaks.append(_peak_bytes(config, train, valid, size) if memory else None)
        except torch.OutOfMemoryError:
            if size == sizes[0]:
                raise
            break
        alone += [single for single, _ in pairs]
        speedups.append(median(single / together for single, together in pairs))
    rate = sample.share / median(alone)
    return [Row(k, rate * s, s, peak) for k, s, peak in zip(sizes, speedups, peaks, strict=False)]


def recommend(rows: Sequence[Row]) -> int:
    """Return the smallest population whose throughput is within 10 % of the best: a larger one only costs memory and
    fresh proposals."""
    best = max(row.member_epochs_per_second for row in rows)
    return min(r.members for r in rows if r.member_epochs_per_second >= (1 - TOLERANCE) * best)


def population_size(
    setting: Literal["auto"] | int,
    config: MemberConfig,
    train: SplitTensors,
    valid: SplitTensors,
    trials: int,
    cache_dir: Path | None = None,
) -> int:
    """Return how many members to train together; ``auto`` measures about two seconds, once per device and structure.

    What is measured is kept in ``cache_dir`` (default ``mmsa-search`` in the user's cache); a cache that is broken or
    cannot be written is ignored. ``auto`` is at most a twelfth of ``trials`` (but 2), because one population judges one
    combination of modules and a study has to see many.
    """
    if setting != "auto":
        return setting
    key = _key(config, train, valid)
    path = (cache_dir if cache_dir is not None else user_cache()) / f"population-{fingerprint(key)}.json"
    best = _cached(path)
    if best is None:
        sizes = AUTO_MEMBERS["cpu" if train.device.type == "cpu" else "cuda"]
        rows = measure(config, train, valid, sizes, budget_seconds=AUTO_SECONDS, memory=False)
        best = recommend(rows)
        _store(path, {**key, **to_json(rows, key["device"])})
    return min(best, max(2, math.ceil(trials / TRIALS_PER_MEMBER)))


def table(rows: Sequence[Row], device: str) -> str:
    """Return the rows as text for people, with the recommended size marked."""
    best = recommend(rows)
    lines = [device, f"{'members':>9}  {'member-epochs/s':>15}  {'speed-up':>8}  {'memory':>9}"]
    for row in rows:
        mark = "*" if row.members == best else " "
        size = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f} MB"
        rate = f"{row.member_epochs_per_second:.4g}"
        lines.append(f"{mark} {row.members:>7}  {rate:>15}  {row.speedup:>7.2f}x  {size:>9}")
    return "\n".join([*lines, f"* recommended: the smallest within {TOLERANCE:.0%} of the best throughput"])


def to_json(rows: Sequence[Row], device: str) -> dict[str, Any]:
    """Return the rows as plain data."""
    return {"device": device, "rows": [asdict(row) for row in rows], "recommended": recommend(rows)}


def device_name(device: torch.device) -> str:
    """Return the model of a device; for a CPU with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


class _Sample:
    """The first batches of the training rows and as large a share of the valid rows, for epochs of bounded time."""

    def __init__(self, config: MemberConfig, train: SplitTensors, valid: SplitTensors, batches: int) -> None:
        self.config = config
        rows = min(len(train), batches * config.batch_size)
        self.share = rows / len(train)
        self.train = SplitTensors(_first(train.split, rows), train.device)
        kept = max(1, round(self.share * len(valid)))
        self.valid = SplitTensors(_first(valid.split, kept), valid.device).batch(config)

    def population(self, seeds: Sequence[int]) -> Population:
        return Population([MemberSpec(self.config, seed) for seed in seeds], self.train)

    def seconds(self, populations: Sequence[Population], number: int) -> float:
        """Return the time that one epoch of each takes."""

        def work() -> None:
            for population in populations:
                _epoch(population, number, self.valid)

        return _seconds(self.train.device, work)


def _pairs(sample: _Sample, singles: Sequence[Population], size: int, rounds: int) -> list[tuple[float, float]]:
    """Return by round the seconds per member epoch alone and together, after a round to warm up."""
    together = sample.population(range(size))
    half = (len(singles) + 1) // 2
    pairs = []
    for number in range(1, rounds + 2):
        before = sample.seconds(singles[:half], number)
        middle = sample.seconds([together], number)
        after = sample.seconds(singles[half:], number)
        pairs.append(((before + after) / len(singles), middle / size))
    return pairs[1:]


def _affordable(
    config: MemberConfig, train: SplitTensors, valid: SplitTensors, sizes: Sequence[int], rounds: int, budget: float
) -> int:
    """Return how many batches an epoch may have, guessing that members together take half of what they take alone."""
    pilot = _Sample(config, train, valid, 2)
    single = pilot.population([0])
    pilot.seconds([single], 1)
    batch = pilot.seconds([single], 2) / math.ceil(len(pilot.train) / config.batch_size)
    work = (rounds + 1) * sum(min(k, SINGLES) + k / 2 for k in sizes)
    return max(1, min(BATCHES, int(budget / (batch * work))))


def _epoch(population: Population, number: int, valid: Batch) -> None:
    population.train_epoch(number).cpu()
    population.predict(valid).cpu()


def _seconds(device: torch.device, work: Callable[[], None]) -> float:
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_bytes(config: MemberConfig, train: SplitTensors, valid: SplitTensors, size: int) -> int:
    small = _Sample(config, train, valid, 2)
    whole = valid.batch(config)
    with _peak(train.device) as peak:
        _epoch(small.population(range(size)), 1, whole)
    held = [_state_bytes(Population([MemberSpec(config, 0)], data)) for data in (train, small.train)]
    return peak[0] + size * (held[0] - held[1])


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """Give a list that afterwards holds by how much torch's allocated bytes rose at most."""
    result: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield result
        result.append(torch.cuda.max_memory_allocated(device) - before)
        return
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _quiet():
        profiler.start()
    try:
        yield result
    finally:
        with _quiet():
            profiler.stop()
    recorder: Any = profiler.profiler
    events = [e for e in recorder.kineto_results.events() if e.name() == "[memory]"]
    rises = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: int(e.start_ns())))
    result.append(max(rises, default=0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the process's stderr: torch 2.13's profiler writes a line to it when it starts and when it stops."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _state_bytes(population: Population) -> int:
    return sum(t.nbytes for t in population.state().values())


def _first(split: Split, rows: int) -> Split:
    return replace(
        split,
        ids=split.ids[:rows],
        features={m: v[:rows] for m, v in split.features.items()},
        lengths={m: v[:rows] for m, v in split.lengths.items()},
        labels=split.labels[:rows],
        unimodal={m: v[:rows] for m, v in split.unimodal.items()},
        raw_text=split.raw_text[:rows],
    )


def _key(config: MemberConfig, train: SplitTensors, valid: SplitTensors) -> dict[str, Any]:
    """Return what a measurement depends on."""
    shapes = {m: [list(s.split.features[m].shape) for s in (train, valid)] for m in config.modalities}
    names = {"device": device_name(train.device), "torch": torch.__version__}
    return {**names, "signature": json.loads(config.signature()), "shapes": shapes}


def _cached(path: Path) -> int | None:
    try:
        best = json.loads(path.read_text(encoding="utf-8"))["recommended"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return best if isinstance(best, int) and not isinstance(best, bool) and best >= 1 else None


def _store(path: Path, data: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=2) + "\n")
    except OSError:
        return


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
