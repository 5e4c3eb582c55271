"""Subscriptions: who holds which plan since when, in which status, and what a change of it means and costs.

Nothing here happens by a job: a trial that is over, a cancellation or a downgrade that is due are read from the
instants of the subscription.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, NamedTuple

from subscription_mcp.domain.catalog import UNLIMITED, Maximum, Money, Plan, monthly_micros
from subscription_mcp.domain.errors import Code
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import DAY, SECOND, Instant
from subscription_mcp.domain.money import prorate
from subscription_mcp.domain.windows import MONTHS_OF_INTERVAL, Anchor, BillingPeriod, Interval, Period

Status = Literal["trialing", "active", "past_due", "suspended", "canceled", "expired"]
Origin = Literal["default", "token", "purchase", "operator"]
MemberRole = Literal["admin", "member"]
ChangeStatus = Literal[
    "preview", "confirmation_required", "declined", "applied", "scheduled", "checkout_required"
]
Action = Literal[
    "change",
    "cancel",
    "resume",
    "set_seats",
    "suspend",
    "activate",
    "payment_failed",
    "payment_received",
]

ALLOWED_FROM: Mapping[Action, frozenset[Status]] = {
    "change": frozenset({"trialing", "active", "past_due", "canceled", "expired"}),
    "cancel": frozenset({"active", "past_due"}),
    "resume": frozenset({"active", "past_due"}),
    "set_seats": frozenset({"active", "past_due"}),
    "suspend": frozenset({"trialing", "active", "past_due", "canceled", "expired"}),
    "activate": frozenset({"suspended"}),
    "payment_failed": frozenset({"active"}),
    "payment_received": frozenset({"past_due"}),
}
"""In which statuses each change of a subscription is legal; anything else is a conflict."""

PAST_DUE_GRACE = 7 * DAY
"""How long a payment may be overdue before the subscription stands still."""


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
    joined_at: Instant


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial somebody had: one each, also after they were erased. `converted_at` is when a plan was bought."""

    plan: str
    started_at: Instant
    ends_at: Instant
    converted_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What happens to a subscription by itself `at` an instant: another plan, interval or number of seats, or
    (`plan` None) its end. `reason` is who wanted it: a `change`, a `cancel`, or the `end` of a fixed number of days."""

    at: Instant
    reason: Literal["change", "cancel", "end"]
    plan: str | None = None
    version: int | None = None
    interval: Interval | None = None
    seats: int | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """What an account has subscribed to. Billing periods count from `anchor`, and are shown `anchor_nudge` later:
    usage is told apart by the start of its period, so one that begins within a second of another, as under a clock that
    stands still, is counted from a microsecond before that one. `seats` are bought, and None where the
    plan has no price for one. With `prepaid_until` it was sold for a fixed number of days."""

    plan: str
    version: int
    origin: Origin
    anchor: Instant
    created_at: Instant
    interval: Interval = "monthly"
    anchor_nudge: Instant = 0
    seats: int | None = None
    trial_started_at: Instant | None = None
    trial_ends_at: Instant | None = None
    prepaid_until: Instant | None = None
    scheduled: Scheduled | None = None
    ended_at: Instant | None = None
    ended_as: Literal["canceled", "expired"] | None = None
    past_due_since: Instant | None = None
    suspended_at: Instant | None = None
    paid_micros: int | None = None
    """What was paid for each billing period up to `paid_until`, where the plan's price became another since; nothing,
    where the period began while the subscription stood still."""
    paid_until: Instant | None = None
    claimed_at: int | None = None
    """When the token was issued that named the plan, in seconds since 1970."""

    def at(self, now: Instant) -> "Subscription":
        """The subscription as it is at an instant: what is scheduled and due has happened."""
        due = self.scheduled
        if due is None or now < due.at:
            return self
        if due.plan is None:
            ended_as: Literal["canceled", "expired"] = "canceled" if due.reason == "cancel" else "expired"
            return replace(self, scheduled=None, prepaid_until=None, ended_at=due.at, ended_as=ended_as)
        assert due.version is not None
        return replace(
            self,
            plan=due.plan,
            version=due.version,
            # Somebody agreed to its price here, whoever sold the plan before.
            origin="purchase" if due.reason == "change" and self.origin == "token" else self.origin,
            interval=due.interval or self.interval,
            seats=due.seats,
            anchor=self.next_anchor,
            anchor_nudge=self.anchor_nudge if self.next_anchor == self.anchor else 0,
            scheduled=None,
            prepaid_until=None,
            # What follows a cancellation or a fixed number of days is free: nobody owes anything for it.
            past_due_since=self.past_due_since if due.reason == "change" else None,
        )

    def status_at(self, now: Instant) -> Status:
        """The status of a subscription that is as of `now`."""
        if self.suspended_at is not None:
            return "suspended"
        if self.ended_as is not None:
            return self.ended_as
        if self.trial_ends_at is not None:
            return "trialing" if now < self.trial_ends_at else "expired"
        return "active" if self.past_due_since is None else "past_due"

    def standstill_at(self, now: Instant) -> Code | None:
        """The code with which everything but reading and what gets it going again is refused; None where it goes on."""
        match self.status_at(now):
            case "suspended" | "canceled":
                return "subscription_inactive"
            case "expired":
                return "trial_expired" if self.is_trial else "subscription_inactive"
            case "past_due":
                assert self.past_due_since is not None
                return "payment_required" if now - self.past_due_since >= PAST_DUE_GRACE else None
            case _:
                return None

    @property
    def is_sold_here(self) -> bool:
        """Whether it is charged here: what a token names is sold, charged and given back by its issuer."""
        return self.origin != "token"

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial, running or over."""
        return self.trial_ends_at is not None and self.ended_as is None

    @property
    def billing_anchor(self) -> Anchor:
        return Anchor(self.anchor, self.interval, self.anchor_nudge)

    @property
    def next_anchor(self) -> Instant:
        """Where the billing periods of what is scheduled count from: they go on, but a fixed number of days is none,
        so what follows begins its own."""
        return self.anchor if self.prepaid_until is None or self.scheduled is None else self.scheduled.at

    def period_at(self, now: Instant) -> Period:
        """The billing period as it is shown and charged."""
        return BillingPeriod().period_at(now, self.shown_anchor)

    @property
    def shown_anchor(self) -> Anchor:
        """Where the billing periods count from as they are shown and charged."""
        return Anchor(self.anchor + self.anchor_nudge, self.interval)


