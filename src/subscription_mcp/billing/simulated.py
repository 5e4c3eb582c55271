"""A provider that collects nothing and says it did: for trying things out, and for who bills elsewhere."""

from hashlib import blake2b

from subscription_mcp.billing.port import Declined, Paid
from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.subscriptions import AccountKey


class SimulatedProvider:
    """Every payment succeeds at once. That one has failed, an operator says with `manage_accounts` payment_failed."""

    name = "simulated"

    async def customer(self, account: AccountKey) -> str:
        return f"sim_cus_{blake2b(':'.join(account).encode(), digest_size=8).hexdigest()}"

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        return Paid(f"sim_pay_{invoice.number}")
