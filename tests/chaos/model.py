"""The ledger the long way round: lists of what happened, added up again for every question. No counters, no
rollups, no cache, and none of the product's rules: it shares with the product only the shapes of commands and
plans. Each command has a method of its name; what it returns is what `telling.facts_of` makes of an outcome."""

from tests.chaos.model_accounts import SECOND, Accounts, Thing
from tests.chaos.periods import gains_of, period

from subscription_mcp.domain.catalog import UNLIMITED

DAY = 86_400 * SECOND


class Model(Accounts):
    def __init__(self):
        super().__init__()
        self.keys, self.events, self.reservations = {}, [], []

    def apply(self, command, now):
        """What the command comes to, as `facts_of` shows an outcome; `thing` is what it made or found."""
        self.now = now
        return getattr(self, type(command).__name__)(command)

    def sum_of(self, things, account, user, key, start):
        meter, window, scope = key
        pool = account[1] == "group" and scope == "account"
        whose = [one for one in things if one.account == account and (pool or one.user == user)]
        return sum(one.gains.get(meter, 0) for one in whose if period(window, one.at, one.anchor)[0] == start)

    def standing(self, account, user, held, at=None, anchor=None, besides=None, meters=None, whole=False):
        """Every limit: maximum, used, held, start, end, refused."""
        at, anchor = at or self.now, held.anchor if anchor is None else anchor
        live = [r for r in self.reservations if r.answer is None and self.now < r.ends and r is not besides]
        found = {}
        for key, maximum in self.limits(account, user, held.plan).items():
            if (meters is None or key[0] in meters) and not (whole and key[2] == "user"):
                start, end = period(key[1], at, anchor)
                sums = (self.sum_of(things, account, user, key, start) for things in (self.events, live))
                found[key] = [maximum, *sums, start, end, False]
        return found

    def judged(self, plan, limits, gains):
        for (meter, _, _), row in limits.items():
            row[5] = row[0] is not UNLIMITED and row[1] + row[2] + gains[meter] > row[0]
        code = "quota_exceeded" if any(row[5] for row in limits.values()) else "ok"
        return {
            "code": code,
            "plan": plan.key,
            "limits": limits,
            "replayed": False,
            "late": False,
            "thing": None,
        }

    def view(self, subject, now=None, account=None):
        self.now, account, user = now or self.now, account or self.home(subject), subject.user or ""
        if subject.user is None and account not in self.held_plans:
            return {"code": "not_found"}
        held = self.plan_held(account)
        limits = self.standing(account, user, held, whole=not user)
        seats = self.members(account) if account[1] == "group" else None
        active = len(self.open_ones(account, user))
        return {"code": "ok", "plan": held.plan.key, "version": held.plan.version, "limits": limits} | {
            "seats": seats,
            "active": active,
        }

    # Usage

    def once(self, command, do):
        key = (command.subject.tenant, command.source, command.idempotency_key)
        digest, at, answer = self.keys.get(key, (b"", 0, None))
        if command.idempotency_key is None or answer is None or self.now - at >= 35 * DAY:
            answer = do(command)
            if command.idempotency_key and answer.get("thing"):
                self.keys[key] = (command.digest, self.now, answer)
            return answer
        return answer | {"replayed": True} if digest == command.digest else {"code": "conflict"}

    def CheckUsage(self, command, at=None):
        account, user = self.home(command.subject), command.subject.user
        held, gains = self.plan_held(account), gains_of(command.event, command.quantity, command.attributes)
        return self.judged(held.plan, self.standing(account, user, held, at, meters=gains), gains)

    def RecordUsage(self, command):
        return self.once(command, self.record)

    def record(self, command):
        at = command.occurred_at or self.now
        if not self.now - 35 * DAY <= at <= self.now + 300 * SECOND:
            return {"code": "invalid_request"}
        answer = self.CheckUsage(command, at)
        if answer["code"] == "ok" or not command.enforce:
            self.add(command, answer, self.events, 1, at)
        return answer

    def Reserve(self, command):
        return self.once(command, self.reserve)

    def reserve(self, command):
        answer = self.CheckUsage(command)
        if answer["code"] == "ok":
            self.add(command, answer, self.reservations, 2, self.now)
            answer["thing"].ends = self.now + command.ttl_seconds * SECOND
        return answer

    def add(self, command, answer, things, column, at):
        account, gains = (
            self.home(command.subject),
            gains_of(command.event, command.quantity, command.attributes),
        )
        held = self.held_plans[account] = self.plan_held(account)
        told = (command.event, command.quantity, dict(command.attributes), held.plan.key, held.plan.version)
        answer["thing"] = Thing(account, command.subject.user, at, held.anchor, gains, told)
        things.append(answer["thing"])
        for key, row in answer["limits"].items():
            row[column] += gains[key[0]]

    def Settle(self, command):
        one = self.find(self.reservations, command.reservation_id)
        if one is None or self.now - one.at > 35 * DAY:
            return {"code": "not_found"}
        if one.answer is not None:
            digest, answer = one.answer
            return answer | {"replayed": True} if digest == command.digest else {"code": "conflict"}
        event, quantity, attributes, *_ = one.told
        quantity = quantity if command.quantity is None else command.quantity
        attributes = attributes if command.attributes is None else command.attributes
        gains = gains_of(event, quantity, attributes) if quantity else {}
        held, late = self.plan_held(one.account), self.now >= one.ends
        granted = not gains or (not late and all(gain <= one.gains.get(m, 0) for m, gain in gains.items()))
        limits = self.standing(
            one.account, one.user, held, one.at, one.anchor, one, gains or one.gains if granted else gains
        )
        answer = self.judged(held.plan, limits, {m: 0 for m, *_ in limits} if granted else gains)
        if granted:
            answer["code"] = "ok"
        for (meter, _, _), row in limits.items():
            row[1] += gains.get(meter, 0)
            row[5] = row[5] and not granted
        if quantity:
            told = (event, quantity, dict(attributes), held.plan.key, held.plan.version)
            answer["thing"] = Thing(one.account, one.user, one.at, one.anchor, gains, told)
            self.events.append(answer["thing"])
        answer |= {"late": late, "thing": answer["thing"] or one}
        one.answer = (command.digest, answer)
        return answer
