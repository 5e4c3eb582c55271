"""Invoices: what an account was charged and will be, and closing and paying them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subscription_mcp.domain.catalog import Money
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.domain.invoices import Invoice, Statement
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    Actor,
    CloseInvoices,
    InvoicePaid,
    InvoicesClosed,
    PayInvoice,
    SetStatus,
    Subject,
)
from subscription_mcp.ledger.queries import AccountsToBill, StatementOf
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target
from subscription_mcp.operations.cursors import cursor_of, position_of

INVOICES_A_PAGE = 12


@dataclass(frozen=True, slots=True)
class BillingRequest:
    """Which invoices a page is asked for: those of a year or month (`2026`, `2026-11`, by the day they were issued,
    in UTC), newest first."""

    period: str | None = None
    cursor: str | None = None


@dataclass(slots=True)
class BillingAnswer:
    """A page of invoices; what the next renewal will charge so far; the credit that is left. `titles` is what the plans
    are called."""

    account: str
    account_kind: AccountKind
    invoices: list[Invoice]
    next_cursor: str | None
    upcoming: Invoice | None
    credit: list[Money]
    titles: Mapping[str, str]
    as_of: Instant
    period: str | None = None
    """The year or month that was asked for."""


class Invoices:
    """Reading invoices."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def history(self, caller: Caller, target: Target, request: BillingRequest) -> BillingAnswer:
        """One page of an account's invoices. Raises Refusal."""
        granted = await self._access.grant("get_billing_history", caller, target)
        standing = (await self._access.account_of(granted)).standing
        account = AccountKey(standing.tenant, standing.account_kind, standing.account)
        before = position_of(request.cursor, *account, request.period)
        now = self._ledger.now()
        statement: Statement
        titles: Mapping[str, str]
        statement, titles = await self._ledger.query(StatementOf(account, now))
        # A place counts the invoices before it: more come, none goes.
        places = [
            place
            for place, invoice in enumerate(statement.invoices)
            if (before is None or place < before) and _is_in(invoice, request.period)
        ][::-1]
        shown = places[:INVOICES_A_PAGE]
        return BillingAnswer(
            account.account,
            account.account_kind,
            [statement.invoices[place] for place in shown],
            cursor_of(shown[-1], *account, request.period) if len(places) > len(shown) else None,
            statement.upcoming,
            [Money(micros, currency) for currency, micros in sorted(statement.credit_micros.items())],
            titles,
            now,
            request.period,
        )


class Collection:
    """Closing invoices that are due and noting what became of their payment: what a provider's loop does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def due(self, size: int) -> list[AccountKey]:
        """Accounts with something to be closed or paid. Raises Refusal."""
        found: list[AccountKey] = await self._ledger.query(AccountsToBill(self._ledger.now(), size))
        return found

    async def close(self, accounts: Sequence[AccountKey]) -> list[tuple[AccountKey, list[Invoice]]]:
        """Close what is due, and say what is to be paid. Raises Refusal."""
        outcomes = await self._ledger.submit([CloseInvoices(account) for account in accounts])
        to_pay = []
        for account, outcome in zip(accounts, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                raise outcome
            assert isinstance(outcome, InvoicesClosed)
            to_pay.append((account, outcome.to_pay))
        return to_pay

    async def paid(self, account: AccountKey, invoice: Invoice, provider: str, reference: str) -> None:
        """Note a payment. Raises Refusal."""
        await self._ledger.do(PayInvoice(account, invoice.number, provider, reference), InvoicePaid)

    async def failed(self, account: AccountKey, invoice: Invoice, provider: str, reason: str) -> bool:
        """Have an account be past due, because a payment failed; whether it is by this. Raises Refusal."""
        subject = Subject(account.tenant, None, account.account, account.account_kind)
        why = f"invoice {invoice.number}: {reason}"
        outcome = await self._ledger.submit_one(
            SetStatus(subject, Actor(provider, "billing"), "payment_failed", why)
        )
        # Somebody else may have said so, or the subscription may have ended.
        if isinstance(outcome, Refusal) and outcome.code != "conflict":
            raise outcome
        return not isinstance(outcome, Refusal)


def _is_in(invoice: Invoice, period: str | None) -> bool:
    return period is None or format_instant(invoice.issued_at).startswith(period)