@dataclass(frozen=True, slots=True)
class Line:
    """One amount of what a change costs now, rounded to the currency's minor unit: `quantity` times `unit_micros` a
    billing period, for the time from `start` to `end`. A credit is negative, and gives back what was paid `of` a plan
    or its seats."""

    what: Literal["plan", "seats", "credit"]
    micros: int
    plan: str
    quantity: int
    unit_micros: int
    of: Literal["plan", "seats"]
    start: Instant = 0
    end: Instant = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a subscription, priced. `price_now` is charged at `effective_at` and the sum of `lines`, but never
    less than nothing; `price_next` is charged at each renewal. `to_plan` None is its end. `period_start` is of the
    billing period whose rest is charged or given back, if any is."""

    from_plan: str | None
    to_plan: str | None
    price_now: Money
    price_next: Money
    effective_at: Instant
    after: Subscription
    lines: tuple[Line, ...] = ()
    period_start: Instant | None = None

    @property
    def credited(self) -> Money:
        """What is paid already beyond what the change costs: it is kept as credit for the next invoices."""
        over = -sum(line.micros for line in self.lines)
        return replace(self.price_now, micros=max(0, over))

    def at_price(self, lines: Sequence[Line]) -> "Change":
        """The same change for what these lines come to. Of what waits for its time nothing is charged now."""
        if self.is_scheduled:
            return self
        return replace(self, lines=tuple(lines), price_now=_charged(lines, self.price_now.currency))

    @property
    def is_scheduled(self) -> bool:
        """Whether it waits for its time: a fixed number of days begins at once, and ends by itself."""
        scheduled = self.after.scheduled
        return scheduled is not None and scheduled.reason != "end"


def started(plan: Plan, origin: Origin, now: Instant, trial: Trial | None = None) -> Subscription:
    """A subscription that begins now; of a plan with a trial it is one, unless `trial` was had before and goes on,
    or is over."""
    subscription = Subscription(plan.key, plan.version, origin, now, now, seats=seats_bought(plan, None))
    if plan.trial_days is None:
        return subscription
    trial = trial or Trial(plan.key, now, now + plan.trial_days * DAY)
    return replace(subscription, trial_started_at=trial.started_at, trial_ends_at=trial.ends_at)


def anchored(subscription: Subscription, now: Instant, before: Subscription | None) -> Subscription:
    """The subscription with billing periods that begin now, whatever was used `before` in this instant. Those that
    began shortly before may have taken the microseconds around it: this one is counted from before all of them."""
    if before is None or now - (before.anchor + before.anchor_nudge) >= SECOND:
        return replace(subscription, anchor=now, anchor_nudge=0)
    anchor = before.anchor - 1
    return replace(subscription, anchor=anchor, anchor_nudge=now - anchor)


def seats_bought(plan: Plan, seats: int | None) -> int | None:
    """How many seats a subscription to the plan has; None where it sells none."""
    return None if plan.price.per_seat is None else seats or 1


def seats_max(plan: Plan, subscription: Subscription) -> Maximum | None:
    """How many users the account may have; None where nothing says."""
    bought = subscription.seats if plan.price.per_seat is not None else None
    if bought is None:
        return plan.seats_max
    return bought if plan.seats_max in (None, UNLIMITED) else min(bought, plan.seats_max)


def is_paid(plan: Plan, subscription: Subscription) -> bool:
    """Whether it costs something and has not ended."""
    price = price_of(plan, subscription.interval, subscription.seats)
    goes_on = subscription.ended_as is None and not subscription.is_trial
    return goes_on and price is not None and price.micros > 0


def price_of(plan: Plan, interval: Interval, seats: int | None = None) -> Money | None:
    """What the plan costs per interval with so many seats; None where it is not sold that way. Free plans are free
    either way. A seat is priced by the month."""
    lines = lines_of(plan, interval, seats)
    return None if lines is None else Money(sum(line.micros for line in lines), currency_of(plan))


def lines_of(plan: Plan, interval: Interval, seats: int | None) -> list[Line] | None:
    """What each billing period costs, line by line; None where the plan is not sold that way."""
    base = plan.price.of(interval)
    if base is None and plan.price.is_free and plan.price.monthly is not None:
        base = plan.price.monthly
    if base is None:
        return None
    lines = [_line(plan, "plan", 1, base.micros)]
    if plan.price.per_seat is not None:
        lines.append(_line(plan, "seats", seats or 1, _seat_micros(plan.price.per_seat, interval)))
    return lines


def _line(plan: Plan, what: Literal["plan", "seats"], quantity: int, unit_micros: int) -> Line:
    return Line(what, quantity * unit_micros, plan.key, quantity, unit_micros, what)


def _seat_micros(per_seat: Money, interval: Interval) -> int:
    """What a seat costs an interval."""
    return per_seat.micros * MONTHS_OF_INTERVAL[interval]


def _rank_of(plan: Plan, interval: Interval, seats: int | None) -> int:
    """What tells up from down: the price of the interval with its seats, so that nothing paid is lost."""
    price = price_of(plan, interval, seats)
    return monthly_micros(plan) * MONTHS_OF_INTERVAL[interval] if price is None else price.micros


def currency_of(plan: Plan) -> str:
    """The currency a plan is sold in."""
    return next(
        p.currency for p in (plan.price.monthly, plan.price.yearly, plan.price.per_seat) if p is not None
    )


def _over(lines: list[Line], share: Fraction, currency: str, start: Instant, end: Instant) -> list[Line]:
    """What `[start, end)` costs, which is so many billing periods; each line is rounded once."""
    return [
        replace(
            line,
            micros=prorate(line.micros, share.numerator, share.denominator, currency),
            start=start,
            end=end,
        )
        for line in lines
    ]


def periods_in(start: Instant, end: Instant, anchor: Anchor) -> Fraction:
    """How many billing periods, as they are shown, `[start, end)` is: whole ones, and parts of them by the microsecond."""
    # Those that are counted earlier than they are shown would never get past the end of one.
    anchor = Anchor(anchor.at + anchor.nudge, anchor.interval)
    periods = Fraction(0)
    while start < end:
        period = BillingPeriod().period_at(start, anchor)
        assert period.end is not None
        until = min(end, period.end)
        periods += Fraction(until - start, period.end - period.start)
        start = until
    return periods


def _stretch(lines: list[Line], currency: str, start: Instant, end: Instant, anchor: Anchor) -> list[Line]:
    """What `[start, end)` costs at so much a billing period: whole ones in full, parts of them by the second, and each
    line rounded once."""
    return _over(lines, periods_in(start, end, anchor), currency, start, end)


def _credit(current: Subscription, plan: Plan, now: Instant) -> list[Line]:
    """What is given back of what is paid for here and not used."""
    if not current.is_sold_here:
        return []
    paid = _lines_paid(current, plan, now)
    if paid is None:
        return []  # a plan whose price of the interval was taken away
    paid_until = current.prepaid_until or current.period_at(now).end
    assert paid_until is not None
    lines = _stretch(paid, currency_of(plan), now, paid_until, current.shown_anchor)
    return [replace(line, what="credit", micros=-line.micros) for line in lines if line.micros]


def _lines_paid(current: Subscription, plan: Plan, now: Instant) -> list[Line] | None:
    """What was paid for the billing period that runs."""
    if current.paid_micros is not None and current.paid_until is not None and now < current.paid_until:
        return [_line(plan, "plan", 1, current.paid_micros)]
    return lines_of(plan, current.interval, current.seats)


def _charged(lines: Sequence[Line], currency: str) -> Money:
    return Money(max(0, sum(line.micros for line in lines)), currency)


def change_of_plan(
    current: Subscription | None,
    from_plan: Plan | None,
    to_plan: Plan,
    interval: Interval,
    origin: Origin,
    now: Instant,
    *,
    seats: int | None = None,
    days: int | None = None,
    follows: Plan | None = None,
) -> Change:
    """What happens when the plan changes now.

    Up at once: from free, a trial or an end a billing period starts at this instant at the full price; from paid the
    anchor stays and the rest of the period is prorated on seconds, each line rounded. Down at the period's end. For a
    fixed number of `days` at once and paid for as a whole; then `follows`, or nothing. From what the issuer of a token
    sold up is at once, too, but nothing is given back of what nobody paid here, and a billing period starts.
    The caller has checked that the plan is another one and is sold for the interval.
    """
    seats = seats_bought(to_plan, seats)
    full = lines_of(to_plan, interval, seats)
    price = price_of(to_plan, interval, seats)
    assert price is not None and full is not None
    begun = replace(anchored(started(to_plan, origin, now), now, current), interval=interval, seats=seats)
    if current is not None:
        begun = replace(begun, created_at=current.created_at, claimed_at=current.claimed_at)
        if to_plan.may_charge and current.ended_as is None:  # what is owed stays owed
            begun = replace(begun, past_due_since=current.past_due_since)
    held = current.plan if current is not None else None
    goes_on = (
        current is not None and from_plan is not None and current.ended_as is None and not current.is_trial
    )
    paid = _lines_paid(current, from_plan, now) if goes_on else None  # type: ignore[arg-type]
    was_paid = any(line.micros for line in paid or ())
    is_given_back = was_paid and current is not None and current.is_sold_here
    period_start = current.period_at(now).start if is_given_back and current is not None else None
    if days is not None:
        until = now + days * DAY
        lines = _stretch(full, price.currency, now, until, Anchor(now, interval))
        if was_paid:
            assert current is not None and from_plan is not None
            lines += _credit(current, from_plan, now)
        if to_plan.trial_days is not None:
            after = replace(begun, trial_started_at=now, trial_ends_at=until)
        else:
            after = replace(begun, prepaid_until=until, scheduled=_end_at(until, follows, "end"))
        return Change(
            held,
            to_plan.key,
            _charged(lines, price.currency),
            Money(0, price.currency),
            now,
            after,
            tuple(lines),
            period_start,
        )
    if goes_on and current is not None and not was_paid and price.micros == 0:
        # From free to free no period begins: else whoever goes to and fro would never use anything up.
        begun = replace(begun, anchor=current.anchor, anchor_nudge=current.anchor_nudge)
    begins = begun.period_at(now)
    assert begins.end is not None
    whole = _over(full, Fraction(1), price.currency, now, begins.end)
    if not was_paid or current is None or from_plan is None:
        now_due = _charged(whole, price.currency)
        return Change(held, to_plan.key, now_due, price, now, begun, tuple(whole))
    # A shorter rhythm waits for the end of what is paid for, like a cheaper plan: nothing paid is lost.
    longer = MONTHS_OF_INTERVAL[interval] >= MONTHS_OF_INTERVAL[current.interval]
    rank = _rank_of(to_plan, current.interval, seats)
    upward = longer and rank >= _rank_of(from_plan, current.interval, current.seats)
    period = current.period_at(now)
    assert period.end is not None
    if not upward:
        at = current.prepaid_until or period.end
        next_ = Scheduled(at, "change", to_plan.key, to_plan.version, interval, seats)
        return Change(held, to_plan.key, price, price, at, replace(current, scheduled=next_))
    if interval != current.interval or current.prepaid_until is not None or not current.is_sold_here:
        # Another rhythm or seller starts a new period: the rest of the old one is given back.
        lines = [*whole, *_credit(current, from_plan, now)]
        now_due = _charged(lines, price.currency)
        return Change(held, to_plan.key, now_due, price, now, begun, tuple(lines), period_start)
    rest = _stretch(full, price.currency, now, period.end, current.shown_anchor)
    lines = [*rest, *_credit(current, from_plan, now)]
    after = replace(begun, anchor=current.anchor, anchor_nudge=current.anchor_nudge)
    now_due = _charged(lines, price.currency)
    return Change(held, to_plan.key, now_due, price, now, after, tuple(lines), period_start)


def change_of_seats(current: Subscription, plan: Plan, seats: int, now: Instant) -> Change:
    """Other seats of the same plan: more at once, the rest of the period prorated; fewer at its end."""
    assert plan.price.per_seat is not None
    held = current.seats or 1
    price = price_of(plan, current.interval, seats)
    period = current.period_at(now)
    assert price is not None and period.end is not None
    if seats < held:
        next_ = Scheduled(period.end, "change", current.plan, current.version, current.interval, seats)
        after = replace(current, scheduled=next_)
        return Change(plan.key, plan.key, price, price, period.end, after)
    more = _line(plan, "seats", seats - held, _seat_micros(plan.price.per_seat, current.interval))
    lines = _stretch([more], price.currency, now, period.end, current.shown_anchor)
    # Of what is scheduled only fewer seats can stand beside this: these are more instead.
    after = replace(current, seats=seats, scheduled=None)
    if current.paid_micros is not None:
        after = replace(after, paid_micros=current.paid_micros + more.micros)
    elif not current.is_sold_here:
        # Whoever buys seats here pays for all of the plan here from the next period on; these are paid already.
        after = replace(after, origin="purchase", paid_micros=more.micros, paid_until=period.end)
    now_due = _charged(lines, price.currency)
    return Change(plan.key, plan.key, now_due, price, now, after, tuple(lines), period.start)


def cancellation(current: Subscription, plan: Plan, follows: Plan | None, now: Instant) -> Change:
    """The end of a paid plan: at the period's end, then `follows` or nothing. Nothing is charged any more."""
    end = current.prepaid_until or current.period_at(now).end
    assert end is not None
    nothing = Money(0, currency_of(plan))
    after = replace(current, scheduled=_end_at(end, follows, "cancel"))
    return Change(plan.key, follows.key if follows is not None else None, nothing, nothing, end, after)


