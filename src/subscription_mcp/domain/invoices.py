"""Invoices: everything an account was charged, worked out from the history of its subscription, the versions of the
plans and what was counted beyond limits.

Nothing here is a job's doing: a renewal is an instant that has passed. What was closed is taken as it was closed, and
what is counted or taken back afterwards is on the invoice that comes next.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.instants import DAY, Instant, to_datetime
from subscription_mcp.domain.money import prorate, round_to_minor
from subscription_mcp.domain.subscriptions import Line, Subscription, currency_of, lines_of, periods_in
from subscription_mcp.domain.windows import Anchor, BillingPeriod, Period

Kind = Literal["base", "seats", "proration", "overage", "credit"]
InvoiceStatus = Literal["open", "closed", "paid"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a change was agreed to cost at its instant, line by line; there are no lines where it cost nothing."""

    currency: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A state a command left a subscription in. `charge` is None where nobody agreed to a price: a status that was
    set, a plan that a token named."""

    id: str
    at: Instant
    action: str
    subscription: Subscription
    charge: Charge | None = None


@dataclass(frozen=True, slots=True)
class OverageCount:
    """What was used of a meter beyond its limit in the billing period that is counted from `start`, and what that
    costs before rounding."""

    start: Instant
    meter: str
    units: int
    micros: int


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One amount of an invoice, rounded to the currency's minor unit: so many `quantity` at `unit_micros`, for the
    time from `start` to `end`. What is given back or used up of a credit is negative. An overage is `counted_from` the
    start of its billing period."""

    kind: Kind
    micros: int
    plan: str = ""
    quantity: int = 1
    unit_micros: int | None = None
    start: Instant = 0
    end: Instant = 0
    of: str = "plan"
    """The plan or its seats, or the meter of an overage; of a credit whether it is `kept` or `used`."""
    counted_from: Instant = 0


@dataclass(frozen=True, slots=True)
class Invoice:
    """What was charged at one instant, in a billing period or at its start. Its total is the exact sum of its lines and
    never negative: what is beyond nothing is kept as credit."""

    number: str
    issued_at: Instant
    period: Period
    currency: str
    lines: tuple[InvoiceLine, ...]
    closed_at: Instant | None = None
    paid_at: Instant | None = None
    reference: str | None = None

    @property
    def total_micros(self) -> int:
        return sum(line.micros for line in self.lines)

    @property
    def status(self) -> InvoiceStatus:
        if self.closed_at is None:
            return "open"
        return "paid" if self.paid_at is not None or self.total_micros == 0 else "closed"

    @property
    def is_owed(self) -> bool:
        return self.status == "closed"


@dataclass(frozen=True, slots=True)
class Billing:
    """What invoices are made from: the history of an account in its order, what was counted beyond limits, and what
    was closed. Where it is `settled_until` an instant, every invoice from before is among those that were closed, and
    the history begins with the row that held then."""

    rows: Sequence[HistoryRow] = ()
    overages: Sequence[OverageCount] = ()
    closed: Sequence[Invoice] = ()
    settled_until: Instant | None = None

    @property
    def versions(self) -> set[tuple[str, int]]:
        """The versions of plans that were held or will be."""
        held = {(row.subscription.plan, row.subscription.version) for row in self.rows}
        scheduled = (row.subscription.scheduled for row in self.rows)
        return held | {(one.plan, one.version or 0) for one in scheduled if one is not None and one.plan}


@dataclass(frozen=True, slots=True)
class Statement:
    """Every invoice in its order, what the next renewal will charge so far, and the credit that is left, by
    currency."""

    invoices: list[Invoice]
    upcoming: Invoice | None
    credit_micros: Mapping[str, int]

    @property
    def open(self) -> list[Invoice]:
        return [invoice for invoice in self.invoices if invoice.status == "open"]

    @property
    def owed(self) -> list[Invoice]:
        return [invoice for invoice in self.invoices if invoice.is_owed]


@dataclass(slots=True)
class _Slot:
    """An instant at which something may be charged: a change, or the start of a billing period. The billing periods
    counted from `ended` ended with it."""

    at: Instant
    period: Period
    currency: str
    lines: list[InvoiceLine]
    ended: list[Instant] = field(default_factory=list)
    is_upcoming: bool = False
    number: str = ""


