"""Who is in which group, holds which plan and has which limits, the long way round. What they have used of these
`model.py` adds up: it is what `standing` asks."""

from dataclasses import dataclass, replace

from tests.chaos.periods import SECOND, billing_period

from subscription_mcp.domain.catalog import Plan


@dataclass
class Held:
    """A plan as it is held: where its billing periods count from, and for how many months each lasts."""

    plan: Plan
    anchor: int
    months: int = 1
    next: "Held | None" = None
    next_at: int = 0

    @property
    def rhythm(self):
        return self.anchor, self.months

    @property
    def kind(self):
        return self.plan.key, self.months

    @property
    def price(self):
        """For one billing period; None where the plan is not sold for that long."""
        monthly, yearly = self.plan.price.monthly.micros, self.plan.price.yearly
        return monthly if self.months == 1 or not monthly else yearly and yearly.micros


class Accounts:
    def __init__(self):
        self.now, self.plans, self.versions = 0, {}, []
        self.held, self.groups, self.caps, self.offers = {}, {}, {}, {}

    def home(self, subject):
        group = self.groups.get((subject.tenant, subject.user)) if subject.user else subject.account
        return (subject.tenant, "group", group) if group else (subject.tenant, "personal", subject.user)

    def members(self, account):
        return sum((tenant, "group", group) == account for (tenant, _), group in self.groups.items())

    def plan_held(self, account):
        held = self.held.get(account) or Held(self.plans["basic"], self.now)
        return held.next if held.next and self.now >= held.next_at else held

    def know(self, account):
        """First sight: it holds a plan from now on."""
        self.held[account] = self.plan_held(account)

    def limits(self, account, user, plan):
        """The plan's limits; what was set by hand takes their place, the user's own before the group's."""
        limits = {(one.meter, one.window.name, one.scope): one.maximum for one in plan.limits}
        pools = {key[:2] for key in limits}
        for holder in ("", user) if account[1] == "group" else (user,):
            for key, (maximum, until) in self.caps.get((account, holder), {}).items():
                if key[:2] in pools and (until is None or self.now < until):
                    limits[key] = maximum
        return limits

    def view(self, subject, account=None):
        account, user = account or self.home(subject), subject.user or ""
        if not user and account not in self.held:
            return {"code": "not_found"}
        held, seats = self.plan_held(account), self.members(account) if account[1] == "group" else None
        told = {"code": "ok", "plan": held.plan.key, "version": held.plan.version, "seats": seats}
        return told | {"limits": self.standing(account, user, held)}

    def Arrive(self, command):
        subject = command.subject
        account = (subject.tenant, "group", subject.group) if subject.group else self.home(subject)
        if subject.group and self.groups.get((subject.tenant, subject.user)) != subject.group:
            seats = self.plan_held(account).plan.seats_max
            if seats and self.members(account) >= seats:
                return {"code": "conflict"}
            self.groups[(subject.tenant, subject.user)] = subject.group
        self.know(account)
        return self.view(subject, account)

    def SetLimit(self, command):
        account, user = self.home(command.subject), command.subject.user or ""
        if account not in self.held:
            return {"code": "not_found"}
        held, place = self.plan_held(account), (command.meter, command.window)
        scopes = [one.scope for one in held.plan.limits if (one.meter, one.window.name) == place]
        if not scopes:
            return {"code": "invalid_request"}
        own = "user" if user else "account"
        key = (*place, own if own in scopes or (user and account[1] == "group") else scopes[0])
        caps = self.caps.setdefault((account, user), {})
        if command.maximum is None and not caps.pop(key, None):
            return {"code": "not_found"}
        if command.maximum is not None:
            if command.expires_at and command.expires_at <= self.now:
                return {"code": "invalid_request"}
            caps[key] = (command.maximum, command.expires_at)
        return {"code": "ok", "limits": self.standing(account, user, held)}

    def ChangePlan(self, command):
        account, user = self.home(command.subject), command.subject.user or ""
        if account not in self.held and command.actor.user != user:
            return {"code": "not_found"}
        held, at = self.plan_held(account), self.now
        wanted = Held(self.plans[command.plan], self.now, 12 if command.interval == "yearly" else 1)
        if wanted.price is None:
            return {"code": "invalid_request"}
        if wanted.kind == (held.next or held).kind:
            return {"code": "conflict"}
        after = wanted
        if wanted.kind == held.kind:  # what was to follow is taken back
            after = replace(held, next=None, next_at=0)
        elif held.price:
            is_less = wanted.plan.price.monthly.micros < held.plan.price.monthly.micros
            if is_less or wanted.months < held.months:  # it waits for the end of what is paid for
                at = billing_period(self.now, *held.rhythm)[1]
                after = replace(held, next=replace(wanted, anchor=held.anchor), next_at=at)
            elif wanted.months == held.months:  # from paid to paid the period goes on
                after = replace(wanted, anchor=held.anchor)
        terms = (held.kind, held.plan.version, wanted.kind, wanted.plan.version, after.next_at)
        if command.confirmation is None:
            self.offers[command.offer] = (self.now + 600 * SECOND, terms)
        else:
            until, agreed = self.offers.get(command.confirmation, (0, None))
            if self.now >= until or agreed != terms:
                return {"code": "invalid_request" if self.now >= until else "conflict"}
            del self.offers[command.confirmation]
            self.held[account] = after
        told = {"code": "ok", "plan": wanted.plan.key, "at": at, "scheduled": after.next is not None}
        return told | {"limits": self.standing(account, user, replace(after, plan=wanted.plan))}

    def PublishPlans(self, command):
        self.plans = {}
        for plan in command.plans:
            known = [one for one in self.versions if one.key == plan.key]
            same = [one for one in known if one.definition == plan.definition]
            self.plans[plan.key] = same[0] if same else plan.with_version(len(known) + 1)
            self.versions += [] if same else [self.plans[plan.key]]
        return {"code": "ok", "versions": {key: plan.version for key, plan in self.plans.items()}}
