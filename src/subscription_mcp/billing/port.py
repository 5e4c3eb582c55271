"""What a payment provider must do. It decides nothing about plans: the ledger says what is owed, the provider collects
it, and says what became of that."""

from dataclasses import dataclass
from typing import Protocol

from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.subscriptions import AccountKey


@dataclass(frozen=True, slots=True)
class Paid:
    """The provider has the money; `reference` is what it calls the payment."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """There was no payment; `reason` is for the audit trail."""

    reason: str


class Provider(Protocol):
    """One payment provider. Every method may be called again with the same arguments, and by several processes at
    once, and does its work once: what is named stays the same."""

    name: str

    async def customer(self, account: AccountKey) -> str:
        """Whom the provider charges for an account; made where there is none yet."""

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        """Collect the total of a closed invoice. Its number is the key by which it is collected once."""
