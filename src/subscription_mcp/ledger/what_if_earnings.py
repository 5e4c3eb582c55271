"""What plans that were held earned by the time they were, and what others in their place would have."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import HistoryRow
from subscription_mcp.domain.money import prorate
from subscription_mcp.domain.subscriptions import Subscription, periods_in, price_of, stood_still_before
from subscription_mcp.domain.windows import Period


def paid_stretches(
    rows: Sequence[HistoryRow], period: Period, now: Instant
) -> Iterator[tuple[Subscription, Period]]:
    """What was held from when to when in a period, each within one billing period, as far as that is charged: no trial,
    nothing that is over, and no billing period that began while the subscription stood still."""
    assert period.end is not None
    end = min(period.end, now)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        until = end if following is None else min(following.at, end)
        due = row.subscription.scheduled
        cuts = [row.at, *([due.at] if due is not None and row.at < due.at < until else []), until]
        for since, to in pairwise(cuts):
            held = row.subscription.at(since)
            if held.is_trial or held.ended_as is not None:
                continue
            for stretch in _by_billing_period(held, max(since, period.start), to):
                if not stood_still_before(held, held.period_at(stretch.start).start):
                    yield held, stretch


def costs_of(plan: Plan, draft: Plan, held: Subscription, stretch: Period) -> tuple[Fraction, Fraction]:
    """What a time of a plan cost, and what the draft's would have. Where something else than its price was paid for the
    billing period, as nothing or the price of an older version, the draft's is taken by the same share."""
    cost, would = _cost(plan, held, stretch), _cost(draft, held, stretch)
    if held.paid_micros is None or held.paid_until is None or stretch.start >= held.paid_until:
        return cost, would
    assert stretch.end is not None
    paid = held.paid_micros * periods_in(stretch.start, stretch.end, held.shown_anchor)
    if cost:
        return paid, would * paid / cost
    return paid, would if paid else Fraction(0)


def rounded(micros: Fraction, currency: str) -> int:
    """An exact sum in the smallest coin of its currency."""
    return prorate(micros.numerator, 1, micros.denominator, currency)


def _by_billing_period(held: Subscription, start: Instant, end: Instant) -> Iterator[Period]:
    while start < end:
        until = held.period_at(start).end
        assert until is not None
        until = min(until, end)
        yield Period(start, until)
        start = until


def _cost(plan: Plan, held: Subscription, stretch: Period) -> Fraction:
    """What a plan costs for a time, by the interval it is paid in, or the one it is sold for."""
    assert stretch.end is not None
    anchor = held.shown_anchor
    interval = anchor.interval
    price = price_of(plan, interval, held.seats)
    if price is None:
        interval = "monthly" if interval == "yearly" else "yearly"
        price = price_of(plan, interval, held.seats)
        anchor = anchor._replace(interval=interval)
    return price.micros * periods_in(stretch.start, stretch.end, anchor) if price is not None else Fraction(0)
