"""What a person sees while a study runs: one live panel on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table

LINE_SECONDS = 30.0
STOPPING = "running populations save and end"


class Progress:
    """Shows the statuses it is called with; ``json`` prints each as one JSON line instead."""

    def __init__(self, study: str, json_lines: bool = False) -> None:
        self.study = study
        self.json_lines = json_lines
        self.console = Console(stderr=True)
        self.live: Live | None = None
        self._last_line = -LINE_SECONDS

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.json_lines:
            self.live = Live(Panel("starting"), console=self.console, transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, status: Mapping[str, Any]) -> None:
        """Show a status of the ledger, of a confirmation plan, or of a part of a stage."""
        if self.live is not None:
            self.live.update(self._panel(status))
            return
        if "part" in status and status["speed"]["seconds"] < LINE_SECONDS:
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            text = json.dumps(status) if self.json_lines else f"{self.study}: {describe(status)}"
            print(text, file=sys.stderr, flush=True)  # noqa: T201 (this is the program's output)

    def _panel(self, status: Mapping[str, Any]) -> Panel:
        done, total = counted(status)
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=total, completed=done))
        table = Table.grid(padding=(0, 2))
        for name, value in facts(status).items():
            table.add_row(f"[bold]{name}", value)
        title = f"[bold]{self.study}[/] · {status.get('stage', 'search')}"
        hint = "Ctrl-C again ends at once" if status["speed"]["draining"] else "Ctrl-C saves and stops"
        return Panel(Group(bar, table), title=title, subtitle=f"[dim]{hint}")


class TextProgress:
    """Shows how many texts have passed a text model: a bar on a terminal, a line every 30 seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Bar | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> TextProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` texts are ready."""
        if self.console.is_terminal:
            if self.bar is None:
                columns = (TextColumn("text features"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self.bar = Bar(*columns, console=self.console, transient=True)
                self.bar.add_task("", total=total)
                self.bar.start()
            self.bar.update(self.bar.task_ids[0], completed=done)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            print(f"text features: {done} of {total} texts", file=sys.stderr, flush=True)  # noqa: T201


def counted(status: Mapping[str, Any]) -> tuple[int, int]:
    """Return what is done and what there is to do: trials of a search, populations of a confirmation, parts of a
    stage."""
    if "stage" in status:
        return status["done"], max(1, status["total"])
    return status["used"]["trials"], status["budget"]["trials"]


def over_budget(status: Mapping[str, Any]) -> str:
    """Return that a budget is met which was lowered below what is done; nothing where it was not."""
    done, total = counted(status)
    return f"budget.trials: {total} is met, as {done} trials have ended" if done > total else ""


def progressed(status: Mapping[str, Any], unit: str = "") -> str:
    """Return how much is done of how much, e.g. ``3 of 6 trials``."""
    done, total = counted(status)
    return f"{done}{unit} (the budget of {total} is met)" if done > total else f"{done} of {total}{unit}"


def facts(status: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of the panel."""
    speed = status["speed"]
    found = {"done": progressed(status)}
    if "part" in status:
        found |= {"at work": status["part"], "since": clock(speed["seconds"])}
    else:
        found |= {"speed": f"{speed['rate']:.1f} member-epochs/s", "time left": _left(status)}
    if "counts" in status:
        counts = status["counts"]
        shown = ("complete", "pruned", "failed", "running")
        found["trials"] = " · ".join(f"{counts[name]} {name}" for name in shown)
        best = status["best"]
        found["best so far"] = (
            "none yet" if best is None else f"{status['metric']} {best['value']:.4f} (trial {best['number']})"
        )
        if status["cost"] is not None:
            found["front"] = f"{len(status['front'])} of {status['metric']} and {status['cost']}"
        found["cost"] = f"{clock(status['used']['seconds'])} in all"
    if speed["draining"]:
        found["stopping"] = "after this part" if "part" in status else STOPPING
    if status.get("message"):
        found["note"] = status["message"]
    return found


def seconds_left(status: Mapping[str, Any]) -> float | None:
    """Guess the seconds left from the time of what is done (a search counts its earlier runs in both); None before the
    first end."""
    done, total = counted(status)
    if done == 0:
        return None
    used = status["used"]["seconds"] if "used" in status else status["speed"]["seconds"]
    left = float(used / done * (total - done))
    minutes = status.get("budget", {}).get("minutes")
    return left if minutes is None else max(0.0, min(left, 60 * minutes - used))


def waiting(status: Mapping[str, Any]) -> bool:
    """Tell whether there is more to do than one worker has in hand."""
    done, total = counted(status)
    if "stage" in status:
        return total - done > 1
    queued, running = int(status["queued"]), int(status["counts"]["running"])
    return queued > 0 or total - done > running


def _left(status: Mapping[str, Any]) -> str:
    left = seconds_left(status)
    return "unknown" if left is None else clock(left)


def describe(status: Mapping[str, Any]) -> str:
    """Return a status in one line."""
    return f"{status.get('stage', 'search')}: " + ", ".join(f"{k} {v}" for k, v in facts(status).items())


def clock(seconds: float) -> str:
    """Return a duration, e.g. ``2 h 05 min``.

    >>> clock(59.6), clock(61), clock(7500)
    ('1 min 00 s', '1 min 01 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
