"""What goes beyond a limit at a price, the long way round: by which plan it is sold, and how many units of an event are."""

from tests.chaos.model_rates import AccountsSessionsAndRates

from subscription_mcp.domain.catalog import UNLIMITED

OVERAGE = 6
"""In a limit as it stands: how many units beyond it were charged, the price of one, the most; or None."""


def terms_of(plan):
    """What is sold beyond the limits of a plan: the price of a unit, and how many there may be."""
    return {
        (one.meter, one.window.name, one.scope): (one.overage.price_micros, one.overage.units_max)
        for one in plan.limits
        if one.overage is not None
    }


def ceiling(maximum, terms):
    """The most that is let through, be it charged."""
    if maximum is UNLIMITED or (terms and terms[1] is None):
        return UNLIMITED
    return maximum + (terms[1] if terms else 0)


class Selling(AccountsSessionsAndRates):
    def __init__(self, default):
        super().__init__(default)
        self.history = {}

    def hold(self, account, held, user=None):
        before = self.history.setdefault(account, [])
        before.append((self.now, held, account not in self.held and held.price() > 0))
        super().hold(account, held, user)

    def held_then(self, account, user, at):
        """What an account held when something happened: nothing before it bought its first plan."""
        rows = self.history.get(account)
        if not rows or at >= self.now:
            return self.held_by(account, user)
        known = [held for since, held, _ in rows if since <= at]
        if known:
            return known[-1].at(at)
        _, held, bought = rows[0]
        return None if bought else held

    def set_by_hand(self, account, user):
        holders = ("", user) if account[1] == "group" else (user,)
        caps = [item for one in holders for item in self.caps.get((account, one), {}).items()]
        return {key for key, (_, until) in caps if until is None or self.now < until}

    def decided_by_then(self, plan, then, meters):
        """Whether the plan of then says what is sold: it is another, and one of them sells something that is used."""
        terms = [key for one in (plan, then) if one for key in terms_of(one)]
        return then is not plan and any(meter in meters for meter, *_ in terms)

    def limits_sold(self, account, user, plan, then, meters):
        """The limits that decide: the maximum, the terms beyond it, and whose calendar they go by."""
        by_hand, limits = self.set_by_hand(account, user), self.limits(account, user, plan)
        if meters is None or not self.decided_by_then(plan, then, meters):
            terms = terms_of(plan)
            return {
                key: (maximum, None if key in by_hand else terms.get(key), plan.timezone)
                for key, maximum in limits.items()
            }
        found = {key: (maximum, None, plan.timezone) for key, maximum in limits.items()}
        agreed = self.limits(account, user, then) if then else {}
        for key, terms in terms_of(then).items() if then else ():
            if key[0] not in meters or key in by_hand:
                continue
            both = (agreed[key], limits.get(key, 0))
            if UNLIMITED in both:
                found[key] = (UNLIMITED, None, plan.timezone)
            else:
                found[key] = (max(both), terms, then.timezone)
        return found
