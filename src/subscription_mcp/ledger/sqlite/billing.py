"""What invoices are made from, as SQL: the history of subscriptions, invoices that were closed, payments."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any
from uuid import UUID

from subscription_mcp.domain.catalog import OVERAGE, OVERAGE_CHARGE, Plan
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import (
    Billing,
    Charge,
    HistoryRow,
    Invoice,
    InvoiceLine,
    OverageCount,
    Statement,
    settled_until,
    statement_of,
)
from subscription_mcp.domain.subscriptions import AccountKey, Line
from subscription_mcp.domain.windows import BillingPeriod, Period
from subscription_mcp.ledger.machine.facts import KEY_RETENTION, Changes, Payment
from subscription_mcp.ledger.queries import AccountsToBill, StatementOf
from subscription_mcp.ledger.sqlite.plans import read_plan
from subscription_mcp.ledger.sqlite.rows import (
    KINDS,
    SUBSCRIPTION_COLUMNS,
    subscription_of_row,
    subscription_values,
)
from subscription_mcp.ledger.sqlite.tables import Tables
from subscription_mcp.ledger.transfer import encode

_OF_ACCOUNT = "tenant = ? AND account_kind = ? AND account = ?"
Place = tuple[int, int, int]
"""Tenant, kind and account as they are stored."""


def billing_of(tables: Tables, account: AccountKey) -> Billing:
    """All that was ever charged to an account."""
    place = _place_of(tables, account)
    if place is None:
        return Billing([], [], [])
    return Billing(_history(tables, place), _overages(tables, account), _invoices(tables, place))


def unsettled_billing_of(tables: Tables, account: AccountKey) -> Billing:
    """What the invoices of an account that are not closed are worked out from: however many rows there are from before,
    they are not read."""
    place = _place_of(tables, account)
    if place is None:
        return Billing([], [], [])
    closed = _invoices(tables, place)
    since, overages = settled_until(closed), _overages(tables, account)
    return Billing(_history(tables, place, _needed_from(since, overages, closed)), overages, closed, since)


def _needed_from(
    since: Instant | None, overages: Sequence[OverageCount], closed: Sequence[Invoice]
) -> Instant | None:
    """From when on the history must be known: what was never charged yet says only by the plan of its time in which
    currency it is."""
    if since is None:
        return None
    charged = {(line.counted_from, line.of) for invoice in closed for line in invoice.overages}
    return min([since, *(one.start for one in overages if one.micros and one.key not in charged)])


def read_history(tables: Tables, account: AccountKey, now: Instant) -> list[HistoryRow]:
    """What an account held as long ago as something may be told late, and from then on."""
    place = _place_of(tables, account)
    return [] if place is None else _history(tables, place, now - KEY_RETENTION)


def last_row_of(tables: Tables, account: AccountKey) -> HistoryRow | None:
    place = _place_of(tables, account)
    return None if place is None else next(_newest_first(tables, place), None)


def statement_for(tables: Tables, question: StatementOf) -> tuple[Statement, dict[str, str]]:
    """What is to be told of an account's invoices. It is worked out where it is read: an account with a long past must
    not keep everybody waiting on the event loop."""
    billing = unsettled_billing_of(tables, question.account)
    plans = {version: read_plan(tables, version) for version in billing.versions}
    return statement_of(billing, plans, question.now), _titles(tables, billing, plans.values())


def _titles(tables: Tables, billing: Billing, held: Iterable[Plan]) -> dict[str, str]:
    """What the plans on invoices are called: as they are held now, else by their newest version."""
    named = {line.plan for invoice in billing.closed for line in invoice.lines if line.plan}
    titles = {
        plan: title
        for plan in named
        for (title,) in tables.rows(
            "SELECT json_extract(definition, '$.title') FROM plan_version WHERE plan = ? ORDER BY version DESC LIMIT 1",
            (plan,),
        )
    }
    return titles | {plan.key: plan.title for plan in held}


def _history(tables: Tables, place: Place, since: Instant | None = None) -> list[HistoryRow]:
    """The rows of an account in their order; with `since` from the one that held then."""
    rows = []
    for row in _newest_first(tables, place):
        rows.append(row)
        if since is not None and row.at < since:
            break
    return rows[::-1]


def _newest_first(tables: Tables, place: Place) -> Iterator[HistoryRow]:
    for id_, at, action, charge, *held in tables.database.execute(
        f"SELECT id, at, action, charge, {SUBSCRIPTION_COLUMNS} FROM subscription_history"
        f" WHERE {_OF_ACCOUNT} ORDER BY seq DESC",
        place,
    ):
        yield HistoryRow(str(UUID(bytes=id_)), at, action, subscription_of_row(held), _charge_of(charge))


def _overages(tables: Tables, account: AccountKey) -> list[OverageCount]:
    """What was counted beyond limits in each billing period, by start and meter."""
    user = "" if account.account_kind == "group" else account.account
    holder, window = tables.holder((account, user)), tables.word(BillingPeriod.name)
    counted: dict[tuple[Instant, str], dict[str, int]] = {}
    for meter, start, used in tables.rows(
        "SELECT w.text, c.start, c.used FROM word w JOIN counter c ON c.meter = w.id"
        " WHERE w.id IN (SELECT id FROM word WHERE text LIKE '%:overage%') AND c.tenant = ? AND c.window = ?"
        " AND c.holder = ?",
        (tables.word(account.tenant), window, holder),
    ):
        name, _, what = meter.rpartition(":")
        counted.setdefault((start, name), {})[what] = used
    return [
        OverageCount(start, meter, sums.get(OVERAGE, 0), sums.get(OVERAGE_CHARGE, 0))
        for (start, meter), sums in sorted(counted.items())
    ]


def _invoices(tables: Tables, place: Place) -> list[Invoice]:
    rows = tables.rows(
        "SELECT i.number, i.issued_at, i.period_start, i.period_end, i.currency, i.lines, i.closed_at, p.paid_at,"
        " p.reference FROM invoice i LEFT JOIN payment p ON p.tenant = i.tenant AND p.account_kind = i.account_kind"
        " AND p.account = i.account AND p.number = i.number"
        " WHERE i.tenant = ? AND i.account_kind = ? AND i.account = ? ORDER BY i.issued_at, i.number",
        place,
    )
    return [
        Invoice(
            number,
            issued_at,
            Period(start, end),
            currency,
            tuple(InvoiceLine(*line) for line in json.loads(lines)),
            *closed,
        )
        for number, issued_at, start, end, currency, lines, *closed in rows
    ]


def accounts_to_bill(tables: Tables, question: AccountsToBill) -> list[AccountKey]:
    rows = tables.rows(
        "SELECT tenant, account_kind, account FROM billing_due WHERE due_at <= ? ORDER BY due_at LIMIT ?",
        (question.now, question.size),
    )
    return [
        AccountKey(tables.text(tenant), KINDS[kind], tables.text(account)) for tenant, kind, account in rows
    ]


def save_billing(tables: Tables, changes: Changes) -> None:
    """Append what a batch charged, closed and was paid."""
    if changes.history:
        _save_history(tables, changes.history)
    if changes.history_replaced:
        tables.many(
            "DELETE FROM subscription_history WHERE seq = (SELECT seq FROM subscription_history"
            f" WHERE {_OF_ACCOUNT} AND id = ? ORDER BY seq DESC LIMIT 1)",
            [(*_place_made(tables, account), UUID(id_).bytes) for account, id_ in changes.history_replaced],
        )
    if changes.invoices:
        tables.many(
            "INSERT INTO invoice (tenant, account_kind, account, number, issued_at, period_start, period_end,"
            " currency, lines, closed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_invoice_row(tables, account, invoice) for account, invoice in changes.invoices],
        )
    if changes.payments:
        tables.many(
            "INSERT INTO payment (tenant, account_kind, account, number, provider, reference, paid_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [_payment_row(tables, payment) for payment in changes.payments],
        )
    if changes.billing_due:
        _save_due(tables, changes.billing_due)


def _save_history(tables: Tables, history: Sequence[tuple[AccountKey, HistoryRow]]) -> None:
    columns = f"tenant, account_kind, account, {SUBSCRIPTION_COLUMNS}, id, at, action, charge"
    tables.many(
        f"INSERT INTO subscription_history ({columns}) VALUES (?{', ?' * columns.count(',')})",
        [
            (
                *_place_made(tables, account),
                *subscription_values(row.subscription),
                UUID(row.id).bytes,
                row.at,
                row.action,
                None if row.charge is None else encode([row.charge.currency, _lists(row.charge.lines)]),
            )
            for account, row in history
        ],
    )


def _save_due(tables: Tables, due: Mapping[AccountKey, Instant | None]) -> None:
    tables.many(
        f"DELETE FROM billing_due WHERE {_OF_ACCOUNT}",
        [_place_made(tables, account) for account, at in due.items() if at is None],
    )
    tables.many(
        "INSERT OR REPLACE INTO billing_due (tenant, account_kind, account, due_at) VALUES (?, ?, ?, ?)",
        [(*_place_made(tables, account), at) for account, at in due.items() if at is not None],
    )


def _invoice_row(tables: Tables, account: AccountKey, invoice: Invoice) -> tuple[Any, ...]:
    return (
        *_place_made(tables, account),
        invoice.number,
        invoice.issued_at,
        *invoice.period,
        invoice.currency,
        encode(_lists(invoice.lines)),
        invoice.closed_at,
    )


def _payment_row(tables: Tables, payment: Payment) -> tuple[Any, ...]:
    return (*_place_made(tables, payment.account), *payment[1:])


def _place_of(tables: Tables, account: AccountKey) -> Place | None:
    tenant, id_ = tables.word(account.tenant), tables.word(account.account)
    return None if tenant is None or id_ is None else (tenant, KINDS.index(account.account_kind), id_)


def _place_made(tables: Tables, account: AccountKey) -> Place:
    return (
        tables.word_made(account.tenant),
        KINDS.index(account.account_kind),
        tables.word_made(account.account),
    )


def _charge_of(text: str | None) -> Charge | None:
    if text is None:
        return None
    currency, lines = json.loads(text)
    return Charge(currency, tuple(Line(*line) for line in lines))


def _lists(lines: Iterable[Line | InvoiceLine]) -> list[tuple[Any, ...]]:
    return [astuple(line) for line in lines]
