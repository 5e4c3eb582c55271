"""Changes of a subscription: another plan, its end, its seats, its status."""

from dataclasses import replace
from difflib import get_close_matches

from subscription_mcp.domain.catalog import Catalog, Plan
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import Charge
from subscription_mcp.domain.subscriptions import (
    ALLOWED_FROM,
    Action,
    Change,
    Origin,
    Subscription,
    as_it_was,
    cancellation,
    change_of_plan,
    change_of_seats,
    going_on,
    price_of,
)
from subscription_mcp.domain.windows import Interval
from subscription_mcp.domain.wording import clock_time, counted, list_text
from subscription_mcp.ledger.commands import (
    ChangePlan,
    ChangeSubscription,
    PlanChanged,
    SetStatus,
    StatusChanged,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    OPERATORS,
    Located,
    locate,
    make_known,
    must_be_known,
    must_have_room,
    no_subscription,
    save_subscription,
    standing_still,
    totals_of,
    view_of,
)
from subscription_mcp.ledger.machine.alerts import alerts_of_limits, raise_alerts
from subscription_mcp.ledger.machine.confirmations import agreed, look_up, offer
from subscription_mcp.ledger.machine.facts import Facts, Turn


def change_plan(turn: Turn, command: ChangePlan) -> PlanChanged | None:
    located = _located(turn, command)
    if located is None:
        return None
    change = _change(turn, located, command)
    return _offered_or_done(turn, command, located, change)


def change_subscription(turn: Turn, command: ChangeSubscription) -> PlanChanged | None:
    located = _located(turn, command)
    if located is None:
        return None
    subscription, plan = _held(turn.facts.catalog, located)
    _must_be_allowed(command.action, turn.facts, located)
    match command.action:
        case "cancel":
            change = _cancel(turn.facts.catalog, subscription, plan, turn.now)
        case "resume":
            if subscription.scheduled is None or subscription.scheduled.reason == "end":
                raise refused("conflict", "Nothing is scheduled: the subscription goes on as it is.")
            change = as_it_was(subscription, plan, follows_after_end(turn.facts.catalog), turn.now)
        case "set_seats":
            assert command.seats is not None
            _must_fit(located, plan, command.seats)
            change = _seats(turn, subscription, plan, command.seats)
    return _offered_or_done(turn, command, located, change)


def set_status(turn: Turn, command: SetStatus) -> StatusChanged | None:
    located = locate(turn, command.subject)
    if located is None:
        return None
    must_be_known(located, command.actor)
    if located.standing.account_kind == "group" and located.standing.user is not None:
        raise refused(
            "invalid_request",
            "This user is in a group: name it in account_id.",
            FieldProblem("account_id", "must name the group, without user_id"),
        )
    before = view_of(turn, located)
    subscription, plan = _held(turn.facts.catalog, located)
    _must_be_allowed(command.action, turn.facts, located)
    match command.action:
        case "suspend":
            changed = replace(subscription, suspended_at=turn.now)
        case "activate":
            changed = going_on(subscription, replace(subscription, suspended_at=None), plan, turn.now)
        case "payment_failed":
            _must_charge(plan, "there is no payment to fail")
            changed = replace(subscription, past_due_since=turn.now)
        case "payment_received":
            changed = going_on(subscription, replace(subscription, past_due_since=None), plan, turn.now)
    standstill = changed.standstill_at(turn.now)
    after = view_of(turn, replace(located, subscription=changed, standstill=standstill))
    if not turn.may_write:
        return None
    action = f"subscription.{command.action}"
    entry = save_subscription(
        turn, located.account, located.stored, changed, action, command.actor, command.reason
    )
    assert entry is not None  # every one of these changes something
    return StatusChanged(before, after, entry)


def origin_of_role(role: str) -> Origin:
    """Who chose the plan, as the subscription remembers it."""
    return "operator" if role in OPERATORS else "purchase"


def _located(turn: Turn, command: ChangePlan | ChangeSubscription) -> Located | None:
    located = locate(turn, command.subject)
    look_up(turn, command)
    if turn.facts.missing or located is None:
        return None
    must_be_known(located, command.actor)
    return located


