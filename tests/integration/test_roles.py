"""PostgreSQL users who are no superusers, on a server of the tests' own: roles belong to the whole server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store import embedded
from tests.integration.service import Service, query


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    return embedded.start(Path(tmp_path_factory.mktemp("roles")))


@pytest.fixture
def plain(server: str, tmp_path: Path) -> Iterator[Service]:
    """Mailtrail on a database whose owner has no rights of the server's but to log in."""
    query(server, "create role plain login")
    query(server, "create database owned owner plain")
    yield Service(tmp_path, server.replace("postgres:@/postgres?", "plain:@/owned?"))
    query(server, "drop database owned with (force)")
    query(server, "drop role if exists mailtrail_analyst")
    query(server, "drop role plain")


def refusal(service: Service, *command: str) -> str:
    done = service.run(*command, check=False)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    return line


def test_who_may_create_roles_needs_nothing_else(server: str, plain: Service) -> None:
    query(server, "alter role plain createrole")
    plain.run("migrate")
    query(server, "alter role plain nocreaterole")
    assert plain.run("sql", "select * from analytics.mailings").stdout == b"no rows\n"
    assert "permission denied" in refusal(plain, "sql", "select * from mailtrail.hits")


def test_an_administrator_makes_the_role_for_who_may_not(server: str, plain: Service) -> None:
    line = refusal(plain, "migrate")
    assert "let an administrator run: create role mailtrail_analyst nologin" in line
    query(server, "create role mailtrail_analyst nologin")
    plain.run("migrate")
    line = refusal(plain, "sql", "select * from analytics.mailings")
    assert "grant mailtrail_analyst to <the user> with set true" in line
    query(server, "grant mailtrail_analyst to plain with set true")
    assert plain.run("sql", "select * from analytics.mailings").stdout == b"no rows\n"