def settled_until(closed: Sequence[Invoice]) -> Instant | None:
    """Before when nothing has to be worked out, because all of it was closed: the beginning of the day of the last
    invoice that was, for they are numbered by the day."""
    last = max((invoice.issued_at for invoice in closed), default=None)
    return None if last is None else last - last % DAY


def takes_the_place_of(row: HistoryRow, last: HistoryRow) -> bool:
    """Whether nobody has to know of the `last` row any more when `row` follows it: both only say what is scheduled, and
    nothing came due between them. Who cancels and resumes all day leaves one row, not thousands."""
    if not (_only_schedules(row) and _only_schedules(last)):
        return False
    is_due_at = _next_boundary(last.subscription, last.at)
    is_alike = replace(row.subscription, scheduled=last.subscription.scheduled) == last.subscription
    return is_alike and row.at < is_due_at


def _only_schedules(row: HistoryRow) -> bool:
    return row.charge is not None and not row.charge.lines


def statement_of(billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant) -> Statement:
    """The invoices as they are at an instant: those that were closed as they were closed, the others as they would
    be."""
    closed = {invoice.number: invoice for invoice in billing.closed}
    return _statement(billing, plans, now, closed, again=False)


def worked_out_again(
    billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant
) -> Mapping[str, Invoice]:
    """What the history says each invoice must be, by number; of one that was closed, only what was counted beyond
    limits is taken as it was."""
    closed = {invoice.number: invoice for invoice in billing.closed}
    statement = _statement(billing, plans, now, closed, again=True)
    return {invoice.number: invoice for invoice in statement.invoices}


def looked_at_next(
    subscription: Subscription, plans: Mapping[tuple[str, int], Plan], now: Instant
) -> Instant | None:
    """When something may next be charged by itself: with the end of the billing period, or with what is scheduled.
    None where nothing will be."""
    current = subscription.at(now)
    plan = plans[(current.plan, current.version)]
    if current.ended_as is not None or current.is_trial or not plan.may_charge:
        return None
    return _next_boundary(current, now)


def charge_differs(
    before: Subscription | None, after: HistoryRow, plans: Mapping[tuple[str, int], Plan]
) -> bool:
    """Whether a line of what a change was agreed to cost is not what plan, seats and time make it."""
    charge = after.charge
    if charge is None:
        return False
    stood = before.at(after.at) if before is not None else after.subscription
    for line in charge.lines:
        whose = stood if line.what == "credit" else after.subscription
        plan = plans[(whose.plan, whose.version)]
        units = [one.unit_micros for one in lines_of(plan, whose.interval, whose.seats) or ()]
        if line.what == "credit" and whose.paid_micros is not None:
            units.append(whose.paid_micros)
        # Billing periods that begin with the change began, when it was shown, a little earlier.
        is_within = whose is stood or whose.shown_anchor == stood.shown_anchor
        anchor = whose.shown_anchor if is_within else Anchor(line.start, whose.interval)
        share = periods_in(line.start, line.end, anchor)
        whole = line.quantity * line.unit_micros * (-1 if line.what == "credit" else 1)
        amount = prorate(whole, share.numerator, share.denominator, charge.currency)
        if line.plan != plan.key or line.unit_micros not in units or line.micros != amount:
            return True
    return False


def _statement(
    billing: Billing,
    plans: Mapping[tuple[str, int], Plan],
    now: Instant,
    closed: Mapping[str, Invoice],
    *,
    again: bool,
) -> Statement:
    slots = _slots(billing, plans, now)
    due = _due_slots(billing.overages, slots)
    billed: Counter[tuple[Instant, str]] = Counter()
    billed_units: Counter[tuple[Instant, str]] = Counter()
    credit: Counter[str] = Counter()
    invoices: list[Invoice] = []
    upcoming: Invoice | None = None
    for invoice in billing.closed:
        if billing.settled_until is not None and invoice.issued_at < billing.settled_until:
            invoices.append(invoice)
            credit[invoice.currency] += _credit_of(invoice)
            for line in invoice.lines:
                if line.kind == "overage":
                    billed[(line.counted_from, line.of)] += line.micros
                    billed_units[(line.counted_from, line.of)] += line.quantity
    open_from = max((i for i, slot in enumerate(slots) if slot.number in closed), default=-1)
    for index, slot in enumerate(slots):
        stored = closed.get(slot.number)
        if stored is not None:
            overage = [line for line in stored.lines if line.kind == "overage"]
        elif index < open_from:
            overage = []  # what was closed after it has taken everything that was counted by then
        else:
            overage = list(_overage_lines(billing.overages, due, index, slot, billed, billed_units))
        for line in overage:
            billed[(line.counted_from, line.of)] += line.micros
            billed_units[(line.counted_from, line.of)] += line.quantity
        lines = [*slot.lines, *overage]
        lines += _credit_lines(sum(line.micros for line in lines), credit[slot.currency])
        invoice = Invoice(slot.number, slot.at, slot.period, slot.currency, tuple(lines))
        if stored is not None:
            invoice = (
                replace(invoice, closed_at=stored.closed_at, paid_at=stored.paid_at) if again else stored
            )
        if slot.is_upcoming:
            upcoming = invoice if invoice.lines else None
            continue
        credit[invoice.currency] += _credit_of(invoice)
        if invoice.lines:
            invoices.append(invoice)
    return Statement(invoices, upcoming, {currency: micros for currency, micros in credit.items() if micros})


