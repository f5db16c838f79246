"""Notifications: what arrives, what a lost connection leaves, and that nothing leaks."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import (
    CannotConnectError,
    ConfigurationError,
    InterfaceError,
    PoolClosedError,
)
from aiodbkit.backends.postgres import Gap, Notification
from tests.postgres.support import collect, listeners, terminate, until_true

pytestmark = pytest.mark.usefixtures("asyncpg_only")


async def test_a_notification_tells_channel_payload_and_sender(db):
    async with db.connection() as connection, db.listen("orders") as notifications:
        sender = await connection.fetch_val("select pg_backend_pid()")
        await db.notify("orders", "paid")
        assert await anext(notifications) == Notification("orders", "paid", sender)


async def test_a_notification_of_a_transaction_comes_when_it_is_committed(db):
    async with db.listen("orders") as notifications:
        async with db.transaction(force_rollback=True):
            await db.notify("orders", "undone")
        async with db.transaction() as tx:
            await db.notify("orders", "done")
            tx.on_rollback(lambda: None)
        assert (await anext(notifications)).payload == "done"


async def test_several_channels_are_heard_and_others_are_not(db):
    async with db.listen("a", "b", "a") as notifications:
        for channel in ("a", "c", "b"):
            await db.notify(channel)
        await db.notify("b", "end")
        found = await collect(notifications, "end")
    assert [each.channel for each in found] == ["a", "b", "b"]


async def test_a_channel_is_named_as_it_stands(db):
    name = 'My "channel"; drop'
    async with db.listen(name) as notifications:
        await db.notify(name)
        assert (await anext(notifications)).channel == name


async def test_a_listener_takes_no_connection_of_the_pool(postgres_engine):
    db = await postgres_engine(max_size=1)
    async with db.connection(), db.listen("a") as notifications:
        await db.notify("a", "x")
        assert (await anext(notifications)).payload == "x"
        assert db.pool.stats().size == 1


async def test_after_its_backend_was_killed_a_gap_is_marked_and_the_rest_arrives(db):
    async with db.listen("a") as notifications:
        await db.notify("a", "before")
        assert (await anext(notifications)).payload == "before"
        (pid,) = await listeners(db)
        await terminate(db, pid)
        gap = await anext(notifications)
        await db.notify("a", "after")
        after = await anext(notifications)
    assert gap == Gap()
    assert gap.is_gap
    assert (after.payload, after.is_gap) == ("after", False)


async def test_between_two_gaps_no_notification_is_missing(db):
    """Numbers are sent all the time, while the listener is killed again and again."""
    stop = asyncio.Event()

    async def send():
        number = 0
        while not stop.is_set():
            await db.notify("a", str(number))
            number += 1
        await db.notify("a", "end")

    async with db.listen("a", buffer_size=1_000_000) as notifications:
        sending = asyncio.create_task(send())
        runs, gaps = [[]], 0
        async for notification in notifications:
            if notification.is_gap:
                runs.append([])
                gaps += 1
            elif notification.payload == "end":
                break
            else:
                runs[-1].append(int(notification.payload))
            if len(runs[-1]) == 20:
                if gaps == 5:
                    stop.set()
                else:
                    await terminate(db, (await listeners(db))[0])
        await sending
    assert gaps == 5
    for run in runs:
        assert run == list(range(run[0], run[0] + len(run)))


async def test_what_comes_together_with_the_answer_to_listen_is_heard(
    db, postgres_url, postgres_engine, wire_proxy
):
    """asyncpg alone takes notice of the channel after that answer, and may drop it."""
    proxy = await wire_proxy(postgres_url)
    other = await postgres_engine(proxy.url)
    listening = asyncio.create_task(_first(other))
    await proxy.seen(b"LISTEN")
    proxy.hole("down")
    while not await listeners(db):
        await asyncio.sleep(0.01)
    await until_true(
        db, "select state = 'idle' from pg_stat_activity where pid = :p",
        {"p": (await listeners(db))[0]},
    )  # fmt: skip
    await db.notify("a", "early")
    await db.notify("a", "later")
    proxy.heal()
    assert (await listening).payload == "early"


async def _first(db):
    async with db.listen("a") as notifications:
        return await anext(notifications)


async def test_a_connection_that_went_silent_is_found_by_its_heartbeat(
    db, postgres_url, postgres_engine, wire_proxy
):
    proxy = await wire_proxy(postgres_url)
    other = await postgres_engine(proxy.url, check_timeout=0.2)
    async with other.listen("a", heartbeat=0.05) as notifications:
        proxy.hole()
        await db.notify("a", "into the hole")
        waiting = asyncio.create_task(anext(notifications))
        while proxy.accepted < 2:  # the silence was noticed, another connection is tried
            await asyncio.sleep(0.01)
        proxy.heal()
        found = [await waiting, await _after_heal(db, notifications)]
    assert any(each.is_gap for each in found)


async def _after_heal(db, notifications):
    """Whatever the old connection had in its pipe comes first; the new one hears this."""
    await db.notify("a", "end")
    return (await collect(notifications, "end"))[0]


async def test_a_reader_that_is_too_slow_meets_a_gap_where_something_was_dropped(db):
    async with db.listen("a", buffer_size=3) as notifications:
        for number in range(10):
            await db.notify("a", str(number))
        # A second channel of the same session would come after them: wait for what is in order.
        while len(notifications._buffer) < 4:
            await asyncio.sleep(0.01)
        found = [await anext(notifications) for _ in range(4)]
        await db.notify("a", "end")
        found += await collect(notifications, "end")
    assert [each.payload for each in found[:3]] == ["0", "1", "2"]
    assert found[3] == Gap(reason="overflow")
    assert found[-1].payload == "end"


async def test_waits_that_are_cancelled_lose_no_notification(db):
    got = []
    async with db.listen("a") as notifications:
        sending = asyncio.gather(*(db.notify("a", str(number)) for number in range(50)))
        while len(got) < 50:
            waiting = asyncio.create_task(anext(notifications))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                got.append(int(waiting.result().payload))
        await sending
    assert sorted(got) == list(range(50))


async def test_a_cancelled_block_leaves_no_session(db):
    async def listen():
        async with db.listen("a") as notifications:
            listening.set()
            await anext(notifications)

    listening = asyncio.Event()
    task = asyncio.create_task(listen())
    await listening.wait()
    assert len(await listeners(db)) == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until_true(
        db, "select count(*) = 0 from pg_stat_activity where datname = current_database() "
        "and query ilike 'listen %' and pid <> pg_backend_pid()",
    )  # fmt: skip


async def test_cancelled_while_it_connects_it_leaves_no_session(
    postgres_url, postgres_engine, wire_proxy
):
    proxy = await wire_proxy(postgres_url)
    db = await postgres_engine(proxy.url)

    async def listen():
        async with db.listen("a"):
            pytest.fail("it was entered")

    for text in (b"user", b"LISTEN"):
        task = asyncio.create_task(listen())
        await proxy.seen(text)
        proxy.hole("down")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        proxy.heal()
    # That no session is left open is seen to at the test's end.


async def test_a_block_ends_while_the_server_is_away(private_postgres, postgres_engine):
    db = await postgres_engine(private_postgres.url)
    async with db.listen("a") as notifications:
        await private_postgres.kill()
        waiting = asyncio.create_task(anext(notifications))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert not db._listening


async def test_it_listens_again_when_the_server_is_back(private_postgres, postgres_engine):
    db = await postgres_engine(private_postgres.url)
    async with db.listen("a") as notifications:
        await private_postgres.kill()
        await private_postgres.start()
        assert (await anext(notifications)).is_gap
        await db.notify("a", "back")
        assert (await anext(notifications)).payload == "back"


async def test_closing_the_engine_tells_those_who_read(postgres_engine):
    db = await postgres_engine()
    async with db.listen("a") as notifications:
        waiting = asyncio.create_task(anext(notifications))
        await asyncio.sleep(0)
        await db.close()
        with pytest.raises(PoolClosedError, match="closed"):
            await waiting


async def test_a_reason_that_will_not_pass_ends_the_reading(private_postgres, postgres_engine):
    url = private_postgres.auth_url
    db, boss = await postgres_engine(url), await postgres_engine(private_postgres.url)
    async with db.listen("a") as notifications:
        (pid,) = await listeners(db)
        await boss.execute("alter role app password 'another'")
        await terminate(boss, pid)
        with pytest.raises(CannotConnectError, match="password"):
            await anext(notifications)


async def test_an_engine_that_was_not_opened_opens_itself(postgres_url):
    from aiodbkit import create_engine

    db = create_engine(postgres_url)
    try:
        async with db.listen("a") as notifications:
            await db.notify("a")
            assert (await anext(notifications)).channel == "a"
    finally:
        await db.close()


async def test_misuse_is_told(db, postgres_engine):
    with pytest.raises(ConfigurationError, match="needs a channel"):
        db.listen()
    for bad in ("", 7, "x" * 64, "é" * 32, "\0", "\ud800"):
        with pytest.raises(ConfigurationError, match="channel"):
            db.listen(bad)
    with pytest.raises(ConfigurationError, match="buffer_size"):
        db.listen("a", buffer_size=0)
    with pytest.raises(ConfigurationError, match="heartbeat"):
        db.listen("a", heartbeat=0)
    notifications = db.listen("a")
    with pytest.raises(InterfaceError, match="is a block"):
        await anext(notifications)
    async with notifications:
        with pytest.raises(InterfaceError, match="entered before"):
            await notifications.__aenter__()
    with pytest.raises(InterfaceError, match="block has ended"):
        await anext(notifications)


async def test_cancelled_at_any_step_no_session_is_left(db):
    async def listen():
        async with db.listen("a") as notifications:
            await anext(notifications)

    for steps in range(0, 60, 2):
        task = asyncio.create_task(listen())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert not db._listening
    # That no session is left open is seen to at the test's end.
