"""The documents say what is there: settings, metrics, commands, dependencies, readiness words, tests and links."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import Counter, Gauge

from app import config
from app.cli import cli
from app.journal.writer import Loss
from app.metrics import Metrics
from app.sending.relay_watch import PROBLEMS

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def table_rows(document: str, cells: int) -> list[list[str]]:
    """The rows of a document's tables that begin with a code word and have so many cells, without their backticks."""
    rows = re.findall(r"^\| (`.+) \|$", (DOCS / document).read_text(), re.M)
    split = [re.split(r"\s\|\s|\s\|$|\|\s", row) for row in rows]
    return [[cell.strip().strip("`") for cell in row] for row in split if len(row) == cells]


ANY_CONTEXT = click.Context(cli)


def below(group: click.Group, name: str) -> click.Command:
    command = group.get_command(ANY_CONTEXT, name)
    assert command is not None
    return command


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that can be run, with its whole name; most groups are only on the way to them."""
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield " ".join(path), command
        for name in command.list_commands(ANY_CONTEXT):
            yield from commands(below(command, name), *path, name)
    elif not command.hidden:
        yield " ".join(path), command


COMMANDS = dict(commands(cli))
SECTIONS = dict(
    re.findall(r"^### mailtrail ([a-z -]+)\n(.*?)(?=^##|\Z)", (DOCS / "commands.md").read_text(), re.M | re.S)
)


def shown_command_lines() -> list[str]:
    """Every command line of ours in the documents, with its continuations."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^ *```console\n(.*?)^ *```", document.read_text(), re.M | re.S):
            joined = block.replace("\\\n", " ")
            found += re.findall(
                r"(?:\bmailtrail|\.venv/bin/python -m app) ((?:'[^'\n]*'|\"[^\"\n]*\"|[^\n|<>;&)\"'])*)", joined
            )
    return found


def test_settings_are_described_as_they_are() -> None:
    described = [[row.variable, row.default, row.description] for row in config.described(config.Settings())]
    assert sorted(described) == sorted(table_rows("settings.md", 3))


def test_metrics_are_described_as_they_are() -> None:
    declared = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames).strip("`")
            declared.append([name, family.type, labels, family.documentation])
    rows = table_rows("metrics.md", 5)
    assert sorted(declared) == sorted(row[:4] for row in rows)
    assert all(row[4] for row in rows)


def test_every_command_has_its_section() -> None:
    assert sorted(COMMANDS) == sorted(SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_with_an_example(name: str) -> None:
    options = {
        flag
        for parameter in COMMANDS[name].params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", SECTIONS[name], re.M))
    assert re.search(rf"^\$ .*mailtrail {name}\b", SECTIONS[name], re.M)


def test_command_lines_that_are_shown_can_be_read() -> None:
    """By the parser, without running them; that they do what is said is for the integration tests."""
    lines = shown_command_lines()
    assert len(lines) > len(COMMANDS)
    for line in lines:
        command: click.Command = cli
        words = shlex.split(line)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = below(command, words.pop(0))
        command.make_parser(click.Context(command)).parse_args(words)


def test_dependencies_are_those_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    required = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = [re.split(r"[^a-z0-9-]", requirement)[0] for requirement in required]
    assert sorted(names) == sorted(row[0] for row in table_rows("dependencies.md", 3))


def test_readiness_words_are_explained() -> None:
    sources = "".join((CHECKOUT / "app" / name).read_text() for name in ("journal/keeper.py", "collector/runtime.py"))
    words = {*re.findall(r"append\(\"([a-z_]+)\"\)", sources), *(loss.value for loss in Loss), *PROBLEMS}
    words |= set(re.findall(r"Health\(\[\"([a-z_]+)\"\]\)", (CHECKOUT / "app/health.py").read_text()))
    assert len(words) >= 8
    assert words == {row[0] for row in table_rows("operations.md", 4)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    for path, test in re.findall(r"`((?:app|sql|tests|docs)/[\w/.]+)(?:::(\w+))?`", text):
        assert (CHECKOUT / path).exists(), path
        assert not test or f"def {test}(" in (CHECKOUT / path).read_text(), test
    variables = set(re.findall(r"MAILTRAIL_[A-Z_]*[A-Z]", text))
    assert variables <= {row.variable for row in config.described(config.Settings())}
