"""The dashboard answers its own pages alone: by a loopback name, and no other site's page through the browser."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from search import pipeline
from search.cli import main
from search.study import StudyConfig
from search.trials import open_study
from tests.search.test_run import STUDY, driver, wait_for

pytest.importorskip("optuna_dashboard")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a study without trials."""
    folder = tmp_path_factory.mktemp("dashboard")
    write(folder / "data.npz", planted(0, train=24, valid=10, test=10))
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    opened = pipeline.open_new(StudyConfig.load(folder / "study.yaml"), folder / "study.yaml", folder / "run")
    open_study(opened.config, opened.folder)
    opened.folder.release()
    return folder / "run"


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The program's process and port."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        with driver("dashboard", "run", "--port", str(port)) as process:
            wait_for(process, lambda: answers(port), 60)
            yield process, port
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0, "Ctrl-C is how it ends"
            assert "Traceback" not in Path("err.txt").read_text()
            assert Path("out.txt").read_text() == f"dashboard: http://127.0.0.1:{port}/\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with suppress(ConnectionError):
        return ask(port)[0] == 200
    return False


def ask(port: int, *hosts: str, method: str = "GET", path: str = "/api/studies", **headers: str) -> tuple[int, str]:
    """Send a request with these ``Host`` lines (127.0.0.1 by default); return the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for host in hosts or (f"127.0.0.1:{port}",):
        connection.putheader("Host", host)
    body = json.dumps({"study_name": "made", "directions": ["minimize"]}).encode() if method == "POST" else b""
    for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    with connection.getresponse() as answer:
        found = answer.status, answer.read().decode()
    connection.close()
    return found


Server = tuple[subprocess.Popen[str], int]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
@pytest.mark.parametrize("with_port", [False, True])
def test_loopback_names_are_answered(server: Server, host: str, with_port: bool) -> None:
    port = server[1]
    status, text = ask(port, f"{host}:{port}" if with_port else host)
    assert status == 200 and json.loads(text)["study_summaries"][0]["study_name"] == "tiny"


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example", "rebound.example:{port}", "localhost.example", "127.0.0.1.example", "127.0.0.1@example", "",
        "0.0.0.0:{port}", "localhost:80:80", "localhost:x", "localhost\t", "127.0.0.2", "localhost, rebound.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(server: Server, host: str) -> None:
    status, text = ask(server[1], host.format(port=server[1]))
    assert (status, "study" in text) == ((200, True) if host == "localhost\t" else (403, False))  # white space is none


def test_two_names_are_refused(server: Server) -> None:
    assert ask(server[1], "localhost", "rebound.example")[0] == 403


def test_the_page_and_its_files_are_refused_too(server: Server) -> None:
    for path in ("/", "/dashboard", "/static/bundle.js", "/nothing"):
        assert ask(server[1], "rebound.example", path=path)[0] == 403
    assert ask(server[1], path="/dashboard")[0] == 200


def test_only_its_own_page_writes(server: Server) -> None:
    """A study is made by its own page, and by a program that is no browser; another site's page makes none."""
    port = server[1]
    own = f"127.0.0.1:{port}"
    foreign = ("https://rebound.example", "null", "http://127.0.0.1:1", "", f"http://x@127.0.0.1:{port}")
    for method in ("POST", "GET", "PUT", "DELETE"):
        for origin in foreign:
            assert ask(port, own, method=method, Origin=origin)[0] == 403
    assert len(json.loads(ask(port)[1])["study_summaries"]) == 1
    assert ask(port, own, method="POST", Origin=f"http://localhost:{port}")[0] == 201
    assert len(json.loads(ask(port)[1])["study_summaries"]) == 2
    assert "already exists" in ask(port, own, method="POST")[1], "a program without Origin is answered"


def test_it_listens_on_loopback_alone_and_has_no_children(server: Server) -> None:
    process = psutil.Process(server[0].pid)
    listens = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listens == [("127.0.0.1", server[1])] and process.children(recursive=True) == []


def test_a_port_that_is_taken(server: Server, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["dashboard", str(run), "--port", str(server[1])])
    said = capsys.readouterr().err
    assert said == (
        f"mmsa-search: --port: cannot listen on 127.0.0.1:{server[1]} (Address already in use); give another port\n"
    )


def test_without_the_package(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(SystemExit, match="2"):
        main(["dashboard", str(run)])
    assert "optuna-dashboard is not installed; pip install 'mmsa-search[dashboard]'" in capsys.readouterr().err
