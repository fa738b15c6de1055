"""A run folder: what was asked, what it was run with, a folder per trial, and the lock that keeps a second driver
out."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmsa_core.atomic import replacing, write_text
from mmsa_core.errors import UserError
from search.populations import Outcome, Slot
from search.processes import end, is_here, this_process
from search.records import Needs, read_json
from search.storage import without_password
from search.study import StudyConfig
from search.yaml_io import shown, write_yaml

PACKAGES = ("torch", "optuna", "ray", "numpy", "pandas", "transformers", "mmsa-search")
STORAGE_VARIABLE = "MMSA_STORAGE"
"""The environment variable with a storage URL whose password the run folder does not keep."""
FREE = {"budget", "resources", "storage", "population", "max_failure_rate", "sampler", "winner", "keep_weights"}
"""Parts of a study that may change when a run is taken up again; the others would make its trials incomparable."""


class RunFolder:
    """The files of one run; nothing here is needed to go on but the study's storage and ``resolved.yaml``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = ""
        self.copied_from: tuple[str, ...] = ()
        self._lock: IO[str] | None = None

    # ---- opening -------------------------------------------------------------------------------------------------

    def start(self, config: StudyConfig, source: Path, facts: Mapping[str, Any]) -> None:
        """Create the folder, or check that the one that is there belongs to this study, and lock it.

        ``facts`` go into ``lock.json`` (data fingerprint, device); an existing folder must agree on the fingerprint.

        Raises:
            UserError: the folder is another study's, in use, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if (self.path / "resolved.yaml").exists():
                self._check_same(config, facts)
            else:
                write_text(self.path / "study.yaml", without_password(source.read_text(encoding="utf-8")))
                write_text(self.path / "lock.json", json.dumps({**environment(), **facts}, indent=2) + "\n")
            public = config.model_copy(update={"storage": without_password(config.storage)})
            write_yaml(self.path / "resolved.yaml", public.resolved())
        except UserError:
            self.release()
            raise
        except OSError as error:
            self.release()
            raise UserError(
                f"{self.path}: cannot write the run folder: {error.strerror}; "
                "free space, change permissions, or give --out"
            ) from None

    def config(self, overrides: Sequence[str] = (), storage: str | None = None) -> StudyConfig:
        """Return the study as it was resolved, with ``key=value`` changes; ``storage``, where the caller has it, is the
        one of ``resolved.yaml`` with its password.

        Raises:
            UserError: this is no run folder.
        """
        if not (self.path / "resolved.yaml").exists():
            raise UserError(
                f"{self.path}: no run folder is here (resolved.yaml is missing); give the folder that run made"
            )
        config = StudyConfig.load(self.path / "resolved.yaml", overrides)
        if storage is not None:
            return config.model_copy(update={"storage": storage})
        if "***" not in config.storage:
            return config
        url = os.environ.get(STORAGE_VARIABLE)
        if url is None:
            raise UserError(
                f"{self.path}: the storage's password is not kept in the run folder; "
                f"set {STORAGE_VARIABLE} to the whole URL, or leave the password to ~/.pgpass"
            )
        return config.model_copy(update={"storage": url})

    def driver(self) -> int | None:
        """Return the process that is at work here, or None."""
        if not (self.path / ".lock").exists():
            raise UserError(f"{self.path}: no run folder is here; give the folder that run made")
        with (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._owner(file)
        return None

    def facts(self) -> dict[str, Any]:
        """Return ``lock.json``.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / "lock.json", {}, "restore it from a copy, or give another --out")

    def release(self) -> None:
        """Let another driver in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def end_stale_desk(self) -> None:
        """End the process that kept the study for a driver that was killed, if it lingers, and take its place.

        The caller's driver holds the folder's lock, so the other driver is gone.
        """
        file = self.path / ".desk"
        if file.exists():
            needs: Needs = {"host": str, "pid": int, "start": (int, float)}
            before = read_json(file, needs, "delete it if no driver is at work here")
            if is_here(before) and before["pid"] != os.getpid():
                end(before)
        write_text(file, json.dumps(this_process()))

    def leave_desk(self) -> None:
        """Let another process take this one's place."""
        (self.path / ".desk").unlink(missing_ok=True)

    # ---- files ---------------------------------------------------------------------------------------------------

    def checkpoint(self, population: str) -> Path:
        """Return where a population's checkpoint is kept while it trains; a worker may have another working folder."""
        return self.path.absolute() / "populations" / f"{population}.safetensors"

    def trial(self, number: int) -> Path:
        """Return a trial's folder."""
        return self.path / "trials" / f"{number:04d}"

    def write_trial(self, number: int, members: Sequence[tuple[Slot, Outcome]]) -> None:
        """Write a trial's configuration, curves, predictions on the valid split, and error.

        What became of the trial is in the study, which is synced; these files are not, as there are many of them.
        """
        folder = self.trial(number)
        folder.mkdir(parents=True, exist_ok=True)
        slot, outcome = members[0]
        write_yaml(folder / "config.yaml", outcome.config if outcome.config is not None else dict(slot.config), False)
        lines = ["seed,epoch,train_loss,valid"]
        lines += [f"{s.seed},{e},{loss:.6g},{value:.6g}" for s, o in members for e, loss, value in o.curve]
        write_text(folder / "curve.csv", "\n".join(lines) + "\n", sync=False)
        predictions = {f"seed_{s.seed}": o.predictions for s, o in members if o.predictions is not None}
        if predictions:
            with replacing(folder / "valid_predictions.npz", sync=False) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **predictions)  # type: ignore[arg-type]  # numpy's stub knows only allow_pickle
        failures = [f"seed {s.seed}: {o.failure}" for s, o in members if o.failure is not None]
        if failures:
            write_text(folder / "error.txt", "\n".join(failures) + "\n", sync=False)

    # ---- helpers -------------------------------------------------------------------------------------------------

    @staticmethod
    def _owner(lock: IO[str]) -> int:
        """Return the process that holds the lock; between locking and writing its number the file is empty."""
        for _ in range(20):
            lock.seek(0)
            text = lock.read().strip()
            if text.isdecimal():
                return int(text)
            time.sleep(0.05)
        raise UserError(f"{lock.name}: a process is starting here; try again in a moment")

    def _take_lock(self) -> None:
        file = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner(file)
            file.close()
            raise UserError(f"{self.path}: process {owner} is at work here; wait, stop it, or give --out") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def _check_same(self, config: StudyConfig, facts: Mapping[str, Any]) -> None:
        before, now = StudyConfig.load(self.path / "resolved.yaml").resolved(), config.resolved()
        for key in now:
            if key not in FREE and key not in ("data", "seeds") and before[key] != now[key]:
                raise UserError(
                    f"{self.path}: holds a run with another {key}: {_short(before[key], now[key])}; give another "
                    f"--out, and warm_start: [{self.path}] to try its best trials first there"
                )
        for key in ("search", "base"):
            was, wanted = before["seeds"][key], now["seeds"][key]
            if was != wanted:
                raise UserError(f"{self.path}: holds a run with seeds.{key}={was}, now {wanted}; give another --out")
        was, wanted = self.facts().get("data_fingerprint"), facts.get("data_fingerprint")
        if was != wanted:
            raise UserError(
                f"{self.path}: holds a run on other data (fingerprint {was}, now {wanted}); give another --out"
            )


def environment() -> dict[str, Any]:
    """Return versions, platform, commit and command: what a reader needs to run it again."""
    return {
        "command": without_password(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the source tree that this code runs from, with ``+`` if it was changed."""
    where = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=where, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _short(before: Any, now: Any, path: str = "") -> str:
    """Name the first place where two values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            if before.get(key) != now.get(key):
                return _short(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    return f"{path + ': ' if path else ''}{shown(before)} before, {shown(now)} now"
