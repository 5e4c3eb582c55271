"""The ledger the long way round: lists of what happened, added up again for every question. No counters, no
rollups, no cache, and none of the product's rules: it shares with the product only the shapes of commands and
plans. Each command has a method of its name; what it returns is what `telling.facts_of` makes of an outcome."""

from tests.chaos.model_accounts import SECOND, Accounts, Thing
from tests.chaos.periods import LENGTHS, gains_of, period

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

    def of(self, things, account, user, key):
        pool = account[1] == "group" and key[2] == "account"
        mine = [one for one in things if one.account == account and (pool or one.user == user)]
        return [one for one in mine if key[0] in one.gains]

    def sum_of(self, things, account, user, key, start):
        whose = self.of(things, account, user, key)
        return sum(one.gains[key[0]] for one in whose if period(key[1], one.at, one.anchor)[0] == start)

    def sliding(self, account, user, key, maximum, live, gain, at, anyway):
        """The same for a window that slides: all of it that is not yet a length ago. What is said to lie in the
        future was used when it was recorded."""
        length, now = LENGTHS[key[1]], self.now
        uses = [one for one in self.of(self.events, account, user, key) if now < one.used_at + length]
        used = sum(one.gains[key[0]] for one in uses)
        holding = self.of(live, account, user, key)
        held = sum(one.gains[key[0]] for one in holding)
        excess = 0 if maximum is UNLIMITED else used + held + gain - maximum
        back, given = now + length, 0
        gone = [(one.used_at + length, one.gains[key[0]]) for one in uses]
        gone += [(min(at, now) + length, gain)] if gain and (anyway or excess <= 0) else []
        gone += [(one.ends, one.gains[key[0]]) for one in holding if excess > 0]
        for until, quantity in sorted(gone):
            back, given = until, given + quantity
            if given >= excess:
                break
        return [maximum, used, held, now - length, back, False]

    def gained(self, account, user, event, quantity, attributes):
        """What the meters gain; a level is lowered to nothing and no further."""
        gains = gains_of(event, quantity, attributes)
        if quantity < 0:
            level = self.sum_of(self.events, account, user, ("storage_mb", "level", "user"), 0)
            gains = {meter: max(gain, -level) for meter, gain in gains.items()}
        return gains

    def standing(
        self,
        account,
        user,
        held,
        at=None,
        anchor=None,
        besides=None,
        meters=None,
        whole=False,
        gains=None,
        anyway=False,
    ):
        """Every limit: maximum, used, held, start, end, refused."""
        at, anchor = at or self.now, held.anchor if anchor is None else anchor
        live = [r for r in self.reservations if r.answer is None and self.now < r.ends and r is not besides]
        found = {}
        for key, maximum in self.limits(account, user, held.plan).items():
            if (meters is not None and key[0] not in meters) or (whole and key[2] == "user"):
                continue
            if key[1] in LENGTHS:
                if self.now < at + LENGTHS[key[1]]:
                    gain = (gains or {}).get(key[0], 0)
                    found[key] = self.sliding(account, user, key, maximum, live, gain, at, anyway)
            else:
                start, end = period(key[1], at, anchor)
                if anchor != held.anchor and key[1] == "billing_period":
                    # Another plan has cut it short since: its end is told from its own start.
                    end = period(key[1], start, start)[1]
                sums = (self.sum_of(things, account, user, key, start) for things in (self.events, live))
                found[key] = [maximum, *sums, start, end, False]
        return found

    def judged(self, plan, limits, gains):
        for (meter, _, _), row in limits.items():
            row[5] = row[0] is not UNLIMITED and gains[meter] > 0 and row[1] + row[2] + gains[meter] > row[0]
        refused = [(key, row) for key, row in limits.items() if row[5]]
        too_fast = all(key[1] == "minute" and gains[key[0]] <= row[0] for key, row in refused)
        code = "ok" if not refused else "rate_limited" if too_fast else "quota_exceeded"
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
        held = self.plan_held(account)
        gains = self.gained(account, user, command.event, command.quantity, command.attributes)
        anyway = not getattr(command, "enforce", True)
        limits = self.standing(account, user, held, at, meters=gains, gains=gains, anyway=anyway)
        return self.judged(held.plan, limits, gains)

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
        account, user = self.home(command.subject), command.subject.user
        gains = self.gained(account, user, command.event, command.quantity, command.attributes)
        held = self.held_plans[account] = self.plan_held(account)
        told = (command.event, command.quantity, dict(command.attributes), held.plan.key, held.plan.version)
        answer["thing"] = Thing(account, command.subject.user, at, held.anchor, gains, told)
        answer["thing"].used_at = min(at, self.now)
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
        meters = gains or one.gains if granted else gains
        limits = self.standing(
            one.account, one.user, held, one.at, one.anchor, one, meters, gains=gains, anyway=True
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
            answer["thing"].used_at = one.at
            self.events.append(answer["thing"])
        answer |= {"late": late, "thing": answer["thing"] or one}
        one.answer = (command.digest, answer)
        return answer
