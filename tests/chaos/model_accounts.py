"""What an account may and holds, for the reference model: its plan, its limits, its group, its sessions."""

from dataclasses import dataclass, replace
from typing import Any

from tests.chaos.periods import period

from subscription_mcp.domain.catalog import UNLIMITED, Plan

SECOND = 10**6


@dataclass
class Held:
    """A subscription: the plan, where its billing periods count from, and the plan that follows."""

    plan: Plan
    anchor: int
    next: Plan | None = None
    next_at: int = 0


@dataclass
class Thing:
    """An event, a reservation or a session. `id` is what the ledger called it, once that was heard."""

    account: tuple
    user: str
    at: int
    anchor: int = 0
    gains: Any = None
    told: Any = None
    ends: int = 0
    answer: Any = None
    recorded_at: int = 0
    used_at: int = 0
    id: str | None = None


class Accounts:
    def __init__(self):
        self.now, self.plans, self.versions = 0, {}, []
        self.held_plans, self.groups, self.caps, self.offers = {}, {}, {}, {}
        self.sessions = []

    # Whose, under which plan and limits

    def home(self, subject):
        group = self.groups.get((subject.tenant, subject.user))
        whole = subject.account if subject.user is None else group
        return (subject.tenant, "group", whole) if whole else (subject.tenant, "personal", subject.user)

    def members(self, account):
        return sum((tenant, "group", group) == account for (tenant, _), group in self.groups.items())

    def plan_held(self, account):
        held = self.held_plans.get(account) or Held(self.plans["basic"], self.now)
        return Held(held.next, held.anchor) if held.next and self.now >= held.next_at else held

    def limits(self, account, user, plan):
        caps = {}
        for holder in ("", user):
            caps |= self.caps.get((account, holder), {}) if holder == user or account[1] == "group" else {}
        caps = {key: maximum for key, (maximum, until) in caps.items() if until is None or self.now < until}
        keys = {(one.meter, one.window.name, one.scope): one.maximum for one in plan.limits}
        pools = {(meter, window) for meter, window, _ in keys}
        return keys | {key: maximum for key, maximum in caps.items() if key[:2] in pools}

    def find(self, things, id_):
        return next((one for one in things if one.id == id_), None)

    # Sessions

    def open_ones(self, account, user):
        open_ = [one for one in self.sessions if one.answer is None and self.now < one.ends]
        return [one for one in open_ if one.account == account and (not user or one.user == user)]

    def end_of(self, plan, opened_at, ttl_seconds):
        most = plan.sessions.max_duration_seconds
        if most is UNLIMITED:
            return self.now + (ttl_seconds or 86_400) * SECOND
        return min(opened_at + most * SECOND, self.now + (ttl_seconds or most) * SECOND)

    def seated(self, code, plan, active, ends=None, thing=None):
        most = plan.sessions.max_concurrent
        told = {"code": code, "plan": plan.key, "active": active, "max": most}
        return told | {"ends": ends, "replayed": False, "thing": thing}

    def OpenSession(self, command):
        return self.once(command, self.open)

    def open(self, command):
        account, user = self.home(command.subject), command.subject.user
        held, active = self.plan_held(account), len(self.open_ones(account, user))
        most = held.plan.sessions.max_concurrent
        if most is not UNLIMITED and active >= most:
            return self.seated("session_limit", held.plan, active)
        self.held_plans[account] = held
        ends = self.end_of(held.plan, self.now, command.ttl_seconds)
        self.sessions.append(Thing(account, user, self.now, ends=ends))
        return self.seated("ok", held.plan, active + 1, ends, self.sessions[-1])

    def RenewSession(self, command):
        one = self.find(self.sessions, command.session_id)
        if one is None or one.answer is not None or self.now >= one.ends:
            return {"code": "not_found"}
        plan = self.plan_held(one.account).plan
        ends = self.end_of(plan, one.at, command.ttl_seconds)
        if ends <= self.now:
            return {"code": "not_found"}
        one.ends = ends
        return self.seated("ok", plan, len(self.open_ones(one.account, one.user)), ends, one)

    def CloseSession(self, command):
        one = self.find(self.sessions, command.session_id)
        if one is None:
            return {"code": "not_found"}
        if one.answer is None and self.now < one.ends:
            one.answer = self.now
        return {"code": "ok", "seconds": (min(one.ends, one.answer or self.now) - one.at) // SECOND}

    # Plans, limits, groups

    def Arrive(self, command):
        subject = command.subject
        account = (subject.tenant, "group", subject.group) if subject.group else self.home(subject)
        held = self.plan_held(account)
        if subject.group and self.groups.get((subject.tenant, subject.user)) != subject.group:
            seats = held.plan.seats_max
            if seats not in (None, UNLIMITED) and self.members(account) >= seats:
                return {"code": "conflict"}
            self.groups[(subject.tenant, subject.user)] = subject.group
        if subject.user is not None:
            self.held_plans[account] = held
        return self.view(subject, account=account)

    def SetLimit(self, command):
        account, user = self.home(command.subject), command.subject.user or ""
        if account not in self.held_plans:
            return {"code": "not_found"}
        held = self.plan_held(account)
        place = (command.meter, command.window)
        scopes = [one.scope for one in held.plan.limits if (one.meter, one.window.name) == place]
        if not scopes:
            return {"code": "invalid_request"}
        own = "user" if user else "account"
        scope = own if own in scopes or (user and account[1] == "group") else scopes[0]
        caps = self.caps.setdefault((account, user), {})
        if command.maximum is None and (*place, scope) not in caps:
            return {"code": "not_found"}
        if command.maximum is not None and command.expires_at is not None and command.expires_at <= self.now:
            return {"code": "invalid_request"}
        caps[(*place, scope)] = (command.maximum, command.expires_at)
        if command.maximum is None:
            del caps[(*place, scope)]
        self.held_plans[account] = held
        return {"code": "ok", "limits": self.standing(account, user, held, whole=not user)}

    def ChangePlan(self, command):
        account, user = self.home(command.subject), command.subject.user or ""
        if account not in self.held_plans and command.actor.user != user:
            return {"code": "not_found"}
        held, plan, at = self.plan_held(account), self.plans[command.plan], self.now
        if plan.key in ((held.next.key,) if held.next else (held.plan.key,)):
            return {"code": "conflict"}
        was, becomes = (one.price.monthly.micros for one in (held.plan, plan))
        if plan.key == held.plan.key:
            after = Held(held.plan, held.anchor)
        elif was == 0:
            after = Held(plan, self.now)
        elif becomes >= was:
            after = Held(plan, held.anchor)
        else:
            at = period("billing_period", self.now, held.anchor)[1]
            after = replace(held, next=plan, next_at=at)
        if command.confirmation is None:
            self.offers[command.offer] = self.now + 600 * SECOND
        elif self.now >= self.offers.pop(command.confirmation, 0):
            return {"code": "invalid_request"}
        else:
            self.held_plans[account] = after
        limits = self.standing(account, user, Held(plan, after.anchor), whole=not user)
        return {
            "code": "ok",
            "plan": plan.key,
            "at": at,
            "scheduled": after.next is not None,
            "limits": limits,
        }

    def PublishPlans(self, command):
        self.plans = {}
        for plan in command.plans:
            known = [one for one in self.versions if one.key == plan.key]
            same = [one for one in known if one.definition == plan.definition]
            self.plans[plan.key] = same[0] if same else plan.with_version(len(known) + 1)
            self.versions += [] if same else [self.plans[plan.key]]
        return {"code": "ok", "versions": {key: plan.version for key, plan in self.plans.items()}}