def _offered_or_done(
    turn: Turn, command: ChangePlan | ChangeSubscription, located: Located, change: Change
) -> PlanChanged | None:
    """Show what the change means; with a valid confirmation do it."""
    now, after = turn.now, change.after
    kind: Action = command.action if isinstance(command, ChangeSubscription) else "change"
    whole = located.standing.user is None
    totals = totals_of(turn, located, now)
    before = totals.states(located.limits, whole_account=whole)
    becomes = after if after.scheduled is None else after.at(max(now, after.scheduled.at))
    if change.is_scheduled and becomes.ended_as is None:
        to_plan: Plan | None = turn.facts.read("plans", (becomes.plan, becomes.version))
    elif change.is_scheduled:
        to_plan = located.plan
    else:
        to_plan = turn.facts.read("plans", (after.plan, after.version))
    if to_plan is None:
        return None
    totals_after = replace(totals, anchor=after.billing_anchor)
    limits_after = totals_after.states(located.limits_of(to_plan), whole_account=whole)
    # Where no plan is the default, the first that is bought is first sight.
    begun = located if located.subscription is not None else replace(located, subscription=after)
    must_have_room(turn, begun)
    due = None
    if not change.is_scheduled:
        thresholds = located.thresholds if located.has_own_thresholds else to_plan.alert_thresholds
        due = alerts_of_limits(
            turn, replace(located, subscription=after, plan=to_plan, thresholds=thresholds)
        )
    if command.confirmation is not None:
        turn.facts.read("last_rows", located.account)
    if not turn.may_write:
        return None
    if command.confirmation is None:
        offer(turn, command, located, change, to_plan.version)
        return PlanChanged(change, before, limits_after, False, command.offer, now, kind)
    change = agreed(turn, command, located, change, to_plan.version)
    make_known(turn, begun, command.actor, command.reason if begun is not located else None)
    action = "subscription.schedule" if change.is_scheduled else "subscription.change"
    save_subscription(
        turn,
        located.account,
        begun.subscription,
        after,
        action,
        command.actor,
        command.reason,
        charge=Charge(change.price_now.currency, () if change.is_scheduled else change.lines),
    )
    raise_alerts(turn, due)
    return PlanChanged(change, before, limits_after, True, None, now, kind)


def _held(catalog: Catalog, located: Located) -> tuple[Subscription, Plan]:
    if located.subscription is None or located.plan is None:
        raise no_subscription(catalog)
    return located.subscription, located.plan


def _must_be_allowed(action: Action, facts: Facts, located: Located) -> None:
    """Refuse what is no legal transition from the subscription's status."""
    subscription, _ = _held(facts.catalog, located)
    status = subscription.status_at(facts.now)
    if status in ALLOWED_FROM[action]:
        return
    if action in ("change", "cancel", "resume", "set_seats") and located.standstill is not None:
        raise standing_still(facts, located)
    if action in ("activate", "payment_received"):
        raise refused("conflict", f"The account is {_words(status)}: there is nothing to do.")
    if action in ("cancel", "set_seats", "resume"):
        raise refused("conflict", "A trial ends by itself and costs nothing; upgrade_tier moves to a plan.")
    raise refused("conflict", f"The account is {_words(status)} already or cannot be changed like this now.")


def _words(status: str) -> str:
    return status.replace("_", " ")


def _must_charge(plan: Plan, otherwise: str) -> None:
    if not plan.may_charge:
        raise refused("conflict", f"The {plan.title} plan costs nothing: {otherwise}.")


def follows_after_end(catalog: Catalog) -> Plan | None:
    """What an account has when its plan has ended: the default plan, which is free, unless that is a trial."""
    default = catalog.plans.get(catalog.default_plan or "")
    return None if default is None or default.trial_days is not None else default


def _cancel(catalog: Catalog, subscription: Subscription, plan: Plan, now: Instant) -> Change:
    _must_charge(plan, "there is nothing to cancel")
    scheduled = subscription.scheduled
    if scheduled is not None and scheduled.reason != "change":
        raise refused(
            "conflict", f"{plan.title} already ends {clock_time(scheduled.at, 'UTC')}; nothing was changed."
        )
    return cancellation(subscription, plan, follows_after_end(catalog), now)


def _seats(turn: Turn, subscription: Subscription, plan: Plan, seats: int) -> Change:
    """Another number of seats of the held plan, which is one that sells them."""
    scheduled, now = subscription.scheduled, turn.now
    if scheduled is not None:
        when = clock_time(scheduled.at, "UTC")
        if (scheduled.plan, scheduled.interval) != (subscription.plan, subscription.interval):
            # More seats would be paid for beyond their time, and fewer would take its place unasked.
            raise refused(
                "conflict",
                f"{plan.title} ends or changes {when}, so its seats stay until then. Take back what is scheduled "
                "first (manage_subscription with action resume); days that were sold end by themselves.",
            )
        if seats == scheduled.seats:
            raise refused(
                "conflict", f"The change to {counted(seats, 'seat')} is already scheduled for {when}."
            )
        if seats == subscription.seats:
            return as_it_was(subscription, plan, None, now)
    if seats == subscription.seats:
        raise refused("conflict", f"The account has {counted(seats, 'seat')} already; nothing was changed.")
    return change_of_seats(subscription, plan, seats, now)


def _must_fit(located: Located, plan: Plan, seats: int | None) -> None:
    """Refuse seats a plan does not sell, more than it may have, or fewer than there are users."""
    if seats is not None and plan.price.per_seat is None:
        raise refused(
            "invalid_request",
            f"{plan.title} has no price per seat, so there are none to buy. Leave seats out.",
            FieldProblem("seats", "goes with a plan that sells seats"),
        )
    most = seats if seats is not None else plan.seats_max
    if isinstance(plan.seats_max, int) and seats is not None and seats > plan.seats_max:
        raise refused(
            "invalid_request",
            f"{plan.title} has at most {counted(plan.seats_max, 'seat')}.",
            FieldProblem("seats", f"must be at most {plan.seats_max}"),
        )
    used = located.seats_used or 0
    if isinstance(most, int) and used > most:
        raise refused(
            "conflict",
            f"This account has {counted(used, 'user')}, and that would leave {counted(most, 'seat')}. "
            "Remove somebody with manage_members first, or take more seats.",
        )


