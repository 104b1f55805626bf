"""Events as the store changes them: protected mode, notices, definitions, dispatches, and what the database refuses."""

from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from app.errors import ChangedMeanwhile, EventProtected, NotAcknowledged, NotFound, SettingsError
from app.store import events
from app.store import settings as store
from app.store.migrate import migrate
from app.store.pool import Connection, Row
from app.tracking.event_types import EventTypeRefused
from app.tracking.modes import Mode
from app.tracking.settings import Notice

WHO = "user:erika"


def definition(of: str = "order", *, tracking: bool = True) -> bytes:
    names = "<customertracking>Customer.Tracking</customertracking>" if tracking else ""
    return f"""<event xmlns="http://www.inxmail.com/xcom/eventtype">
        <eventtype><id>{of}</id></eventtype>{names}
        <phgroup><id>Customer</id><placeholder><id>Tracking</id><datatype-boolean/></placeholder></phgroup>
    </event>""".encode()


@pytest.fixture
async def shop(connection: Connection) -> Row:
    await migrate(connection)
    return await store.create_space(connection, WHO, "Shop")


@pytest.fixture
async def active(connection: Connection, shop: Row) -> Row:
    """An event of which a message was made."""
    made = await events.create_event(connection, WHO, shop["id"], "news")
    mailing = await store.create_mailing(connection, WHO, shop["id"], made["id"], "m")
    await store.count_sent(connection, mailing["id"], Mode.ANONYMIZED)
    return await events.get_event(connection, shop["id"], made["id"])


async def change(connection: Connection, event: Row, **changes: Any) -> Row:
    return await events.change_event(connection, WHO, event["space_id"], event["id"], **changes)


async def leave(connection: Connection, event: Row, *acknowledged: Notice) -> Row:
    return await events.leave_protected_mode(connection, WHO, event["space_id"], event["id"], acknowledged=acknowledged)


async def audited(connection: Connection) -> list[tuple[str, Any, Any]]:
    rows = await connection.fetch("select action, old, new from mailtrail.audit order by id desc")
    return [(row["action"], *(state and orjson.loads(state) for state in (row["old"], row["new"]))) for row in rows]


async def test_an_event_is_protected_from_its_first_message_on(connection: Connection, shop: Row, active: Row) -> None:
    quiet = await events.create_event(connection, WHO, shop["id"], "quiet")
    assert quiet["active_since"] is None
    assert (await change(connection, quiet, by_permission=True))["by_permission"]
    with pytest.raises(EventProtected, match=r"leave protected mode first.*15 minutes"):
        await change(connection, active, by_permission=True)
    with pytest.raises(EventProtected):
        await change(connection, active, definition=definition())
    assert (await change(connection, active, name="News"))["name"] == "News"
    with pytest.raises(EventProtected):  # nothing is half done
        await change(connection, active, name="other", by_permission=True)
    assert (await events.get_event(connection, shop["id"], active["id"]))["name"] == "News"


async def test_saving_returns_to_protected_mode_and_everything_is_audited(connection: Connection, active: Row) -> None:
    left = await leave(connection, active)
    assert left["unprotected_until"] - await connection.fetchval("select now()") <= timedelta(minutes=15)
    saved = await change(connection, left, by_permission=True)
    assert saved["by_permission"]
    assert saved["unprotected_until"] is None
    with pytest.raises(EventProtected):
        await change(connection, saved, by_permission=False)
    (entered, changed, departed) = (await audited(connection))[:3]
    assert [entered[0], changed[0], departed[0]] == ["protected mode entered", "event changed", "protected mode left"]
    assert [changed[1]["by_permission"], changed[2]["by_permission"]] == [False, True]


async def test_a_leave_ends_by_itself_and_can_be_taken_back(connection: Connection, active: Row) -> None:
    left = await leave(connection, active)
    back = await events.enter_protected_mode(connection, WHO, left["space_id"], left["id"])
    with pytest.raises(EventProtected):
        await change(connection, back, by_permission=True)
    await leave(connection, active)
    await connection.execute("update mailtrail.events set unprotected_until = now() - interval '1 second'")
    with pytest.raises(EventProtected):
        await change(connection, active, by_permission=True)


