"""By which plan something is allowed and charged that is told only later: also by the one that was held when it
happened."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from subscription_mcp.domain.catalog import OVERAGE, UNLIMITED, Limit, Plan, derived
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import HistoryRow, looked_at_next
from subscription_mcp.domain.subscriptions import Subscription
from subscription_mcp.ledger.machine.accounts import Located
from subscription_mcp.ledger.machine.facts import Facts, Reservation, Turn


def located_then(turn: Turn, located: Located, meters: Iterable[str], at: Instant) -> Located | None:
    """The account with what decides about something that happened at `at`; None where facts are missing."""
    facts, meters = turn.facts, tuple(meters)
    if at >= turn.now or located.plan is None or not _may_be_passed(facts, meters):
        return located
    rows: Sequence[HistoryRow] | None = facts.read("histories", located.account)
    if rows is None:
        return None
    held = _held_at(rows, at) if rows else located.subscription
    then = None if held is None else facts.plans.get((held.plan, held.version))
    sells = held is not None and held.standstill_at(at) is None
    return _by_terms_of(located, then, meters, sells=sells, charges=held is not None and held.is_sold_here)


def located_as_reserved(
    turn: Turn, located: Located, reservation: Reservation, meters: Iterable[str]
) -> Located | None:
    """The account with what decides about a settle: what was reserved was sold then, whatever has become of the
    subscription. None where facts are missing."""
    facts, meters = turn.facts, tuple(meters)
    if not _may_be_passed(facts, meters):
        return located
    then: Plan | None = facts.read("plans", (reservation.plan, reservation.plan_version))
    rows: Sequence[HistoryRow] | None = facts.read("histories", reservation.account)
    if then is None or rows is None:
        return None
    held = _held_at(rows, reservation.reserved_at) if rows else located.subscription
    return _by_terms_of(located, then, meters, sells=True, charges=held is not None and held.is_sold_here)


def look_for_what_was_sold(turn: Turn, located: Located) -> None:
    """Have somebody look at what was charged, or given back, to an account that nobody looks at any more."""
    subscription = located.subscription
    if subscription is None or looked_at_next(subscription, turn.facts.plans, turn.now) is None:
        turn.changes.billing_due[located.account] = turn.now


def _may_be_passed(facts: Facts, meters: Iterable[str]) -> bool:
    """Whether any version of a plan ever had an overage on one of these."""
    return any(derived(meter, OVERAGE) in facts.places for meter in meters)


def _held_at(rows: Sequence[HistoryRow], at: Instant) -> Subscription | None:
    """What was held at an instant; before the first row what that says, or nothing where it was bought then."""
    row = next((row for row in reversed(rows) if row.at <= at), None)
    if row is not None:
        return row.subscription.at(at)
    first = rows[0]
    # Where no plan is the default, first sight is what is bought in the same instant.
    is_bought = any(
        row.charge is not None and row.at == first.at and row.subscription == first.subscription
        for row in rows[:2]
    )
    return None if is_bought else first.subscription


def _by_terms_of(
    located: Located, then: Plan | None, meters: Sequence[str], *, sells: bool, charges: bool
) -> Located:
    today = located.plan
    is_same = then is not None and today is not None and _version(then) == _version(today)
    limits_then = () if then is None else located.limits_of(then)
    passable = any(one.overage and one.meter in meters for one in (*located.limits, *limits_then))
    if not is_same and today is not None and passable:
        limits_of = _limits_of_both(located.limits_of, _version(today), limits_then)
        return _with(located, limits_of=limits_of, terms=then, sells=sells, charges=charges)
    if (sells, charges) == (located.sells, located.charges):
        return located
    return _with(located, sells=sells, charges=charges)


def _with(located: Located, **changes: object) -> Located:
    found = replace(located, tallies={}, **changes)  # type: ignore[arg-type]
    found.holder = located.holder
    return found


def _limits_of_both(
    limits_of: Callable[[Plan], tuple[Limit, ...]], today: tuple[str, int], limits_then: Iterable[Limit]
) -> Callable[[Plan], tuple[Limit, ...]]:
    """Today's limits without overage, and in their place, or beside them, what the plan of then sold."""

    def limits_of_both(plan: Plan) -> tuple[Limit, ...]:
        limits = limits_of(plan)
        if _version(plan) != today:
            return limits
        sold = {one.key: one for one in limits_then if one.overage is not None}
        found = []
        for limit in limits:
            then = sold.pop(limit.key, None)
            if then is None or limit.maximum is UNLIMITED or then.maximum is UNLIMITED:
                found.append(replace(limit, overage=None))
            else:
                found.append(replace(then, maximum=max(limit.maximum, then.maximum)))
        return (*found, *sold.values())

    return limits_of_both


def _version(plan: Plan) -> tuple[str, int]:
    return plan.key, plan.version
