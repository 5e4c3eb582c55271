"""What a payment provider must do. It decides nothing about plans: the ledger says what is owed, the provider collects
it, and says what became of that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.subscriptions import AccountKey, Subscription
from subscription_mcp.domain.windows import Interval


@dataclass(frozen=True, slots=True)
class Paid:
    """The provider has the money; `reference` is what it calls the payment."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """There was no payment; `reason` is for the audit trail."""

    reason: str


@dataclass(frozen=True, slots=True)
class BillingEvent:
    """What a provider says by itself of the payment for an invoice."""

    account: AccountKey
    number: str
    result: Paid | Declined
    at: Instant


class EventRefused(Exception):
    """A delivery that is not the provider's, or that nobody can read. The message is for the log."""


class Provider(Protocol):
    """One payment provider. Every method may be called again with the same arguments, and by several processes at
    once, and does its work once: what is named stays the same."""

    name: str

    async def customer(self, account: AccountKey) -> str:
        """Whom the provider charges for an account; made where there is none yet."""

    async def checkout(
        self, customer: str, price_ids: Mapping[str, str], interval: Interval, seats: int | None
    ) -> str | None:
        """The address where a person enters how they pay; None where nothing has to be entered."""

    async def change(self, customer: str, subscription: Subscription) -> None:
        """Have the subscription at the provider be what it became here."""

    async def cancel(self, customer: str, at: Instant) -> None:
        """End the subscription at the provider at an instant."""

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        """Collect the total of a closed invoice. Its number is the key by which it is collected once."""

    def event(self, body: bytes, headers: Mapping[str, str], *, now: Instant) -> BillingEvent | None:
        """What a delivery to our webhook says; None where it says nothing about invoices. Raises EventRefused."""
