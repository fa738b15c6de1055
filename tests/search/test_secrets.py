"""The password of a database reaches the database and nothing else: no file of a run, no output, no error."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from search.storage import open_storage, without_password
from tests.search.servers import PASSWORD, Postgres
from tests.search.test_run import PROGRAM, STUDY

SPELLINGS = (PASSWORD, quote(PASSWORD, safe=""), "tr0ub", "4d@r", "4d%40r")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "data.npz", planted(0, train=64, valid=32, test=32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, **environment}
    command = [str(PROGRAM), *arguments]
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=250, check=False)


def leaks(folder: Path, *said: str) -> list[str]:
    """Return where the password is, in whatever spelling: files of a folder, or what was said."""
    texts = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    texts |= {f"output {k}": text.encode() for k, text in enumerate(said)}
    assert len(texts) > 10
    return [name for name, text in texts.items() if any(s.encode() in text for s in SPELLINGS)]


@pytest.mark.ray
def test_a_whole_run_on_postgresql(server: Postgres, home: Path) -> None:
    (home / "study.yaml").write_text(f"{STUDY}storage: {server.url()}\n", encoding="utf-8")
    checked = call("doctor", "study.yaml")
    done = call("run", "study.yaml", "--out", "run", "budget.trials=4", "seeds.confirm=2")
    assert done.returncode == 0, done.stderr
    known = {"MMSA_STORAGE": server.url()}
    without, found = call("status", "run", "--json"), call("status", "run", "--json", **known)
    later = [call(verb, "run", **known) for verb in ("report", "export")]
    assert without.returncode == 2 and "set MMSA_STORAGE to the whole URL" in without.stderr
    assert json.loads(found.stdout)["used"]["trials"] == 4
    assert [d.returncode for d in later] == [0, 0]
    calls = [checked, done, without, found, *later]
    assert leaks(home / "run", *(text for c in calls for text in (c.stdout, c.stderr))) == []
    assert "postgresql+psycopg://ann:***@127.0.0.1" in (home / "run/resolved.yaml").read_text(encoding="utf-8")


@pytest.mark.ray
def test_a_password_on_the_command_line(server: Postgres, home: Path) -> None:
    (home / "study.yaml").write_text(STUDY, encoding="utf-8")
    done = call(
        "run",
        "study.yaml",
        "--out",
        "run",
        "budget.trials=2",
        "seeds.confirm=2",
        "study=other",
        f"storage={server.url()}",
    )
    assert done.returncode == 0, done.stderr
    assert leaks(home / "run", done.stdout, done.stderr) == []


def test_refused_by_the_server(server: Postgres, home: Path) -> None:
    """Wrong password, no such database, nobody there: the sentence names the place and no password."""
    urls = {
        "doctor": server.url(PASSWORD + "x"),
        "run": server.url(database="none"),
        "run --json": Postgres(1, Path(), Path()).url(),
    }
    for verb, url in urls.items():
        (home / "study.yaml").write_text(f"{STUDY}storage: {url}\n", encoding="utf-8")
        done = call(*verb.split(), "study.yaml")
        assert done.returncode == 2, done.stderr
        assert "127.0.0.1" in done.stdout + done.stderr and "Traceback" not in done.stderr
        assert not any(s in done.stdout + done.stderr for s in SPELLINGS), done.stderr


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mariadb", "postgresql", "postgresql+none"])
@pytest.mark.parametrize("password", [PASSWORD, "a b", "p'q\"r", "ü%é", "#x"])
def test_urls_that_cannot_be_opened(tmp_path: Path, scheme: str, password: str) -> None:
    """Also where the driver is missing or the URL is broken, and the password is written as it is."""
    for written in (quote(password, safe=""), password):
        url = f"{scheme}://ann:s3cret{written}s3cret@127.0.0.1:1/studies"
        with pytest.raises(UserError) as caught:
            open_storage(url, tmp_path)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://ann:a%40b%2Fc@h/s", "mysql://ann:***@h/s"),
        ("mysql://ann:a?b@h/s", "mysql://ann:***@h/s"),
        ("mysql://ann:a b@h/s and more", "mysql://ann:***@h/s and more"),
        ("mysql://h/s?passwd=s3cret&user=ann", "mysql://h/s?passwd=***&user=ann"),
        ("mysql://h/s?user=ann&PASSWORD=s3cret", "mysql://h/s?user=ann&PASSWORD=***"),
        ("mysql://h/s?ssl_key_password=s3cret", "mysql://h/s?ssl_key_password=***"),
        ("storage: {a: 'mysql://ann:s3cret@h/s'}", "storage: {a: 'mysql://ann:***@h/s'}"),
        ("https://h/page?x=1 mail ann@h", "https://h/page?x=1 mail ann@h"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_url(text: str, shown: str) -> None:
    assert without_password(text) == shown
