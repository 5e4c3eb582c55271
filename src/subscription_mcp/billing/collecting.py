"""Closing invoices that are due and having them paid: a loop in the server, any number of them at once."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from subscription_mcp.billing.port import Declined, Provider
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.operations.billing import Collection

log = logging.getLogger(__name__)

START_AFTER_SECONDS = 0.5
TURN_EVERY_SECONDS = 2.0
ACCOUNTS_A_TURN = 50
ASK_AGAIN_AFTER_SECONDS = 600.0
"""How long an account is left alone whose payment broke, or was declined though it cannot be past due any more."""


class Collector:
    """Nothing depends on it but that money comes in: an invoice reads the same before it was closed."""

    def __init__(
        self, collection: Collection, provider: Provider, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._collection = collection
        self._provider = provider
        self._clock = clock
        self._left_alone_until: dict[AccountKey, float] = {}

    async def turn(self) -> bool:
        """Close and collect for the accounts that wait longest; whether there may be more. Raises Refusal."""
        accounts = await self._collection.due(ACCOUNTS_A_TURN)
        for account, to_pay in await self._collection.close(accounts):
            if to_pay and self._clock() < self._left_alone_until.get(account, 0):
                continue
            self._left_alone_until.pop(account, None)
            if not await self._collect(account, to_pay):
                self._left_alone_until[account] = self._clock() + ASK_AGAIN_AFTER_SECONDS
        is_full = len(accounts) == ACCOUNTS_A_TURN
        return is_full and not self._left_alone_until.keys() >= set(accounts)

    async def _collect(self, account: AccountKey, to_pay: list[Invoice]) -> bool:
        """Have invoices paid; whether nothing is left to ask for by itself. One account's trouble is not another's."""
        try:
            for invoice in to_pay:
                customer = await self._provider.customer(account)
                result = await self._provider.pay(customer, invoice)
                if isinstance(result, Declined):
                    # Past due, it is asked for again when the payment is received.
                    return await self._collection.failed(account, invoice, self._provider.name, result.reason)
                await self._collection.paid(account, invoice, self._provider.name, result.reference)
        except Refusal:
            raise
        except Exception:
            log.exception("an invoice could not be paid; it is asked for again later")
            return False
        return True

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
