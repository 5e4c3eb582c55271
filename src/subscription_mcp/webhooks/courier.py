"""The courier: takes messages that are due out of the ledger, sends them, and notes what came of it.

A message is sent at least once, in no promised order. Who takes one has it for a while (its lease); a process that dies
meanwhile leaves it to the next. Nobody waits for a receiver but the message itself.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import (
    RESENT_MAX,
    Deliveries,
    Delivery,
    LeaseDeliveries,
    QueueTestMessage,
    ResendDeliveries,
    SettleDelivery,
)
from subscription_mcp.ledger.queries import DeliveriesDue
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.webhooks.sending import Endpoint, attempt, http_client

log = logging.getLogger(__name__)

AT_ONCE = 8
"""How many messages one process sends at the same time."""
LOOK_EVERY_SECONDS = 0.5
LEASE_BEYOND_TIMEOUT_SECONDS = 5
"""How much longer than an attempt lasts it stays taken, so that what came of it can be noted."""


class Courier:
    """The courier of one process. `dice` makes a number below its argument, `new_lease` a name nobody else has."""

    def __init__(
        self,
        ledger: Ledger,
        endpoint: Endpoint,
        *,
        real_time: Callable[[], Instant],
        dice: Callable[[int], int],
        new_lease: Callable[[], str],
    ) -> None:
        self._ledger = ledger
        self._endpoint = endpoint
        self._real_time = real_time
        self._dice = dice
        self._new_lease = new_lease

    async def run(self) -> None:
        """Send what is due, for ever. What is being sent when this is cancelled is sent again later."""
        sending: set[asyncio.Task[Delivery | None]] = set()
        try:
            while True:
                try:
                    if len(sending) < AT_ONCE and await self._is_any_due():
                        lease, free = self._new_lease(), AT_ONCE - len(sending)
                        for delivery in await self._taken(LeaseDeliveries(lease, self._lease_seconds, free)):
                            task = asyncio.create_task(self._send(delivery, lease), name="webhook")
                            sending.add(task)
                            task.add_done_callback(sending.discard)
                except Refusal as refusal:
                    log.info("messages to the webhook wait: %s", refusal.code)
                except Exception:
                    log.exception("messages to the webhook could not be taken; the next look tries again")
                if len(sending) < AT_ONCE:
                    await asyncio.sleep(LOOK_EVERY_SECONDS)
                else:
                    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def send_again(self, ids: Sequence[str] | None) -> list[Delivery]:
        """Send these now, once each, or (None) all that are dead: as they are afterwards. Raises Refusal."""
        named, sent = None if ids is None else tuple(ids), list[Delivery]()
        while True:
            again = ResendDeliveries(self._new_lease(), self._lease_seconds, named, AT_ONCE)
            sent += (found := await self._sent(again))
            if named is not None or len(found) < RESENT_MAX:
                return sent

    async def send_test(self) -> list[Delivery]:
        """Send a message that means nothing. Raises Refusal."""
        return await self._sent(QueueTestMessage(self._new_lease(), self._lease_seconds))

    async def _sent(self, command: ResendDeliveries | QueueTestMessage) -> list[Delivery]:
        free = asyncio.Semaphore(AT_ONCE)

        async def send(delivery: Delivery) -> Delivery:
            async with free:
                return await self._send(delivery, command.lease) or delivery

        return await asyncio.gather(*[send(delivery) for delivery in await self._taken(command)])

    @property
    def _lease_seconds(self) -> int:
        return self._endpoint.timeout_seconds + LEASE_BEYOND_TIMEOUT_SECONDS

    async def _is_any_due(self) -> bool:
        due, _ = await self._ledger.query(DeliveriesDue(self._ledger.now(), 1))
        return bool(due)

    async def _taken(self, command: LeaseDeliveries | ResendDeliveries | QueueTestMessage) -> list[Delivery]:
        return (await self._ledger.do(command, Deliveries)).deliveries

    async def _send(self, delivery: Delivery, lease: str) -> Delivery | None:
        try:
            async with http_client() as http:
                error = await attempt(http, self._endpoint, delivery.id, delivery.payload, self._real_time())
        except Exception:
            log.exception("message %s to the webhook failed in an unforeseen way", delivery.id)
            error = "internal"
        settled = await self._ledger.submit_one(SettleDelivery(delivery.id, lease, error, self._dice(1000)))
        if not isinstance(settled, Deliveries) or not settled.deliveries:
            # The ledger could not be written, or it took so long that another has it: it is sent again.
            log.warning("message %s to the webhook was sent and may be sent again", delivery.id)
            return None
        after = settled.deliveries[0]
        if error is not None:
            log.warning(
                "message %s (%s) to the webhook failed at attempt %d: %s%s",
                delivery.id,
                delivery.event,
                delivery.attempts,
                error,
                "; nobody tries any more (`subscription-mcp webhook send --dead`)"
                if after.state == "dead"
                else "",
            )
        return after
