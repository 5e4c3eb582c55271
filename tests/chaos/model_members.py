"""Who was added to a group by hand, removed from it or given a role, the long way round."""

from tests.chaos.model_changes import Changes
from tests.chaos.model_lifecycle import No


class Members(Changes):
    def __init__(self, default):
        super().__init__(default)
        self.roles, self.removed = {}, set()

    def Arrive(self, command):
        """Tokens here do not say when they were issued: they bring nobody back who was removed."""
        who, group = (command.subject.tenant, command.subject.user), command.subject.group
        before = self.groups.get(who)
        if group and group != before and (who, group) in self.removed:
            raise No("forbidden")
        told = super().Arrive(command)
        if self.groups.get(who) != before:
            self.roles[who] = "member"
        return told

    def ManageMember(self, command):
        account, _ = self.must_be_there(command.subject)
        group, who, held = account[2], (command.subject.tenant, command.user), self.held_by(account)
        seats = held and self.seats_max(held)
        told = {"code": "ok", "max": seats, "founded": False, "action": f"member.{command.action}"}
        if command.action == "add":
            if who in self.groups or self.is_full(account, held):
                raise No("conflict")
            own = self.held.get((who[0], "personal", who[1]))
            if own and (own.suspended or own.at(self.now).is_paid()):
                raise No("conflict")
            self.groups[who], self.roles[who] = group, command.role
            self.removed.discard((who, group))
            return told | {"seats": self.members(account)}
        if self.groups.get(who) != group:
            raise No("not_found")
        there = [one for one, of in self.groups.items() if (one[0], of) == (who[0], group)]
        admins = [one for one in there if self.roles[one] == "admin"]
        as_it_is = command.action == "set_role" and command.role == self.roles[who]
        if as_it_is or admins == [who]:
            raise No("conflict")
        if command.action == "set_role":
            if command.role == "member":  # nor does it make an administrator of who is none any more
                self.removed.add((who, group))
            self.roles[who] = command.role
            return told | {"seats": len(there), "action": "member.role"}
        del self.groups[who]
        self.removed.add((who, group))
        return told | {"seats": len(there) - 1}
