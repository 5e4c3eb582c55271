"""Subscriptions: who holds which plan since when, and what a change of plan means."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from subscription_mcp.domain.catalog import Money, Plan, monthly_micros
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.money import prorate
from subscription_mcp.domain.windows import MONTHS_OF_INTERVAL, Anchor, BillingPeriod, Interval, Period

Status = Literal["trialing", "active", "past_due", "suspended", "canceled", "expired"]
Origin = Literal["default", "token", "purchase", "operator"]
MemberRole = Literal["admin", "member"]
ChangeStatus = Literal[
    "preview", "confirmation_required", "declined", "applied", "scheduled", "checkout_required"
]


class AccountKey(NamedTuple):
    """One account: personal and group accounts are separate id spaces."""

    tenant: str
    account_kind: AccountKind
    account: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A user's place in a group account."""

    account: str
    role: MemberRole


@dataclass(frozen=True, slots=True)
class Subscription:
    """What an account has subscribed to. Billing periods count from `anchor`; a downgrade waits in
    `next_plan` until its time and needs no job to happen."""

    plan: str
    version: int
    origin: Origin
    anchor: Instant
    created_at: Instant
    interval: Interval = "monthly"
    status: Status = "active"
    next_plan: str | None = None
    next_version: int | None = None
    next_interval: Interval | None = None
    next_plan_at: Instant | None = None
    claimed_at: int | None = None
    """When the token was issued that named the plan, in seconds since 1970."""

    def at(self, now: Instant) -> "Subscription":
        """The subscription as it is at an instant: a scheduled change that is due has happened."""
        if self.next_plan_at is None or now < self.next_plan_at:
            return self
        assert self.next_plan is not None and self.next_version is not None
        return replace(
            self,
            plan=self.next_plan,
            version=self.next_version,
            interval=self.next_interval or self.interval,
            next_plan=None,
            next_version=None,
            next_interval=None,
            next_plan_at=None,
        )

    @property
    def billing_anchor(self) -> Anchor:
        return Anchor(self.anchor, self.interval)

    def period_at(self, now: Instant) -> Period:
        return BillingPeriod().period_at(now, self.billing_anchor)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of plan, priced. `price_now` is charged at `effective_at`, `price_next` at each renewal."""

    from_plan: str | None
    to_plan: str
    price_now: Money
    price_next: Money
    effective_at: Instant
    after: Subscription

    @property
    def is_scheduled(self) -> bool:
        return self.after.next_plan is not None


def price_of(plan: Plan, interval: Interval) -> Money | None:
    """What the plan costs per interval; None where it is not sold that way. Free plans are free either way."""
    price = plan.price.of(interval)
    if price is None and plan.price.is_free and plan.price.monthly is not None:
        return plan.price.monthly
    return price


def stay_on_plan(current: Subscription, plan: Plan, now: Instant) -> Change:
    """Take back a change that is scheduled: nothing is charged, the held plan goes on."""
    price = price_of(plan, current.interval)
    assert price is not None
    after = replace(current, next_plan=None, next_version=None, next_interval=None, next_plan_at=None)
    return Change(plan.key, plan.key, replace(price, micros=0), price, now, after)


def change_of_plan(
    current: Subscription | None,
    from_plan: Plan | None,
    to_plan: Plan,
    interval: Interval,
    origin: Origin,
    now: Instant,
) -> Change:
    """What happens when the plan changes now.

    Up at once: from free a billing period starts at this instant at the full price; from paid the anchor
    stays and the rest of the period is prorated on seconds, each line rounded. Down at the period's end.
    The caller has checked that the plan is another one and is sold for the interval.
    """
    price = price_of(to_plan, interval)
    assert price is not None
    started = Subscription(to_plan.key, to_plan.version, origin, now, now, interval)
    if current is None or from_plan is None:
        return Change(None, to_plan.key, price, price, now, started)
    # A shorter rhythm waits for the end of what is paid for, like a cheaper plan: nothing paid is lost.
    longer = MONTHS_OF_INTERVAL[interval] >= MONTHS_OF_INTERVAL[current.interval]
    upward = longer and monthly_micros(to_plan) >= monthly_micros(from_plan)
    old_price = price_of(from_plan, current.interval)
    was_paid = old_price is not None and old_price.micros > 0
    if not was_paid:
        after = replace(started, created_at=current.created_at)
        return Change(from_plan.key, to_plan.key, price, price, now, after)
    period = current.period_at(now)
    assert period.end is not None and old_price is not None
    if not upward:
        after = replace(
            current,
            next_plan=to_plan.key,
            next_version=to_plan.version,
            next_interval=interval,
            next_plan_at=period.end,
        )
        return Change(from_plan.key, to_plan.key, price, price, period.end, after)
    if interval != current.interval:
        # Another rhythm starts a new period: the rest of the old one is given back.
        credit = prorate(old_price.micros, period.end - now, period.end - period.start, price.currency)
        after = replace(started, created_at=current.created_at)
        return Change(
            from_plan.key,
            to_plan.key,
            Money(max(0, price.micros - credit), price.currency),
            price,
            now,
            after,
        )
    left, whole = period.end - now, period.end - period.start
    credit = prorate(old_price.micros, left, whole, price.currency)
    charge = prorate(price.micros, left, whole, price.currency)
    after = replace(started, anchor=current.anchor, created_at=current.created_at)
    return Change(
        from_plan.key, to_plan.key, Money(max(0, charge - credit), price.currency), price, now, after
    )
