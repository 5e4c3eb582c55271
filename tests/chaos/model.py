"""The ledger the long way round: what happened is kept in lists, and every question looks through them again. No
counters, no cache, none of the product's rules. How full a limit is, `model_counting.py` says, whose an event is and
which limits it meets `model_accounts.py`.
Each command has a method of its name. Its answer is what `telling.facts_of` makes of the ledger's; `thing` is the
event, reservation or session it made or found."""

from types import SimpleNamespace as Thing

from tests.chaos.model_costs import CALLED, costs_of, line_said, unsaid
from tests.chaos.model_counting import HELD, REFUSED, USED, Counting, own, total
from tests.chaos.model_grants import pass_on
from tests.chaos.model_lifecycle import No
from tests.chaos.model_overage import OVERAGE
from tests.chaos.model_refusals import Refusals
from tests.chaos.periods import SECOND, gains_of

DAYS_35 = 35 * 86_400 * SECOND


class Model(Counting, Refusals):
    def __init__(self, accounts):
        Counting.__init__(self, accounts)
        Refusals.__init__(self)
        self.answers = []

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
        answer = self.answer(getattr(self, name, None) or getattr(self.accounts, name), command)
        if key and answer.get("thing"):
            self.answers.append((key, command.digest, now, answer))
        return answer

    def answer(self, method, asked):
        try:
            return method(asked)
        except No as no:
            return {"code": str(no)}

    def decided(self, held, limits, gains, still=None, late=False):
        for row in limits.values():
            row[REFUSED] = row[REFUSED] and not still  # no limit is why
        refused = [(key, row) for key, row in limits.items() if row[REFUSED]]
        too_fast = all(key[1] == "minute" and 0 < row[0] >= gains[key[0]] for key, row in refused)
        code = still or ("ok" if not refused else "rate_limited" if too_fast else "quota_exceeded")
        told = {"code": code, "plan": held and held.plan.key, "limits": limits}
        return told | {"replayed": False, "late": late, "thing": None, "unpriced": "cost:unpriced" in gains}

    def CheckUsage(self, command):
        return self.decide(command, self.now)[0]

    def decide(self, command, at):
        """The decision, and what happens where it is taken."""
        account, user = self.accounts.home(command.subject), command.subject.user
        held = self.accounts.held_by(account, user)
        still = held.still(self.now) if held else "payment_required"
        asked, price = (command.event, command.quantity, dict(command.attributes)), line_said(command.price)
        gains = gains_of(*asked) | costs_of(*asked, price, not hasattr(command, "enforce"))
        if command.quantity < 0:  # a level is lowered to nothing and no further
            ((meter, gain),) = gains.items()
            gains = {meter: max(gain, -total(self.gained(self.events, account, user, meter), meter))}
        anyway = not getattr(command, "enforce", True)
        then = self.accounts.held_then(account, user, at)
        limits = self.standing(account, user, held, gains, at, None, anyway, then, unsaid(*asked, price))
        answer = self.decided(held, limits, gains, still)
        told = {
            "told": asked,
            "gains": gains,
            "price": price,
            "sells": then and not then.still(min(at, self.now)),
        }
        told |= {"at": at, "used_at": min(at, self.now)}  # nothing is used later than it is reported
        whose = {"account": account, "user": user, "plan": held and held.plan}
        if held and then and self.accounts.decided_by_then(held.plan, then.plan, gains):
            whose["plan"] = then.plan
        whose["rhythm"] = held.rhythm if held else (0, 1, 0)
        return answer, Thing(**whose, **told, answer=None, id=None)

    def keep(self, things, thing, answer, column):
        self.accounts.know(thing.account, thing.user)
        things.append(thing)
        gains = dict(thing.gains)
        thing.took = []
        for (meter, window, _), row in answer["limits"].items():
            units = pass_on(thing, window, row, gains[meter]) if column == USED and thing.sells else 0
            if units:
                thing.gains |= {f"{meter}:overage": units, f"{meter}:overage_charge": units * row[OVERAGE][1]}
                row[OVERAGE][0] += units
            row[column] += gains[meter]
        return answer | {"thing": thing, "plan": thing.plan and thing.plan.key}

    def RecordUsage(self, command):
        at = command.occurred_at or self.now
        if not self.now - DAYS_35 <= at <= self.now + 300 * SECOND:
            return {"code": "invalid_request"}
        answer, event = self.decide(command, at)
        if answer["code"] != "ok" and command.enforce:
            return self.refuse(answer, event)
        return self.keep(self.events, event, answer, USED)

    def Reserve(self, command):
        answer, one = self.decide(command, self.now)
        one.ends = self.now + command.ttl_seconds * SECOND
        refused = answer["code"] != "ok"
        return self.refuse(answer, one) if refused else self.keep(self.reservations, one, answer, HELD)

    def Settle(self, command):
        one = next((one for one in self.reservations if one.id == command.reservation_id), None)
        if one is None or self.now - one.at > DAYS_35:
            return {"code": "not_found"}
        if one.answer:
            digest, answer = one.answer
            return answer | {"replayed": True} if digest == command.digest else {"code": "conflict"}
        (event, quantity, attributes), price = one.told, one.price
        quantity = quantity if command.quantity is None else command.quantity
        if command.attributes is not None:
            called = {name: attributes[name] for name in CALLED if name in attributes}
            attributes = dict(command.attributes)
            if any(name in attributes for name in CALLED):  # it was another that was called
                price = line_said(command.price)
            else:
                attributes |= called
        asked = (event, quantity, attributes)
        gains = gains_of(*asked) | costs_of(*asked, price) if quantity else dict.fromkeys(own(one.gains), 0)
        held, late = self.accounts.held_by(one.account), self.now >= one.ends
        limits = self.standing(one.account, one.user, held, gains, one.at, one, True, one)
        is_less = all(gain <= one.gains.get(meter, 0) for meter, gain in own(gains).items())
        if not quantity or (is_less and not late):
            for row in limits.values():  # what was granted is granted
                row[REFUSED] = False
        still = held.still(self.now) if late and quantity else None  # as if it had not been held at all
        answer = self.decided(held, limits, gains, still, late) | {"thing": one}
        if self.accounts.decided_by_then(held.plan, one.plan, gains):
            answer["plan"] = one.plan.key
        if quantity:
            told = {"told": asked, "gains": gains, "id": None, "price": price}
            if not self.accounts.decided_by_then(held.plan, one.plan, gains):
                told["plan"] = held.plan
            answer = self.keep(self.events, Thing(**vars(one) | told), answer, USED)
        one.answer = (command.digest, answer)
        return answer