def _credit_of(invoice: Invoice) -> int:
    """What an invoice adds to the credit that is left."""
    return sum(line.micros for line in invoice.lines if line.kind == "credit")


def _slots(billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant) -> list[_Slot]:
    """Every instant at which something may have been charged since all was settled, in order, and the next one."""
    rows, settled = billing.rows, billing.settled_until
    slots: list[_Slot] = []
    before: Subscription | None = None
    anchor, period = None, Period(0, 0)
    for row, following in zip_longest(rows, rows[1:]):
        at, until = row.at, now if following is None else following.at
        current = row.subscription.at(at)
        if settled is not None and at < settled:
            at = settled - 1
            current = row.subscription.at(at)
        elif (slot := _slot_of_change(row, before, current, plans)) is not None:
            slots.append(slot)
        # Calendars are slow, and many changes lie in one billing period.
        if current.shown_anchor != anchor or not period.holds(at):
            anchor, period = current.shown_anchor, current.period_at(at)
        ends_at = period.end
        while True:
            renews_at = _next_boundary(current, at, ends_at)
            is_upcoming = following is None and renews_at > until
            if renews_at > until and not is_upcoming:
                break
            then = current.at(renews_at)
            slot = _slot_of_renewal(renews_at, current, then, plans)
            slot.is_upcoming = is_upcoming
            slots.append(slot)
            if is_upcoming:
                break
            current, at, ends_at = then, renews_at, None
        before = current
    _number(slots, billing)
    return slots


def _next_boundary(current: Subscription, at: Instant, ends_at: Instant | None = None) -> Instant:
    """When its billing period, where it is known that it `ends_at`, ends or what is scheduled begins, whichever comes
    first. Where it has ended its months go on, for what is counted late."""
    if current.ended_as is not None:
        current, ends_at = replace(current, interval="monthly"), None
    end = current.period_at(at).end if ends_at is None else ends_at
    assert end is not None
    return end if current.scheduled is None else min(end, current.scheduled.at)


def _counted_from(subscription: Subscription, at: Instant) -> Instant:
    """The start of the billing period in which usage is counted at an instant."""
    return BillingPeriod().period_at(at, subscription.billing_anchor).start


def _slot_of_change(
    row: HistoryRow,
    before: Subscription | None,
    after: Subscription,
    plans: Mapping[tuple[str, int], Plan],
) -> _Slot | None:
    """What a change charged, and which billing period it ended; None where it did neither, as most do."""
    is_charged = row.charge is not None and any(line.micros for line in row.charge.lines)
    ended = [] if before is None or before.ended_as is not None else _ended_by(before, after, row.at)
    if not is_charged and not ended:
        return None
    plan = plans[(after.plan, after.version)]
    period = after.period_at(row.at)
    if after.prepaid_until is not None:
        period = Period(row.at, after.prepaid_until)
    if row.charge is None:
        return _Slot(row.at, period, currency_of(plan), [], ended)
    lines = [_line_of_change(line, after) for line in row.charge.lines if line.micros]
    return _Slot(row.at, period, row.charge.currency, lines, ended)


def _ended_by(before: Subscription, after: Subscription, at: Instant) -> list[Instant]:
    """The start of the billing period, as usage is counted, that a change ended."""
    if after.ended_as is None and after.billing_anchor == before.billing_anchor:
        return []  # without a calendar: most changes leave the periods as they are
    counted = _counted_from(before, at)
    return [counted] if after.ended_as is not None or counted != _counted_from(after, at) else []


