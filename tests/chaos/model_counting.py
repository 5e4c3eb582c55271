"""How full the limits are, the long way round: everything that happened is added up again."""

from tests.chaos.model_grants import raised
from tests.chaos.model_overage import ceiling
from tests.chaos.periods import SLIDING, back_at, period, place

from subscription_mcp.domain.catalog import UNLIMITED

USED, HELD, REFUSED = 1, 2, 5
"""Of a limit as it stands: maximum, used, held, start, end, refused, overage, what is granted of it."""


def total(things, meter):
    return sum(one.gains[meter] for one in things)


def own(gains):
    """What the meters of the catalog gain; what is counted beside one has a colon in its name."""
    return {meter: gain for meter, gain in gains.items() if ":" not in meter}


class Counting:
    def __init__(self, accounts):
        self.now, self.events, self.reservations = 0, [], []
        self.accounts, accounts.standing = accounts, self.standing

    def gained(self, things, account, user, meter):
        """What a meter gained something from: of a user, or of everybody in the account."""
        mine = [one for one in things if one.account == account and user in (None, one.user)]
        return [one for one in mine if meter in one.gains]

    def standing(
        self, account, user, held, gains=None, at=None, settled=None, anyway=False, then=None, unsaid=()
    ):
        """All limits, or those of the meters that gain something, in the windows that hold `at`; of a reservation
        that is `settled`, in those it was made in. `anyway` it is counted, also beyond a limit. `then` is what was
        held when it happened. Of what is `unsaid` one must fit."""
        if held is None:
            return {}
        rows, at, rhythm = {}, at or self.now, (settled or held).rhythm
        live = [r for r in self.reservations if not r.answer and self.now < r.ends and r is not settled]
        limits = self.accounts.limits_sold(account, user, held.plan, then and then.plan, gains)
        for (meter, window, scope), (maximum, terms, zone) in limits.items():
            if (scope == "user" and not user) or (gains is not None and meter not in gains):
                continue
            who = None if scope == "account" else user
            used, kept = (self.gained(things, account, who, meter) for things in (self.events, live))
            gain, length, pots, here = gains[meter] if gains else 0, SLIDING.get(window), [], None
            if length is None:
                start, end = period(window, zone, at, rhythm)
                here = place(window, zone, at, rhythm)
                used = [one for one in used if place(window, zone, one.at, one.rhythm) == here]
                kept = [one for one in kept if place(window, zone, one.at, one.rhythm) == here]
                if rhythm != held.rhythm and window == "billing_period":
                    # Another plan has cut it short since: it is told from where it was counted.
                    start -= rhythm[2]
                    end = period(window, zone, start, (start, held.months))[1]
            elif at >= (since := self.accounts.counts_from(account, who, meter, window, length)):
                start, used = self.now - length, [one for one in used if one.used_at >= since]
            else:
                continue  # it happened before anything that counts
            sums = total(used, meter), total(kept, meter)
            charged = sum(one.gains.get(f"{meter}:overage", 0) for one in used)
            if here is not None:
                pots = self.accounts.pots(account, user, (meter, window, scope), here, at)
            own, maximum = maximum, raised(maximum, pots, sums[0], charged if terms else 0, window)
            most = ceiling(maximum, terms)
            need = gain or int(meter in unsaid)
            over = most is not UNLIMITED and sum(sums) + need > most
            if length is not None:
                coming = [(one.used_at + length, one.gains[meter]) for one in used]
                coming += [(one.ends, one.gains[meter]) for one in kept if over]
                mine = [(min(at, self.now) + length, gain)] if anyway or not over else []
                room = maximum - (need - gain if mine else need) if over else sum(sums) + gain
                end = back_at(coming + mine, room) or self.now + length
            refused = over and need > 0
            row = [maximum, *sums, start, end, refused, terms and [charged, *terms], (own, pots, here)]
            rows[meter, window, scope] = row
        return rows
