"""A plan as it is held: what it costs, and what becomes of it by time, the long way round. Who holds it,
`model_accounts.py` says; how it is changed, `model_changes.py`; what that costs, `model_prices.py`."""

from dataclasses import dataclass, replace

from tests.chaos.periods import SECOND, billing_period

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
    bought. What is sold for a number of days is paid for `until` then. A billing period that began without service cost
    nothing but what was `paid` since, until `paid_till`."""

    plan: Plan
    anchor: int
    months: int = 1
    seats: int | None = None
    trial_ends: int | None = None
    until: int | None = None
    then: Then | None = None
    ended: str | None = None
    overdue: int | None = None
    suspended: int | None = None
    paid: int | None = None
    paid_till: int = 0
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

    def lines_paid(self, now):
        """What was paid for the billing period that runs."""
        return [self.paid] if self.paid is not None and now < self.paid_till else self.lines()

    def served_again(self, now, since):
        """It, after it stood still since then."""
        start, end = self.period(now)
        return (
            replace(self, paid=0, paid_till=end)
            if since <= start and self.is_paid() and not self.until
            else self
        )

    def period(self, now):
        return billing_period(now, *self.rhythm)

    def paid_until(self, now):
        return self.until or self.period(now)[1]

    def ending(self, at, why, follows):
        """It, until it ends. Billing periods go on beyond that, but days that were sold are none."""
        anchor, again = (at, 0) if self.until else (self.anchor, self.again)
        return replace(self, then=Then(at, why, follows and replace(follows, anchor=anchor, again=again)))
