"""Has a source's tasks worked on: in this process while there is little to do, by Ray's workers where there is much.

Ray's start costs some ten seconds, more than many a search. So work begins in this process, at once, and moves to Ray
when it turns out to be long: what runs is saved, and goes on there.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from mmsa_core.tensors import own_device
from search.desk import Desk, Patience
from search.interruption import Interruption, UnansweredError
from search.populations import Source
from search.progress import seconds_left, waiting
from search.study import ResourcesConfig
from search.worker import Worker

BARREN_ROUNDS = 3
"""How often workers may end without a finished task in between before the run gives up."""
SHORT = 10.0
"""Seconds that work stays in this process in any case: about what the start of Ray costs."""
WORTH = 30.0
"""Seconds of work left from which on Ray's start pays with two workers."""

MakeSource = Callable[[], Source]
Splits = tuple[Split, Split]


@dataclass(frozen=True)
class Placement:
    """How many populations run side by side and what each may use; None is what the cluster has, now and later.
    ``begins_here`` says that work begins in this process."""

    workers: int | None
    cpus: float
    gpus: float | None
    begins_here: bool = False

    @staticmethod
    def of(resources: ResourcesConfig) -> Placement:
        """Return the placement on this machine: a population per GPU if there are any, else per core. On a cluster Ray
        places as many as fit, also on nodes that join later.

        Raises:
            UserError: GPUs are asked for, and there are none.
        """
        workers = None if resources.workers == "auto" else resources.workers
        if on_cluster():
            return Placement(workers, resources.cpus, None if resources.gpus == "auto" else float(resources.gpus))
        devices = torch.cuda.device_count()
        gpus = (1.0 if devices else 0.0) if resources.gpus == "auto" else float(resources.gpus)
        if gpus > 0 and devices == 0:
            raise UserError(f"resources.gpus: asks for {gpus:g} and this machine has none; write gpus: auto or 0")
        cores = len(os.sched_getaffinity(0))
        fit = int(devices / gpus) if gpus > 0 else max(1, int(cores / resources.cpus))
        return Placement(fit if workers is None else workers, resources.cpus, gpus, workers in (None, 1))

    def share(self, cluster: Mapping[str, float]) -> dict[str, float]:
        """Return what one population is given of a cluster with these resources: a GPU where any node has one."""
        gpus = (1.0 if cluster.get("GPU", 0.0) >= 1.0 else 0.0) if self.gpus is None else self.gpus
        return {"cpu": self.cpus, "gpu": gpus}


def on_cluster() -> bool:
    """Tell whether a Ray cluster that runs already is to be used."""
    return "RAY_ADDRESS" in os.environ


