"""The report: a safe, self-contained page at every stage of a run, tables that agree with it, figures that draw."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import search.report
from mmsa_core.errors import UserError
from search import pipeline
from search.ledger import Ledger
from search.report.build import TITLES, page, write_report
from search.report.collect import Curve, RunRecord, TrialRecord, collect
from search.report.diagram import describe, diagram
from search.report.figures.searched import MAX_POINTS, history
from search.report.headline import headline
from search.report.tables import tables
from search.run_folder import RunFolder
from search.statistics import Estimate
from search.trials import open_study
from tests.search.estimates import over_seeds
from tests.search.report_run import INJECTED, SIZE, Links, finish, plots_of, search_small, sections, specs_of

TABLES = set(TITLES)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Opened:
    """A study whose search is done: 8 trials, one of them failed."""
    return search_small(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def searched(opened: pipeline.Opened, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder between search and confirmation."""
    return Path(shutil.copytree(opened.folder.path, tmp_path_factory.mktemp("searched") / "run"))


@pytest.fixture(scope="module")
def finished(searched: Path, opened: pipeline.Opened) -> Path:
    """A run folder with everything done, whose record of the machine tries to inject a script."""
    path = finish(opened)
    write_report(path)
    return path


@pytest.fixture
def run(finished: Path) -> RunRecord:
    return collect(finished)


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def csv(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "report" / "tables" / f"{name}.csv")


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_small(finished: Path) -> None:
    path = write_report(finished)
    assert path == finished / "report" / "index.html"
    assert path.stat().st_size < 6_000_000
    links = Links(path.read_text(encoding="utf-8")).links
    assert len(links) > 10
    for link in links:
        assert link.startswith(("#", "tables/", "data:,")), link
        assert not link.startswith("tables/") or (path.parent / link).exists()
    style = (Path(search.report.__file__).parent / "page.css").read_text()
    assert "@import" not in style and "url(" not in style


def test_the_page_has_every_section_and_plot(finished: Path) -> None:
    text = page_of(finished)
    assert sections(text) == {
        "winner", "confirmed", "test", "effects", "path", "importance", "information", "holistic", "cost", "search",
        "failures", "again",
    }  # fmt: skip
    assert plots_of(text) == specs_of(text).keys() >= {"candidates", "differences", "history", "curves"}
    anchors = {link[1:] for link in Links(text).links if link.startswith("#")}
    assert anchors <= set(Links(text).ids)


