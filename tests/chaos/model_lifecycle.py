"""A plan as it is held: what it costs, and what becomes of it by time, the long way round. Who holds it,
`model_accounts.py` says; how it is changed, `model_changes.py`."""

from dataclasses import dataclass, replace

from tests.chaos.periods import SECOND, billing_period, cost

from subscription_mcp.domain.catalog import Plan

DAY = 86_400 * SECOND


class No(Exception):
    """It is refused, with a code."""


@dataclass(frozen=True)
class Then:
    """What comes by itself at an instant: something else is held, or nothing. `why` is who wanted it: a `change`, a
    `cancel`, or the `end` of a number of days."""

    at: int
    why: str
    held: "Held | None"


@dataclass(frozen=True)
class Held:
    """A plan as it is held: where its billing periods count from, for how many months each lasts, how many seats were
    bought. What is sold for a number of days is paid for `until` then."""

    plan: Plan
    anchor: int
    months: int = 1
    seats: int | None = None
    trial_ends: int | None = None
    until: int | None = None
    then: Then | None = None
    ended: str | None = None
    overdue: int | None = None
    suspended: bool = False
    again: int = 0
    """How many billing periods began anew in the instant of `anchor` before."""

    @property
    def rhythm(self):
        return self.anchor, self.months, self.again

    @property
    def kind(self):
        return self.plan.key, self.months

    def at(self, now):
        then = self.then
        if not then or now < then.at:
            return self
        if then.held is None:
            ended = "canceled" if then.why == "cancel" else "expired"
            return replace(self, then=None, until=None, ended=ended)
        overdue = self.overdue if then.held.price() else None  # for a plan for nothing nobody owes anything
        return replace(then.held, overdue=overdue, suspended=self.suspended)

    def status(self, now):
        if self.suspended or self.ended:
            return "suspended" if self.suspended else self.ended
        if self.trial_ends:
            return "trialing" if now < self.trial_ends else "expired"
        return "past_due" if self.overdue is not None else "active"

    def still(self, now):
        """The code with which everything is refused that is used; None where it goes on."""
        status = self.status(now)
        if status == "expired" and not self.ended:
            return "trial_expired"
        if status == "past_due" and now >= self.overdue + 7 * DAY:
            return "payment_required"
        return "subscription_inactive" if status in ("suspended", "canceled", "expired") else None

    def lines(self, months=None):
        """What each billing period costs: the plan, and its seats by the month. None where it is not sold so."""
        months, price = months or self.months, self.plan.price
        monthly, yearly, seat = (one and one.micros for one in (price.monthly, price.yearly, price.per_seat))
        base = monthly if months == 1 or not (monthly or seat) else yearly
        return None if base is None else [base, (seat or 0) * months * (self.seats or 1)]

    def price(self, months=None):
        return sum(self.lines(months) or ())

    def is_paid(self):
        """Whether it was paid for and still goes on."""
        return not self.ended and not self.trial_ends and self.price() > 0

    def period(self, now):
        return billing_period(now, *self.rhythm)

    def paid_until(self, now):
        return self.until or self.period(now)[1]

    def ending(self, at, why, follows):
        """It, until it ends. Billing periods go on beyond that, but days that were sold are none."""
        anchor, again = (at, 0) if self.until else (self.anchor, self.again)
        return replace(self, then=Then(at, why, follows and replace(follows, anchor=anchor, again=again)))


@dataclass
class Change:
    """What is held afterwards, since when, and what that costs: now, and at every renewal. `of` is the billing period
    whose rest is a part of the price."""

    after: Held
    at: int
    now: int = 0
    next: int = 0
    of: int | None = None


def moved(held, wanted, days, follows, now):
    """To another plan, other months or for a number of days: up at once, down when what is paid for is over."""
    if held and held.anchor == now:
        wanted = replace(wanted, again=held.again + 1)
    full, is_paid = wanted.price(), bool(held and held.is_paid())
    until, of = (held.paid_until(now), held.period(now)[0]) if is_paid else (now, None)
    back = cost(held.lines(), held.rhythm, now, until) if is_paid else 0
    if days:
        end = now + days * DAY
        price = max(0, cost(wanted.lines(), wanted.rhythm, now, end) - back)
        if is_paid and full:  # what is owed stays owed
            wanted = replace(wanted, overdue=held.overdue)
        if wanted.plan.trial_days:
            return Change(replace(wanted, trial_ends=end), now, price, 0, of)
        return Change(replace(wanted, until=end).ending(end, "end", follows), now, price, 0, of)
    if not is_paid:
        if (
            not full and held and not held.ended and not held.trial_ends
        ):  # from free to free the period goes on
            wanted = replace(wanted, anchor=held.anchor, again=held.again)
        return Change(wanted, now, full, full)
    if wanted.months < held.months or wanted.price(held.months) < held.price():
        return Change(held.ending(until, "change", wanted), until, full, full)
    after = replace(wanted, overdue=held.overdue)
    if wanted.months != held.months or held.until:  # what was paid for another rhythm is given back
        return Change(after, now, max(0, full - back), full, of)
    rest = cost(wanted.lines(), held.rhythm, now, until)
    return Change(replace(after, anchor=held.anchor, again=held.again), now, max(0, rest - back), full, of)
