"""Work ahead: taken by whom it is for, dropped for everybody else, never left running."""

import asyncio

import pytest

from app.shipper.ahead import Ahead


async def test_begun_work_is_taken_once_by_its_key() -> None:
    ahead: Ahead[int] = Ahead()
    done: list[str] = []

    async def work(name: str, result: int) -> int:
        done.append(name)
        return result

    ahead.begin("a", lambda: work("begun", 1))
    assert await ahead.take("a", lambda: work("now", 2)) == 1
    assert await ahead.take("a", lambda: work("now", 2)) == 2
    assert done == ["begun", "now"]


async def test_other_work_is_ended_before_anything_else_begins() -> None:
    ahead: Ahead[str] = Ahead()
    told: list[str] = []

    async def endless() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")
        return "never"

    async def now() -> str:
        told.append("now")
        return "result"

    ahead.begin("a", endless)
    await asyncio.sleep(0)
    assert await ahead.take("b", now) == "result"
    assert told == ["ended", "now"]
    ahead.begin("a", endless)
    await asyncio.sleep(0)
    await ahead.drop()
    await ahead.drop()
    assert told == ["ended", "now", "ended"]


async def test_a_failure_is_raised_to_who_takes_it_and_forgotten_when_dropped() -> None:
    ahead: Ahead[int] = Ahead()

    async def fail() -> int:
        raise ZeroDivisionError

    ahead.begin("a", fail)
    await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError):
        await ahead.take("a", fail)
    ahead.begin("a", fail)
    await asyncio.sleep(0)
    await ahead.drop()


async def test_who_is_cancelled_while_taking_leaves_nothing_running() -> None:
    ahead: Ahead[int] = Ahead()
    ended = asyncio.Event()

    async def endless() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    ahead.begin("a", endless)
    taking = asyncio.create_task(ahead.take("a", endless))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert ended.is_set()
