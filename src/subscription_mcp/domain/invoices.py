"""Invoices: everything an account was charged, worked out from the history of its subscription, the versions of the
plans and what was counted beyond limits.

Nothing here is a job's doing: a renewal is an instant that has passed. What was closed is taken as it was closed, and
what is counted or taken back afterwards is on the invoice that comes next.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.instants import DAY, Instant, to_datetime
from subscription_mcp.domain.money import round_to_minor
from subscription_mcp.domain.subscriptions import Line, Subscription, currency_of, lines_of
from subscription_mcp.domain.windows import Anchor, BillingPeriod, Period

Kind = Literal["base", "seats", "proration", "overage", "credit"]
CountKey = tuple[Instant, str]
"""The start of the billing period something was counted in, and the meter."""
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

    @property
    def key(self) -> CountKey:
        return self.start, self.meter


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One amount of an invoice, rounded to the currency's minor unit: so many `quantity` at `unit_micros`, for the
    time from `start` to `end`, of an overage the billing period it was used in. What is given back or used up of a credit
    is negative. An overage is `counted_from` the start of its billing period, as the counters have it."""

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

    @property
    def overages(self) -> list[InvoiceLine]:
        return [line for line in self.lines if line.kind == "overage"]


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
class Slot:
    """An instant at which something may be charged: a change, or the start of a billing period. The billing periods that
    `ended` with it are told by where they are counted from, with where they begin as they are shown."""

    at: Instant
    period: Period
    currency: str
    lines: list[InvoiceLine]
    ended: dict[Instant, Instant] = field(default_factory=dict)
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


@dataclass(slots=True)
class Charged:
    """What was charged beyond limits so far, by what was counted, and the billing period that was said of it."""

    micros: Counter[CountKey] = field(default_factory=Counter)
    units: Counter[CountKey] = field(default_factory=Counter)
    used_in: dict[CountKey, Period] = field(default_factory=dict)

    def add(self, invoices: Iterable[Invoice]) -> None:
        for invoice in invoices:
            for line in invoice.overages:
                self.micros[(line.counted_from, line.of)] += line.micros
                self.units[(line.counted_from, line.of)] += line.quantity
                self.used_in.setdefault((line.counted_from, line.of), Period(line.start, line.end))

    def line_of(self, count: OverageCount, currency: str, used_in: Period) -> InvoiceLine | None:
        """What is not charged yet of a count, which is rounded once, however often more came to it."""
        micros = round_to_minor(count.micros, currency) - self.micros[count.key]
        if micros == 0:
            return None
        exact = count.units and count.micros % count.units == 0
        used_in = self.used_in.get(count.key, used_in)
        assert used_in.end is not None
        return InvoiceLine(
            "overage",
            micros,
            quantity=count.units - self.units[count.key],
            unit_micros=count.micros // count.units if exact else None,
            start=used_in.start,
            end=used_in.end,
            of=count.meter,
            counted_from=count.start,
        )


class Currencies:
    """The currency in which each count is charged: that of the first plan held from the start of its period on that
    had a price for it. The plan of today may be sold in another one."""

    def __init__(self, billing: Billing, plans: Mapping[tuple[str, int], Plan]) -> None:
        self._until: list[Instant] = []
        self._held: list[Plan] = []
        for row, following in zip_longest(billing.rows, billing.rows[1:]):
            held, until = row.subscription, None if following is None else following.at
            scheduled = held.scheduled
            if scheduled is not None and (until is None or scheduled.at < until):
                self._hold(plans, held, scheduled.at)
                held = held.at(scheduled.at)
            self._hold(plans, held, until)
        self._all = {currency_of(plan) for plan in self._held}
        self._closed = {
            (line.counted_from, line.of): invoice.currency
            for invoice in (billing.closed if billing.settled_until is not None else ())
            for line in invoice.overages
        }

    def _hold(self, plans: Mapping[tuple[str, int], Plan], held: Subscription, until: Instant | None) -> None:
        self._held.append(plans[(held.plan, held.version)])
        if until is not None:
            self._until.append(until)

    def of(self, key: CountKey) -> str:
        known = self._closed.get(key)
        if known is not None:
            return known
        if len(self._all) == 1:
            return next(iter(self._all))
        start, meter = key
        since = bisect_right(self._until, start)
        passable = (
            plan
            for plan in self._held[since:]
            if any(limit.overage is not None and limit.meter == meter for limit in plan.limits)
        )
        return currency_of(next(passable, self._held[since]))


