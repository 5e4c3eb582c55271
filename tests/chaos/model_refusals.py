"""What was refused and how often, the long way round: each refusal is in a list, with every limit that was a reason."""

from collections import Counter

from tests.chaos.model_counting import REFUSED
from tests.chaos.periods import SECOND

HOUR = 3_600 * SECOND


class Refusals:
    def __init__(self):
        self.refusals = []

    def is_known(self, tenant):
        seen = (*self.accounts.held, *self.accounts.groups, *(one.account for one in self.events))
        return any(one[0] == tenant for one in seen)

    def counted(self, answer, account, user, meters=("",)):
        """The same answer; a refusal is noted of whom is known, else of the tenant, else not at all."""
        if answer["code"] == "ok":
            return answer
        if account not in self.accounts.held and not self.accounts.members(account):
            account, user = (account[0], "personal", ""), ""
            if not self.is_known(account[0]):
                return answer
        place = (account, user, self.now - self.now % HOUR, answer["code"])
        self.refusals.append((place, frozenset(meters) or {""}))
        return answer

    def refuse(self, answer, thing):
        meters = {meter for (meter, *_), row in answer["limits"].items() if row[REFUSED]}
        return self.counted(answer, thing.account, thing.user, meters)

    def OpenSession(self, command):
        answer = self.accounts.OpenSession(command)
        meter = "sessions" if answer["code"] == "session_limit" else ""
        return self.counted(answer, self.accounts.home(command.subject), command.subject.user, {meter})

    def refused_by_hour(self):
        return Counter(place for place, _ in self.refusals)

    def reasons(self):
        """Of each place the meters whose limits refused something there."""
        found = {}
        for place, meters in self.refusals:
            found.setdefault(place, set()).update(meters)
        return found
