"""Messages to a webhook as the ledger keeps them: who has taken which for how long."""

from tests.builders import Clock
from tests.contract.test_engine import SqliteStore

from subscription_mcp.domain.instants import SECOND
from subscription_mcp.ledger.commands import Deliveries, QueueTestMessage, ResendDeliveries


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
