"""What was granted on top of limits, the long way round: every grant is in a list, and says how much it gave in which
period."""

from types import SimpleNamespace as Thing

from tests.chaos.model_lifecycle import No
from tests.chaos.model_overage import OVERAGE, Selling
from tests.chaos.periods import SLIDING

from subscription_mcp.domain.catalog import UNLIMITED

GRANTED = 7
"""In a limit as it stands, for the model alone: what the plan has of it, its grants, the period."""


def given(pots):
    return sum(gave for _, gave, _ in pots)


def raised(maximum, pots, used, charged, window):
    """A maximum with what grants gave in the period and still have. What went beyond it when there was none, and is not
    paid for beyond it, takes no room of them."""
    if maximum is UNLIMITED:
        return maximum
    left = sum(left for *_, left in pots)
    unpaid = max(0, used - charged - maximum - given(pots)) if left and window != "level" else 0
    return maximum + given(pots) + left + unpaid


def pass_on(thing, window, row, gain):
    """Have grants give what goes beyond the plan's own; how much of the rest is charged."""
    maximum, pots, here = row[GRANTED]
    if maximum is UNLIMITED or window == "level" or window in SLIDING:
        return 0
    wanted = min(gain, max(0, row[1] + gain - maximum - given(pots)))
    for grant, _, left in pots:
        units = max(0, min(wanted, left))
        if units:
            grant.gave.append((here, units))
            thing.took.append((grant, here, units))
            wanted -= units
    if row[OVERAGE] is None:
        return 0
    charged, _, most = row[OVERAGE]
    return max(0, wanted if most is None else min(wanted, most - charged))


class Granting(Selling):
    def __init__(self, default):
        super().__init__(default)
        self.grants = []

    def pots(self, account, user, limit, here, at):
        """Of each grant of a limit what it gave in a period, and what it still has, in effect at an instant; the first to
        end comes first."""
        whose = {user or ""} | ({""} if account[1] == "group" else set())
        found = [one for one in self.grants if one.account == account and one.user in whose]
        pots = []
        for one in sorted(found, key=lambda one: (one.ends is None, one.ends or 0, one.starts, one.id or "")):
            if one.limit == limit:
                in_effect = one.starts <= at and (one.ends is None or at < one.ends)
                left = one.quantity - sum(units for _, units in one.gave)
                pots.append((one, sum(units for place, units in one.gave if place == here), in_effect * left))
        return pots

    def GrantAllowance(self, command):
        account, user, held = self.known(command)
        if held is None:
            raise No("payment_required")
        scope, limits = "user" if user else "account", self.limits(account, user, held.plan)
        meant = [key for key in limits if key[:2] == (command.meter, command.window)]
        if account[1] == "group":
            meant = [key for key in meant if key[2] == scope]
        if not meant or command.window in SLIDING or limits[meant[0]] is UNLIMITED:
            raise No("invalid_request")
        starts = self.now if command.starts_at is None else command.starts_at
        if command.expires_at is not None and command.expires_at <= max(self.now, starts):
            raise No("invalid_request")
        terms = {"quantity": command.quantity, "starts": starts, "ends": command.expires_at}
        one = Thing(account=account, user=user, limit=meant[0], **terms, gave=[], id=None)
        self.grants.append(one)
        return {"code": "ok", "limits": self.standing(account, user, held), "thing": one}

    def EndGrant(self, command):
        account, user = self.must_be_there(command.subject)
        mine = [one for one in self.grants if (one.account, one.user) == (account, user)]
        one = next((one for one in mine if one.id == command.grant_id), None)
        if one is None or (one.ends is not None and one.ends <= self.now):
            raise No("not_found")
        one.ends = max(self.now, one.starts)
        return {"code": "ok", "limits": self.standing(account, user, self.held_by(account, user))}