async def test_the_database_itself_refuses_what_the_rules_refuse(connection: Connection, active: Row) -> None:
    with pytest.raises(asyncpg.PostgresError, match="protected mode") as refused:
        await connection.execute("update mailtrail.events set by_permission = true")
    assert refused.value.sqlstate == "MT002"
    await leave(connection, active)
    await change(connection, active, definition=definition())
    with pytest.raises(asyncpg.PostgresError, match="cannot be changed") as refused:
        await connection.execute("update mailtrail.events set type_id = 'other'")
    assert refused.value.sqlstate == "MT001"
    for sql in ("update mailtrail.audit set who = 'nobody'", "delete from mailtrail.audit"):
        with pytest.raises(asyncpg.PostgresError, match="never changed"):
            await connection.execute(sql)


async def test_a_running_dispatch_must_be_acknowledged_twice(connection: Connection, shop: Row) -> None:
    event = await events.create_event(connection, WHO, shop["id"], "news")
    running = await events.start_dispatch(connection, "key:sender", shop["id"], event["id"])
    assert running["is_running"]
    assert [row["id"] for row in await events.running_dispatches(connection, shop["id"], event["id"])] == [
        running["id"]
    ]
    with pytest.raises(EventProtected):
        await change(connection, event, by_permission=True)
    with pytest.raises(NotAcknowledged) as asked:
        await leave(connection, event)
    assert asked.value.notice == "dispatch_running"
    await leave(connection, event, Notice.DISPATCH_RUNNING)
    with pytest.raises(NotAcknowledged):
        await change(connection, event, by_permission=True)
    await change(connection, event, by_permission=True, acknowledged=[Notice.DISPATCH_RUNNING])
    changed = next(new for action, _, new in await audited(connection) if action == "event changed")
    assert changed["acknowledged"] == ["dispatch_running"]


async def test_a_dispatch_ends_when_told_or_when_nothing_is_heard_of_it(connection: Connection, shop: Row) -> None:
    event = await events.create_event(connection, WHO, shop["id"], "news")
    one, two = [await events.start_dispatch(connection, WHO, shop["id"], event["id"]) for _ in range(2)]
    assert not (await events.end_dispatch(connection, shop["id"], one["id"]))["is_running"]
    assert not (await events.end_dispatch(connection, shop["id"], one["id"]))["is_running"]
    with pytest.raises(SettingsError, match="has ended"):
        await events.beat_dispatch(connection, shop["id"], one["id"])
    await connection.execute("update mailtrail.dispatches set heartbeat_at = now() - interval '6 minutes'")
    assert await events.running_dispatches(connection, shop["id"], event["id"]) == []
    assert (await events.beat_dispatch(connection, shop["id"], two["id"]))["is_running"]
    with pytest.raises(NotFound):
        await events.get_dispatch(connection, shop["id"] ^ 1, two["id"])
    with pytest.raises(SettingsError, match="no such mailing"):
        await events.start_dispatch(connection, WHO, shop["id"], event["id"], 5)


async def test_what_a_change_brings_about_must_be_acknowledged(connection: Connection, shop: Row) -> None:
    with pytest.raises(NotAcknowledged, match=r"consent of each recipient.*'consent'"):
        await store.change_space(connection, WHO, shop["id"], default="person_based")
    with pytest.raises(NotAcknowledged):
        await store.change_space(connection, WHO, shop["id"], relay="person_based")
    with pytest.raises(NotAcknowledged):
        await store.create_space(connection, WHO, "Other", default="person_based")
    by_permission = await events.create_event(connection, WHO, shop["id"], "news", by_permission=True)
    consent = [Notice.CONSENT]
    await store.change_space(connection, WHO, shop["id"], default="person_based", acknowledged=consent)
    assert (await audited(connection))[0][2]["acknowledged"] == ["consent"]
    await store.change_space(connection, WHO, shop["id"], default="person_based", name="Shop!")  # nothing new to read
    with pytest.raises(NotAcknowledged):  # from permission to everyone in person
        await change(connection, by_permission, by_permission=False)
    await change(connection, by_permission, by_permission=False, acknowledged=consent)


