"""Losses of power: collectors and shippers on an ext4 whose every unsynced byte is gone from one moment to the next.

    python -m tests.faults.power_loss [--rounds 50] [--seed 1]

At a random moment under load the file system is shut down (`Ext4.cut_power`): what no fdatasync has covered is gone,
and whatever follows fails. Clients go on for a moment, for the answers that are given *then* are the interesting ones.
Then everything is killed, the file system is mounted again, everything is started, drained and judged hit by hit.
PostgreSQL lies elsewhere. Invariant: a round's cuts come from its seed.

What the shut-down cannot show is the instant itself: an fdatasync that is under way in it may say that all is well
though the data is gone. A bare loop of write and fdatasync sees that in one of twenty shut-downs. Where the power
really fails, nobody is left to be told. Answers of that instant are shown by themselves.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from loadtests.machine import end_in_order

from .asks import COLUMNS, Ask, asks, identity
from .clients import Clients, Outcome
from .disks import Ext4, missing_rights
from .gauges import value
from .postgres import Postgres, patiently
from .rig import Rig
from .verdict import Verdict

VARIANTS: Mapping[str, dict[str, str]] = {
    "process": {"MAILTRAIL_DURABILITY": "process"},
    "disk, drop_new": {"MAILTRAIL_DURABILITY": "disk"},
    "disk, refuse_503": {"MAILTRAIL_DURABILITY": "disk", "MAILTRAIL_JOURNAL_FULL": "refuse_503"},
}
"""The promises that are tried, with their settings."""

CUTS = 5
"""Losses of power in a round, one after the other on one installation."""

PROCESS_SECONDS = 1.0
"""No hit that was answered longer ago may be lost with `process`; ten times what it promises, for slow machines."""

SHIPPED_UNTIL_THE_CUT = 0.3
"""The part of cuts up to which a shipper runs; what is shipped cannot be lost, so that the others show more."""

INSTANT_SECONDS = 0.05
"""How long after the shut-down answers may rest on an fdatasync that was under way in it."""

_SETTINGS = {"MAILTRAIL_JOURNAL_SEGMENT_BYTES": "65536"}
"""Segments change many times a second: their names in the directory must survive, too."""

_console = Console(stderr=True)


@dataclass(slots=True)
class Losses:
    """What rounds of one variant came to, in hits."""

    cuts: int = 0
    answered: int = 0
    after_cut: int = 0
    """Of these, answered when the power had failed."""
    instant: int = 0
    """Missing, answered in the instant of the cut."""
    refused: int = 0
    missing_before: int = 0
    """Missing, answered before the cut."""
    missing_after: int = 0
    """Missing, answered after it."""
    counted: int = 0
    """What `mailtrail_hits_lost_total` said."""
    oldest_seconds: float = 0.0
    """How long before the cut the oldest missing hit was answered."""
    verdict: Verdict = field(default_factory=Verdict)

    def holds(self, variant: str) -> bool:
        """Whether what the variant promises was kept."""
        others = self.verdict
        if any((others.twice, others.altered, others.spurious, others.quarantined, others.uncounted, others.wrong)):
            return False
        if variant == "process":
            return self.oldest_seconds <= PROCESS_SECONDS and self.missing_after <= self.counted
        allowed = 0 if variant.endswith("refuse_503") else self.counted
        return self.missing_before == 0 and self.missing_after <= allowed

    def __add__(self, other: "Losses") -> "Losses":
        added = Losses(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Losses)))
        added.oldest_seconds = max(self.oldest_seconds, other.oldest_seconds)
        return added


@dataclass(frozen=True, slots=True)
class _Cut:
    """One loss of power: what was asked around it, the Unix times just before and after, what was counted as lost."""

    outcome: Outcome
    began: float
    ended: float
    counted: int


def play(postgres: Postgres, directory: Path, variant: str, seed: int, cuts: int = CUTS) -> Losses:
    """One round of a variant."""
    choose = random.Random(f"{variant} {seed}")
    rig = Rig(directory, postgres, settings=VARIANTS[variant] | _SETTINGS)
    try:
        with Ext4(directory / "data") as disk:
            try:
                rig.start()
                requests = asks(rig.keys, rig.space, rig.day_keys(), seed)
                made = [_cut_once(rig, disk, choose, requests) for _ in range(cuts)]
                return _judge(rig, made)
            finally:
                _kill(rig)
    finally:
        rig.close()


def _cut_once(rig: Rig, disk: Ext4, choose: random.Random, requests: Iterator[Ask]) -> _Cut:
    clients = Clients(rig.ports, requests)
    for part in rig.ships if choose.random() > SHIPPED_UNTIL_THE_CUT else ():
        part.kill()
    clients.start()
    rig.move_on()  # within a second: about half of the cuts come after it
    time.sleep(0.3 + choose.random() * 1.2)
    began = time.time()
    disk.cut_power()
    ended = time.time()
    time.sleep(choose.random() * 0.4)
    outcome = clients.stop()
    # The dead disk keeps each from the other's numbers: each tells its own.
    counted = sum(value(part.service, "hits_lost_total") for part in rig.workers)
    _kill(rig)
    disk.restore_power()
    rig.start()
    return _Cut(outcome, began, ended, int(counted))


def _kill(rig: Rig) -> None:
    for part in rig.parts:
        part.kill()


def _judge(rig: Rig, cuts: list[_Cut]) -> Losses:
    whole = Outcome()
    for cut in cuts:
        whole.answered += cut.outcome.answered
        whole.open += cut.outcome.open + cut.outcome.refused  # a line may reach the disk though its sync failed
        whole.wrong += cut.outcome.wrong
    verdict = rig.finish(whole)
    rows = patiently(rig.service.database_url, f"select {', '.join(COLUMNS)} from mailtrail.hits")
    recorded = {identity(tuple(row)) for row in rows}
    return sum((_losses_of(cut, recorded) for cut in cuts), Losses(verdict=verdict))


def _losses_of(cut: _Cut, recorded: set[tuple[Any, ...]]) -> Losses:
    answered = cut.outcome.answered
    missing = [each for each in answered if identity(each.ask.row) not in recorded]
    lost = [each for each in missing if each.ended < cut.began]
    after = sum(each.ended > cut.ended + INSTANT_SECONDS for each in missing)
    return Losses(
        cuts=1,
        answered=len(answered),
        after_cut=sum(each.ended > cut.ended + INSTANT_SECONDS for each in answered),
        instant=len(missing) - len(lost) - after,
        refused=len(cut.outcome.refused),
        missing_before=len(lost),
        missing_after=after,
        counted=cut.counted,
        oldest_seconds=max((cut.began - each.ended for each in lost), default=0.0),
    )


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Rounds of each variant.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the first round; the others count on.")
@click.option("--of", type=click.Choice(list(VARIANTS)), multiple=True, help="Only these variants.")
def power_loss(rounds: int, seed: int, of: tuple[str, ...]) -> None:
    """Cut the power under load and count what is missing, for each durability. Needs root and loop devices."""
    if lacking := missing_rights():
        raise click.ClickException(lacking)
    variants = of or tuple(VARIANTS)
    base = Path(tempfile.mkdtemp(prefix="power-"))
    sums = {variant: Losses() for variant in variants}
    postgres = Postgres(base)
    try:
        with _progress(rounds * len(variants)) as progress:
            for number in range(seed, seed + rounds):
                for variant in variants:
                    progress.update(progress.task_ids[0], description=f"{variant}, seed {number}")
                    losses = play(postgres, base / f"{variant.replace(', ', '-')}-{number}", variant, number)
                    sums[variant] += losses
                    progress.advance(progress.task_ids[0])
                    if not losses.holds(variant):
                        progress.print(f"{variant}, seed {number}: {losses}; its files are in {base}", markup=False)
                        sys.exit(1)
    finally:
        postgres.leave()
        _console.print(_table(sums))


def _progress(rounds: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=_console, refresh_per_second=1)
    progress.add_task("", total=rounds)
    return progress


def _table(sums: Mapping[str, Losses]) -> Table:
    names = ("cuts", "answered", "503", "before", "instant", "after", "of", "counted", "oldest")
    table = Table("promise", *names, title="losses of power; missing before, in the instant of and after the cut")
    for variant, sum_ in sums.items():
        missing = (sum_.missing_before, sum_.instant, sum_.missing_after)
        numbers = (sum_.cuts, sum_.answered, sum_.refused, *missing, sum_.after_cut, sum_.counted)
        table.add_row(variant, *(f"{number:,}" for number in numbers), f"{sum_.oldest_seconds:.3f} s")
    return table


if __name__ == "__main__":
    end_in_order()
    power_loss()