def test_what_comes_from_the_user_is_escaped(finished: Path) -> None:
    text = page_of(finished)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 2  # a reason and the command
    assert Links(text).tags.count("script") == 3
    markdown = (finished / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown and "&lt;script>alert(1)&lt;/script> \\| \\`x\\`" in markdown


def test_names_in_figures_are_escaped(run: RunRecord) -> None:
    effect = {
        "module": "</script><b>bold</b>",
        "choice": "<i>x</i>",
        "against": "none",
        "difference": over_seeds(-0.1, 0.05, 3, -0.15, -0.05).to_dict(),
        "resolved": True,
        "smallest_visible": float("inf"),
        "sentence": "</script><b>bold</b>",
    }
    importance = {"ped_anova": {"</script><b>bold</b>": 1.0}, "fanova": {}}
    record = replace(run, explain={"effects": [effect], "importance": importance})
    text = page(record, headline(record), tables(record))
    assert "<b>bold" not in text and Links(text).tags.count("script") == 3
    annotation = specs_of(text)["effects"]["layout"]["annotations"][0]["text"]
    assert annotation == "&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt;: &lt;i&gt;x&lt;/i&gt; against none"
    assert "∞" in text


@pytest.mark.parametrize(
    ("role", "number", "says"),
    [("winner", 99, "winner is trial 99, which is no candidate"), ("all", 99, "names trial 99, and the study has ")],
)
def test_a_record_of_another_study_is_refused(
    finished: Path, tmp_path: Path, role: str, number: int, says: str
) -> None:
    """As when a journal is replaced by an older copy."""
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "confirm" / "confirm.json"
    record = json.loads(path.read_text())
    if role == "all":
        for candidate in record["candidates"]:
            candidate["trial"] = number if candidate["trial"] == record["winner"] else candidate["trial"]
    path.write_text(json.dumps({**record, "winner": number}))
    with pytest.raises(UserError, match=says):
        write_report(tmp_path / "run")


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_tables_agree_with_the_record(finished: Path) -> None:
    write_report(finished)
    assert {p.stem for p in (finished / "report" / "tables").glob("*.csv")} == TABLES
    record = json.loads((finished / "confirm" / "confirm.json").read_text())
    table = csv(finished, "confirmed")
    assert len(table) >= 2 and list(table["trial"]) == [c["trial"] for c in record["candidates"]]
    for k, entry in enumerate(record["candidates"]):
        for name in ("mean", "std", "n", "low", "high"):
            assert table[name][k] == pytest.approx(entry["valid"]["mae"][name], rel=1e-12)
            assert table[f"difference_{name}"][k] == pytest.approx(entry["difference"][name], rel=1e-12)
        assert table["valid_corr"][k] == pytest.approx(entry["valid"]["corr"]["mean"], rel=1e-12)
    test = csv(finished, "test").set_index("metric")
    assert test.loc["mae", "winner_mean"] == pytest.approx(record["test"]["winner"]["mae"]["mean"], rel=1e-12)
    assert set(test.index) == record["test"]["winner"].keys()


def test_tables_agree_with_the_study(finished: Path, opened: pipeline.Opened) -> None:
    write_report(finished)
    known = open_study(opened.config, opened.folder).get_trials()
    trials = csv(finished, "trials")
    assert list(trials["number"]) == [t.number for t in known] and len(trials) == 8
    assert list(trials["optimizer.lr"]) == pytest.approx([t.params["optimizer.lr"] for t in known])
    board = csv(finished, "leaderboard")
    values = sorted(t.value for t in known if t.state.name == "COMPLETE" and t.value is not None)
    assert list(board["value"]) == pytest.approx(values) and len(values) >= 2
    failures = csv(finished, "failures")
    assert list(failures["where"]) == ["trial 1"] and list(failures["reason"]) == [INJECTED]


def test_effects_and_importance_agree_with_explain(run: RunRecord) -> None:
    difference = over_seeds(-0.1, 0.05, 3, -0.15, -0.05).to_dict()
    common = {"choice": "coral", "against": "none", "difference": difference, "smallest_visible": 0.1, "sentence": "s"}
    effects = [{"module": "b", "resolved": False, **common}, {"module": "a", "resolved": True, **common}]
    importance = {"ped_anova": {"x": 0.2, "y": 0.8}, "fanova": {"y": 1.0}}
    made = tables(replace(run, explain={"effects": effects, "importance": importance}))
    assert list(made["effects"].frame["module"]) == ["a", "b"]  # resolved first
    frame = made["importance"].frame.set_index("parameter")
    assert list(frame.index) == ["y", "x"] and frame.loc["x", "ped_anova"] == 0.2
    assert frame["fanova"].isna().to_list() == [False, True] and made["importance"].rows[1] == (
        "x",
        "20.0 %",
        "none",
        "",
    )


def test_markdown_has_headline_and_tables(finished: Path) -> None:
    write_report(finished)
    text = (finished / "report" / "report.md").read_text(encoding="utf-8")
    for title in (
        "Confirmed candidates",
        "Test split",
        "Leaderboard of the search",
        "Failures",
        "Trials",
        "What was run",
    ):
        assert f"## {title}\n" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(rows)) == 1, block


# ---- stages and sizes ------------------------------------------------------------------------------------------------


def test_before_confirmation(searched: Path) -> None:
    text = page_of(searched)
    assert "Nothing is confirmed yet" in text and "optimistic" in text
    assert plots_of(text) == {"history", "curves"}
    assert sections(text) == {"winner", "cost", "search", "failures", "again"}
    assert (searched / "report" / "tables" / "confirmed.csv").exists()


