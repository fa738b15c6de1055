"""What a person sees of a study at work, on hand-made statuses of a search and of a confirmation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from search.parts import TRAINING, Parts
from search.progress import Progress, clock, counted, describe, facts


def search(done: int = 10, **changes: Any) -> dict[str, Any]:
    """A search at half of 20 trials: 100 s used in all, of which this call's driver knows 30 s."""
    status: dict[str, Any] = {
        "study": "tiny",
        "metric": "mae",
        "cost": None,
        "budget": {"trials": 20, "minutes": None},
        "used": {"trials": done, "seconds": 100.0},
        "counts": {"complete": 6, "pruned": 3, "failed": 1, "running": 4, "waiting": 0},
        "best": {"number": 7, "value": 0.87654, "params": {}},
        "front": [7],
        "trials": [],
        "message": "",
        "speed": {"member_epochs": 90, "seconds": 30.0, "rate": 3.0, "draining": False},
    }
    return status | changes


def confirmation(done: int = 1) -> dict[str, Any]:
    speed = {"member_epochs": 6, "seconds": 20.0, "rate": 0.3, "draining": False}
    return {"stage": "confirm", "done": done, "total": 3, "message": "", "speed": speed}


def draining(status: dict[str, Any]) -> dict[str, Any]:
    return status | {"speed": status["speed"] | {"draining": True}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_counted() -> None:
    assert counted(search()) == (10, 20)
    assert counted(confirmation()) == (1, 3)
    # Nothing to train: a bar of nothing at all cannot be drawn.
    assert counted(confirmation(0) | {"total": 0}) == (0, 1)


def test_facts_of_a_search() -> None:
    assert facts(search()) == {
        "done": "10 of 20",
        "speed": "3.0 member-epochs/s",
        "time left": "1 min 40 s",  # ten trials took 100 s in all runs, not the 30 s of this one
        "trials": "6 complete · 3 pruned · 1 failed · 4 running",
        "best so far": "mae 0.8765 (trial 7)",
        "cost": "1 min 40 s in all",
    }


def test_a_front_where_there_is_a_cost() -> None:
    assert facts(search(cost="parameters", front=[7, 3]))["front"] == "2 of mae and parameters"
    assert "front" not in facts(search())


def test_facts_before_the_first_trial_ends() -> None:
    found = facts(search(0, best=None))
    assert found["time left"] == "unknown"
    assert found["best so far"] == "none yet"
    assert found["done"] == "0 of 20"


def test_time_left_is_at_most_what_the_minutes_leave() -> None:
    assert facts(search(budget={"trials": 20, "minutes": 2.0}))["time left"] == "20 s"
    assert facts(search(budget={"trials": 20, "minutes": 60.0}))["time left"] == "1 min 40 s"
    assert facts(search(budget={"trials": 20, "minutes": 1.0}))["time left"] == "0 s"


def test_facts_of_a_confirmation() -> None:
    assert facts(confirmation()) == {"done": "1 of 3", "speed": "0.3 member-epochs/s", "time left": "40 s"}
    assert facts(confirmation(0))["time left"] == "unknown"


def test_a_message_is_a_note() -> None:
    assert facts(search(message="stopped: 8 of 9 trials failed"))["note"] == "stopped: 8 of 9 trials failed"
    assert "note" not in facts(search())


def test_describe_is_one_line_with_the_stage() -> None:
    assert describe(confirmation()) == "confirm: done 1 of 3, speed 0.3 member-epochs/s, time left 40 s"
    line = describe(search())
    assert line.startswith("search: done 10 of 20, ")
    assert "\n" not in line
    assert "stopping" not in line
    assert describe(draining(search())).endswith("stopping running populations save and end")


def at(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    times = iter(seconds)
    monkeypatch.setattr("search.progress.time.monotonic", lambda: next(times))


def test_a_line_every_thirty_seconds_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at(monkeypatch, [0.0, 1.0, 29.9, 30.0, 31.0, 60.0])
    with Progress("tiny") as show:
        for done in range(6):
            show(search(done))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "tiny: search: done 0 of 20",
        "tiny: search: done 3 of 20",
        "tiny: search: done 5 of 20",
    ]


def test_json_lines_are_the_statuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    at(monkeypatch, [0.0, 40.0, 80.0])
    shown = [search(), draining(search()), confirmation()]
    with Progress("tiny", json_lines=True) as show:
        for status in shown:
            show(status)
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line) for line in err.splitlines()] == shown


@pytest.mark.parametrize(
    ("status", "texts"),
    [
        (search(), ["tiny", "search", "10 of 20", "mae 0.8765 (trial 7)", "Ctrl-C saves and stops"]),
        (search(0, best=None), ["none yet", "unknown"]),
        (draining(search()), ["running populations save and end", "Ctrl-C again ends at once"]),
        (confirmation(), ["confirm", "1 of 3"]),
    ],
    ids=["search", "nothing yet", "draining", "confirmation"],
)
def test_the_panel_of_a_terminal(
    status: dict[str, Any],
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stream for a terminal then
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("tiny") as show:
        assert show.live is not None
        show(status)
        show.console.print(show.live.get_renderable())
    err = capsys.readouterr().err
    for text in texts:
        assert text in err


def test_json_is_never_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("tiny", json_lines=True) as show:
        assert show.live is None


def part(draining: bool = False) -> dict[str, Any]:
    speed = {"member_epochs": 0, "seconds": 61.0, "rate": 0.0, "draining": draining}
    return {"stage": "explain", "part": "importances", "done": 2, "total": 9, "message": "", "speed": speed}


def test_facts_of_a_part_without_training() -> None:
    assert describe(part()) == "explain: done 2 of 9, at work importances, since 1 min 01 s"
    assert describe(part(draining=True)).endswith("stopping after this part")


def test_a_part_is_shown_when_it_begins_and_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.parts.SECONDS", 0.01)
    seen: list[tuple[str, str, bool]] = []
    again, asked = threading.Event(), threading.Event()

    def show(status: Mapping[str, Any]) -> None:
        seen.append((status["stage"], status["part"], status["speed"]["draining"]))
        if len(seen) > 3:
            again.set()

    parts = Parts(show, asked.is_set)
    with parts.watched():
        parts.begin("explain", "importances")
        assert seen[0] == ("explain", "importances", False)
        assert again.wait(10), "it is shown again meanwhile"
        parts.begin("explain", TRAINING)
        time.sleep(0.05)  # one that was under way may still come
        shown = len(seen)
        time.sleep(0.1)
        assert len(seen) == shown, "what trains is shown by the engine"
        asked.set()
        parts.begin("report", "page and tables")
    assert seen[-1] == ("report", "page and tables", True)


def test_a_part_that_cannot_be_shown_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("search.parts.SECONDS", 0.01)
    calls = []

    def show(status: Mapping[str, Any]) -> None:
        calls.append(status)
        raise OSError("the terminal is gone")

    parts = Parts(show, lambda: False)
    with parts.watched():
        parts.begin("explain", "arms")
        time.sleep(0.1)
    assert len(calls) == 1 and "the progress cannot be shown" in caplog.text
