"""`make bench`: measures everything of which a figure is asked, and shows it as a table.

    python -m loadtests.bench [--quick] [--only rates] [--rounds 5] [--runs 1] …

Invariant: the README's table and results.json are renewed only by whole runs at full length; others are only shown.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.table import Table

from app.errors import MailtrailError

from . import figures, latency, machine, memory, minting, personalising, rates, relaying, rewriting, sustained
from .display import Display
from .figures import DRAIN_TO_COPY, Figure, Results
from .machine import MeasurementFailed
from .stage import FULL, QUICK, Options, Stage, stage

README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).with_name("results.json")
_DRAIN_AROUND_SECONDS, _DRAIN_ROUND_SECONDS = 10.0, 5.0


def _measure_drain(_: Path, options: Options, display: Display, results: Results) -> None:
    from . import drain  # it takes the whole shipper with it, which the other parts run as it is installed

    with display.running("drain: shipper and bare COPY", _planned_drain(options)):
        drained = drain.measure(options.rounds, options.drain_hits)
    results.add(DRAIN_TO_COPY, drained.ratios, f"{drained.rows:,} rows in batches of {drained.batch_rows:,}")
    for name, rounds in (("shipper", drained.shipper), ("bare COPY", drained.bare)):
        results.add(Figure(name, "rows/s"), [each.rows_per_second for each in rounds])
        cpu = [each.own_cpu_us + each.postgres_cpu_us for each in rounds]
        results.add(Figure(f"{name}: CPU with PostgreSQL's", "µs/row"), cpu)


def _planned_drain(options: Options) -> float:
    return _DRAIN_AROUND_SECONDS + _DRAIN_ROUND_SECONDS * options.rounds


@dataclass(frozen=True, slots=True)
class Part:
    """What can be measured by itself: on the stage, or in a directory of its own."""

    name: str
    asked: Sequence[Figure]
    planned_seconds: Callable[[Options], float]
    on_stage: Callable[[Stage, Results], None] | None = None
    alone: Callable[[Path, Options, Display, Results], None] | None = None


PARTS = (
    Part("rates", rates.FIGURES, rates.planned_seconds, on_stage=rates.run),
    Part("latency", latency.FIGURES, latency.planned_seconds, on_stage=latency.run),
    Part("memory", memory.FIGURES, memory.planned_seconds, on_stage=memory.run),
    Part("minting", minting.FIGURES, minting.planned_seconds, alone=minting.run),
    Part("personalising", personalising.FIGURES, personalising.planned_seconds, alone=personalising.run),
    Part("relaying", relaying.FIGURES, relaying.planned_seconds, alone=relaying.run),
    Part("rewriting", rewriting.FIGURES, rewriting.planned_seconds, alone=rewriting.run),
    Part("drain", (DRAIN_TO_COPY,), _planned_drain, alone=_measure_drain),
    Part("end-to-end", sustained.FIGURES, sustained.planned_seconds, alone=sustained.run),
)


def measure(parts: Sequence[Part], options: Options, display: Display) -> Results:
    """One run: the parts one after the other, in a directory that is gone afterwards."""
    results = Results()
    with machine.disk_directory() as directory:
        if any(part.on_stage for part in parts):
            with stage(directory / "stage", options, display) as made:
                for part in parts:
                    if (run := part.on_stage) is not None:
                        _try(part, partial(run, made, results), display, results)
        for part in parts:
            if (run_alone := part.alone) is not None:
                _try(part, partial(run_alone, directory / part.name, options, display, results), display, results)
    return results


def _try(part: Part, run: Callable[[], None], display: Display, results: Results) -> None:
    """Measures a part and tells what came out; one that fails leaves the others their figures."""
    begun, known = time.monotonic(), set(results.found)
    try:
        run()
    except Exception as error:
        reason = str(error) if isinstance(error, MeasurementFailed) else f"{type(error).__name__}: {error}"
        display.tell(f"{part.name}: {reason}", style="red")
        results.fail(part.asked, reason)
    display.tell(f"{part.name}: {time.monotonic() - begun:.0f} s", style="bold")
    for name, result in results.found.items():
        if name not in known:
            shown = figures.cells(result)
            display.tell(f"  {shown.figure}: {shown.value}{f' ({shown.note})' if shown.note else ''}")


# --- the command -----------------------------------------------------------------------------------------------------


@click.command()
@click.option("--only", type=click.Choice([part.name for part in PARTS]), multiple=True, help="Only these parts.")
@click.option("--quick", is_flag=True, help="Very short, to try it out; the figures mean little.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Whole runs; medians over them.")
@click.option("--rounds", type=click.IntRange(1), help=f"Alternating rounds. [default: {FULL.rounds}]")
@click.option("--seconds", type=click.IntRange(1), help=f"Length of a round. [default: {FULL.seconds}]")
@click.option(
    "--sustained-seconds",
    type=click.IntRange(5),
    help=f"How long the end-to-end rate is kept. [default: {FULL.sustained_seconds}]",
)
@click.option("--workers", type=click.IntRange(1), help=f"Collectors end to end. [default: {FULL.workers}]")
@click.option(
    "--requests",
    type=click.IntRange(10_000),
    help=f"Requests over which memory is watched. [default: {FULL.requests}]",
)
@click.option("--results", "file", type=click.Path(path_type=Path), help="Write the results here as JSON.")
def bench(only: tuple[str, ...], quick: bool, runs: int, file: Path | None, **lengths: int | None) -> None:
    """Measure Mailtrail beside nginx, uvicorn and an INSERT per click. It takes about twenty minutes."""
    given = {name: value for name, value in lengths.items() if value is not None}
    options = replace(QUICK if quick else FULL, **given)
    parts = [part for part in PARTS if part.name in only or not only]
    is_whole = not (only or quick or given)
    machine.check_tools()
    begun = time.monotonic()
    with Display(runs * sum(part.planned_seconds(options) for part in parts)) as display:
        results = figures.over_runs([measure(parts, options, display) for _ in range(runs)])
    _show(results)
    if file or is_whole:
        (file or RESULTS).write_text(figures.as_json(results, valid=is_whole))
    if is_whole:
        figures.renew(README, f"{_circumstances(runs, time.monotonic() - begun)}\n\n{figures.as_markdown(results)}")
    if any(result.value is None for result in results.found.values()):
        raise MeasurementFailed("some figures could not be measured; the reasons are above")


def _show(results: Results) -> None:
    table = Table("figure", "value", "must", "aim", "")
    for result in results.in_order():
        table.add_row(*figures.cells(result)[:-1])
    Console().print(table)


def _circumstances(runs: int, seconds: float) -> str:
    parts = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine.description()}",
        f"uvicorn {version('uvicorn')}, asyncpg {version('asyncpg')}, {machine.tool_versions()}",
        f"{runs} {'run' if runs == 1 else 'runs'}, {seconds / 60:.0f} minutes",
    )
    return "Measured on " + "; ".join(parts) + "."


def main() -> None:
    """The program's entry; an error that a person can mend is one line."""
    machine.end_in_order()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        bench(prog_name="python -m loadtests.bench")
    except MailtrailError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