def test_confirmed_but_not_explained(run: RunRecord) -> None:
    record = replace(run, explain=None)
    text = page(record, headline(record), tables(record))
    assert {"winner", "confirmed", "test"} <= sections(text) and not {"effects", "importance"} & sections(text)


def test_no_trial_at_all(searched: Path, tmp_path: Path, opened: pipeline.Opened) -> None:
    for name in ("resolved.yaml", "lock.json"):
        shutil.copy(searched / name, tmp_path / name)
    text = page_of(tmp_path)
    assert "No trial of small is complete: 0 of 8 trials have ended." in text
    assert plots_of(text) == set() and "Plotly" not in text
    Ledger(opened.config, opened.space, RunFolder(tmp_path), SIZE).close()
    assert "No trial is complete" in page_of(tmp_path)  # the baseline is waiting


def test_one_trial(run: RunRecord) -> None:
    trial = replace(run.ranked[0], number=0)
    nothing = {"confirm": None, "explain": None, "holistic": None, "information": None}
    record = replace(run, trials=(trial,), curves={0: Curve((1,), (0.9,))}, **nothing)
    text = page(record, headline(record), tables(record))
    assert "best of 1 complete trial over 1 search seed" in text and plots_of(text) == {"history", "curves"}


def test_thousands_of_trials_are_thinned(run: RunRecord) -> None:
    made = [
        TrialRecord(n, "complete", 1.0 - n / 10_000, {}, run.trials[0].params, None, 1.0, 10)
        if n % 7 == 0
        else TrialRecord(n, "pruned", None, {1: 1.0 + n % 13}, run.trials[0].params, None, None, None)
        for n in range(6000)
    ]
    record = replace(run, trials=tuple(made))
    text = page(record, headline(record), tables(record))
    assert len(text.encode()) < 6_000_000
    spec = specs_of(text)["history"]
    drawn = sum(len(t["x"]) for t in spec["data"] if t["mode"] == "markers")
    assert drawn < 2 * MAX_POINTS and "of 6000 trials" in text
    assert "The first 20 of 858; tables/leaderboard.csv has all." in text
    assert len(tables(record)["trials"].frame) == 6000


def test_far_outliers_do_not_set_the_range(run: RunRecord) -> None:
    worst = replace(run.trials[0], number=8, state="pruned", value=None, rungs={1: 1e30})
    record = replace(run, trials=(*run.trials, worst))
    plot = next(iter(history(record)))
    assert plot.figure.layout.yaxis.range[1] < 100 and "much worse: 1 trial." in plot.caption


def test_higher_is_better(run: RunRecord) -> None:
    objective = run.config.objective.model_copy(update={"metric": "corr", "direction": "maximize"})
    record = replace(run, config=run.config.model_copy(update={"objective": objective}))
    values = [t.value for t in record.ranked]
    assert values == sorted((v for v in values if v is not None), reverse=True) and len(values) > 1
    text = page(record, headline(record), tables(record))
    assert "valid Corr (higher is better)" in text and "above 0 is better" in text


# ---- words -----------------------------------------------------------------------------------------------------------


def confirm_record(valid: Estimate, test: Estimate, winner: int = 4) -> dict[str, Any]:
    def candidate(trial: int, mean: float, difference: Estimate) -> dict[str, Any]:
        value = over_seeds(mean, 0.01, valid.n, mean - 0.01, mean + 0.01).to_dict()
        return {"trial": trial, "valid": {"mae": value}, "difference": difference.to_dict()}

    entries = [candidate(4, 0.8, valid), candidate(0, 0.85, over_seeds(0, 0, valid.n, 0, 0))]
    split = {role: {"mae": over_seeds(0.8, 0.01, valid.n, 0.79, 0.81).to_dict()} for role in ("winner", "baseline")}
    return {
        "winner": winner,
        "baseline": 0,
        "candidates": entries if winner else entries[::-1],
        "test": {**split, "difference": test.to_dict()},
    }