def _change(turn: Turn, located: Located, command: ChangePlan) -> Change:
    catalog, now = turn.facts.catalog, turn.now
    to_plan = catalog.plans.get(command.plan)
    if to_plan is None:
        raise _unknown_plan(catalog, command.plan)
    current, days = located.subscription, command.duration_days
    interval = command.interval or _interval_held(located, to_plan)
    if price_of(to_plan, interval) is None:
        raise refused(
            "invalid_request",
            f"{to_plan.title} is not sold {interval}.",
            FieldProblem("interval", "must be one the plan is sold for"),
        )
    if current is not None:
        _must_be_allowed("change", turn.facts, located)
    if located.standstill == "payment_required":
        raise standing_still(turn.facts, located)
    _must_fit(located, to_plan, command.seats)
    alive = current is not None and current.ended_as is None
    if alive and current is not None and current.plan == to_plan.key and days is None:
        assert located.plan is not None
        return _same_plan(turn, current, located.plan, to_plan, interval, command)
    if current is not None and days is None:
        _must_not_be_scheduled(current, to_plan, interval, command.seats)
    _must_be_on_the_way(catalog, located, to_plan, command, alive=alive)
    seats = command.seats if command.seats is not None else max(1, located.seats_used or 0)
    return change_of_plan(
        current,
        located.plan,
        to_plan,
        interval,
        command.origin,
        now,
        seats=seats,
        days=days,
        follows=follows_after_end(catalog),
    )


def _interval_held(located: Located, to_plan: Plan) -> Interval:
    """Where no interval is named, who pays by the year goes on to: else every way up would wait for its end."""
    current = located.subscription
    pays = current is not None and current.ended_as is None and not current.is_trial
    if pays and current is not None and price_of(to_plan, current.interval) is not None:
        return current.interval
    return "monthly"


def _same_plan(
    turn: Turn, current: Subscription, held: Plan, to_plan: Plan, interval: Interval, command: ChangePlan
) -> Change:
    """The plan that is `held`, asked for again: with another interval, and then as it is sold now, or with other seats,
    or to stay on it after all."""
    if current.is_trial:
        raise refused("conflict", f"The {held.title} is held or was had already: there is one for each user.")
    if current.interval != interval:
        _must_not_be_scheduled(current, to_plan, interval, command.seats)
        seats = command.seats if command.seats is not None else current.seats
        return change_of_plan(current, held, to_plan, interval, command.origin, turn.now, seats=seats)
    if command.seats is not None and command.seats != current.seats:
        return _seats(turn, current, held, command.seats)
    if current.scheduled is None or current.scheduled.reason == "end":
        raise refused("conflict", f"The {held.title} plan is already held; nothing was changed.")
    return as_it_was(current, held, follows_after_end(turn.facts.catalog), turn.now)


def _must_not_be_scheduled(current: Subscription, to_plan: Plan, interval: str, seats: int | None) -> None:
    scheduled = current.scheduled
    if scheduled is None:
        return
    same_seats = seats is None or seats == scheduled.seats
    if (scheduled.plan, scheduled.interval) == (to_plan.key, interval) and same_seats:
        when = clock_time(scheduled.at, "UTC")
        raise refused("conflict", f"The change to {to_plan.title} is already scheduled for {when}.")


def _must_be_on_the_way(
    catalog: Catalog, located: Located, to_plan: Plan, command: ChangePlan, *, alive: bool
) -> None:
    """Refuse a path the held plan does not have. Operators put things right and are not bound by what is sold; a
    trial anew they give for a number of days."""
    if to_plan.trial_days is not None and command.duration_days is None:
        raise refused("conflict", "A trial begins by itself with the first call, once for each user.")
    held = located.plan
    if not alive or held is None or held.changes_to is None or command.actor.role in OPERATORS:
        return
    if to_plan.key not in held.changes_to:
        paths = [catalog.plans[key].title for key in held.changes_to if key in catalog.plans]
        where = f"you can move to {list_text(paths, 'or')}" if paths else "there is no plan to move to"
        raise refused("conflict", f"From {held.title} {where}, not to {to_plan.title}. Nothing was changed.")


def _unknown_plan(catalog: Catalog, named: str) -> Refusal:
    names = [plan.key for plan in catalog.plans_by_price]
    nearest = get_close_matches(named, names, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return refused(
        "invalid_request",
        f"There is no such plan.{hint} Plans: {', '.join(names)}.",
        FieldProblem("plan", f"must be one of {', '.join(names)}"),
    )
