"""Sessions the long way round: a list of them, and what is open of it is looked for each time."""

from types import SimpleNamespace as Thing

from tests.chaos.model_lifecycle import DAY, No
from tests.chaos.model_members import Members
from tests.chaos.periods import SECOND

from subscription_mcp.domain.catalog import UNLIMITED


class AccountsAndSessions(Members):
    def __init__(self, default):
        super().__init__(default)
        self.sessions = []

    def view(self, subject, account=None):
        found = super().view(subject, account)
        active = self.open_ones(account or self.home(subject), subject.user or "")
        return found | {"active": len(active)}

    def open_ones(self, account, user):
        mine = [one for one in self.sessions if one.account == account and user in ("", one.user)]
        return [one for one in mine if one.closed_at is None and self.now < one.ends]

    def Arrive(self, command):
        who = (command.subject.tenant, command.subject.user)
        before = self.groups.get(who)
        told = super().Arrive(command)
        if before and self.groups[who] != before:
            self.end_in(before, who)
        return told

    def ManageMember(self, command):
        told = super().ManageMember(command)
        if command.action == "remove":
            self.end_in(command.subject.account, (command.subject.tenant, command.user))
        return told

    def end_in(self, group, who):
        """Who leaves a group leaves nothing open in it."""
        for one in self.open_ones((who[0], "group", group), who[1]):
            one.closed_at = self.now

    def end_of(self, plan, opened_at, ttl_seconds):
        most = plan.sessions.max_duration_seconds
        if most is UNLIMITED:
            return self.now + (ttl_seconds or 86_400) * SECOND
        return min(opened_at + most * SECOND, self.now + (ttl_seconds or most) * SECOND)

    def decided(self, code, plan, active, thing=None):
        told = {"code": code, "plan": plan and plan.key, "active": active}
        told["max"] = plan.sessions.max_concurrent if plan else 0
        return told | {"ends": thing and thing.ends, "replayed": False, "thing": thing}

    def OpenSession(self, command):
        account, user = self.home(command.subject), command.subject.user
        held, active = self.held_by(account, user), len(self.open_ones(account, user))
        plan, still = held and held.plan, held.still(self.now) if held else "payment_required"
        if still:
            return self.decided(still, plan, active)
        most = plan.sessions.max_concurrent
        if most is not UNLIMITED and active >= most:
            return self.decided("session_limit", plan, active)
        self.know(account, user)
        ends = self.end_of(plan, self.now, command.ttl_seconds)
        one = Thing(account=account, user=user, at=self.now, ends=ends, closed_at=None, id=None)
        self.sessions.append(one)
        return self.decided("ok", plan, active + 1, one)

    def RenewSession(self, command):
        one = next((one for one in self.sessions if one.id == command.session_id), None)
        if one is None or one not in self.open_ones(one.account, one.user):
            raise No("not_found")
        held = self.held_by(one.account)
        if held.still(self.now):
            raise No(held.still(self.now))
        plan = held.plan
        ends = self.end_of(plan, one.at, command.ttl_seconds)
        if ends <= self.now:
            raise No("not_found")
        one.ends = ends
        return self.decided("ok", plan, len(self.open_ones(one.account, one.user)), one)

    def CloseSession(self, command):
        one = next((one for one in self.sessions if one.id == command.session_id), None)
        if one is None or self.now - min(one.ends, one.closed_at or one.ends) >= 400 * DAY:
            raise No("not_found")
        if one.closed_at is None and self.now < one.ends:
            one.closed_at = self.now
        return {"code": "ok", "seconds": (min(one.ends, one.closed_at or self.now) - one.at) // SECOND}
