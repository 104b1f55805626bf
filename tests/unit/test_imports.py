"""What starting a process loads."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NOT_FOR_WORKERS = ("fastapi", "jinja2", "babel", "argon2", "app.sending", "app.shipper", "app.admin")


def test_a_worker_does_not_wait_for_what_only_others_need() -> None:
    """It starts anew after a crash while recipients wait for it, and these cost a second."""
    code = (
        f"import sys, app.cli, app.commands.collect; print([name for name in {NOT_FOR_WORKERS} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
