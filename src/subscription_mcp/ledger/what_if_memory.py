"""The facts of a what-if: they begin empty, are only kept in memory, and what is told changes them as the machine does."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from subscription_mcp.domain.catalog import OVERAGE_CHARGE, Catalog, Plan, places_counted, places_of
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.identifiers import uuid7_instant
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import HistoryRow
from subscription_mcp.domain.pricing import PriceBook, UnitPrice, unit_price_of
from subscription_mcp.domain.subscriptions import AccountKey, Membership, Subscription
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.domain.windows import Anchor, rolling_length
from subscription_mcp.ledger import machine
from subscription_mcp.ledger.commands import (
    Actor,
    CorrectUsage,
    Decided,
    Grant,
    Outcome,
    RecordUsage,
    Subject,
    UsageEvent,
)
from subscription_mcp.ledger.machine.facts import (
    KEY_RETENTION,
    NO_ANCHOR,
    Changes,
    CountedPlace,
    Counter,
    Facts,
    GroupSize,
    HolderKey,
    TenantSize,
    Turn,
)
from subscription_mcp.ledger.port import Ask
from subscription_mcp.ledger.queries import GrantsOf, OverridesOf
from subscription_mcp.ledger.recount import latest_end

EVENTS_BETWEEN_SWEEPS = 20_000
BOUNDLESS = Bounds(users=2**53, dimensions=2**53, open=2**53)


class Stood(NamedTuple):
    """How an account stood when something was recorded, with plans of the draft in place of the ledger's: the plan that
    decides, the subscription, and the history of it, which decides about what came late."""

    plan: Plan
    held: Subscription | None
    rows: list[HistoryRow]


class Memory:
    """The facts of a ledger that begins with nothing used at an instant, and the machine on them."""

    def __init__(self, ask: Ask, draft: Catalog, since: Instant) -> None:
        self._ask = ask
        self._since = since
        self._grants: dict[HolderKey, list[Grant]] = {}
        plans = list(draft.plans.values())
        counted_since: dict[CountedPlace, Instant] = {
            (meter, window.key, scope): 0
            for plan in plans
            for limit in plan.limits
            for meter, window, scope in places_of(limit)
        }
        self._facts = Facts(
            draft,
            plans={(plan.key, plan.version): plan for plan in plans},
            places=places_counted(draft.meters, plans),
            counted_since=counted_since,
            bounds=BOUNDLESS,
        )
        self._book = PriceBook(draft.prices)
        self._told = 0
        self._to_take_back: dict[str, tuple[UsageEvent, Anchor]] = {}

    def tell(self, event: UsageEvent, stood: Stood, *, enforce: bool) -> tuple[Decided | Refusal, int]:
        """How the event is decided under the draft, and what it costs beyond the limits. With `enforce` one that is
        refused is not counted."""
        self._told += 1
        if self._told % EVENTS_BETWEEN_SWEEPS == 0:
            self._forget_what_is_over(event.recorded_at)
        self._stand(event, stood)
        group = event.account if event.account_kind == "group" else None
        command = RecordUsage(
            Subject(event.tenant, event.user, group, event.account_kind),
            event.event,
            event.source,
            event.quantity,
            event.attributes,
            occurred_at=event.occurred_at,
            enforce=enforce,
            price=self._price_of(event),
        )
        outcome, appended = self._run(command, event)
        assert isinstance(outcome, Decided | Refusal)
        if event.corrected_by is not None and appended is not None:
            anchor = NO_ANCHOR if stood.held is None else stood.held.billing_anchor
            self._to_take_back[event.id] = appended, anchor
        return outcome, 0 if appended is None else overage_charge(appended.gains)

    def take_back(self, correction: UsageEvent, stood: Stood) -> int:
        """Take back what was told, where the draft counted it; what of the charges beyond limits that gives back, below
        0."""
        event, anchor = self._to_take_back.pop(correction.corrects or "", (None, NO_ANCHOR))
        if event is None:
            return 0
        self._stand(correction, stood)
        facts = self._facts
        facts.forget_what_is_asked_once()
        facts.events[(event.tenant, event.id)] = event
        account = AccountKey(event.tenant, event.account_kind, event.account)
        facts.anchors[(account, event.occurred_at, event.recorded_at)] = frozenset({anchor})
        command = CorrectUsage(event.tenant, event.id, Actor(correction.source, "service"), "")
        _, appended = self._run(command, correction)
        assert appended is not None
        return overage_charge(appended.gains)

    def _run(
        self, command: RecordUsage | CorrectUsage, event: UsageEvent
    ) -> tuple[Outcome, UsageEvent | None]:
        """The outcome when the event was recorded, and the event it made."""
        self._facts.now = event.recorded_at
        turn = Turn(self._facts, Changes(), event.recorded_at, lambda: event.id)
        (outcome,) = machine.run(turn, [command], self._supply)
        return outcome, next((one for _, one in turn.changes.events), None)

    def _price_of(self, event: UsageEvent) -> UnitPrice | None:
        """What it costs by the draft's price book, else what it was counted with."""
        provider, model = event.attributes.get("provider"), event.attributes.get("model")
        line = self._book.find(
            provider if isinstance(provider, str) else None, model if isinstance(model, str) else None
        )
        return event.price if line is None else unit_price_of(line)

    def _stand(self, event: UsageEvent, stood: Stood) -> None:
        """Let the user be in the account, and the account hold the plan, as it stood: who sells it, and whether it stands
        still, decides what is charged beyond limits."""
        plan, held = stood.plan, stood.held
        facts = self._facts
        account = AccountKey(event.tenant, event.account_kind, event.account)
        if held is None:
            stands = Subscription(plan.key, plan.version, "operator", NO_ANCHOR.at, NO_ANCHOR.at)
        else:  # what is scheduled has happened in it by then
            stands = replace(held, plan=plan.key, version=plan.version, scheduled=None)
        if facts.subscriptions.get(account) != stands:
            facts.subscriptions[account] = stands
            facts.forget_located(event.tenant, event.account)
        facts.histories[account] = stood.rows
        for holder in ((account, event.user), (account, "")):
            self._grant(holder, event.recorded_at)
        place = (event.tenant, event.user)
        joined = facts.members.get(place)
        group = event.account if event.account_kind == "group" else None
        if place not in facts.members or (joined.account if joined is not None else None) != group:
            facts.members[place] = None if group is None else Membership(group, "member", 0)
            facts.forget_located(event.tenant, event.account, event.user)

    def _grant(self, holder: HolderKey, at: Instant) -> None:
        """Let a holder have what they had been granted by then. What it gave before the past that is told is gone."""
        made = self._grants.get(holder)
        if made is None:
            made = self._grants[holder] = [
                replace(one, uses={start: units for start, units in one.uses.items() if start < self._since})
                for one in self._ask(GrantsOf(*holder))
            ]
        had = [one for one in made if uuid7_instant(UUID(one.id).bytes) <= at] if made else made
        if self._facts.grants.get(holder) != had:
            self._facts.grants[holder] = had
            account, user = holder
            self._facts.forget_located(account.tenant, account.account, user or None)

    def _supply(self, facts: Facts) -> None:
        """What is not known begins with nothing; only what was set by hand is as it is in the ledger."""
        missing, facts.missing = facts.missing, {}
        for key in missing.pop("counters", ()):
            facts.counters[key] = Counter(key, length=rolling_length(key.window_key))
        for key in missing.pop("overrides", ()):
            facts.overrides[key] = self._ask(OverridesOf(*key))
        for table, keys in missing.items():
            nothing = _NOTHING[table]
            known = getattr(facts, table)
            for key in keys:
                known[key] = nothing

    def _forget_what_is_over(self, now: Instant) -> None:
        """Drop counters that nothing can count in any more, late as it may come."""
        counters = self._facts.counters
        for key in [key for key in counters if _is_over(key.window_key, key.start, now)]:
            del counters[key]
        self._facts.periods.clear()
        self._facts.dimensions.clear()


_NOTHING: Mapping[str, object] = {
    "groups": GroupSize(1, 0),
    "tenants": TenantSize(),
    "dimensions": True,
    "grants_of_old": (),  # all that was ever granted is among the grants
    "open_sessions": {},
    "alert_marks": None,
    "alert_settings": None,
    "answers": None,
}
"""What is said of a fact that is not known."""


def _is_over(window_key: str, start: Instant, now: Instant) -> bool:
    if rolling_length(window_key) is not None:
        return False
    end = latest_end(window_key, start)
    return end is not None and end + KEY_RETENTION < now


def overage_charge(gains: Mapping[str, int]) -> int:
    """What of an event's gains is charged beyond limits."""
    return sum(gain for meter, gain in gains.items() if meter.endswith(f":{OVERAGE_CHARGE}"))
