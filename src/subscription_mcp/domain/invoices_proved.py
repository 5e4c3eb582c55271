"""What `verify` holds charges and invoices against: every amount worked out once more, from the history and from what was
counted beyond limits when an invoice was closed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import (
    Billing,
    Charged,
    CountKey,
    Currencies,
    DueSlots,
    HistoryRow,
    Invoice,
    InvoiceLine,
    OverageCount,
    Slot,
    current_of,
    invoices_of,
    last_closed,
    running_from,
    slot_number,
    slots_of,
)
from subscription_mcp.domain.money import prorate, round_to_minor
from subscription_mcp.domain.subscriptions import Subscription, lines_of, periods_in
from subscription_mcp.domain.windows import Anchor, Period


class Range(NamedTuple):
    """A sum that nothing says exactly: an event may have come before or after, here or in another period."""

    least: int = 0
    most: int = 0

    def plus(self, other: "Range") -> "Range":
        return Range(self.least + other.least, self.most + other.most)

    def holds(self, value: int) -> bool:
        return self.least <= value <= self.most


NOTHING = Range()


@dataclass(frozen=True, slots=True)
class CountedThen:
    """What was counted of a meter beyond its limit, in one billing period, when something was closed."""

    units: Range = NOTHING
    micros: Range = NOTHING

    @staticmethod
    def of(is_units: bool, least: int, most: int) -> "CountedThen":
        return CountedThen(Range(least, most)) if is_units else CountedThen(micros=Range(least, most))

    @property
    def is_exact(self) -> bool:
        return self.units.least == self.units.most and self.micros.least == self.micros.most

    def plus(self, other: "CountedThen") -> "CountedThen":
        return CountedThen(self.units.plus(other.units), self.micros.plus(other.micros))


CountedAt = dict[Instant, dict[CountKey, CountedThen]]
"""At each instant something was closed, what was counted by then of what had changed since the instant before."""


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


def worked_out_again(
    billing: Billing, plans: Mapping[tuple[str, int], Plan], now: Instant, counted: CountedAt
) -> dict[str, Invoice]:
    """What each invoice up to the last that was closed must be, by number: by all of the history, and by what was
    counted beyond limits when it was closed and no earlier one had charged."""
    slots = slots_of(billing, plans, now)
    slots = slots[: last_closed(slots, billing.closed) + 1]
    overages = _overages_again(billing, plans, slots, counted)
    credit: Counter[str] = Counter()
    return {made.number: made for _, made in invoices_of(slots, overages, {}, credit)}


def uncharged(
    billing: Billing, plans: Mapping[tuple[str, int], Plan]
) -> Iterator[tuple[OverageCount, int, str]]:
    """What was counted beyond limits and is on no invoice that was closed: so much, in which currency."""
    if not billing.rows:
        return
    charged, currencies = Charged(), Currencies(billing, plans)
    charged.add(billing.closed)
    for count in billing.overages:
        currency = currencies.of(count.key)
        micros = round_to_minor(count.micros, currency) - charged.micros[count.key]
        if micros:
            yield count, micros, currency


def _overages_again(
    billing: Billing, plans: Mapping[tuple[str, int], Plan], slots: Sequence[Slot], counted: CountedAt
) -> dict[int, list[tuple[str, InvoiceLine]]]:
    found: dict[int, list[tuple[str, InvoiceLine]]] = {}
    charged, currencies, due = Charged(), Currencies(billing, plans), DueSlots(slots)
    index_of = {slot.number: index for index, slot in enumerate(slots)}
    known: dict[CountKey, CountedThen] = {}
    waiting: set[CountKey] = set()
    first = 0
    rows_seen, slots_seen = 0, 0
    for at, group in groupby(_in_order(billing.closed), key=lambda invoice: invoice.closed_at or 0):
        closed = [(index_of[number], one) for one in group if (number := slot_number(one.number)) in index_of]
        while rows_seen < len(billing.rows) and billing.rows[rows_seen].at <= at:
            rows_seen += 1
        # Of its own microsecond only what was closed had come before.
        while slots_seen < len(slots) and slots[slots_seen].at < at:
            slots_seen += 1
        seen = max([slots_seen, *(index + 1 for index, _ in closed)])
        current = current_of(billing.rows[rows_seen - 1 : rows_seen], at)
        running = running_from(current, at)
        stored = {
            (index, one.currency, (line.counted_from, line.of)): line
            for index, one in closed
            for line in one.overages
        }
        news = counted.get(at, {})
        known.update(news)
        for key in sorted(waiting | news.keys()):
            index = max(due.of(key[0], running), first)
            waiting.add(key)
            if index < seen:
                waiting.discard(key)
                currency = currencies.of(key)
                used_in = due.period_of(key[0], current)
                line = _line_again(
                    key, known[key], currency, used_in, charged, stored.get((index, currency, key))
                )
                if line is not None:
                    found.setdefault(index, []).append((currency, line))
        charged.add(one for _, one in closed)
        first = max([first, *(index + 1 for index, _ in closed)])
    return found


def _in_order(closed: Sequence[Invoice]) -> list[Invoice]:
    return sorted(closed, key=lambda invoice: invoice.closed_at or 0)


def _line_again(
    key: CountKey,
    counted: CountedThen,
    currency: str,
    used_in: Period,
    charged: Charged,
    stored: InvoiceLine | None,
) -> InvoiceLine | None:
    """The line there must be; where nothing says it exactly, what is `stored` if it can be."""
    if not counted.is_exact:
        micros = charged.micros[key] + (0 if stored is None else stored.micros)
        units = charged.units[key] + (0 if stored is None else stored.quantity)
        rounded = Range(*(round_to_minor(one, currency) for one in counted.micros))
        if rounded.holds(micros) and (stored is None or counted.units.holds(units)):
            return stored
    return charged.line_of(OverageCount(*key, counted.units.least, counted.micros.least), currency, used_in)
