"""Closing invoices that are due and having them paid: a loop in the server, any number of them at once."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from subscription_mcp.billing.port import Declined, Provider
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.operations.billing import Collection

log = logging.getLogger(__name__)

START_AFTER_SECONDS = 0.5
TURN_EVERY_SECONDS = 2.0
ACCOUNTS_A_TURN = 50


class Collector:
    """Nothing depends on it but that money comes in: an invoice reads the same before it was closed."""

    def __init__(self, collection: Collection, provider: Provider) -> None:
        self._collection = collection
        self._provider = provider

    async def turn(self) -> bool:
        """Close and collect for the accounts that wait longest; whether there may be more. Raises Refusal."""
        accounts = await self._collection.due(ACCOUNTS_A_TURN)
        for account, to_pay in await self._collection.close(accounts):
            customer = await self._provider.customer(account)
            for invoice in to_pay:
                result = await self._provider.pay(customer, invoice)
                if isinstance(result, Declined):
                    await self._collection.failed(account, invoice, self._provider.name, result.reason)
                    break  # what is owed is asked for again when the payment is received
                await self._collection.paid(account, invoice, self._provider.name, result.reference)
        return len(accounts) == ACCOUNTS_A_TURN

    async def run(self) -> None:
        """Turn after turn, until it is cancelled."""
        await asyncio.sleep(START_AFTER_SECONDS)
        while True:
            is_more = False
            try:
                is_more = await self.turn()
            except Refusal as refusal:
                log.warning("no invoices were closed: %s", refusal.message)
            except Exception:
                log.exception("invoices could not be closed or paid")
            await asyncio.sleep(0 if is_more else TURN_EVERY_SECONDS)


@asynccontextmanager
async def collecting(collection: Collection, provider: Provider) -> AsyncIterator[None]:
    """Collect for as long as the context is open."""
    task = asyncio.create_task(Collector(collection, provider).run(), name="invoices")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
