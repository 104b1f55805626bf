"""A PostgreSQL of each module's own, for things to happen to."""

from collections.abc import Iterator

import pytest

from tests.faults.postgres import Postgres


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("p"))
    yield server
    server.leave()