def _line_of_change(line: Line, after: Subscription) -> InvoiceLine:
    is_whole = line.micros == line.quantity * line.unit_micros or after.prepaid_until is not None
    kind: Kind = "proration" if line.what == "credit" or not is_whole else "base"
    if kind == "base" and line.what == "seats":
        kind = "seats"
    return InvoiceLine(
        kind, line.micros, line.plan, line.quantity, line.unit_micros, line.start, line.end, line.of
    )


def _slot_of_renewal(
    at: Instant,
    before: Subscription,
    then: Subscription,
    plans: Mapping[tuple[str, int], Plan],
) -> _Slot:
    """The start of a billing period, or the end of everything. What a token names is charged by its issuer."""
    plan = plans[(then.plan, then.version)]
    period, currency = then.period_at(at), currency_of(plan)
    if before.ended_as is not None:
        return _Slot(at, period, currency, [])
    counted = _counted_from(before, at - 1)
    goes_on = then.ended_as is None and _counted_from(then, at) == counted
    ended = [] if goes_on else [counted]
    begins = period.start == at and then.ended_as is None and then.prepaid_until is None
    if not begins or then.is_trial or not then.is_sold_here or then.standstill_at(at) is not None:
        return _Slot(at, period, currency, [], ended)
    assert period.end is not None
    lines = [
        InvoiceLine(
            "seats" if line.what == "seats" else "base",
            round_to_minor(line.micros, currency),
            line.plan,
            line.quantity,
            line.unit_micros,
            at,
            period.end,
            line.of,
        )
        for line in lines_of(plan, then.interval, then.seats) or ()
        if line.micros
    ]
    return _Slot(at, period, currency, lines, ended)


def _number(slots: Sequence[_Slot], billing: Billing) -> None:
    """Number the invoices of an account by day: of the history alone, so that no later count changes a number. One that
    can only hold what was used beyond limits has a number of its own kind."""
    prefix = billing.rows[0].id[-12:].upper() if billing.rows else ""
    if billing.settled_until is not None:  # then the first row of all is not among these
        prefix = billing.closed[0].number.partition("-")[0]
    taken: Counter[str] = Counter()
    for slot in slots:
        if slot.is_upcoming:
            continue
        day = f"{prefix}-{to_datetime(slot.at):%Y%m%d}-{'' if slot.lines else 'U'}"
        taken[day] += 1
        slot.number = f"{day}{taken[day]}"


def _due_slots(overages: Sequence[OverageCount], slots: Sequence[_Slot]) -> dict[Instant, int]:
    """From which slot on what was counted from an instant may be charged: the one its billing period ended with."""
    ended = {start: index for index, slot in enumerate(slots) for start in slot.ended}
    due = {}
    for start in {overage.start for overage in overages}:
        found = ended.get(start)
        if found is None:  # counted by an anchor that came later: a late event in an earlier period
            found = next((index for index, slot in enumerate(slots) if slot.at > start), len(slots))
        due[start] = found
    return due


def _overage_lines(
    overages: Sequence[OverageCount],
    due: Mapping[Instant, int],
    index: int,
    slot: _Slot,
    billed: Mapping[tuple[Instant, str], int],
    billed_units: Mapping[tuple[Instant, str], int],
) -> Iterator[InvoiceLine]:
    """What was used beyond limits and is not charged yet. Each count is rounded once, however often more came to it."""
    for overage in overages:
        if due[overage.start] > index:
            continue
        key = (overage.start, overage.meter)
        micros = round_to_minor(overage.micros, slot.currency) - billed[key]
        units = overage.units - billed_units[key]
        if micros:
            exact = overage.units and overage.micros % overage.units == 0
            yield InvoiceLine(
                "overage",
                micros,
                quantity=units,
                unit_micros=overage.micros // overage.units if exact else None,
                start=overage.start,
                end=slot.at,
                of=overage.meter,
                counted_from=overage.start,
            )


def _credit_lines(total_micros: int, credit_micros: int) -> list[InvoiceLine]:
    """What is beyond nothing is kept; of what was kept so much is used as there is to pay."""
    if total_micros < 0:
        return [InvoiceLine("credit", -total_micros, of="kept")]
    used = min(total_micros, credit_micros)
    return [InvoiceLine("credit", -used, of="used")] if used > 0 else []
