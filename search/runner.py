"""The only file that knows Ray: hands tasks from a source to workers through Ray Tune, one Tune trial per population.

The source lives in one actor, the desk. Tune's searcher takes tasks from it, workers report every epoch to it and learn
which members to drop, and results go to it. Tune holds no state worth keeping: its experiment is never restored.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Before Ray is imported: it reads these once.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends statistics of use to its makers
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps every Ray process on the loopback interface
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # else whoever can connect can run code here

import ray
import torch
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from search.desk import Desk, Patience
from search.populations import Source, Wait
from search.study import ResourcesConfig
from search.worker import Worker, explain

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BARREN_RESTARTS = 3
"""How often Tune may end without a finished task in between before the run gives up."""


@dataclass(frozen=True)
class Placement:
    """How many populations run side by side and what each may use; None is what the cluster has, now and later."""

    workers: int | None
    cpus: float
    gpus: float | None

    @staticmethod
    def of(resources: ResourcesConfig) -> Placement:
        """Return the placement on this machine: a population per GPU if there are any, else per core. On a cluster Ray
        places as many as fit, also on nodes that join later."""
        workers = None if resources.workers == "auto" else resources.workers
        if _on_cluster():
            return Placement(workers, resources.cpus, None if resources.gpus == "auto" else float(resources.gpus))
        devices = torch.cuda.device_count()
        gpus = (1.0 if devices else 0.0) if resources.gpus == "auto" else float(resources.gpus)
        if gpus > 0 and devices == 0:
            raise UserError(f"resources.gpus: asks for {gpus:g} and this machine has none; write gpus: auto or 0")
        cores = len(os.sched_getaffinity(0))
        fit = int(devices / gpus) if gpus > 0 else max(1, int(cores / resources.cpus))
        return Placement(fit if workers is None else workers, resources.cpus, gpus)

    def share(self, cluster: Mapping[str, float]) -> dict[str, float]:
        """Return what one population is given of a cluster with these resources: a GPU where any node has one."""
        gpus = (1.0 if cluster.get("GPU", 0.0) >= 1.0 else 0.0) if self.gpus is None else self.gpus
        return {"cpu": self.cpus, "gpu": gpus}


def _on_cluster() -> bool:
    return "RAY_ADDRESS" in os.environ


class Engine:
    """Runs sources on this machine (or the cluster that ``RAY_ADDRESS`` names); starts Ray when there is work, once.

    While it is open, the first SIGINT or SIGTERM drains the source at work, and a second SIGINT ends the program at
    once.
    """

    def __init__(
        self, placement: Placement, on_status: Callable[[Mapping[str, Any]], None], patience: Patience | None = None
    ) -> None:
        self.placement = placement
        self.on_status = on_status
        self.patience = patience
        self._asked = threading.Event()
        self._open = ExitStack()

    @property
    def interrupted(self) -> bool:
        """Tell whether a signal asked to stop."""
        return self._asked.is_set()

    def __enter__(self) -> Engine:
        # Ray prints what its daemons say to the standard output, which is the result's
        nowhere = self._open.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        self._open.enter_context(redirect_stdout(nowhere))
        self._open.callback(ray.shutdown)
        for number in SIGNALS:
            self._open.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, make_source: Callable[[], Source], splits: tuple[Split, Split]) -> dict[str, Any]:
        """Run a source's tasks to the end (or until interrupted) and return its last status.

        ``make_source`` is called in the desk's own process. ``splits`` are train and valid: workers have no other data.

        Raises:
            UserError: the disk or the storage gave out; running again goes on.
        """
        if not ray.is_initialized():
            _start_ray(self.placement)
            for number in SIGNALS:  # Ray has taken SIGTERM for itself
                signal.signal(number, self._handle)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # the run folder's
        desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote(
            partial(_inside, Path.cwd(), make_source), self.patience
        )
        ray.get(desk.pulse.remote())
        over = threading.Event()
        monitor = threading.Thread(target=self._monitor, args=(desk, over), daemon=True)
        monitor.start()
        try:
            barren = 0
            while not self.interrupted and barren < BARREN_RESTARTS and ray.get(desk.open.remote()):
                if not ray.get(desk.ready.remote()):
                    self._asked.wait(1.0)
                    continue
                before = ray.get(desk.finished.remote())
                _tune(desk, splits, self.placement)
                ray.get(desk.abandon.remote())
                barren = barren + 1 if ray.get(desk.finished.remote()) == before else 0
            status = dict(ray.get(desk.close.remote()))
            failure = ray.get(desk.failure.remote())
            if failure is not None:
                raise failure
            return status
        finally:
            over.set()
            monitor.join(timeout=5)
            ray.kill(desk)

    def _handle(self, number: int, _: object) -> None:
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked.set()

    def _monitor(self, desk: Any, over: threading.Event) -> None:
        """Every second show the status, end workers that hang, and pass an interrupt on to the source."""
        drained = False
        while not over.wait(1.0):
            try:
                if self.interrupted and not drained:
                    ray.get(desk.drain.remote())
                    drained = True
                for worker in ray.get(desk.silent.remote()):
                    ray.kill(worker)
                self.on_status(ray.get(desk.pulse.remote()))
            except ray.exceptions.RayError:
                return


def _inside(folder: Path, make_source: Callable[[], Source]) -> Source:
    """Make a source in the driver's working folder, where relative paths begin: a cluster's processes have others."""
    os.chdir(folder)
    return make_source()


def _start_ray(placement: Placement) -> None:
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not _on_cluster():
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            # of this run alone: Ray's own would be a file that other users of the machine can read
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        arguments |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": (placement.workers or 1) * placement.cpus,
        }
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).addFilter(_is_news)
    ray.init(**arguments)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether Tune says something else than that a worker died: the desk is told and has it trained again."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ray.exceptions.RayActorError) and "did not complete" not in str(record.msg)


def _tune(desk: Any, splits: tuple[Split, Split], placement: Placement) -> None:
    """Let Tune work until the source has no more. Whatever ends Tune itself leaves the source untouched."""
    trainable = tune.with_parameters(_Population, train=splits[0], valid=splits[1], desk=desk)
    scratch = tempfile.mkdtemp(prefix="mmsa-search-")
    try:
        tune.Tuner(
            tune.with_resources(trainable, placement.share(ray.cluster_resources())),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(desk),
                num_samples=-1,
                max_concurrent_trials=placement.workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="populations",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    except (ray.exceptions.RayError, tune.TuneError, RuntimeError) as error:
        logging.getLogger(__name__).warning("Ray Tune ended early and is started again: %s", explain(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Searcher(Searcher):
    """Gives Tune the source's tasks as trials."""

    def __init__(self, desk: Any) -> None:
        super().__init__()
        self.desk = desk
        self.tasks: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        name = ray.get(self.desk.next.remote())
        if name is None:
            return str(Searcher.FINISHED)
        if isinstance(name, Wait):
            return None
        self.tasks[trial_id] = name
        return {"task": name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            ray.get(self.desk.lost.remote(self.tasks[trial_id], "the worker process ended (killed, or out of memory)"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the source's own storage is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("not restored: run the study again and it goes on")


class _Population(tune.Trainable):
    """One Tune trial: one task, trained in one step. The process and its data serve many tasks."""

    def setup(self, config: dict[str, Any], train: Split, valid: Split, desk: Any) -> None:
        torch.set_num_threads(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.worker = Worker(train, valid, device)
        self.desk = desk
        self.name = config["task"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.name = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        own = ray.get_runtime_context().current_actor
        task = ray.get(self.desk.take.remote(self.name, own))
        result = self.worker.run(task, lambda *news: ray.get(self.desk.report.remote(*news)))
        ray.get(self.desk.finish.remote(self.name, result))
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: populations write their own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""