def left_behind(current: Subscription, follows: Plan | None, now: Instant) -> Subscription:
    """What an account has from which the subscription has moved to another one: `follows`, or its end."""
    moved = replace(
        current,
        trial_started_at=None,
        trial_ends_at=None,
        past_due_since=None,
        scheduled=_end_at(now, follows, "cancel"),
    )
    return moved.at(now)


def going_on(stood: Subscription, goes: Subscription, plan: Plan, now: Instant) -> Subscription:
    """The subscription that `goes` on after it `stood` still. A billing period that begins in a standstill is not
    charged, so that nothing is paid for the one that runs."""
    if stood.prepaid_until is not None or not is_paid(plan, stood):
        return goes
    period = stood.period_at(now)
    is_over = replace(
        stood,
        suspended_at=stood.suspended_at if goes.suspended_at is None else None,
        past_due_since=stood.past_due_since if goes.past_due_since is None else None,
    )
    if not stood_still_before(is_over, period.start):
        return goes
    return replace(goes, paid_micros=0, paid_until=period.end)


def stood_still_before(subscription: Subscription, start: Instant) -> bool:
    """Whether it stands still since before a billing period that starts then, so that nothing is charged for that one."""
    suspended_at, overdue_since = subscription.suspended_at, subscription.past_due_since
    began_suspended = suspended_at is not None and suspended_at < start
    return began_suspended or (overdue_since is not None and overdue_since + PAST_DUE_GRACE <= start)


