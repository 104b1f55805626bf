"""Metrics of several processes: counters of the dead stay, what the dead said of themselves does not."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.integration.service import CHECKOUT

SAYS = """
    import os, signal, sys
    from pathlib import Path
    from app.metrics import Metrics
    metrics = Metrics(Path(sys.argv[1]))
    metrics.hits_capped.inc(int(sys.argv[2]))
    metrics.snapshot_age.set(float(sys.argv[3]))
    if sys.argv[4] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    input()
    print(metrics.render().decode())
"""


def start(directory: Path, counted: int, age: float, end: str) -> "subprocess.Popen[str]":
    arguments = (sys.executable, "-c", textwrap.dedent(SAYS), str(directory), str(counted), str(age), end)
    return subprocess.Popen(arguments, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_counted_but_no_longer_heard(tmp_path: Path) -> None:
    alive = start(tmp_path, 1, 5, "live")
    assert alive.stdout is not None
    assert alive.stdout.readline() == "ready\n"
    start(tmp_path, 10, 90_000, "die").communicate()
    shown, _ = alive.communicate("\n")
    assert "mailtrail_hits_capped_total 11.0" in shown
    assert "mailtrail_snapshot_unconfirmed_seconds 5.0" in shown
