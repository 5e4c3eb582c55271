"""Closing and paying invoices: what was worked out from the history is kept as it is then, and paid once."""

from dataclasses import replace

from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import Billing, Invoice, looked_at_next, statement_of
from subscription_mcp.ledger.commands import (
    CloseInvoices,
    InvoicePaid,
    InvoicesClosed,
    PayInvoice,
    refused,
)
from subscription_mcp.ledger.machine.facts import Payment, Turn


def close_invoices(turn: Turn, command: CloseInvoices) -> InvoicesClosed | None:
    account = command.account
    billing: Billing | None = turn.facts.read("billing", account)
    if billing is None:
        return None
    statement = statement_of(billing, turn.facts.plans, turn.now)
    closed = [replace(invoice, closed_at=turn.now) for invoice in statement.open]
    owed = [*statement.owed, *(invoice for invoice in closed if invoice.is_owed)]
    to_pay = [] if _is_past_due(billing, turn.now) else owed
    if not turn.may_write:
        return None
    turn.changes.invoices += [(account, invoice) for invoice in closed]
    turn.changes.billing_due[account] = turn.now if to_pay else _looked_at_next(turn, billing)
    return InvoicesClosed(len(closed), to_pay)


def pay_invoice(turn: Turn, command: PayInvoice) -> InvoicePaid | None:
    account, now = command.account, turn.now
    billing: Billing | None = turn.facts.read("billing", account)
    if billing is None:
        return None
    found = next((invoice for invoice in billing.closed if invoice.number == command.number), None)
    if found is None:
        raise refused("not_found", "There is no closed invoice of that number.")
    if not found.is_owed:
        return InvoicePaid(found)
    if not turn.may_write:
        return None
    paid = replace(found, paid_at=now, reference=command.reference)
    turn.changes.payments.append(Payment(account, found.number, command.provider, command.reference, now))
    others: list[Invoice] = [one for one in billing.closed if one.is_owed and one.number != found.number]
    turn.changes.billing_due[account] = now if others else _looked_at_next(turn, billing)
    return InvoicePaid(paid)


def _is_past_due(billing: Billing, now: Instant) -> bool:
    """Whether a payment has failed: whoever said so says when it was received."""
    return bool(billing.rows) and billing.rows[-1].subscription.at(now).status_at(now) == "past_due"


def _looked_at_next(turn: Turn, billing: Billing) -> Instant | None:
    if not billing.rows:
        return None
    plans, now = turn.facts.plans, turn.now
    at = looked_at_next(billing.rows[-1].subscription, plans, now)
    if at is not None:
        return at
    upcoming = statement_of(billing, plans, now).upcoming
    return None if upcoming is None else upcoming.issued_at
