"""Invoices in words and as documents: every line says by itself what was charged, for how many, for when."""

from typing import Any

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.invoices import Invoice, InvoiceLine
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.wording import clock_time, counted, meter_words
from subscription_mcp.operations.billing import BillingAnswer
from subscription_mcp.tools import documents

Document = dict[str, Any]


def history_document(answer: BillingAnswer, catalog: Catalog) -> Document:
    upcoming = answer.upcoming
    return {
        "account_id": answer.account,
        "account_kind": answer.account_kind,
        "invoices": [_invoice(invoice, answer, catalog) for invoice in answer.invoices],
        "next_cursor": answer.next_cursor,
        "upcoming": None if upcoming is None else _invoice(upcoming, answer, catalog),
        "credit": [documents.amount(money) for money in answer.credit],
        "as_of": format_instant(answer.as_of),
    }


def history_text(answer: BillingAnswer, catalog: Catalog) -> str:
    lines = []
    for invoice in answer.invoices:
        issued = clock_time(invoice.issued_at, "UTC")
        lines.append(f"Invoice {invoice.number} of {issued}: {_total(invoice)}, {_status(invoice)}")
        lines += _line_texts(invoice, answer, catalog)
    if not lines:
        lines.append("No invoices." if answer.period is None else f"No invoices in {answer.period}.")
    if answer.next_cursor is not None:
        lines.append(f"Older invoices with cursor {answer.next_cursor}")
    lines += [
        f"Credit left for the next invoices: {_amount(money.micros, money.currency)}"
        for money in answer.credit
    ]
    upcoming = answer.upcoming
    if upcoming is not None:
        lines.append(f"Next invoice, {clock_time(upcoming.issued_at, 'UTC')}: {_total(upcoming)} so far")
        lines += _line_texts(upcoming, answer, catalog)
    return "\n".join(lines)


def _status(invoice: Invoice) -> str:
    if invoice.status == "open":
        return "not closed yet"
    if invoice.status == "closed":
        return "to be paid"
    return f"paid {clock_time(invoice.paid_at, 'UTC')}" if invoice.paid_at is not None else "nothing to pay"


def _invoice(invoice: Invoice, answer: BillingAnswer, catalog: Catalog) -> Document:
    def at(instant: int | None) -> str | None:
        return None if instant is None else format_instant(instant)

    return {
        "number": invoice.number or None,
        "status": invoice.status,
        "issued_at": at(invoice.issued_at),
        "period": documents.period(invoice.period),
        "currency": invoice.currency,
        "lines": [_line(line, invoice, answer, catalog) for line in invoice.lines],
        "total": format_amount(invoice.total_micros, invoice.currency),
        "closed_at": at(invoice.closed_at),
        "paid_at": at(invoice.paid_at),
    }


def _line(line: InvoiceLine, invoice: Invoice, answer: BillingAnswer, catalog: Catalog) -> Document:
    unit = line.unit_micros
    return {
        "kind": line.kind,
        "description": _sentence(line, invoice.currency, answer, catalog),
        "quantity": line.quantity,
        "unit_price": None if unit is None else format_amount(unit, invoice.currency),
        "amount": format_amount(line.micros, invoice.currency),
    }


def _line_texts(invoice: Invoice, answer: BillingAnswer, catalog: Catalog) -> list[str]:
    return [
        f"  {_amount(line.micros, invoice.currency)}  {_sentence(line, invoice.currency, answer, catalog)}"
        for line in invoice.lines
    ]


def _sentence(line: InvoiceLine, currency: str, answer: BillingAnswer, catalog: Catalog) -> str:
    if line.kind == "credit":
        return "Kept as credit for the next invoices" if line.of == "kept" else "Credit from earlier invoices"
    when = f"{clock_time(line.start, 'UTC')} to {clock_time(line.end, 'UTC')}"
    each = "" if line.unit_micros is None else f" at {_amount(line.unit_micros, currency)}"
    if line.kind == "overage":
        meter = catalog.meters.get(line.of)
        unit = meter.unit if meter is not None else line.of
        words = meter_words(line.of, unit)
        back = "Given back: " if line.micros < 0 else ""
        quantity = counted(abs(line.quantity), unit)
        return f"{back}{words} beyond the limit: {quantity}{each}{' each' if each else ''}, {when}"
    title = answer.titles.get(line.plan, line.plan)
    what = f"{title} plan" if line.of == "plan" else f"{title}, {counted(line.quantity, 'seat')}"
    each += " each" if line.of == "seats" else ""
    if line.kind != "proration":
        return f"{what}{each}, {when}"
    part = f"{when}, part of a billing period{each}"
    return f"{what}, {part}" if line.micros > 0 else f"Given back: {what} not used, {part}"


def _total(invoice: Invoice) -> str:
    return _amount(invoice.total_micros, invoice.currency)


def _amount(micros: int, currency: str) -> str:
    return f"{format_amount(micros, currency)} {currency}"
