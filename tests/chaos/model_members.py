"""Who was added to a group by hand, removed from it or given a role, the long way round."""

from tests.chaos.model_accounts import Accounts


class Members(Accounts):
    def __init__(self):
        super().__init__()
        self.roles, self.removed = {}, set()

    def Arrive(self, command):
        """Tokens here do not say when they were issued: they bring nobody back who was removed."""
        who, group = (command.subject.tenant, command.subject.user), command.subject.group
        before = self.groups.get(who)
        if group and group != before and (who, group) in self.removed:
            return {"code": "forbidden"}
        told = super().Arrive(command)
        if self.groups.get(who) != before:
            self.roles[who] = "member"
        return told

    def ManageMember(self, command):
        account, who = self.home(command.subject), (command.subject.tenant, command.user)
        group = account[2]
        if account not in self.held:
            return {"code": "not_found"}
        seats = self.plan_held(account).plan.seats_max
        told = {"code": "ok", "max": seats, "founded": False, "action": f"member.{command.action}"}
        if command.action == "add":
            if who in self.groups or (seats and self.members(account) >= seats):
                return {"code": "conflict"}
            self.groups[who], self.roles[who] = group, command.role
            self.removed.discard((who, group))
            return told | {"seats": self.members(account)}
        if self.groups.get(who) != group:
            return {"code": "not_found"}
        there = [one for one, of in self.groups.items() if (one[0], of) == (who[0], group)]
        admins = [one for one in there if self.roles[one] == "admin"]
        as_it_is = command.action == "set_role" and command.role == self.roles[who]
        if as_it_is or admins == [who]:
            return {"code": "conflict"}
        if command.action == "set_role":
            self.roles[who] = command.role
            return told | {"seats": len(there), "action": "member.role"}
        del self.groups[who]
        self.removed.add((who, group))
        return told | {"seats": len(there) - 1}