def is_older(version: int | None, plan: Plan, from_version: int | None = None) -> bool:
    """Whether a version of the plan is another than the newest, `plan`; and, where it is named, just that one."""
    return version != plan.version and from_version in (None, version)


def migrated(
    current: Subscription, held: Plan, plan: Plan, from_version: int | None, users: int, now: Instant
) -> Subscription:
    """The subscription with the newest version of its plan, `plan`, in place of an older one, held or scheduled.
    Anchor, interval, trial and seats stay; where seats are only sold now, its `users` have one each. The new price is
    charged at the next renewal: until then what was paid is what `held` cost."""

    def seats(bought: int | None) -> int | None:
        return seats_bought(plan, bought or users)

    if current.plan == plan.key and is_older(current.version, plan, from_version):
        lines = _lines_paid(current, held, now)
        current = replace(
            current,
            version=plan.version,
            seats=seats(current.seats),
            paid_micros=None if lines is None else sum(line.micros for line in lines),
            paid_until=current.prepaid_until or current.period_at(now).end,
        )
    due = current.scheduled
    if due is not None and due.plan == plan.key and is_older(due.version, plan, from_version):
        due = replace(due, version=plan.version, seats=seats(due.seats))
        current = replace(current, scheduled=due)
    return current


def as_it_was(current: Subscription, plan: Plan, follows: Plan | None, now: Instant) -> Change:
    """Take back what is scheduled: nothing is charged, the held plan goes on; a fixed number of days has its end again,
    and then `follows`, or nothing."""
    price = price_of(plan, current.interval, current.seats)
    assert price is not None
    nothing = replace(price, micros=0)
    if current.prepaid_until is None:
        price = price if current.is_sold_here else nothing
        return Change(plan.key, plan.key, nothing, price, now, replace(current, scheduled=None))
    after = replace(current, scheduled=_end_at(current.prepaid_until, follows, "end"))
    return Change(plan.key, plan.key, nothing, nothing, now, after)


def _end_at(at: Instant, follows: Plan | None, reason: Literal["cancel", "end"]) -> Scheduled:
    if follows is None:
        return Scheduled(at, reason)
    return Scheduled(at, reason, follows.key, follows.version, "monthly", seats_bought(follows, None))
