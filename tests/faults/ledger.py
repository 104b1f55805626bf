"""What campaigns have shown so far: one entry a round, kept beside the code and added up in docs/reliability.md."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from app import __version__

from .verdict import Verdict

LEDGER = Path(__file__).with_name("ledger.json")
RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- campaigns: renewed by `make faults` -->", "<!-- end of campaigns -->"


@dataclass(frozen=True, slots=True)
class Round:
    """One round's numbers."""

    campaign: str
    seed: int
    version: str
    day: str
    faults: dict[str, int]
    answered: int
    open: int
    recorded: int
    missing: int
    twice: int
    altered: int
    spurious: int
    seconds: float

    @classmethod
    def of(cls, campaign: str, seed: int, faults: Sequence[str], verdict: Verdict, seconds: float) -> "Round":
        return cls(
            campaign,
            seed,
            __version__,
            datetime.now(UTC).date().isoformat(),
            dict(sorted(Counter(faults).items())),
            verdict.answered,
            verdict.open,
            verdict.recorded,
            verdict.missing,
            verdict.twice,
            verdict.altered,
            verdict.spurious,
            round(seconds, 1),
        )

    @property
    def cycles(self) -> int:
        return sum(self.faults.values())

    @property
    def sentence(self) -> str:
        """What it showed, in a line."""
        return (
            f"{self.cycles} faults, {self.answered:,} answered, {self.open:,} open, {self.recorded:,} recorded;"
            f" {self.missing} missing, {self.twice} twice, {self.altered} altered, {self.spurious} made up"
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """All rounds, in the order in which they were run."""

    rounds: list[Round]

    @classmethod
    def read(cls, file: Path) -> "Ledger":
        """The ledger of a file; an empty one if there is none yet."""
        return cls([Round(**entry) for entry in json.loads(file.read_text())] if file.exists() else [])

    def write(self, file: Path) -> None:
        """At once or not at all."""
        lines = ",\n".join(json.dumps(asdict(each)) for each in self.rounds)
        new = file.with_suffix(".new")
        new.write_text(f"[\n{lines}\n]\n")
        new.replace(file)

    def add(self, played: Round) -> None:
        self.rounds.append(played)

    def next_seeds(self, campaign: str, number: int) -> list[int]:
        """Seeds that no round of this campaign has had."""
        used = max((each.seed for each in self.rounds if each.campaign == campaign), default=0)
        return list(range(used + 1, used + 1 + number))

    def sums(self) -> list[tuple[str, ...]]:
        """A line of words for each campaign, and one for each of its faults."""
        by_campaign: defaultdict[str, list[Round]] = defaultdict(list)
        for each in self.rounds:
            by_campaign[each.campaign].append(each)
        return [_sum(name, rounds) for name, rounds in by_campaign.items()]

    def as_table(self) -> Table:
        """For a terminal."""
        table = Table(*HEADINGS)
        for line in self.sums():
            table.add_row(*line)
        return table

    def as_markdown(self) -> str:
        """For the documentation: the campaigns, then how often each fault came."""
        lines = [HEADINGS, ("---",) * len(HEADINGS), *self.sums()]
        faults: Counter[str] = Counter()
        for each in self.rounds:
            faults.update(each.faults)
        counted = [("fault", "times"), ("---", "---"), *((f"`{name}`", f"{n:,}") for name, n in sorted(faults.items()))]
        return "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in part) for part in (lines, counted))


HEADINGS = ("campaign", "seeds", "cycles", "answered", "open", "recorded", "missing", "twice", "altered", "made up")


def _sum(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    seeds = sorted(each.seed for each in rounds)
    numbers = ("answered", "open", "recorded", "missing", "twice", "altered", "spurious")
    sums = [sum(getattr(each, number) for each in rounds) for number in numbers]
    return (
        name,
        f"{seeds[0]}–{seeds[-1]}",
        f"{sum(each.cycles for each in rounds):,}",
        *(f"{number:,}" for number in sums),
    )


def renew(file: Path, text: str) -> None:
    """Puts the text between the marks of a file."""
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
