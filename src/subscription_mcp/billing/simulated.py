"""A provider that collects nothing and says it did: for trying things out, and for who bills elsewhere."""

from collections.abc import Mapping
from hashlib import blake2b

from subscription_mcp.billing.port import BillingEvent, Declined, EventRefused, Paid
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.subscriptions import AccountKey, Subscription
from subscription_mcp.domain.windows import Interval


class SimulatedProvider:
    """Every payment succeeds at once. That one has failed, an operator says with `manage_accounts` payment_failed."""

    name = "simulated"

    async def customer(self, account: AccountKey) -> str:
        return f"sim_cus_{blake2b(':'.join(account).encode(), digest_size=8).hexdigest()}"

    async def checkout(
        self, customer: str, price_ids: Mapping[str, str], interval: Interval, seats: int | None
    ) -> str | None:
        return None

    async def change(self, customer: str, subscription: Subscription) -> None:
        """Nothing is kept here that could differ."""

    async def cancel(self, customer: str, at: Instant) -> None:
        """Nothing is kept here that could go on."""

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        return Paid(f"sim_pay_{invoice.number}")

    def event(self, body: bytes, headers: Mapping[str, str], *, now: Instant) -> BillingEvent | None:
        raise EventRefused("simulated billing sends no events")
