"""Changes of what an account holds, the long way round: which are possible, what each comes to, and that it is only done
when it was shown before."""

from dataclasses import replace

from tests.chaos.model_accounts import Accounts
from tests.chaos.model_lifecycle import DAY, Held, No
from tests.chaos.model_prices import Change, moved
from tests.chaos.periods import SECOND, cost

FROM = {
    "suspend": ("trialing", "active", "past_due", "canceled", "expired"),
    "activate": ("suspended",),
    "payment_failed": ("active",),
    "payment_received": ("past_due",),
}
"""In which status something is done by hand."""


class Changes(Accounts):
    def __init__(self, default="basic"):
        super().__init__(default)
        self.offers = {}

    def must_be(self, held, *statuses):
        if held is None:
            raise No("payment_required")
        if held.status(self.now) not in statuses:
            raise No(held.still(self.now) or "conflict")

    def must_fit(self, account, plan, seats):
        if seats and not plan.price.per_seat:
            raise No("invalid_request")
        if seats and plan.seats_max and seats > plan.seats_max:
            raise No("invalid_request")
        most = seats or plan.seats_max
        if most and self.members(account) > most:
            raise No("conflict")

    def follows(self):
        """What comes after an end: the default plan, unless that is a trial."""
        default = self.plans.get(self.default)
        return None if default is None or default.trial_days else Held(default, self.now)

    def ChangePlan(self, command):
        account, user, held = self.known(command)
        plan, seats, days = self.plans[command.plan], command.seats, command.duration_days
        goes_on = held and not held.ended
        months = {"yearly": 12, "monthly": 1}.get(command.interval)
        if months is None:  # as it is paid now, where the plan is sold so
            as_held = goes_on and not held.trial_ends and Held(plan, self.now, held.months, seats).lines()
            months = held.months if as_held else 1
        if goes_on and held.plan.key == plan.key and not days:
            seats = seats or held.seats
        bought = (seats or max(1, self.members(account))) if plan.price.per_seat else None
        wanted = Held(plan, self.now, months, bought)
        if wanted.lines() is None:
            raise No("invalid_request")
        if held and (held.suspended or held.still(self.now) == "payment_required"):
            raise No(held.still(self.now))
        self.must_fit(account, plan, command.seats)
        if plan.trial_days and not days:
            raise No("conflict")
        if goes_on and not days:
            if held.kind == wanted.kind:
                other = None if seats == held.seats else seats
                return self.show(command, account, user, held, self.same(held, other))
            then = held.then and held.then.held
            if then and then.kind == wanted.kind and command.seats in (None, then.seats):
                raise No("conflict")
        is_bound = goes_on and held.plan.changes_to is not None and command.actor.role != "tenant_admin"
        if is_bound and plan.key not in (held.plan.key, *held.plan.changes_to):
            raise No("conflict")
        change = moved(held, wanted, days, self.follows(), self.now)
        return self.show(command, account, user, held, change)

    def same(self, held, seats):
        """What is held already: with other seats, or to go on with it after all."""
        then, now = held.then, self.now
        if seats and then and (then.held is None or then.held.kind != held.kind):
            raise No("conflict")  # first that has to be taken back
        if not seats or seats == held.seats:
            if not then or then.why == "end":
                raise No("conflict")
            end = held.ending(held.until, "end", self.follows()) if held.until else replace(held, then=None)
            return Change(end, now, 0, 0 if held.until else held.price())
        if then and then.held.seats == seats:
            raise No("conflict")
        other, (start, end) = replace(held, seats=seats, then=None), held.period(now)
        if held.paid is not None:
            other = replace(other, paid=held.paid + other.price() - held.price())
        if seats < held.seats:
            return Change(held.ending(end, "change", other), end, other.price(), other.price())
        more = cost([other.price() - held.price()], held.rhythm, now, end)
        return Change(other, now, more, other.price(), start)

    def ChangeSubscription(self, command):
        account, user, held = self.known(command)
        self.must_be(held, "active", "past_due")
        if command.action == "set_seats":
            self.must_fit(account, held.plan, command.seats)
        if command.action != "cancel":
            return self.show(command, account, user, held, self.same(held, command.seats))
        if not held.price() or (held.then and held.then.why != "change"):
            raise No("conflict")
        until = held.paid_until(self.now)
        return self.show(
            command, account, user, held, Change(held.ending(until, "cancel", self.follows()), until)
        )

    def show(self, command, account, user, held, change):
        after, now = change.after, self.now
        to = after.at(max(now, change.at))
        scheduled, key = change.at > now, None if to.ended else to.plan.key
        was = held and (held.kind, held.plan.version, held.seats)
        terms = (was, key, to.plan.version, change.next, scheduled and change.at, change.of)
        if command.confirmation is None:
            self.offers[command.offer] = (now + 600 * SECOND, terms, change.now)
        else:
            until, agreed, change.now = self.offers.get(command.confirmation, (0, None, 0))
            if now >= until or agreed != terms:
                raise No("invalid_request" if now >= until else "conflict")
            del self.offers[command.confirmation]
            self.know(account, user)
            self.hold(account, after)
        told = {"code": "ok", "plan": key, "at": change.at, "scheduled": scheduled}
        told |= {"price_now": change.now, "price_next": change.next}
        return told | {"limits": self.standing(account, user, replace(after, plan=to.plan))}

    def SetStatus(self, command):
        account, user, held = self.known(command)
        if account[1] == "group" and user:
            raise No("invalid_request")
        if held is None or held.status(self.now) not in FROM[command.action]:
            raise No("conflict" if held else "payment_required")
        if command.action == "payment_failed" and not held.price():
            raise No("conflict")
        match command.action:
            case "suspend":
                held = replace(held, suspended=self.now)
            case "activate":
                held = replace(held.served_again(self.now, held.suspended + 1), suspended=None)
            case "payment_failed":
                held = replace(held, overdue=self.now)
            case "payment_received":
                held = replace(held.served_again(self.now, held.overdue + 7 * DAY), overdue=None)
        self.hold(account, held)
        return self.view(command.subject)