async def test_permission_tracking_without_a_field_for_it_is_warned_of(connection: Connection, shop: Row) -> None:
    blind = definition(tracking=False)
    event = await events.create_event(connection, WHO, shop["id"], "order", definition=blind)
    with pytest.raises(NotAcknowledged, match="everyone will be anonymized") as asked:
        await change(connection, event, by_permission=True)
    assert asked.value.notice == "no_permission_field"
    event = await change(connection, event, by_permission=True, definition=definition())  # now there is one
    with pytest.raises(NotAcknowledged):
        await change(connection, event, definition=blind)
    await change(connection, event, definition=blind, acknowledged=[Notice.NO_PERMISSION_FIELD])
    with pytest.raises(NotAcknowledged):
        await events.create_event(
            connection, WHO, shop["id"], "o2", by_permission=True, definition=definition("o2", tracking=False)
        )


async def test_a_definitions_id_never_changes_and_is_nobody_elses(connection: Connection, shop: Row) -> None:
    event = await events.create_event(connection, WHO, shop["id"], "order", definition=definition("order"))
    assert (event["type_id"], event["permission_field"]) == ("order", "Customer.Tracking")
    with pytest.raises(SettingsError, match="'order' and never changes; the definition says 'invoice'"):
        await change(connection, event, definition=definition("invoice"))
    with pytest.raises(SettingsError, match="has an event with the id 'order' already"):
        await events.create_event(connection, WHO, shop["id"], "other", definition=definition("order"))
    with pytest.raises(EventTypeRefused, match="line 1"):
        await change(connection, event, definition=b"<event/>")
    assert (await change(connection, event, definition=definition("order", tracking=False)))["permission_field"] is None


async def test_the_second_of_two_editors_is_told(connection: Connection, shop: Row) -> None:
    event = await events.create_event(connection, WHO, shop["id"], "news")
    await change(connection, event, name="News", revision=event["revision"])
    with pytest.raises(ChangedMeanwhile):
        await change(connection, event, name="NEWS", revision=event["revision"])
    await store.change_space(connection, WHO, shop["id"], name="Shop 1", revision=shop["revision"])
    with pytest.raises(ChangedMeanwhile):
        await store.change_space(connection, WHO, shop["id"], name="Shop 2", revision=shop["revision"])
    with pytest.raises(ChangedMeanwhile):
        await store.delete_space(connection, WHO, shop["id"], revision=shop["revision"])


async def test_names_are_unique_whatever_way_they_come(connection: Connection, shop: Row) -> None:
    one, _ = [await events.create_event(connection, WHO, shop["id"], name) for name in ("one", "two")]
    with pytest.raises(SettingsError, match="has an event 'two' already"):
        await change(connection, one, name="two")
    await store.create_space(connection, WHO, "Other")
    with pytest.raises(SettingsError, match="there is a space 'Other' already"):
        await store.change_space(connection, WHO, shop["id"], name="Other")


async def test_pages_of_events_come_in_order_and_leave_out_the_archived(connection: Connection, shop: Row) -> None:
    made = [await events.create_event(connection, WHO, shop["id"], f"event {n:02}") for n in range(7)]
    await change(connection, made[3], archived=True)
    first = await events.page_of_events(connection, shop["id"], limit=3)
    assert [row["name"] for row in first] == ["event 00", "event 01", "event 02"]
    rest = await events.page_of_events(connection, shop["id"], after=(first[-1]["name"], first[-1]["id"]))
    assert [row["name"] for row in rest] == ["event 04", "event 05", "event 06"]
    found = await events.page_of_events(connection, shop["id"], contains="T 03", archived=True)
    assert [row["name"] for row in found] == ["event 03"]
    assert await events.count_inheriting(connection, shop["id"]) == 6
    assert (await change(connection, made[3], archived=False))["archived_at"] is None
