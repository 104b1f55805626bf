"""The verdict on a round: what was answered beside what is in the database, each hit by itself."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import asyncpg

from .asks import COLUMNS, Row, identity
from .clients import Asked, Outcome

SHOWN = 5
CLOCK_SECONDS = 0.005
"""The clients' clock is read a little before and after the collector's; both are the machine's."""


@dataclass(slots=True)
class Verdict:
    """Numbers of hits, and a few words on each that is not as it must be."""

    answered: int = 0
    open: int = 0
    recorded: int = 0
    missing: int = 0
    twice: int = 0
    altered: int = 0
    spurious: int = 0
    quarantined: int = 0
    uncounted: int = 0
    """Rows without their place in the totals, or the other way round."""
    wrong: int = 0
    """Answers that were not what was asked for."""
    words: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is lost, twice, altered or made up."""
        faults = (self.missing, self.twice, self.altered, self.spurious, self.quarantined, self.uncounted, self.wrong)
        return not any(faults)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Verdict)))


def judge(outcome: Outcome, rows: Iterable[asyncpg.Record], totals: int, quarantined: int) -> Verdict:
    """`rows` have `COLUMNS` and `at`; `totals` is the sum of all totals."""
    verdict = Verdict(len(outcome.answered), len(outcome.open), quarantined=quarantined, wrong=len(outcome.wrong))
    verdict.words += [f"wrong: {words}" for words in outcome.wrong[:SHOWN]]
    asked = {identity(each.ask.row): each for each in [*outcome.answered, *outcome.open]}
    found: Counter[tuple[Any, ...]] = Counter()
    for record in rows:
        verdict.recorded += 1
        row = tuple(record[name] for name in COLUMNS)
        found[identity(row)] += 1
        if identity(row) not in asked:
            verdict.spurious += 1
            _say(verdict, "spurious", [row])
        elif not _is_as_asked(row, record["at"], asked[identity(row)]):
            verdict.altered += 1
            _say(verdict, "altered", [row, record["at"], asked[identity(row)]])
    verdict.twice = sum(number - 1 for number in found.values())
    for each in outcome.answered:
        if not found[identity(each.ask.row)]:
            verdict.missing += 1
            _say(verdict, "missing", [each.ask.row, datetime.fromtimestamp(each.ended, UTC)])
    verdict.uncounted = abs(totals - verdict.recorded)
    return verdict


def _is_as_asked(row: Row, at: datetime, asked: Asked) -> bool:
    return row == asked.ask.row and _coarse(asked.sent, row) <= at <= _coarse(asked.ended, row, late=CLOCK_SECONDS)


def _coarse(seconds: float, row: Row, late: float = -CLOCK_SECONDS) -> datetime:
    """The instant as exact as the row's mode knows it."""
    at = datetime.fromtimestamp(seconds + late, UTC)
    if row[1] == "anonymized":
        return at.replace(second=0, microsecond=0)
    return at.replace(minute=0, second=0, microsecond=0) if row[1] == "aggregate" else at


def _say(verdict: Verdict, what: str, details: Sequence[object]) -> None:
    if sum(words.startswith(what) for words in verdict.words) < SHOWN:
        verdict.words.append(f"{what}: {' · '.join(map(str, details))}")
