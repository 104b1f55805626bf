"""The wheel, installed from the lock into an empty environment: it runs, and claims no name but its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import CHECKOUT, free_port, until

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the environment's programs."""
    directory = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory))
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", directory / "env"], check=True)
    programs = directory / "env" / "bin"
    lock = CHECKOUT / "requirements.lock"
    subprocess.run([programs / "python", *PIP, "--require-hashes", "--requirement", lock], check=True)
    subprocess.run([programs / "python", *PIP, "--no-deps", wheel], check=True)
    return programs


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAILTRAIL_", "PYTHON"))}
    port = str(free_port())
    return clean | {
        "MAILTRAIL_DATA_DIRECTORY": str(tmp_path / "data"),
        "MAILTRAIL_PORT": port,
        "MAILTRAIL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "MAILTRAIL_PRIVATE_PORT": "0",
    }


@pytest.fixture
def run_up(installed: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [installed / "mailtrail", "up", "--demo"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def test_up_plays_the_demo_and_a_second_start_finds_its_data(
    installed: Path, environment: dict[str, str], tmp_path: Path, run_up: subprocess.Popen[bytes]
) -> None:
    log = tmp_path / "up.log"
    until(lambda: "Ctrl-C stops it" in log.read_text() or run_up.poll() is not None, "the demo's end", 60)
    shown = log.read_text()
    assert run_up.poll() is None, shown
    assert len(re.findall(r"person_based +erika@", shown)) == 1
    assert len(re.findall(r"anonymized +– ", shown)) == 2
    assert not re.search(r"anonymized.*(max|kim)@", shown)
    run_up.send_signal(signal.SIGINT)
    assert run_up.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    count = [installed / "mailtrail", "sql", "select sum(clicks) as clicks, sum(sent) as sent from analytics.mailings"]
    again = subprocess.run(count, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert again.stdout.split() == ["clicks", "sent", "5", "3"]


def test_the_name_app_is_left_to_others(installed: Path, tmp_path: Path) -> None:
    for name, there in (("app", False), ("mailtrail", True), ("mailtrail.main", True), ("sql", False)):
        found = subprocess.run(
            [installed / "python", "-c", f"import importlib.util as u; print(u.find_spec({name!r}) is not None)"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        assert found.stdout.strip() == str(there), name