RESOLVED, UNRESOLVED = over_seeds(-0.05, 0.02, 10, -0.07, -0.03), over_seeds(-0.01, 0.05, 10, -0.04, 0.02)
FEW_VIDEOS = Estimate(-0.05, 0.02, 10, -0.2, 0.1, 0.06, 5.0, 6)
WORSE, SINGLE = over_seeds(0.05, 0.02, 10, 0.03, 0.07), over_seeds(-0.05, 0.0, 1, -0.05, -0.05)


@pytest.mark.parametrize(
    ("valid", "test", "resolved", "words"),
    [
        (RESOLVED, RESOLVED, True, "\N{MINUS SIGN}0.050 [\N{MINUS SIGN}0.070, \N{MINUS SIGN}0.030]: resolved"),
        (RESOLVED, UNRESOLVED, False, "resolved, its 95 % interval excludes 0."),
        (UNRESOLVED, UNRESOLVED, False, "not resolved, its 95 % interval includes 0"),
        (
            FEW_VIDEOS,
            FEW_VIDEOS,
            False,
            "; on these very videos it is \N{MINUS SIGN}0.050 [\N{MINUS SIGN}0.064, \N{MINUS SIGN}0.036]",
        ),
        (RESOLVED, WORSE, False, "resolved"),
        (SINGLE, SINGLE, False, "one seed resolves nothing"),
    ],
)
def test_headline_says_what_is_resolved(
    run: RunRecord, valid: Estimate, test: Estimate, resolved: bool, words: str
) -> None:
    found = headline(replace(run, confirm=confirm_record(valid, test)))
    assert found.claim.startswith("Trial 4 reaches valid MAE 0.800")
    assert found.resolved == resolved and words in found.verdict
    assert ("in the baseline's favour" in found.test) == (test == WORSE)


def test_headline_when_nothing_beats_the_baseline(run: RunRecord) -> None:
    found = headline(replace(run, confirm=confirm_record(UNRESOLVED, UNRESOLVED, winner=0)))
    assert found.claim.startswith("No confirmed candidate beats the baseline") and not found.resolved
    assert "The nearest is trial 4" in found.verdict


def test_headline_says_that_search_values_are_optimistic(run: RunRecord) -> None:
    trial = replace(run.trials[0], number=4, state="complete", value=0.7)
    found = headline(replace(run, trials=(trial,), confirm=confirm_record(RESOLVED, RESOLVED)))
    assert any("0.700 of trial 4, became 0.800 [0.790, 0.810]" in note for note in found.notes)


def test_passwords_are_not_shown(run: RunRecord) -> None:
    record = replace(run, config=run.config.model_copy(update={"storage": "postgresql://me:secret@host/db"}))
    text = page(record, headline(record), tables(record))
    assert "secret" not in text and "postgresql://me:***@host/db" in text


# ---- the picture -----------------------------------------------------------------------------------------------------


def test_the_diagram_shows_every_module() -> None:
    config = {
        "encoders": {"text": {"name": "bert"}, "audio": {"name": "gru"}, "vision": {"name": "<pool>", "dim": 4}},
        "width": 8,
        "alignment": {
            "text-vision": {"name": "coral", "weight": 0.05, "place": "projection"},
            "text-audio": {"name": "hsic", "weight": 0.5, "place": "encoder"},
        },
        "fusion": {"name": "low_rank", "rank": 4},
        "heads": {"dim": 8, "dropout": 0.1},
        "labels": {"name": "ulgm"},
        "weighting": {"name": "static"},
    }
    svg = diagram(config)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for word in ("text", "audio", "vision", "bert", "gru", "&lt;pool&gt;", "coral", "weight 0.05", "hsic", "ulgm"):
        assert word in texts
    assert "fusion: low_rank" in texts and texts.count("head") == 4
    assert texts.index("hsic") < texts.index("projection") < texts.index("coral")
    assert svg.count('class="joint"') == 4 and "<pool>" not in svg
    assert describe(config).endswith("fusion: low_rank; unimodal labels: ulgm")
