"""SQL out of files: `sql/queries/<area>.sql` holds statements, each under a line `-- name: purpose`.

Invariant: no SQL stands inside Python code; a name that is asked for and missing fails at import.
"""

import re
from functools import cache

from .migrate import SQL_DIRECTORY

_HEADING = re.compile(r"^-- (\w+): .+$", re.MULTILINE)


@cache
def queries(area: str) -> dict[str, str]:
    """The statements of one file by their names."""
    text = (SQL_DIRECTORY / "queries" / f"{area}.sql").read_text()
    _, *parts = _HEADING.split(text)
    return {name: sql.strip().rstrip(";") for name, sql in zip(parts[::2], parts[1::2], strict=True)}
