"""What members cost together and one after another: member-epochs per CPU second, against a plain PyTorch loop.

The plain loop is what a person would write: the same modules with ``nn.LSTM`` and ``nn.Dropout``, fused
``torch.optim.AdamW``, clipping, the same batches. All three sides (plain loop, populations of one, one population) take
turns in one process; a ratio is of one round, and the median over rounds is printed. Writes Markdown:
``python -m tests.benchmarks.speed``; reports/benchmarks/speed.md is made of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmsa_core import registry
from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split
from mmsa_core.loader import SplitTensors, take
from mmsa_core.model import complete
from mmsa_core.noise import Dropout
from mmsa_core.population import MET, MemberSpec, Population, draw_epoch, initialised
from mmsa_core.recurrence import LastState
from mmsa_core.replay import record
from mmsa_core.tensors import Batch
from search.bench import _peak

ROWS, VALID = 1284, 229
"""MOSI's training and valid rows."""
WIDTHS = {"text": 768, "audio": 5, "vision": 20}
SINGLES = 2
"""Members that stand for all in a round of the two sides that train them one after another."""
TOGETHER = 16
SIDES = (1, 2)
"""Processes side by side."""


@dataclass(frozen=True)
class Case:
    """A configuration on data of one shape, and on how many rows of it an epoch runs here."""

    shape: str
    steps: int
    encoder: str
    fusion: str = "concat"
    batches: int = 20

    @property
    def config(self) -> MemberConfig:
        """One vector of text per sample: its encoder reads vectors; ``encoder`` reads audio and vision."""
        text = "linear" if self.encoder == "linear" else "pool"
        parts = {
            "encoders": {"text": text, "audio": self.encoder, "vision": self.encoder},
            "fusion": self.fusion,
            "alignment": {"audio-vision": "coral"},
        }
        return complete(MemberConfig.from_dict(parts))

    def splits(self) -> tuple[SplitTensors, SplitTensors]:
        """Return train and valid, with as large a share of the valid rows as of the training rows."""
        rows = min(ROWS, self.batches * self.config.batch_size)
        made = (made_up(n, self.steps, seed) for seed, n in enumerate((rows, max(1, VALID * rows // ROWS))))
        train, valid = (SplitTensors(split, torch.device("cpu")) for split in made)
        return train, valid


def made_up(rows: int, steps: int, seed: int = 0) -> Split:
    """Return a split of noise: text as a vector per sample, audio and vision as sequences of ``steps`` rows at most."""
    rng = np.random.default_rng(seed)
    longest = {m: 1 if m == "text" else steps for m in WIDTHS}
    return Split(
        ids=tuple(f"v{i // 5}$_${i % 5}" for i in range(rows)),
        features={m: rng.normal(size=(rows, longest[m], d)).astype(np.float32) for m, d in WIDTHS.items()},
        lengths={m: rng.integers((t + 1) // 2, t + 1, rows) for m, t in longest.items()},
        labels=rng.normal(size=rows).clip(-3, 3).astype(np.float32),
        unimodal={},
        raw_text=(),
    )


class PlainState(nn.Module):
    """``LastState`` as a person would write it."""

    def __init__(self, own: LastState) -> None:
        super().__init__()
        kind = nn.LSTM if own.cell == "lstm" else nn.GRU
        self.run = kind(own.w_ih.shape[1], own.hidden, batch_first=True)
        with torch.no_grad():
            for mine, theirs in zip(self.run.parameters(), (own.w_ih, own.w_hh, own.b_ih, own.b_hh), strict=True):
                mine.copy_(theirs)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        states, _ = self.run(values)
        last = (mask.sum(1) - 1).clamp(min=0)
        state: Tensor = states[torch.arange(len(states)), last]
        return state


class Plain:
    """One member in an ordinary training loop."""

    def __init__(self, spec: MemberSpec, train: SplitTensors) -> None:
        self.spec, self.train = spec, train
        self.data = train.batch(spec.config)
        self.member = initialised([spec], self.data, train)[0]
        for parent in list(self.member.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LastState):
                    setattr(parent, name, PlainState(child))
                elif isinstance(child, Dropout):
                    setattr(parent, name, nn.Dropout(float(child.p)))
        settings = spec.config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.member.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )

    def epoch(self, number: int, valid: Batch) -> None:
        """Train an epoch and predict the valid split."""
        order = torch.from_numpy(draw_epoch(self.spec.seed, number, self.spec.config, self.train)[0])
        epoch, losses = torch.tensor(number), []
        self.member.train()
        for rows in order.split(self.spec.config.batch_size):
            loss = self.member(self.data, rows, self.train.labels, epoch).sum()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.member.parameters(), self.spec.config.optimizer.clip)
            self.optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses).mean().item()
        self.member.eval()
        with torch.no_grad():
            self.member.model(take(valid, slice(None))).prediction.numpy()


def together_epoch(population: Population, number: int, valid: Batch) -> None:
    """Train an epoch and predict the valid split, as ``fit`` does."""
    population.train_epoch(number).numpy()
    population.predict(valid).numpy()


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True)
class Found:
    """Seconds per member-epoch by round of the plain loop, of populations of one and of one population."""

    plain: list[float]
    alone: list[float]
    together: list[float]
    recording: float
    peak: int

    def row(self) -> str:
        rates = (median(1 / s for s in side) for side in (self.plain, self.alone, self.together))
        ratios = (median(a / b for a, b in zip(side, self.together, strict=True)) for side in (self.plain, self.alone))
        spread = sorted(a / b for a, b in zip(self.plain, self.together, strict=True))
        rest = f"{spread[0]:.2f}-{spread[-1]:.2f} | {1000 * self.recording:.0f} | {self.peak / 1e6:.1f}"
        return " | ".join([*(f"{r:.3g}" for r in rates), *(f"{r:.2f}" for r in ratios), rest])


def measure(case: Case, size: int, rounds: int) -> Found:
    """Measure one population size; an epoch is scaled to the whole of the training rows."""
    train, valid = case.splits()
    specs = [MemberSpec(case.config, seed) for seed in range(size)]
    data, share = valid.batch(case.config), len(train) / ROWS
    plain = [Plain(s, train) for s in specs[:SINGLES]]
    alone = [Population([s], train) for s in specs[:SINGLES]]
    whole = Population(specs, train)
    times: list[tuple[float, float, float]] = []
    warm = -(-MET // case.batches)  # epochs until a population has recorded its step
    for population in (*alone, whole):
        for number in range(1, warm + 1):
            population.train_epoch(number)
    for number in range(warm + 1, warm + rounds + 2):
        a = cpu_seconds(lambda n=number: [p.epoch(n, data) for p in plain])  # type: ignore[misc]
        b = cpu_seconds(lambda n=number: [together_epoch(p, n, data) for p in alone])  # type: ignore[misc]
        c = cpu_seconds(lambda n=number: together_epoch(whole, n, data))  # type: ignore[misc]
        times.append((a / len(plain) / share, b / len(alone) / share, c / size / share))
    sides = [list(side) for side in zip(*times[1:], strict=True)]  # the first round warms up
    return Found(*sides, recording(whole), peak_bytes(specs, train, data, warm + 1))


def peak_bytes(specs: Sequence[MemberSpec], train: SplitTensors, valid: Batch, epochs: int) -> int:
    """Return by how much what torch allocates grows at most until a population has recorded a step and replayed it."""
    with _peak(train.device) as peak:
        population = Population(specs, train)
        for number in range(1, epochs + 1):
            together_epoch(population, number, valid)
    return peak[0]


def recording(population: Population) -> float:
    """Return the CPU seconds that recording a step takes beyond the step itself: once per population and batch size,
    and again when members are dropped."""
    rows, keys = population._order(1)
    step = (rows[:, : population.config.batch_size], keys[:, 0], torch.tensor(1))
    stored = [population.weights, *population.buffers.values()]
    plain = cpu_seconds(lambda: population._gradient(*step))
    return cpu_seconds(lambda: record(population._gradient, step, stored)) - plain


def cases(kinds: Sequence[str]) -> Iterator[tuple[Case, Sequence[int]]]:
    """Yield what is measured, with the population sizes."""
    if "encoders" in kinds:
        for encoder in ("linear", "pool"):
            yield Case("vectors", 1, encoder), (1, 4, 16, 64)
        for encoder in ("attention", "lstm", "gru"):
            yield Case("50 steps", 50, encoder, batches=8), (1, 4, 16, 64)
        for encoder in ("attention", "lstm"):
            yield Case("500 steps", 500, encoder, batches=2), (1, 16)
    if "fusion" in kinds:
        for fusion in registry.names("fusion"):
            yield Case("vectors", 1, "pool", fusion), (1, 16)


def roof(rounds: int = 15) -> tuple[float, float]:
    """Return GFLOP/s of a product of 512 x 512 matrices and GB/s (read and written) of a copy of 64 MiB."""
    a, source = torch.randn(512, 512), torch.randn(2**24)
    target = source.clone()
    product = median(cpu_seconds(lambda: [a @ a for _ in range(8)]) / 8 for _ in range(rounds))
    copy = median(cpu_seconds(lambda: target.copy_(source)) for _ in range(rounds))
    return 2 * 512**3 / product / 1e9, 2 * source.nbytes / copy / 1e9


def serve(pipe: Connection) -> None:
    """In a process of its own: build what a message names, then train epochs of it whenever asked."""
    torch.set_num_threads(1)
    held: dict[tuple[Case, str], Callable[[int], None]] = {}
    number = 0
    while (message := pipe.recv()) is not None:
        case, side = message
        number += 1
        if message not in held:
            train, valid = case.splits()
            data = valid.batch(case.config)
            if side == "plain loop":
                one = Plain(MemberSpec(case.config, 0), train)
                held[message] = lambda n, o=one, d=data: [o.epoch(n, d) for _ in range(TOGETHER)] and None  # type: ignore[misc]
            else:
                whole = Population([MemberSpec(case.config, s) for s in range(TOGETHER)], train)
                held[message] = lambda n, w=whole, d=data: together_epoch(w, n, d)  # type: ignore[misc]
            held[message](number)
        held[message](number)
        pipe.send(number)


def side_by_side(case: Case, rounds: int) -> Mapping[tuple[str, int], float]:
    """Return member-epochs per wall second of the plain loop and of populations, in one process and in two."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(max(SIDES)):
        own, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs,), daemon=True))
        processes[-1].start()
        pipes.append(own)
    share = min(ROWS, case.batches * case.config.batch_size) / ROWS
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for side in ("plain loop", f"{TOGETHER} together"):
            for count in SIDES[:: -1 if number % 2 == 0 else 1]:  # first two, so that both have built what they train
                start = time.perf_counter()
                for pipe in pipes[:count]:
                    pipe.send((case, side))
                for pipe in pipes[:count]:
                    pipe.recv()
                rates.setdefault((side, count), []).append(count * TOGETHER * share / (time.perf_counter() - start))
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return {key: median(found[1:]) for key, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=["encoders", "fusion", "processes"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout
    out.write("A core: {:.0f} GFLOP/s, {:.0f} GB/s.\n\n".format(*roof()))
    out.write("| data | encoders | fusion | members | plain loop | one by one | together | together / plain loop |")
    out.write(" together / one by one | range of the first ratio | recording, ms | MB |\n")
    out.write("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
    for case, sizes in cases(given.kinds):
        for size in (s for s in sizes if s in given.members):
            found = measure(case, size, given.rounds)
            out.write(f"| {case.shape} | {case.encoder} | {case.fusion} | {size} | {found.row()} |\n")
            out.flush()
    if "processes" in given.kinds:
        out.write("\n| data | encoders | side | 1 process | 2 processes | 2 / 1 |\n")
        out.write("| --- | --- | --- | ---: | ---: | ---: |\n")
        for case in (Case("vectors", 1, "pool"), Case("50 steps", 50, "lstm", batches=8)):
            rates = side_by_side(case, given.rounds)
            for side in dict.fromkeys(side for side, _ in rates):
                one, two = (rates[side, count] for count in SIDES)
                out.write(f"| {case.shape} | {case.encoder} | {side} | {one:.3g} | {two:.3g} | {two / one:.2f} |\n")
                out.flush()


if __name__ == "__main__":
    main()