class Site(Protocol):
    """A desk, and the workers who work for it."""

    gone: tuple[type[Exception], ...]
    """What :meth:`ask` raises when the desk's process is gone."""

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return what a method of the :class:`Desk` returns; any thread may ask."""

    def work(self) -> None:
        """Do what the desk hands out, until it has no more now."""

    def unanswered(self) -> float:
        """Return the seconds for which the desk has waited for the storage, where another process has it."""

    def end(self, worker: Any) -> None:
        """End a worker that hangs."""

    def close(self) -> None:
        """End the desk."""


class Here:
    """The desk and one worker in this process. A worker that hangs cannot be ended here."""

    gone: tuple[type[Exception], ...] = ()

    def __init__(self, make_source: MakeSource, splits: Splits) -> None:
        torch.set_num_threads(1)
        self._desk = Desk(make_source)
        self._lock = threading.Lock()
        self._worker = Worker(*splits, own_device())

    def ask(self, question: str, *arguments: Any) -> Any:
        with self._lock:
            return getattr(self._desk, question)(*arguments)

    def work(self) -> None:
        while isinstance(name := self.ask("next"), str):
            task = self.ask("take", name, None)
            self.ask("finish", name, self._worker.run(task, partial(self.ask, "report")))

    def unanswered(self) -> float:
        """No other process has the desk."""
        return 0.0

    def end(self, worker: Any) -> None:
        """Nobody to end: the worker is this process."""

    def close(self) -> None:
        """Give the device's memory back to whoever works next."""
        del self._worker
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Engine:
    """Runs sources on this machine, or on the cluster that ``RAY_ADDRESS`` names; starts Ray once, and if it pays.

    While it is open, the first SIGINT or SIGTERM drains the source at work, and a second SIGINT ends the program at
    once. Where the storage does not answer meanwhile, closing it raises :class:`UnansweredError`.
    """

    def __init__(
        self, placement: Placement, on_status: Callable[[Mapping[str, Any]], None], patience: Patience | None = None
    ) -> None:
        self.placement = placement
        self.on_status = on_status
        self.patience = patience
        self._interruption = Interruption()
        self._outgrown = not placement.begins_here
        self._open = ExitStack()

    @property
    def interrupted(self) -> bool:
        """Tell whether a signal asked to stop."""
        return self._interruption.asked.is_set()

    def __enter__(self) -> Engine:
        # Ray prints what its daemons say to the standard output, which is the result's
        nowhere = self._open.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        self._open.enter_context(redirect_stdout(nowhere))
        self._open.enter_context(self._interruption)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._open.close()
        finally:
            if (silence := self._interruption.silence) is not None:
                raise UnansweredError(
                    f"the storage has not answered for {silence:.0f} s; stopped without it; nothing is lost: run the "
                    "same command again, and it goes on"
                ) from None

    def run(self, make_source: MakeSource, splits: Splits) -> dict[str, Any]:
        """Run a source's tasks to the end (or until interrupted) and return its last status.

        ``make_source`` is called in the desk's own process, and again where work moves to Ray. ``splits`` are train and
        valid: workers have no other data.

        Raises:
            UserError: the disk or the storage gave out; running again goes on.
        """
        if not self._outgrown:
            status = self._run(Here(make_source, splits))
            if self.interrupted or not self._outgrown:
                return status
        return self._run(self._with_ray(make_source, splits))

    def _with_ray(self, make_source: MakeSource, splits: Splits) -> Site:
        from search import runner  # importing Ray takes a second

        if runner.start(self.placement):
            self._open.callback(self._stop, runner.stop)
            self._interruption.handle_signals()  # Ray has taken SIGTERM for itself
        return runner.Workers(make_source, splits, self.placement, self.patience)

    def _stop(self, ray: Callable[[], None]) -> None:
        """End Ray, but where the storage was given up: that takes seconds, and Ray ends with this process."""
        if self._interruption.silence is None:
            ray()

    def _run(self, site: Site) -> dict[str, Any]:
        barren = 0
        with self._watched(site):
            while not self.interrupted and barren < BARREN_ROUNDS and site.ask("open"):
                if not site.ask("ready"):
                    self._interruption.asked.wait(1.0)
                    continue
                before = site.ask("finished")
                site.work()
                site.ask("abandon")
                barren = barren + 1 if site.ask("finished") == before else 0
            status = dict(site.ask("close"))
            failure = site.ask("failure")
        if failure is not None:
            raise failure
        return status

    @contextmanager
    def _watched(self, site: Site) -> Iterator[None]:
        """Watch a site from another thread; close it at the end."""
        over = threading.Event()
        monitor = threading.Thread(target=self._watch, args=(site, over), daemon=True)
        monitor.start()
        patience = 0.0
        try:
            with self._interruption.also(site.unanswered):
                yield
            patience = 5.0
        finally:
            over.set()
            monitor.join(patience)  # where this is interrupted, it may wait for what does not answer
            site.close()

    def _watch(self, site: Site, over: threading.Event) -> None:
        """Every second show the status, end workers that hang, and drain the source when asked to stop, or when there
        is more to do than one process should. A status that cannot be shown ends showing it, not watching."""
        drained, shows = False, True
        while not over.wait(1.0):
            try:
                status = site.ask("pulse")
                self._outgrown = self._outgrown or self._is_long(status)
                if not drained and (self.interrupted or (self._outgrown and isinstance(site, Here))):
                    site.ask("drain")
                    drained = True
                for worker in site.ask("silent"):
                    site.end(worker)
            except site.gone:
                return
            try:
                if shows:
                    self.on_status(status)
            except Exception:
                logging.getLogger(__name__).exception("the progress cannot be shown")
                shows = False

    def _is_long(self, status: Mapping[str, Any]) -> bool:
        """Tell whether the work that is left is worth the start of Ray; where its length is unknown it is."""
        if self.placement.workers == 1 or status["speed"]["seconds"] < SHORT or not waiting(status):
            return False
        left = seconds_left(status)
        return left is None or left >= WORTH
