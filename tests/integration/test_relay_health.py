"""Whether the relay could pass a mail on, as its own port says; told too while no mail comes."""

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator

import pytest

from app.metrics import Metrics
from app.sending import relay_watch
from app.sending.relay_watch import RelayWatch
from app.sending.upstream import Upstream, UpstreamAddress
from app.store.pool import Database
from tests.integration.receiver import Receiver
from tests.integration.relaying import HTML, RelayRig, send
from tests.integration.service import Service, free_port, until


def asked(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def readiness(port: int) -> tuple[int, list[str]]:
    status, body = asked(port, "/readyz")
    return status, json.loads(body)["problems"] if status else []


def test_a_relay_says_whether_it_is_ready(service: Service) -> None:
    private, receiver = free_port(), Receiver(port=free_port())
    rig = RelayRig(service, receiver)
    rig.make_spaces()
    with receiver:
        process = rig.start(space="Anonymous", private_port=str(private))
        until(lambda: readiness(private) == (200, []), "it is ready", log=service.log)
        assert asked(private, "/livez")[0] == 200
        with rig.client() as client:
            assert send(client, HTML)[0] == 250
        numbers = asked(private, "/metrics")[1]
        assert b"mailtrail_relay_upstream_up 1.0" in numbers
        assert b'mailtrail_relay_mails_total{ceiling="anonymized"} 1.0' in numbers
        process.terminate()
        assert process.wait(30) == 0
    process = rig.start(space="Anonymous", private_port=str(private))
    until(lambda: readiness(private) == (503, ["upstream_down"]), "it is not ready", log=service.log)
    assert b"mailtrail_relay_upstream_up 0.0" in asked(private, "/metrics")[1]
    process.terminate()
    assert process.wait(30) == 0
    assert "Traceback" not in service.log.read_text()


def test_a_port_cannot_be_both_its_own_and_the_collectors(service: Service) -> None:
    ports = ("MAILTRAIL_PRIVATE_PORT", "MAILTRAIL_RELAY_PRIVATE_PORT")
    service.settings = dict.fromkeys(ports, "8099") | {"MAILTRAIL_RELAY_UPSTREAM": "127.0.0.1:25"}
    refused = service.run("relay", check=False)
    assert (refused.returncode, b"give the relay another one" in refused.stderr) == (2, True)


@contextlib.asynccontextmanager
async def watched(address: str, database_url: str) -> AsyncIterator[RelayWatch]:
    host, _, port = address.partition(":")
    upstream, database = (
        Upstream(UpstreamAddress(host, int(port), "none"), "here", "identity", 5),
        Database(database_url),
    )
    yield RelayWatch(upstream, database, Metrics(), look_seconds=0.05)
    await upstream.close()
    await database.close()


async def until_it_says(watch: RelayWatch, *problems: str) -> None:
    async with asyncio.timeout(30):
        while list(watch.health.problems) != list(problems):
            await asyncio.sleep(0.01)


async def test_it_follows_the_mail_server_while_no_mail_comes(service: Service) -> None:
    receiver = Receiver(port=free_port())
    async with watched(receiver.address, service.database_url) as watch:
        assert watch.health.problems == relay_watch.PROBLEMS
        watching = asyncio.create_task(watch.run())
        await until_it_says(watch, "upstream_down")
        for _ in range(2):
            await asyncio.to_thread(receiver.__enter__)
            await until_it_says(watch)
            await asyncio.to_thread(receiver.__exit__, None, None, None)
            await until_it_says(watch, "upstream_down")
        watching.cancel()


async def test_what_does_not_answer_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_watch, "_ANSWER_SECONDS", 0.2)
    # They take connections, and say nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with watched(address, f"postgresql://{address}/none") as watch:
            await watch.look()
            assert tuple(watch.health.problems) == relay_watch.PROBLEMS


async def test_without_its_database_it_is_not_ready() -> None:
    with Receiver() as receiver:
        async with watched(receiver.address, f"postgresql://127.0.0.1:{free_port()}/none") as watch:
            await watch.look()
            assert watch.health.problems == ["database_down"]
