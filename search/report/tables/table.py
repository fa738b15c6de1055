"""A table of a report: a data frame for the CSV, and the same rows as text for the page, Markdown and LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from search.report.collect import RunRecord, TrialRecord
from search.spreadsheet import cell
from search.statistics import Estimate

MAX_ROWS = 20
"""Rows of the leaderboard and of the failures on the page; the CSV has all."""
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\n": " ",
    "\N{MINUS SIGN}": "$-$", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\rightarrow$",
    "∞": r"$\infty$", "\N{MULTIPLICATION SIGN}": r"$\times$", "·": r"$\cdot$", "…": r"\ldots{}",
}  # fmt: skip
"""What LaTeX needs for a character."""


@dataclass(frozen=True)
class Table:
    """``frame`` is complete and unrounded; ``rows`` are what a person reads, with a mark (a CSS class) each."""

    name: str
    frame: pd.DataFrame
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    note: str = ""

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        text = "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in lines)
        return f"{text}\n\n{escape(self.note)}" if self.note else text

    def latex(self) -> str:
        """Return the rows as a LaTeX table that needs the package booktabs alone."""
        body = [_held(" & ".join(map(tex, row))) + r" \\" for row in self.rows]
        head = " & ".join(map(tex, self.columns)) + r" \\"
        lines = [rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", r"\toprule", head, r"\midrule", *body]
        note = [f"% {self.note}"] if self.note else []
        return "\n".join([*note, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        """Return the frame, unrounded; what of its text would be a formula has an apostrophe in front."""
        if not len(self.frame.columns):
            return "\n"
        safe = self.frame.rename(columns=cell).map(lambda v: cell(v) if isinstance(v, str) else v)
        return safe.to_csv(index=False)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    for character, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*"), ("\n", " ")):
        text = text.replace(character, code)
    return text


def tex(text: str) -> str:
    """Return text that LaTeX shows as it is in any encoding; what it has no character for becomes a question mark.

    >>> tex("50 % of low_rank")
    '50 \\\\% of low\\\\_rank'
    """
    known = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"[^\x20-\x7e\xa1-\u017f]", "?", known)


def _held(row: str) -> str:
    """Hold a bracket or star back from the end of the row before, which would take it for an option."""
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def role_of(run: RunRecord, number: int) -> str:
    """Return whether a trial is the winner, the baseline, both, or neither."""
    if run.confirm is None:
        return "baseline" if number == 0 else ""
    roles = [role for role in ("winner", "baseline") if run.confirm[role] == number]
    return " and ".join(roles)


def changed_modules(run: RunRecord, trial: TrialRecord) -> str:
    """Return the modules in which a trial differs from the baseline."""
    found = run.changes(trial)
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "none"


def spelled(estimate: Estimate, prefix: str = "") -> dict[str, Any]:
    """Return an estimate as columns."""
    return {f"{prefix}{k}": v for k, v in estimate.to_dict().items()}


def more(count: int, name: str) -> str:
    """Say that there are more rows than are shown."""
    return f"The first {MAX_ROWS} of {count}; tables/{name}.csv has all." if count > MAX_ROWS else ""
