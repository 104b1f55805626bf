"""What was sent beside what was recorded: hits by row, by recipient, and the figures that analysts read. Pure.

Invariant: a request that got its answer must be recorded exactly once. One whose answer did not come, or was another,
may or may not have been: it widens what is allowed by one, and is a failure of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

AUTOMATED = frozenset({"prefetch", "scanner", "bot"})
_MODES = ("person_based", "anonymized")
_KINDS = ("open", "click")

Name = tuple[str, ...]
"""What a number counts, from the coarse to the fine."""


class Sent(NamedTuple):
    """One mail that went out: its mailing, the mode that its tokens allow, and its recipient, who gets no other."""

    mailing: str
    mode: str
    recipient: str


class Asked(NamedTuple):
    """One request with a good token: what a hit of it must say. `link` is the registered number, 0 for an open."""

    mail: Sent
    kind: str
    link: int
    agent: str


class Recorded(NamedTuple):
    """Equal hits in the database; `recipient` is empty where none is stored."""

    mailing: str
    mode: str
    kind: str
    link: int
    agent: str
    recipient: str
    hits: int


@dataclass(slots=True)
class Ledger:
    """The requests that were made: those that were answered as they must be, and those of which nobody knows."""

    answered: list[Asked] = field(default_factory=list)
    uncertain: list[Asked] = field(default_factory=list)

    @property
    def most(self) -> list[Asked]:
        """What there would be if all that is uncertain was recorded."""
        return self.answered + self.uncertain


class Line(NamedTuple):
    """A number beside the least and the most that it may be."""

    name: Name
    least: int
    most: int
    recorded: int

    @property
    def differs(self) -> bool:
        return not self.least <= self.recorded <= self.most

    @property
    def allowed(self) -> str:
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,} to {self.most:,}"


def beside(least: Mapping[Name, int], most: Mapping[Name, int], recorded: Mapping[Name, int]) -> list[Line]:
    """Every name that anybody knows, in order."""
    names = sorted({*least, *most, *recorded})
    return [Line(name, least.get(name, 0), most.get(name, 0), recorded.get(name, 0)) for name in names]


# --- hits ------------------------------------------------------------------------------------------------------------


def reckon_groups(ledger: Ledger, recorded: Iterable[Recorded]) -> list[Line]:
    """By mailing, mode, kind and who asked: few lines, to be shown."""
    least, most = (Counter(_row(asked)[:-1] for asked in some) for some in (ledger.answered, ledger.most))
    there: Counter[Name] = Counter()
    for row in recorded:
        there[row.mailing, row.mode, row.kind, row.agent] += row.hits
    return beside(least, most, there)


def reckon_rows(ledger: Ledger, recorded: Iterable[Recorded]) -> list[Line]:
    """By mailing, mode, kind, who asked, and link."""
    least, most = (Counter(map(_row, some)) for some in (ledger.answered, ledger.most))
    there: Counter[Name] = Counter()
    for row in recorded:
        there[row.mailing, row.mode, row.kind, row.agent, _link(row.link)] += row.hits
    return beside(least, most, there)


def reckon_recipients(ledger: Ledger, recorded: Iterable[Recorded]) -> list[Line]:
    """By mailing, recipient, kind and link, where recipients are known; elsewhere a recipient is one too many."""
    least, most = (Counter(_of_recipient(some)) for some in (ledger.answered, ledger.most))
    there: Counter[Name] = Counter()
    for row in recorded:
        if row.recipient or row.mode == "person_based":
            there[row.mailing, f"recipient {row.recipient}", row.kind, _link(row.link)] += row.hits
    return beside(least, most, there)


def _row(asked: Asked) -> Name:
    return asked.mail.mailing, asked.mail.mode, asked.kind, asked.agent, _link(asked.link)


def _of_recipient(asked: Iterable[Asked]) -> Iterable[Name]:
    return (
        (each.mail.mailing, f"recipient {each.mail.recipient}", each.kind, _link(each.link))
        for each in asked
        if each.mail.mode == "person_based"
    )


def _link(number: int) -> str:
    return f"link {number}" if number else "pixel"


# --- figures ---------------------------------------------------------------------------------------------------------


def reckon_figures(sent: Sequence[Sent], ledger: Ledger, recorded: Mapping[Name, int]) -> list[Line]:
    """By mailing and column of `analytics.mailings`."""
    return beside(figures(sent, ledger.answered), figures(sent, ledger.most), recorded)


def figures(sent: Iterable[Sent], asked: Iterable[Asked]) -> dict[Name, int]:
    """What `analytics.mailings` must say of each mailing, worked out from the requests alone."""
    counted: Counter[Name] = Counter()
    unique: set[tuple[Name, str]] = set()
    for mail in sent:
        counted.update({(mail.mailing, "sent"): 1, (mail.mailing, f"sent_{mail.mode}"): 1})
        counted.update({(mail.mailing, column): 0 for column in _COLUMNS})
    for each in asked:
        columns = _columns(each)
        counted.update((each.mail.mailing, column) for column in columns if column not in _UNIQUE)
        unique.update(((each.mail.mailing, column), each.mail.recipient) for column in columns if column in _UNIQUE)
    counted.update(name for name, _ in unique)
    return dict(counted)


_TOTALS = [f"{kind}s{mode}" for kind in _KINDS for mode in ("", *(f"_{mode}" for mode in _MODES))]
_UNIQUE = frozenset({*(f"unique_{column}" for column in _TOTALS), "unique_recipients"})
_COLUMNS = sorted(
    chain(_TOTALS, _UNIQUE, (f"automated_{kind}s" for kind in _KINDS), (f"sent_{mode}" for mode in _MODES))
)
COLUMNS = ("sent", *_COLUMNS)
"""The columns of `analytics.mailings` that are compared."""


def _columns(asked: Asked) -> list[str]:
    """The columns in which a request counts, as one more or as one of the different."""
    if asked.agent in AUTOMATED:
        return [f"automated_{asked.kind}s"]
    totals = [f"{asked.kind}s", f"{asked.kind}s_{asked.mail.mode}"]
    known = ["unique_recipients"] if asked.mail.mode == "person_based" else []
    return [*totals, *(f"unique_{column}" for column in totals), *known]
