"""The later parts of a report: the race, interactions, the path, slices, information, cost, and tables for papers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.report.build import TITLES, markdown, page
from search.report.collect import RunRecord, TrialRecord, collect
from search.report.figures import plots
from search.report.figures.costs import front
from search.report.headline import headline
from search.report.tables import tables
from search.report.tables.checklist import BLANK
from search.report.tables.table import Table, tex
from search.report.wording import MINUS
from search.statistics import Estimate, resolve
from tests.search.report_records import SEEDS, holistic, information, value, whole
from tests.search.report_run import Links, finish, plots_of, search_small, sections, specs_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(search_small(tmp_path_factory.mktemp("parts")))


@pytest.fixture
def run(finished: Path) -> RunRecord:
    """A run with every part; its search has 300 trials, half of them complete."""
    found = collect(finished)
    own = [
        replace(
            found.trials[0],
            number=n,
            value=0.9 + 0.001 * ((37 * n + 50) % 101),
            parameters=7000 - 1000 * (n % 7),
            seconds=1.0 + n,
        )
        if n % 2 == 0
        else TrialRecord(n, "pruned", None, {1: 1.0 + n % 13}, found.trials[0].params, None, 0.5, None, epochs=1)
        for n in range(300)
    ]
    record = replace(found, trials=tuple(own))
    return replace(record, **whole(record, [4, 8, 12, 16, 20, 24]))


def text_of(run: RunRecord) -> str:
    return page(run, headline(run), tables(run))


# ---- the page --------------------------------------------------------------------------------------------------------


def test_every_part_has_its_section_and_plots(run: RunRecord) -> None:
    text = text_of(run)
    assert sections(text) == {
        "winner", "confirmed", "test", "effects", "path", "interactions", "importance", "holistic", "information",
        "cost", "search", "failures", "again",
    }  # fmt: skip
    assert plots_of(text) == specs_of(text).keys() == plots(run).keys()
    assert {
        "candidates", "differences", "effects", "path", "interaction-map", "interactions", "importance-ped-anova",
        "marginal-0", "marginal-2", "slices", "subsets", "robustness-text-noise", "robustness-vision-structured",
        "calibration", "pid-pairs-0", "pid-one-versus-rest-1", "pareto-parameters", "pareto-seconds", "history",
    } <= plots_of(text)  # fmt: skip
    anchors = {link[1:] for link in Links(text).links if link.startswith("#")}
    assert anchors <= set(Links(text).ids) and len(anchors) >= 13
    assert len(text.encode()) < 6_000_000


@pytest.mark.parametrize("absent", ["confirm", "explain", "holistic", "information"])
def test_every_part_is_optional(run: RunRecord, absent: str) -> None:
    gone: dict[str, Any] = {absent: None} if absent != "confirm" else dict.fromkeys(("confirm", "explain", "holistic"))
    record = replace(run, **gone)
    assert plots_of(text_of(record)) == plots(record).keys() < plots(run).keys()
    assert markdown(record, headline(record), tables(record)).startswith("# small\n")


def test_records_of_older_runs_are_read(run: RunRecord) -> None:
    """Before races, corrections and Elo: seeds alone, and importances and effects only."""
    assert run.confirm is not None and run.explain is not None
    new = {"race", "pairs", "rule", "clusters", "members", "budget"}
    old = {k: v for k, v in run.confirm.items() if k not in new}
    for entry in old["candidates"]:
        entry.pop("elo"), entry.pop("dropped_after")
        entry["difference"] = {k: entry["difference"][k] for k in Estimate.__dataclass_fields__}
    record = replace(run, confirm=old, explain={k: run.explain[k] for k in ("importance", "effects")})
    made = tables(record)
    assert "Elo" not in made["confirmed"].columns and made["pairs"].rows == ()
    assert "in a race" not in text_of(record) and {"path", "interactions"}.isdisjoint(sections(text_of(record)))


def test_names_of_later_parts_are_escaped(run: RunRecord) -> None:
    bad = "</script><b>bold</b>"
    numbers = holistic()
    numbers["slices"][0]["name"] = bad
    bits = information()
    bits["data"]["pairs"][0]["first"] = bad
    assert run.explain is not None
    run.explain["marginals"][0]["parameter"] = bad
    run.explain["path"][1]["changed"] = [bad]
    run.explain["interactions"][0]["choices"] = [bad, bad]
    text = text_of(replace(run, holistic=numbers, information=bits))
    assert "<b>bold" not in text and Links(text).tags.count("script") == 3
    assert specs_of(text)["marginal-0"]["layout"]["title"]["text"].startswith("&lt;/script&gt;")


def test_the_race_is_told(run: RunRecord) -> None:
    text = text_of(run)
    assert "With 5 seeds: 7 ran, 1 dropped out (trial 24)." in text
    assert "With 10 seeds: 6 ran, 1 dropped out (trial 20)." in text and "With 20 seeds: 5 ran." in text
    rows = {row[0]: row for row in tables(run)["confirmed"].rows}
    assert "5 (out)" in rows["trial 24"] and "20" in rows["trial 4 (winner)"]
    assert "the best pessimistic end of its interval" in text


def test_resolution_is_what_is_left_after_correction(run: RunRecord) -> None:
    """An interval that excludes 0 by itself is not a claim where Holm's correction takes it away."""
    assert run.confirm is not None
    weak = resolve([value(-0.012, 0.0118)] + [value(0.001, 0.02)] * 9)[0]
    assert weak["high"] < 0 and not weak["resolved"]
    run.candidate(4)["difference"].update(weak)  # type: ignore[attr-defined]  # a mapping to readers
    found = headline(run)
    assert not found.resolved and "not resolved after correction for the number of candidates" in found.verdict


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_the_map_holds_every_pair_once(run: RunRecord) -> None:
    assert run.explain is not None
    spec = plots(run)["interaction-map"].figure.data[0]
    cells = [v for row in spec.z for v in row if v is not None]
    assert sorted(cells) == pytest.approx(sorted(e["predicted"] for e in run.explain["interactions"]))
    assert spec.zmin == -spec.zmax