class DueSlots:
    """From which slot on what was counted may be charged: the one its billing period ended with, and not while that
    is running."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._instants = [slot.at for slot in slots]
        self._ended: dict[Instant, int] = {}
        for index, slot in enumerate(slots):
            for start in slot.ended:
                self._ended.setdefault(start, index)

    def of(self, start: Instant, running: Instant | None) -> int:
        """The index of the slot; `running` is the start of the period that is."""
        never = len(self._slots)
        if start == running:
            is_next = never > 0 and self._slots[-1].is_upcoming and start in self._slots[-1].ended
            return never - 1 if is_next else never
        # Some are counted by an anchor that came later: late events in an earlier period.
        found = self._ended.get(start)
        return bisect_right(self._instants, start) if found is None else found

    def period_of(self, start: Instant, current: Subscription | None) -> Period:
        """The billing period counted from `start` as it is shown: as it ended or will, else, of what came late, as the
        subscription that was `current` when it came has its periods."""
        found = self._ended.get(start)
        if found is not None:
            return Period(self._slots[found].ended[start], self._instants[found])
        if current is None:
            return BillingPeriod().period_at(start, Anchor(start))
        return current.period_at(start + current.anchor_nudge)


def current_of(rows: Sequence[HistoryRow], at: Instant) -> Subscription | None:
    """The subscription as it is at an instant, by the last of these rows."""
    return rows[-1].subscription.at(at) if rows else None


def running_from(current: Subscription | None, at: Instant) -> Instant | None:
    """The start of the billing period in which usage is counted at an instant."""
    return None if current is None or current.ended_as is not None else _counted_from(current, at)


def slot_number(number: str) -> str:
    """The number of the slot an invoice is of: without the currency, where that is another one."""
    return "-".join(number.split("-")[:3])


def last_closed(slots: Sequence[Slot], closed: Iterable[Invoice]) -> int:
    """The index of the last slot anything was closed of; -1 where nothing was."""
    numbers = {slot_number(invoice.number) for invoice in closed}
    return max((index for index, slot in enumerate(slots) if slot.number in numbers), default=-1)


OverageLines = Mapping[int, Sequence[tuple[str, InvoiceLine]]]
"""What is charged beyond limits at each slot: a currency and a line."""


def _open_overages(
    billing: Billing, plans: Mapping[tuple[str, int], Plan], slots: Sequence[Slot], now: Instant
) -> dict[int, list[tuple[str, InvoiceLine]]]:
    """What is not charged yet. What was closed has taken everything that was counted by then."""
    found: dict[int, list[tuple[str, InvoiceLine]]] = {}
    if not billing.overages:
        return found
    charged, currencies, due = Charged(), Currencies(billing, plans), DueSlots(slots)
    charged.add(billing.closed)
    current = current_of(billing.rows, now)
    running, first = running_from(current, now), last_closed(slots, billing.closed) + 1
    for count in billing.overages:
        index = max(due.of(count.start, running), first)
        if index < len(slots):
            currency = currencies.of(count.key)
            line = charged.line_of(count, currency, due.period_of(count.start, current))
            if line is not None:
                found.setdefault(index, []).append((currency, line))
    return found


def statement_of(billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant) -> Statement:
    """The invoices as they are at an instant: those that were closed as they were closed, the others as they would
    be."""
    slots = slots_of(billing, plans, now)
    invoices: list[Invoice] = []
    credit: Counter[str] = Counter()
    for invoice in billing.closed:
        if billing.settled_until is not None and invoice.issued_at < billing.settled_until:
            invoices.append(invoice)
            credit[invoice.currency] += _credit_of(invoice)
    upcoming: Invoice | None = None
    closed = {invoice.number: invoice for invoice in billing.closed}
    for slot, made in invoices_of(slots, _open_overages(billing, plans, slots, now), closed, credit):
        if not slot.is_upcoming:
            invoices.append(made)
        elif upcoming is None:
            upcoming = made
    return Statement(invoices, upcoming, {currency: micros for currency, micros in credit.items() if micros})


def invoices_of(
    slots: Sequence[Slot], overages: OverageLines, closed: Mapping[str, Invoice], credit: Counter[str]
) -> Iterator[tuple[Slot, Invoice]]:
    """The invoices of slots: those that were `closed` as they were. `credit` is what is left, and goes with them."""
    others: dict[str, list[Invoice]] = {}
    for invoice in closed.values():
        if (number := slot_number(invoice.number)) != invoice.number:
            others.setdefault(number, []).append(invoice)
    for index, slot in enumerate(slots):
        lines: dict[str, list[InvoiceLine]] = {slot.currency: [*slot.lines]}
        for currency, line in overages.get(index, ()):
            lines.setdefault(currency, []).append(line)
        for invoice in others.get(slot.number, ()):
            lines.setdefault(invoice.currency, [])
        for currency, its in sorted(lines.items(), key=lambda one: (one[0] != slot.currency, one[0])):
            number = slot.number if currency == slot.currency else f"{slot.number}-{currency}"
            made = closed.get(number)
            if made is None:
                its += _credit_lines(sum(line.micros for line in its), credit[currency])
                made = Invoice(number, slot.at, slot.period, currency, tuple(its))
            if not slot.is_upcoming:
                credit[currency] += _credit_of(made)
            if made.lines:
                yield slot, made


def _credit_of(invoice: Invoice) -> int:
    """What an invoice adds to the credit that is left."""
    return sum(line.micros for line in invoice.lines if line.kind == "credit")


def slots_of(billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant) -> list[Slot]:
    """Every instant at which something may have been charged since all was settled, in order, and the next one."""
    rows, settled = billing.rows, billing.settled_until
    slots: list[Slot] = []
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
) -> Slot | None:
    """What a change charged, and which billing period it ended; None where it did neither, as most do."""
    is_charged = row.charge is not None and any(line.micros for line in row.charge.lines)
    ended = {} if before is None or before.ended_as is not None else _ended_by(before, after, row.at)
    if not is_charged and not ended:
        return None
    plan = plans[(after.plan, after.version)]
    period = after.period_at(row.at)
    if after.prepaid_until is not None:
        period = Period(row.at, after.prepaid_until)
    if row.charge is None:
        return Slot(row.at, period, currency_of(plan), [], ended)
    lines = [_line_of_change(line, after) for line in row.charge.lines if line.micros]
    return Slot(row.at, period, row.charge.currency, lines, ended)


def _ended_by(before: Subscription, after: Subscription, at: Instant) -> dict[Instant, Instant]:
    """The billing period that a change ended: where it is counted from, and where it begins as it is shown."""
    if after.ended_as is None and after.billing_anchor == before.billing_anchor:
        return {}  # without a calendar: most changes leave the periods as they are
    counted = _counted_from(before, at)
    goes_on = after.ended_as is None and counted == _counted_from(after, at)
    return {} if goes_on else {counted: before.period_at(at).start}


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
) -> Slot:
    """The start of a billing period, or the end of everything. What a token names is charged by its issuer."""
    plan = plans[(then.plan, then.version)]
    period, currency = then.period_at(at), currency_of(plan)
    if before.ended_as is not None:
        return Slot(at, period, currency, [])
    counted = _counted_from(before, at - 1)
    goes_on = then.ended_as is None and _counted_from(then, at) == counted
    ended = {} if goes_on else {counted: before.period_at(at - 1).start}
    begins = period.start == at and then.ended_as is None and then.prepaid_until is None
    if not begins or then.is_trial or not then.is_sold_here or then.standstill_at(at) is not None:
        return Slot(at, period, currency, [], ended)
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
    return Slot(at, period, currency, lines, ended)


def _number(slots: Sequence[Slot], billing: Billing) -> None:
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


def _credit_lines(total_micros: int, credit_micros: int) -> list[InvoiceLine]:
    """What is beyond nothing is kept; of what was kept so much is used as there is to pay."""
    if total_micros < 0:
        return [InvoiceLine("credit", -total_micros, of="kept")]
    used = min(total_micros, credit_micros)
    return [InvoiceLine("credit", -used, of="used")] if used > 0 else []
