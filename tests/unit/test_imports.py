"""What starting a process loads."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
ONLY_FOR_PAGES = ("fastapi", "jinja2", "babel", "argon2")


def test_a_worker_does_not_wait_for_what_only_the_pages_need() -> None:
    """It starts anew after a crash while recipients wait for it, and these cost a second."""
    code = f"import sys, app.cli; print([name for name in {ONLY_FOR_PAGES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