def test_the_front_is_what_nothing_beats(run: RunRecord) -> None:
    costs = {t.number: float(t.parameters or 0) for t in run.trials if t.value is not None}
    own = {t.number for t in front(run, costs)}
    known = [t for t in run.trials if t.value is not None]
    slow = {
        a.number
        for a in known
        if not any(
            b.value <= a.value and costs[b.number] <= costs[a.number]
            and (b.value < a.value or costs[b.number] < costs[a.number] or b.number < a.number)
            for b in known
        )  # type: ignore[operator]  # those known have a value
    }  # fmt: skip
    assert own == slow and len(own) >= 2


def test_long_changes_of_the_path_are_named_by_their_place(run: RunRecord) -> None:
    texts = [a.text for a in plots(run)["path"].figure.layout.annotations]
    assert any("settings" in t for t in texts) and not any("dropout" in t for t in texts)
    frame = tables(run)["path"].frame
    assert "encoders.text.dropout 0.442" in frame["after"].iloc[-1]


def test_products_are_a_part_of_pairs_alone(run: RunRecord) -> None:
    figures = plots(run)
    pair, rest = (figures[n].figure.layout.yaxis.ticktext for n in ("pid-pairs-0", "pid-one-versus-rest-0"))
    assert pair == ("redundancy", "only text", "only audio", "synergy", "of it by products") and rest == (
        "redundancy", "only text", "only audio+vision", "synergy",
    )  # fmt: skip
    assert list(tables(run)["information"].frame["term"]).count("products") == 6


def test_a_study_with_a_latency_has_its_front(run: RunRecord) -> None:
    assert "pareto-latency" not in plots(run)
    objective = run.config.objective.model_copy(update={"cost": "latency"})
    trials = tuple(replace(t, cost=0.1 + 0.01 * t.number) for t in run.trials)
    record = replace(run, config=run.config.model_copy(update={"objective": objective}), trials=trials)
    figure = plots(record)["pareto-latency"].figure
    assert figure.data[0].x[0] == pytest.approx(0.1) and figure.layout.xaxis.title.text.startswith("milliseconds")
    assert {trace.x[0] for trace in figure.data[2:]} == {0.1 + 0.01 * n for n in (0, 4, 8, 12, 16, 20, 24)}


def test_many_points_are_thinned(run: RunRecord) -> None:
    assert run.explain is not None
    rng = np.random.default_rng(0)
    run.explain["marginals"][0]["points"] = [[float(x), 0.84] for x in rng.uniform(0.0003, 0.01, 5000)]
    made = [replace(run.trials[0], number=n, value=0.9, parameters=n + 1) for n in range(6000)]
    figures = plots(replace(run, trials=tuple(made)))
    assert len(figures["marginal-0"].figure.data[2].x) <= 300
    assert len(figures["pareto-parameters"].figure.data[0].x) <= 801


