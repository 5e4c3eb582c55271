"""What a change of what is held comes to, and what it costs, the long way round."""

from dataclasses import dataclass, replace

from tests.chaos.model_lifecycle import DAY, Held
from tests.chaos.periods import cost


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
    full, is_paid = wanted.price(), bool(held and held.is_paid() and sum(held.lines_paid(now)))
    until, of = (held.paid_until(now), held.period(now)[0]) if is_paid else (now, None)
    back = cost(held.lines_paid(now), held.rhythm, now, until) if is_paid else 0
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
