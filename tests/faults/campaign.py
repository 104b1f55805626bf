"""Campaigns: round after round of faults under load, each judged hit by hit.

    python -m tests.faults.campaign [--of kills] [--cycles 500] [--seed 7]

A round is 20 faults on a new installation, at moments that its seed chooses; before half of them the collectors are
asked to go on in other journals. Rounds that were run are remembered in ledger.json, so that campaigns can be ended at
any time, go on with the next seed, and add up. `--seed` plays one round again and remembers nothing.
Invariant: what is remembered was judged; a round that fails stops the campaign and keeps its files.
"""

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loadtests.machine import end_in_order

from .asks import asks
from .clients import Clients
from .faults import CAMPAIGNS, Fault, Scene
from .ledger import LEDGER, RELIABILITY, Ledger, Round, renew
from .postgres import Postgres
from .proxy import Cut
from .rig import Rig
from .verdict import Verdict

CYCLES = 20
"""Of a round."""

MOST_SECONDS_BETWEEN = 0.8
MOST_SECONDS_DOWN = 0.3
MOVES_PART = 0.5

_console = Console(stderr=True)


def play(
    postgres: Postgres, directory: Path, of: str, seed: int, cycles: int = CYCLES, progress: Progress | None = None
) -> tuple[Verdict, Sequence[str]]:
    """One round; gives its verdict and the names of its faults."""
    choose = random.Random(f"{of} {seed}")
    moves = random.Random(f"moves {of} {seed}")
    faults = _choose_faults(of, choose, cycles)
    cut = Cut(postgres.socket)
    rig = Rig(directory, postgres, through=cut)
    try:
        rig.start()
        clients = Clients(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), seed))
        clients.start()
        try:
            for fault in faults:
                if moves.random() < MOVES_PART:
                    rig.move_on()
                time.sleep(choose.random() * MOST_SECONDS_BETWEEN)
                fault(Scene(rig, cut, choose))
                time.sleep(choose.random() * MOST_SECONDS_DOWN)
                rig.revive()
                if progress is not None:
                    progress.advance(progress.task_ids[0])
        finally:
            outcome = clients.stop()
        return rig.finish(outcome), [fault.__name__ for fault in faults]
    finally:
        rig.close()
        cut.close()


def _choose_faults(of: str, choose: random.Random, cycles: int) -> list[Fault]:
    faults, weights = zip(*CAMPAIGNS[of], strict=True)
    return choose.choices(faults, weights, k=cycles)


@click.command()
@click.option("--of", type=click.Choice(sorted(CAMPAIGNS)), multiple=True, help="Only these campaigns.")
@click.option("--cycles", type=click.IntRange(1), default=100, show_default=True, help="Faults of each campaign.")
@click.option("--seed", type=int, help="Plays this round again and remembers nothing.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where rounds keep their files.")
def campaign(of: tuple[str, ...], cycles: int, seed: int | None, directory: Path | None) -> None:
    """Break things under load and count: nothing missing, nothing twice."""
    ledger = Ledger.read(LEDGER)
    base = directory or Path(tempfile.mkdtemp(prefix="faults-"))
    rounds = [(name, seed or 0) for name in of or CAMPAIGNS] if seed is not None else []
    if seed is None:
        rounds = [(name, new) for name in of or CAMPAIGNS for new in ledger.next_seeds(name, -(-cycles // CYCLES))]
    postgres = Postgres(base)
    try:
        with _progress(len(rounds) * CYCLES) as progress:
            for name, number in rounds:
                progress.update(progress.task_ids[0], description=f"{name}, seed {number}")
                played = _play(postgres, base / f"{name}-{number}", name, number, progress)
                if seed is None:
                    ledger.add(played)
                    ledger.write(LEDGER)
    finally:
        postgres.leave()
    if seed is None:
        renew(RELIABILITY, ledger.as_markdown())
        _console.print(ledger.as_table())


def _play(postgres: Postgres, directory: Path, name: str, number: int, progress: Progress) -> Round:
    begun = time.monotonic()
    verdict, faults = play(postgres, directory, name, number, progress=progress)
    if not verdict.holds:
        for words in verdict.words:
            progress.print(words, markup=False, highlight=False)
        progress.print(f"{name}, seed {number}: {verdict}; its files are in {directory}", markup=False)
        sys.exit(1)
    played = Round.of(name, number, faults, verdict, time.monotonic() - begun)
    progress.print(f"{name}, seed {number}: {played.sentence}", markup=False, highlight=False)
    return played


def _progress(cycles: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=_console, refresh_per_second=1)
    progress.add_task("", total=cycles)
    return progress


if __name__ == "__main__":
    end_in_order()
    campaign()
