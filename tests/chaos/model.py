"""The ledger the long way round: what happened is kept in lists, and every question looks through them again. No
counters, no cache, none of the product's rules. Whose an event is and which limits it meets, `model_accounts.py` says.
Each command has a method of its name. Its answer is what `telling.facts_of` makes of the ledger's; `thing` is the
event, reservation or session it made or found."""

from types import SimpleNamespace as Thing

from tests.chaos.periods import SECOND, SLIDING, back_at, gains_of, period

from subscription_mcp.domain.catalog import UNLIMITED

DAYS_35 = 35 * 86_400 * SECOND
USED, HELD, REFUSED = 1, 2, 5
"""Of a limit as it stands: maximum, used, held, start, end, refused."""


def total(things, meter):
    return sum(one.gains[meter] for one in things)


class Model:
    def __init__(self, accounts):
        self.accounts, accounts.standing = accounts, self.standing
        self.events, self.reservations, self.answers = [], [], []

    def at(self, now):
        self.now = self.accounts.now = now
        return self

    def apply(self, command, now):
        """What a command comes to. The first answer to a request with a key stays the answer for 35 days."""
        self.at(now)
        name, key = type(command).__name__, getattr(command, "idempotency_key", None)
        key = key and (command.subject.tenant, command.source, key)
        for known, digest, at, answer in self.answers:
            if known == key and now < at + DAYS_35:
                return answer | {"replayed": True} if digest == command.digest else {"code": "conflict"}
        answer = (getattr(self, name, None) or getattr(self.accounts, name))(command)
        if key and answer.get("thing"):
            self.answers.append((key, command.digest, now, answer))
        return answer

    def gained(self, things, account, user, meter):
        """What a meter gained something from: of a user, or of everybody in the account."""
        mine = [one for one in things if one.account == account and user in (None, one.user)]
        return [one for one in mine if meter in one.gains]

    def standing(self, account, user, held, gains=None, at=None, settled=None, anyway=False):
        """All limits, or those of the meters that gain something, in the windows that hold `at`; of a reservation
        that is `settled`, in those it was made in. `anyway` it is counted, also beyond a limit."""
        rows, at, rhythm = {}, at or self.now, (settled or held).rhythm
        live = [r for r in self.reservations if not r.answer and self.now < r.ends and r is not settled]
        for (meter, window, scope), maximum in self.accounts.limits(account, user, held.plan).items():
            if (scope == "user" and not user) or (gains is not None and meter not in gains):
                continue
            who = None if scope == "account" else user
            used, kept = (self.gained(things, account, who, meter) for things in (self.events, live))
            gain, zone, length = gains[meter] if gains else 0, held.plan.timezone, SLIDING.get(window)
            if length is None:
                start, end = period(window, zone, at, rhythm)
                used = [one for one in used if period(window, zone, one.at, one.rhythm)[0] == start]
                kept = [one for one in kept if period(window, zone, one.at, one.rhythm)[0] == start]
                if rhythm != held.rhythm and window == "billing_period":
                    # Another plan has cut it short since: its end is told from its own start.
                    end = period(window, zone, start, (start, held.months))[1]
            elif at >= (since := self.accounts.counts_from(account, who, meter, window, length)):
                start, used = self.now - length, [one for one in used if one.used_at >= since]
            else:
                continue  # it happened before anything that counts
            sums = total(used, meter), total(kept, meter)
            over = maximum is not UNLIMITED and sum(sums) + gain > maximum
            if length is not None:
                coming = [(one.used_at + length, one.gains[meter]) for one in used]
                coming += [(one.ends, one.gains[meter]) for one in kept if over]
                own = [(min(at, self.now) + length, gain)] if anyway or not over else []
                room = (maximum if own else maximum - gain) if over else sum(sums) + gain
                end = back_at(coming + own, room) or self.now + length
            refused = over and gain > 0
            rows[meter, window, scope] = [maximum, *sums, start, end, refused]
        return rows

    def decided(self, plan, limits, gains, late=False):
        refused = [(key, row) for key, row in limits.items() if row[REFUSED]]
        too_fast = all(window == "minute" and gains[meter] <= row[0] for (meter, window, _), row in refused)
        code = "ok" if not refused else "rate_limited" if too_fast else "quota_exceeded"
        told = {"code": code, "plan": plan.key, "limits": limits}
        return told | {"replayed": False, "late": late, "thing": None}

    def CheckUsage(self, command):
        return self.decide(command, self.now)[0]

    def decide(self, command, at):
        """The decision, and what happens where it is taken."""
        account, user = self.accounts.home(command.subject), command.subject.user
        held = self.accounts.plan_held(account)
        gains = gains_of(command.event, command.quantity, command.attributes)
        if command.quantity < 0:  # a level is lowered to nothing and no further
            ((meter, gain),) = gains.items()
            gains = {meter: max(gain, -total(self.gained(self.events, account, user, meter), meter))}
        anyway = not getattr(command, "enforce", True)
        answer = self.decided(held.plan, self.standing(account, user, held, gains, at, None, anyway), gains)
        told = {"told": (command.event, command.quantity, dict(command.attributes)), "gains": gains}
        told |= {"at": at, "used_at": min(at, self.now)}  # nothing is used later than it is reported
        whose = {"account": account, "user": user, "plan": held.plan, "rhythm": held.rhythm}
        return answer, Thing(**whose, **told, answer=None, id=None)

    def keep(self, things, thing, answer, column):
        self.accounts.know(thing.account)
        things.append(thing)
        for (meter, *_), row in answer["limits"].items():
            row[column] += thing.gains[meter]
        return answer | {"thing": thing}

    def RecordUsage(self, command):
        at = command.occurred_at or self.now
        if not self.now - DAYS_35 <= at <= self.now + 300 * SECOND:
            return {"code": "invalid_request"}
        answer, event = self.decide(command, at)
        if answer["code"] != "ok" and command.enforce:
            return answer
        return self.keep(self.events, event, answer, USED)

    def Reserve(self, command):
        answer, one = self.decide(command, self.now)
        one.ends = self.now + command.ttl_seconds * SECOND
        return self.keep(self.reservations, one, answer, HELD) if answer["code"] == "ok" else answer

    def Settle(self, command):
        one = next((one for one in self.reservations if one.id == command.reservation_id), None)
        if one is None or self.now - one.at > DAYS_35:
            return {"code": "not_found"}
        if one.answer:
            digest, answer = one.answer
            return answer | {"replayed": True} if digest == command.digest else {"code": "conflict"}
        event, quantity, attributes = one.told
        quantity = quantity if command.quantity is None else command.quantity
        attributes = attributes if command.attributes is None else dict(command.attributes)
        gains = gains_of(event, quantity, attributes) if quantity else dict.fromkeys(one.gains, 0)
        held, late = self.accounts.plan_held(one.account), self.now >= one.ends
        limits = self.standing(one.account, one.user, held, gains, one.at, one, True)
        is_less = all(gain <= one.gains.get(meter, 0) for meter, gain in gains.items())
        if not quantity or (is_less and not late):
            for row in limits.values():  # what was granted is granted
                row[REFUSED] = False
        answer = self.decided(held.plan, limits, gains, late) | {"thing": one}
        if quantity:
            told = {"told": (event, quantity, attributes), "gains": gains, "plan": held.plan, "id": None}
            answer = self.keep(self.events, Thing(**vars(one) | told), answer, USED)
        one.answer = (command.digest, answer)
        return answer
