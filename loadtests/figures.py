"""Figures: what is asked of each, what was measured, and how both are shown.

Invariant: a figure's value is the median of its rounds (of its runs, if there were several) and of nothing else; one
that could not be measured has no value and does not hold.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

BEGIN, END = "<!-- figures: renewed by `make bench` -->", "<!-- end of figures -->"


class Bound(NamedTuple):
    """On which side of `must` and `aim` a figure has to be."""

    sign: str
    keeps: Callable[[float, float], bool]


AT_LEAST = Bound("≥", operator.ge)
AT_MOST = Bound("≤", operator.le)
BELOW = Bound("<", operator.lt)


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, with what is asked of it if anything is; a figure without a unit is a ratio."""

    name: str
    unit: str = ""
    must: float | None = None
    aim: float | None = None
    bound: Bound = AT_LEAST

    def holds(self, value: float | None) -> bool | None:
        """Whether the value keeps the must; None if nothing is asked."""
        if self.must is None:
            return None
        return value is not None and self.bound.keeps(value, self.must)


FAST_TO_NGINX = Figure("fast lane ÷ nginx 302 + access log, keep-alive, one core each", "", 0.37, 0.60)
FAST_TO_UVICORN = Figure("fast lane ÷ uvicorn raw ASGI constant 302", "", 1.35, 2.2)
PLAIN_TO_UVICORN = Figure("plain lane ÷ uvicorn raw ASGI constant 302", "", 0.6, 0.8)
FAST_TO_INSERTING = Figure("fast lane ÷ Starlette + INSERT per click", "", 9, 15)
NEW_CONNECTION = Figure("new connection per request: fast lane ÷ nginx", "", 0.35, 0.6)
DISK_TO_PROCESS = Figure("durability `disk` ÷ `process`, 256 connections", "", 0.7, 0.9)
P99_TO_NGINX = Figure("p99 at half load: fast lane ÷ nginx", "", 3, 1.5, AT_MOST)
DRAIN_TO_COPY = Figure("shipper rows/s ÷ bare COPY of the same rows", "", 0.5, 0.8)
END_TO_END = Figure("end to end on two cores, sustained, lag < 5 s", "hits/s", 15_000, 30_000)
MINTED = Figure("tokens minted per second and core", "tokens/s", 300_000, 600_000)
PERSONALISED = Figure("mails personalised per second and core, 20 links", "mails/s", 8_000, 15_000)
RELAYED = Figure("mails of 30 kB relayed per second, tracked, one core", "mails/s", 300, 1_000)
REWRITTEN = Figure("whole mails of 100 kB tracked per second and core", "mails/s", 150, 600)
LINK_LENGTH = Figure("median tracked link to 80 characters, host of 20", "characters", 195, 165, AT_MOST)
RSS_GROWTH = Figure("RSS growth per 10 million requests", "MB", 5, 0, BELOW)

ASKED = (
    FAST_TO_NGINX,
    FAST_TO_UVICORN,
    PLAIN_TO_UVICORN,
    FAST_TO_INSERTING,
    NEW_CONNECTION,
    DISK_TO_PROCESS,
    P99_TO_NGINX,
    DRAIN_TO_COPY,
    END_TO_END,
    MINTED,
    PERSONALISED,
    RELAYED,
    REWRITTEN,
    LINK_LENGTH,
    RSS_GROWTH,
)
"""The figures of which something is asked, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Result:
    """A figure's value in each round; `note` says what belongs to it, or why there is no value."""

    figure: Figure
    rounds: Sequence[float]
    note: str = ""
    runs: Sequence[float] = ()
    """The values of whole runs, if there were several."""

    @property
    def value(self) -> float | None:
        values = self.runs or self.rounds
        return median(values) if values else None

    @property
    def holds(self) -> bool | None:
        return self.figure.holds(self.value)


@dataclass(slots=True)
class Results:
    """What a run measured, by the figures' names."""

    found: dict[str, Result] = field(default_factory=dict)

    def add(self, figure: Figure, rounds: Sequence[float], note: str = "") -> None:
        self.found[figure.name] = Result(figure, tuple(rounds), note)

    def fail(self, figures: Sequence[Figure], reason: str) -> None:
        """Notes figures as not measured, if they are not there yet."""
        for figure in figures:
            self.found.setdefault(figure.name, Result(figure, (), reason))

    def in_order(self) -> list[Result]:
        """First what something is asked of, then the rest as it was measured."""
        asked = [self.found[figure.name] for figure in ASKED if figure.name in self.found]
        return asked + [result for result in self.found.values() if result.figure.must is None]


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """The ratio of each round: what disturbs a round disturbs both."""
    return [one / other for one, other in zip(of, to, strict=True)]


def over_runs(runs: Sequence[Results]) -> Results:
    """The results of several runs as one: the medians of their values."""
    if len(runs) == 1:
        return runs[0]
    merged = Results()
    for name, last in runs[-1].found.items():
        each = [run.found[name] for run in runs if name in run.found]
        values = [result.value for result in each if result.value is not None]
        rounds = [value for result in each for value in result.rounds]
        merged.found[name] = Result(last.figure, rounds, last.note, tuple(values))
    return merged


# --- written ---------------------------------------------------------------------------------------------------------


def as_json(results: Results, *, valid: bool) -> str:
    """One object a figure; `valid` is false for runs that were only tried."""
    return json.dumps([_object(result, valid) for result in results.in_order()], indent=2, ensure_ascii=False) + "\n"


def _object(result: Result, valid: bool) -> Mapping[str, Any]:
    figure = result.figure
    told: dict[str, Any] = {
        "figure": figure.name,
        "value": rounded(result.value),
        "unit": figure.unit,
        "must": figure.must,
        "aim": figure.aim,
        "holds": result.holds,
        "rounds": [rounded(value) for value in result.rounds],
    }
    if result.runs:
        told["runs"] = [rounded(value) for value in result.runs]
    if result.note:
        told["note"] = result.note
    return told if valid else told | {"valid": False}


def rounded(value: float | None) -> float | None:
    """With as many digits as mean something: four."""
    return None if value is None else float(f"{value:.4g}")


def shown(value: float | None) -> str:
    """A value for people."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


class Cells(NamedTuple):
    """A row of the table, as it is shown."""

    figure: str
    value: str
    must: str
    aim: str
    holds: str
    note: str


def cells(result: Result) -> Cells:
    """The figure, what was measured and what was asked, for people."""
    figure = result.figure
    unit = f" {figure.unit}" if figure.unit and result.value is not None else ""
    must, aim = (_asked(figure, bound) for bound in (figure.must, figure.aim))
    holds = {None: "", True: "✓", False: "✗"}[result.holds]
    return Cells(figure.name, f"{shown(result.value)}{unit}", must, aim, holds, result.note)


def _asked(figure: Figure, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{figure.bound.sign} {shown(bound)}" if bound else "0"


def as_markdown(results: Results) -> str:
    """The table for the README: what is asked first, then what else was measured."""
    asked = [cells(result) for result in results.in_order() if result.figure.must is not None]
    others = [cells(result) for result in results.in_order() if result.figure.must is None]
    return (
        _markdown_rows(("figure", "value", "must", "aim", "holds", "note"), asked)
        + "\n"
        + _markdown_rows(("besides", "value", "note"), [(each.figure, each.value, each.note) for each in others])
    )


def _markdown_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def renew(document: Path, content: str) -> None:
    """Puts the content between the two marker lines of a document; ValueError if they are not there."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} needs a line {BEGIN!r} and a line {END!r}")
    document.write_text(f"{before}{BEGIN}\n\n{content.strip()}\n\n{END}{after}")
