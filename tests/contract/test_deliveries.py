"""Messages to a webhook as the ledger keeps them: who has taken which for how long."""

import sqlite3
from contextlib import closing

import pytest
from tests.builders import Clock, a_record
from tests.contract.test_engine import SqliteStore

from subscription_mcp.domain.instants import SECOND
from subscription_mcp.domain.webhooks import ATTEMPTS_MAX
from subscription_mcp.ledger.commands import (
    Deliveries,
    LeaseDeliveries,
    QueueTestMessage,
    ResendDeliveries,
    SettleDelivery,
)
from subscription_mcp.ledger.queries import DeliveryPage
from subscription_mcp.ledger.sqlite import alerts as sqlite_alerts


async def test_what_waits_its_turn_is_taken_for_as_long_as_that_may_last(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        ids = []
        for number in range(5):
            queued = await ledger.submit_one(QueueTestMessage(f"lease{number}", 10))
            assert isinstance(queued, Deliveries)
            ids += [one.id for one in queued.deliveries]
        taken = await ledger.submit_one(ResendDeliveries("again", 10, tuple(ids), at_once=2))
        assert isinstance(taken, Deliveries)
        assert [(one.next_attempt_at - clock.now) // SECOND for one in taken.deliveries] == [
            10,
            10,
            20,
            20,
            30,
        ]
        assert [one.lease for one in taken.deliveries] == ["again"] * 5


async def test_a_message_of_whose_last_attempt_nothing_comes_back_is_dead(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(QueueTestMessage("lost", 10))
        for attempt in range(2, ATTEMPTS_MAX + 1):  # whoever takes it dies each time
            clock.advance(seconds=10)
            taken = await ledger.submit_one(LeaseDeliveries("lost", 10, 8))
            assert isinstance(taken, Deliveries)
            assert [one.attempts for one in taken.deliveries] == [attempt]
        clock.advance(seconds=10)
        assert await ledger.submit_one(LeaseDeliveries("lost", 10, 8)) == Deliveries([])
        (dead,) = await ledger.query(DeliveryPage(9))
        assert (dead.state, dead.last_error, dead.ended_at) == ("dead", "interrupted", clock.now)


async def test_all_that_are_dead_are_taken_a_bounded_number_at_a_time(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_alerts, "RESENT_MAX", 2)
    async with store.open() as ledger:
        for number in range(3):
            await ledger.submit_one(QueueTestMessage(f"lease{number}", 10))
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute("UPDATE delivery SET state = 'dead', ended_at = created_at")
            connection.commit()
        taken = [await ledger.submit_one(ResendDeliveries("again", 10, None, at_once=2)) for _ in range(3)]
        assert [len(one.deliveries) for one in taken if isinstance(one, Deliveries)] == [2, 1, 0]


@pytest.mark.parametrize(("tried", "goes"), [(0, True), (3, True), (3, False)])
async def test_what_waits_and_nobody_tries_any_more_goes(store: SqliteStore, tried: int, goes: bool) -> None:
    """A server tried for a while, and no server knows an address any more; or one still tries."""
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=40))
        for _ in range(tried):
            taken = await ledger.submit_one(LeaseDeliveries("mine", 10, 8))
            assert isinstance(taken, Deliveries)
            for one in taken.deliveries:
                await ledger.submit_one(SettleDelivery(one.id, "mine", "unreachable", 500))
            clock.advance(minutes=5)
        clock.advance(days=6 if goes else 8, hours=0 if goes else 1)
        if not goes:
            await ledger.submit_one(LeaseDeliveries("mine", 3_600, 8))
        for _ in range(4):
            await ledger.submit_one(a_record("eve"))
        assert store.rows()["delivery"] == 1
        clock.advance(days=1 if goes else 0, minutes=30)
        for _ in range(6):
            await ledger.submit_one(a_record("eve"))
        assert store.rows()["delivery"] == (0 if goes else 1)
