"""Every charge and every closed invoice worked out again from the history and held against what is stored."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.domain.invoices import Billing
from subscription_mcp.domain.invoices_proved import CountedAt, charge_differs, uncharged, worked_out_again
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.subscriptions import AccountKey, Subscription
from subscription_mcp.ledger.sqlite.billing import billing_of
from subscription_mcp.ledger.sqlite.plans import load_plans
from subscription_mcp.ledger.sqlite.rows import KINDS, SUBSCRIPTION_COLUMNS, subscription_of_row
from subscription_mcp.ledger.sqlite.tables import Tables
from subscription_mcp.ledger.sqlite.verify_overage import Overages

ACCOUNTS = (
    "SELECT tenant, account_kind, account FROM subscription UNION SELECT tenant, account_kind, account"
    " FROM subscription_history UNION SELECT tenant, account_kind, account FROM invoice"
    " UNION SELECT tenant, account_kind, account FROM payment"
)


def charges(connection: sqlite3.Connection, now: Instant, overages: Overages) -> Iterator[str]:
    """How what is kept of charges and invoices differs from what the history says."""
    plans = load_plans(connection, {}).plans
    for tenant, kind, account in connection.execute(ACCOUNTS):
        tables = Tables(connection)  # which remembers the texts of one account only
        key = AccountKey(tables.text(tenant), KINDS[kind], tables.text(account))
        billing = billing_of(tables, key)
        row = connection.execute(
            f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE tenant = ? AND account_kind = ? AND account = ?",
            (tenant, kind, account),
        ).fetchone()
        who = f"{key.account_kind} account {key.account} of tenant {key.tenant}"
        holder = _billed_holder(connection, tenant, kind, account)
        counted = {} if holder is None else overages.counted_at(holder)
        if holder is not None:
            yield from overages.sums(who, holder, billing.overages)
        yield from _of_account(
            who, billing, None if row is None else subscription_of_row(row), plans, now, counted
        )
        is_looked_at = connection.execute(
            "SELECT 1 FROM billing_due WHERE tenant = ? AND account_kind = ? AND account = ?",
            (tenant, kind, account),
        ).fetchone()
        if is_looked_at is None:
            for count, micros, currency in uncharged(billing, plans):
                yield (
                    f"Of {count.meter} the {who} used beyond limits from {format_instant(count.start)}, "
                    f"{format_amount(micros, currency)} {currency} is on no invoice, and nobody is to look at the account."
                )
        loose = connection.execute(
            "SELECT number FROM payment WHERE tenant = ?1 AND account_kind = ?2 AND account = ?3 AND number NOT IN"
            " (SELECT number FROM invoice WHERE tenant = ?1 AND account_kind = ?2 AND account = ?3)",
            (tenant, kind, account),
        ).fetchall()
        for (number,) in loose:
            yield f"A payment of the {who} is for invoice {number}, which is not there."


def _billed_holder(connection: sqlite3.Connection, tenant: int, kind: int, account: int) -> int | None:
    """Who stands for the whole account: a personal account is its one user."""
    row = connection.execute(
        "SELECT h.id FROM holder h JOIN word w ON w.id = h.user WHERE h.tenant = ?1 AND h.account_kind = ?2"
        " AND h.account = ?3 AND (CASE ?2 WHEN 0 THEN h.user = ?3 ELSE w.text = '' END)",
        (tenant, kind, account),
    ).fetchone()
    return None if row is None else int(row[0])


def _of_account(
    who: str,
    billing: Billing,
    held: Subscription | None,
    plans: Mapping[tuple[str, int], Plan],
    now: Instant,
    counted: CountedAt,
) -> Iterator[str]:
    last = billing.rows[-1].subscription if billing.rows else None
    # A token that only says the same again leaves no row.
    if held is None or last is None or replace(last, claimed_at=held.claimed_at) != held:
        yield f"The subscription of the {who} is not what its history says."
        return
    before: Subscription | None = None
    for row in billing.rows:
        if charge_differs(before, row, plans):
            yield f"What was charged to the {who} at {format_instant(row.at)} is not what plan and time make it."
        before = row.subscription
    again = worked_out_again(billing, plans, now, counted)
    numbers = {invoice.number for invoice in billing.closed}
    for number in sorted(again.keys() - numbers):
        yield f"Invoice {number} of the {who} is not there, though later ones are closed."
    for invoice in billing.closed:
        said = again.get(invoice.number)
        if said is None:
            yield f"Invoice {invoice.number} of the {who} is of nothing in its history."
        elif (said.issued_at, said.period, said.currency, said.lines) != (
            invoice.issued_at,
            invoice.period,
            invoice.currency,
            invoice.lines,
        ):
            stored = format_amount(invoice.total_micros, invoice.currency)
            wanted = format_amount(said.total_micros, said.currency)
            yield (
                f"Invoice {invoice.number} of the {who} says {stored} {invoice.currency} in "
                f"{len(invoice.lines)} lines; the history says {wanted} {said.currency} in {len(said.lines)}."
            )