def test_higher_is_better_turns_the_colours(run: RunRecord) -> None:
    assert run.confirm is not None
    objective = run.config.objective.model_copy(update={"metric": "corr", "direction": "maximize"})
    record = replace(run, config=run.config.model_copy(update={"objective": objective}))
    before, after = (plots(r)["interaction-map"].figure.data[0].colorscale for r in (run, record))
    assert before[0][1] == after[-1][1] and before[-1][1] == after[0][1]
    assert "above 0: they help each other" in plots(record)["interactions"].figure.layout.xaxis.title.text


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_every_table_is_in_the_report(run: RunRecord) -> None:
    made = tables(run)
    assert made.keys() == TITLES.keys()
    text = markdown(run, headline(run), made)
    for name, title in TITLES.items():
        if name == "failures":
            continue
        assert made[name].rows and len({len(row) for row in made[name].rows} | {len(made[name].columns)}) == 1, name
        assert f"## {title}\n" in text


def test_papers_print_accuracies_in_percent_and_both_forms(run: RunRecord) -> None:
    table = tables(run)["paper_test"]
    assert table.columns == (
        "model", "MAE ↓", "Corr ↑", "Acc-7 ↑", "Acc-5 ↑", "Acc-2 ↑ (Has0/Non0)", "F1 ↑ (Has0/Non0)", "n",
    )  # fmt: skip
    winner, baseline, exported = table.rows
    assert winner[:3] == ("winner, trial 4", "0.810 ± 0.022", "0.620 ± 0.022") and winner[-1] == str(SEEDS)
    assert winner[5] == "74.10 ± 2.24 / 75.80 ± 2.24" and baseline[1] == "0.840 ± 0.022"
    assert exported[1] == "0.810" and exported[5] == "74.10 / 75.80"
    assert table.frame.loc[0, "acc2_has0_mean"] == 0.741


def test_latex_is_escaped_and_rectangular(run: RunRecord) -> None:
    assert tex("50% & a_b #1 {x} $y$ ~ ^ \\ <z> 漢 ± " + MINUS) == (
        r"50\% \& a\_b \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}z\textgreater{} ? $\pm$ $-$"
    )
    for table in tables(run).values():
        text = table.latex()
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == len(table.rows) + 1
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1, line
            plain = re.sub(r"\\[\\{}$&%#_]", "", line)
            assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0, line
            assert not re.search(r"[#%_^~]|[^\x00-\xff\u0100-\u017f]", plain), line
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    odd = Table("odd", tables(run)["pairs"].frame, ("a",), (("[1, 2]",), ("* x",)))
    assert "\n{}[1, 2] \\\\\n{}* x \\\\\n" in odd.latex()


def test_pairs_are_antisymmetric(run: RunRecord) -> None:
    table = tables(run)["pairs"]
    cells = {
        (row[0], column): cell for row in table.rows for column, cell in zip(table.columns[1:], row[1:], strict=True)
    }
    assert len(table.rows) == 4 and cells["trial 4", "trial 16"].removesuffix(" *") == f"{MINUS}0.020"
    turned = str.maketrans({"+": MINUS, MINUS: "+"})
    for (a, b), cell in cells.items():
        assert cell == "" if a == b else cell.translate(turned) == cells[b, a]


def test_the_expenses_add_up(run: RunRecord) -> None:
    frame = tables(run)["expenses"].frame.set_index("what")
    assert frame.loc["pruned trials", "count"] == 150 and frame.loc["pruned trials", "member_epochs"] == 150
    assert frame.loc["pruned trials", "seconds"] == 75.0
    unknown = tuple(replace(t, seconds=None) if t.state == "pruned" else t for t in run.trials)
    assert {r[0]: r[3] for r in tables(replace(run, trials=unknown))["expenses"].rows}["pruned trials"] == (
        "not measured"
    )
    assert frame["count"][:-1].sum() == len(run.trials)
    assert tables(run)["expenses"].rows[-1][1] == "115 of 140"


def test_the_checklist_marks_what_only_the_authors_know(run: RunRecord) -> None:
    table = tables(run)["checklist"]
    answers = dict(table.rows)
    assert [m == "blank" for m in table.marks] == [a == BLANK for a in answers.values()]
    assert 2 <= list(answers.values()).count(BLANK) < len(answers) / 2
    assert "60 utterances" in answers["Number of examples, and details of train / validation / test splits"]
    assert "115 trainings" in answers["The exact number of training and evaluation runs"]
    assert text_of(run).count('<dd class="blank">') == list(answers.values()).count(BLANK)
