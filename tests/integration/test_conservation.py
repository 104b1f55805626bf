"""50,000 hits by a real client over sockets while the shipper is killed with -9: exactly 50,000 rows, each once."""

import random
import signal
import socket
import threading
from datetime import UTC, datetime

from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, Message
from tests.integration.service import Service, until

HITS = 50_000
CONNECTIONS = 8
BATCH = 50
KILLS = 4


def test_every_answered_hit_is_one_row_though_the_shipper_is_killed(service: Service) -> None:
    service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    ((space,),) = service.query("select id from mailtrail.spaces")
    ((key_id, secret),) = service.query("select id, secret from vault.token_keys")
    keys = KeyRing({key_id: Key(key_id, space, secret)})
    service.query("insert into mailtrail.events (space_id, id, name) values ($1, 1, 'newsletter')", space)
    messages = [_message(space, number) for number in range(HITS)]
    paths = [f"/c/{keys.mint_click(message, 'https://shop.example/', 1)}" for message in messages]

    service.start("collect")
    service.wait_ready()
    shipper = service.start("ship")
    answered: list[int] = []
    threads = [
        threading.Thread(target=_click, args=(service.port, paths[start::CONNECTIONS], answered))
        for start in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    randomness = random.Random(20261124)
    for kill in range(1, KILLS + 1):
        shipped = HITS * kill // (KILLS + 2) + randomness.randrange(1_000)
        until(lambda at_least=shipped: _rows(service) >= at_least, f"{shipped} rows")
        shipper.send_signal(signal.SIGKILL)
        shipper.wait()
        shipper = service.start("ship")
    for thread in threads:
        thread.join()
    assert sum(answered) == HITS
    service.wait_for_hits(HITS)
    service.stop()

    ((rows, ids, nonces),) = service.query(
        "select count(*), count(distinct id), count(distinct nonce) from mailtrail.hits"
    )
    assert (rows, ids, nonces) == (HITS, HITS, HITS)
    assert {row["nonce"] for row in service.query("select nonce from mailtrail.hits")} == {m.nonce for m in messages}
    ((totals,),) = service.query("select sum(hits) from mailtrail.hit_totals")
    assert totals == HITS
    assert service.query("select * from mailtrail.quarantine") == []


def _message(space: int, number: int) -> Message:
    return Message(
        space=space,
        event=1,
        mailing=1,
        origin=Origin.EVENT,
        ceiling=Mode.PERSON_BASED,
        permission=Permission.GRANTED,
        issue_day=datetime.now(UTC).date(),
        recipient=str(number),
    )


def _rows(service: Service) -> int:
    return int(service.query("select count(*) from mailtrail.hits")[0][0])


def _click(port: int, paths: list[str], answered: list[int]) -> None:
    """Clicks over one connection, a batch of pipelined requests at a time, and counts the redirects."""
    redirects = 0
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            connection.sendall(b"".join(b"GET %s HTTP/1.1\r\nHost: t\r\n\r\n" % path.encode() for path in batch))
            received = b""
            while received.count(b"\r\n\r\n") < len(batch):
                chunk = connection.recv(65_536)
                assert chunk, "the collector closed the connection"
                received += chunk
            redirects += received.count(b"HTTP/1.1 302 Found\r\n")
    answered.append(redirects)
