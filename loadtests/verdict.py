"""Whether everything that was sent was recorded: two tables, and the last words, which name the numbers that differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from rich.console import Console
from rich.table import Table

from .agenda import Agenda
from .reckoning import COLUMNS, Line, Recorded, reckon_groups, reckon_recipients, reckon_rows

MOST_NAMED = 20
"""Differences that are named; of the others there is only their number."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`groups` and `figures` are for showing; `rows` and `recipients` are what `groups` is made of."""

    groups: Sequence[Line]
    figures: Sequence[Line]
    rows: Sequence[Line] = ()
    recipients: Sequence[Line] = ()
    summary: Sequence[str] = field(default=())

    @property
    def differences(self) -> list[Line]:
        """The finest there are: a figure of many rows differs only because some rows do, and is named after them."""
        return [line for line in chain(self.rows, self.recipients, self.figures) if line.differs]

    def last_words(self) -> list[str]:
        """What the run ends with."""
        answered, recorded = (sum(getattr(line, name) for line in self.groups) for name in ("least", "recorded"))
        if not self.differences:
            uncertain = sum(line.most for line in self.groups) - answered
            words = [f"sent = recorded: {recorded:,} hits"]
            return [f"{uncertain:,} requests failed, and may be recorded or not", *words] if uncertain else words
        named = [f"  {_named(line)}" for line in self.differences[:MOST_NAMED]]
        more = len(self.differences) - len(named)
        return [
            f"sent ≠ recorded: {answered:,} hits were answered, {recorded:,} are recorded; these differ:",
            *named,
            *([f"  and {more:,} more"] if more else []),
            *(
                ["hits are missing: see that the shipper runs, and what `mailtrail doctor` says"]
                * (recorded < answered)
            ),
        ]

    def show(self, console: Console) -> None:
        """Prints it all."""
        console.print(_groups_table(self.groups))
        console.print(_figures_table(self.figures))
        for line in self.summary:
            console.print(line, soft_wrap=True)
        for line in self.last_words():
            console.print(line, style="red" if self.differences else "green", soft_wrap=True)


def judge(agenda: Agenda, recorded: Sequence[Recorded], figures: Sequence[Line]) -> Verdict:
    """The verdict on what was asked, with what the database has of it."""
    nothing = [f"{number:,} {what}" for what, number in sorted(agenda.left_nothing.items())]
    summary = [f"{len(agenda.sent):,} mails, {agenda.made:,} of {agenda.planned:,} planned requests made"]
    if nothing:
        summary.append(f"{' and '.join(nothing)} had to leave nothing")
    return Verdict(
        reckon_groups(agenda.ledger, recorded),
        figures,
        reckon_rows(agenda.ledger, recorded),
        reckon_recipients(agenda.ledger, recorded),
        summary,
    )


def _named(line: Line) -> str:
    return f"{', '.join(line.name)}: sent {line.allowed}, recorded {line.recorded:,}"


def _cell(line: Line) -> str:
    return f"{line.recorded:,}, not {line.allowed}" if line.differs else f"{line.recorded:,}"


def _groups_table(lines: Iterable[Line]) -> Table:
    table = Table("mailing", "mode", "kind", "asked by", box=None, pad_edge=False)
    for heading in ("sent", "recorded"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for line in lines:
        table.add_row(*line.name, line.allowed, f"{line.recorded:,}", "differs" if line.differs else "")
    return table


def _figures_table(lines: Iterable[Line]) -> Table:
    """A column for each mailing; what analysts read, with what it must be where that is something else."""
    cells = {line.name: _cell(line) for line in lines}
    mailings = sorted({mailing for mailing, _ in cells})
    table = Table("analytics.mailings", box=None, pad_edge=False)
    for mailing in mailings:
        table.add_column(mailing, justify="right")
    for column in COLUMNS:
        table.add_row(column, *(cells.get((mailing, column), "") for mailing in mailings))
    return table
