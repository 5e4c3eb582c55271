"""The lifecycle of a subscription: trials, changes, cancellation, seats, fixed days, suspension, overdue payments."""

from pathlib import Path

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_ledger,
    a_limit,
    a_plan,
    a_publication,
    a_record,
    a_reserve,
    a_settle,
    a_status,
    a_subject,
    a_subscription_change,
    an_opening,
    buy,
    change_of,
    code_of,
    decision_of,
    manage,
    three_plans,
    view_of,
)

from subscription_mcp.domain.catalog import UNLIMITED, Catalog, Money, Plan
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.subscriptions import ALLOWED_FROM, Status
from subscription_mcp.ledger.commands import AccountView, Arrive, Outcome, StatusChanged, Subject
from subscription_mcp.ledger.writer import Ledger

TEAM = a_subject("tom", group="team", group_admin=True)


def notes_catalog() -> Catalog:
    """A trial of a week, then plans for one and for teams."""
    return a_catalog(
        a_plan(
            a_limit(120, window="billing_period", scope="account"),
            key="trial",
            trial_days=7,
            changes_to=["pro", "teams"],
            seats=1,
        ),
        a_plan(
            a_limit(1_000, window="billing_period", scope="account"),
            key="pro",
            monthly="10.00",
            yearly="100.00",
            changes_to=["teams"],
            seats=1,
        ),
        a_plan(
            a_limit(5_000, window="billing_period", scope="account"),
            key="teams",
            monthly="49.00",
            per_seat="12.00",
            changes_to=[],
            seats=UNLIMITED,
        ),
        default_plan="trial",
    )


async def look(ledger: Ledger, subject: Subject | str = "bob") -> AccountView:
    who = a_subject(subject) if isinstance(subject, str) else subject
    return view_of(await ledger.rehearse(Arrive(who)))


async def status(ledger: Ledger, subject: Subject | str = "bob") -> Status:
    view = await look(ledger, subject)
    assert view.subscription is not None
    return view.subscription.status_at(view.as_of)


async def arrive(ledger: Ledger, subject: Subject | str = "bob") -> AccountView:
    who = a_subject(subject) if isinstance(subject, str) else subject
    return view_of(await ledger.submit_one(Arrive(who)))


def sentence(outcome: Outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.message


def text(money: Money) -> str:
    return format_amount(money.micros, money.currency)


# Trials


async def test_a_trial_begins_with_the_first_call_and_blocks_when_it_is_over(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        began = clock.now
        clock.advance(days=6, hours=23)
        allowed = decision_of(await ledger.submit_one(a_record()))
        assert allowed.allowed and allowed.message.endswith("Trial: 1 hour left, until 2026-11-27 14:03 UTC.")
        assert await status(ledger) == "trialing"
        clock.now = began + 7 * 86_400_000_000 - 1
        assert decision_of(await ledger.submit_one(a_record())).allowed
        clock.advance(microseconds=1)
        assert await status(ledger) == "expired"
        clock.advance(days=2, hours=3, minutes=5)
        refused = decision_of(await ledger.submit_one(a_record()))
        assert refused.code == "trial_expired"
        assert refused.message == (
            "The trial ended 2 days 3 hours ago, 2026-11-27 14:03 UTC. Until an upgrade everything but reading is "
            "blocked. To go on, call upgrade_tier: Pro costs 10.00 USD a month."
        )
        assert [(unlock.action, unlock.plan) for unlock in refused.unlocks] == [("upgrade_tier", "pro")]
        for command in (a_reserve(), an_opening()):
            assert code_of(await ledger.submit_one(command)) == "trial_expired"
        # What has happened already is counted, and said to be over.
        anyway = decision_of(await ledger.submit_one(a_record(enforce=False)))
        assert (anyway.code, anyway.event_id is not None, anyway.limits[0].used) == ("trial_expired", True, 3)
        assert (await look(ledger)).limits[0].used == 3

        bought = change_of(await buy(ledger, "pro"))
        assert (text(bought.price_now), bought.after.anchor) == ("10.00", clock.now)
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1
        assert await status(ledger) == "active"


async def test_what_was_reserved_in_a_trial_is_settled_after_it(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        clock.advance(days=6, hours=23, minutes=59)
        held = await ledger.submit_one(a_reserve(quantity=5, ttl_seconds=3600))
        clock.advance(minutes=2)
        settled = decision_of(await ledger.submit_one(a_settle(held, 4)))
        assert settled.allowed and settled.limits[0].used == 4


@pytest.mark.parametrize("days", [2, 9])
async def test_there_is_one_trial_for_each_user_wherever_they_go(tmp_path: Path, days: int) -> None:
    """Who has begun one alone and then comes with a group's token goes on with it, and does not begin another."""
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        first = (await arrive(ledger, "tom")).subscription
        assert first is not None
        clock.advance(days=days)
        team = (await arrive(ledger, TEAM)).subscription
        assert team is not None
        assert (team.trial_started_at, team.trial_ends_at) == (first.trial_started_at, first.trial_ends_at)
        assert await status(ledger, TEAM) == ("trialing" if days < 7 else "expired")


async def test_who_began_a_groups_trial_has_had_theirs(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger, TEAM)
        clock.advance(days=8)
        other = await arrive(ledger, a_subject("tom", group="second", group_admin=True))
        assert other.subscription is not None and other.subscription.status_at(clock.now) == "expired"
        # In another tenant they are somebody else.
        elsewhere = await arrive(ledger, a_subject("tom", "globex"))
        assert elsewhere.subscription is not None
        assert elsewhere.subscription.status_at(clock.now) == "trialing"


async def test_other_peoples_questions_begin_no_trial(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await look(ledger)
        clock.advance(days=30)
        assert await status(ledger) == "trialing"
        await ledger.submit_one(a_record())
        clock.advance(days=6)
        assert await status(ledger) == "trialing"


async def test_an_operator_gives_a_trial_anew_for_some_days_and_nobody_else_does(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        clock.advance(days=8)
        assert code_of(await buy(ledger, "trial")) == "conflict"
        assert code_of(await buy(ledger, "trial", role="tenant_admin", actor="olivia")) == "conflict"
        operator = {"role": "tenant_admin", "actor": "olivia", "duration_days": 3}
        given = change_of(await buy(ledger, "trial", **operator))  # type: ignore[arg-type]
        assert text(given.price_now) == "0.00"
        assert await status(ledger) == "trialing"
        clock.advance(days=3)
        assert await status(ledger) == "expired"


async def test_a_settle_that_comes_late_says_that_the_trial_is_over(tmp_path: Path) -> None:
    """Nothing was held for it any more: it is told as what has happened anyway, and counted."""
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=5, ttl_seconds=3600))
        clock.advance(days=8)
        settled = decision_of(await ledger.submit_one(a_settle(held, 4)))
        assert (settled.code, settled.event_id is not None, settled.limits[0].used) == (
            "trial_expired",
            True,
            4,
        )


# No plan for those who have none


def bought_only_catalog() -> Catalog:
    return a_catalog(a_plan(key="pro", monthly="10.00", seats=2), default_plan=None)


async def test_a_plan_is_bought_for_a_group_that_has_users_and_no_plan(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=bought_only_catalog()) as ledger:
        group = Subject("acme", None, account="team", account_kind="group")
        assert code_of(await buy(ledger, "pro", group, actor="tom")) == "not_found"  # nobody has ever come
        await arrive(ledger, TEAM)
        assert code_of(await ledger.submit_one(a_record("tom"))) == "payment_required"
        assert code_of(await buy(ledger, "pro", group, actor="tom")) == "ok"
        assert code_of(await ledger.submit_one(a_record("tom"))) == "ok"


async def test_who_buys_the_first_plan_is_a_user(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=bought_only_catalog()) as ledger:
        await arrive(ledger)
        assert code_of(await buy(ledger, "pro")) == "ok"
        assert (await ledger.engine.verify()).differences == ()


# Which plan comes after which


@pytest.mark.parametrize(
    ("held", "wanted", "said"),
    [
        ("pro", "trial", "A trial begins by itself with the first call, once for each user."),
        ("teams", "pro", "From Teams there is no plan to move to, not to Pro. Nothing was changed."),
        ("pro", "pro", "The Pro plan is already held; nothing was changed."),
    ],
)
async def test_a_path_a_plan_does_not_have_is_refused(
    tmp_path: Path, held: str, wanted: str, said: str
) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await buy(ledger, held)
        refused = await buy(ledger, wanted)
        assert (code_of(refused), sentence(refused)) == ("conflict", said)


async def test_the_allowed_paths_are_named(tmp_path: Path) -> None:
    plans = [a_plan(key=key, monthly=price) for key, price in (("b", "1.00"), ("c", "2.00"), ("d", "3.00"))]
    first = a_plan(key="a", changes_to=["b", "c"])
    async with a_ledger(tmp_path, catalog=a_catalog(first, *plans, default_plan="a")) as ledger:
        assert (
            sentence(await buy(ledger, "d"))
            == "From A you can move to B or C, not to D. Nothing was changed."
        )


async def test_an_operator_is_not_bound_by_what_is_sold(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await buy(ledger, "teams")
        change = change_of(await buy(ledger, "pro", role="tenant_admin", actor="olivia", origin="operator"))
        assert change.is_scheduled


async def test_another_interval_is_scheduled_once(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await buy(ledger, "pro", interval="yearly")
        assert change_of(await buy(ledger, "pro", interval="monthly")).is_scheduled
        again = await ledger.submit_one(a_change("pro", interval="monthly"))
        assert sentence(again) == "The change to Pro is already scheduled for 2027-11-20 14:03 UTC."


async def test_the_rest_of_a_period_is_no_offer_for_the_next_one(tmp_path: Path) -> None:
    """Else a whole month of the larger plan were had for the last minutes of the one before."""
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await buy(ledger, "advanced")
        clock.set("2026-11-30T23:58:00Z")
        await ledger.submit_one(a_change("premium", offer="late"))
        clock.set("2026-12-01T00:00:00Z")
        late = await ledger.submit_one(a_change("premium", confirmation="late"))
        assert sentence(late).startswith("The terms have changed since they were shown")


# The end, and going on


async def test_a_cancelled_plan_goes_on_to_the_periods_end_and_then_the_free_one_follows(
    tmp_path: Path,
) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await buy(ledger, "advanced")
        clock.advance(days=10)
        await ledger.submit_one(a_record(quantity=60))
        change = change_of(await manage(ledger, "cancel"))
        assert (change.to_plan, text(change.price_now), text(change.price_next)) == ("basic", "0.00", "0.00")
        assert format_instant(change.effective_at) == "2026-12-20T00:00:00Z"
        again = await manage(ledger, "cancel")
        assert sentence(again) == "Advanced already ends 2026-12-20 00:00 UTC; nothing was changed."
        clock.set("2026-12-19T23:59:59Z")
        assert (await look(ledger)).plan.key == "advanced"  # type: ignore[union-attr]
        clock.set("2026-12-20T00:00:00Z")
        view = await look(ledger)
        assert view.plan is not None and view.plan.key == "basic"
        assert await status(ledger) == "active"
        assert code_of(await manage(ledger, "cancel")) == "conflict"  # it costs nothing


async def test_without_a_free_plan_to_follow_a_cancelled_subscription_is_inactive(tmp_path: Path) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await buy(ledger, "pro")
        change = change_of(await manage(ledger, "cancel"))
        assert change.to_plan is None
        clock.set("2026-12-19T23:59:59Z")
        assert decision_of(await ledger.submit_one(a_record())).allowed
        clock.set("2026-12-20T00:00:00Z")
        assert await status(ledger) == "canceled"
        refused = decision_of(await ledger.submit_one(a_record()))
        assert (refused.code, refused.plan) == ("subscription_inactive", "pro")
        assert refused.message == (
            "The Pro subscription was canceled and ended 2026-12-20 00:00 UTC. To go on, call upgrade_tier: Pro costs "
            "10.00 USD a month."
        )
        # Nothing is held any more, so any plan can be bought.
        clock.advance(days=3)
        back = change_of(await buy(ledger, "pro"))
        assert (text(back.price_now), back.after.anchor) == ("10.00", clock.now)
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1


@pytest.mark.parametrize("what", ["cancel", "downgrade"])
async def test_what_is_scheduled_can_be_taken_back(tmp_path: Path, what: str) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        assert code_of(await manage(ledger, "resume")) == "conflict"
        await buy(ledger, "premium")
        await (manage(ledger, "cancel") if what == "cancel" else buy(ledger, "advanced"))
        change = change_of(await manage(ledger, "resume"))
        assert (text(change.price_now), text(change.price_next)) == ("0.00", "99.00")
        clock.advance(days=100)
        view = await look(ledger)
        assert view.plan is not None and view.plan.key == "premium"
        assert code_of(await manage(ledger, "resume")) == "conflict"


async def test_a_cancellation_replaces_a_downgrade_that_was_scheduled(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await buy(ledger, "premium")
        await buy(ledger, "advanced")
        await manage(ledger, "cancel")
        clock.advance(days=40)
        view = await look(ledger)
        assert view.plan is not None and view.plan.key == "basic"


async def test_an_old_token_does_not_bring_back_what_was_cancelled(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await buy(ledger, "advanced")
        await manage(ledger, "cancel")
        clock.advance(days=40)
        view = await arrive(ledger, a_subject(tier="premium"))
        assert view.plan is not None and view.plan.key == "basic"


# Seats


async def test_seats_are_paid_for_by_the_month_and_prorated(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        change = change_of(await buy(ledger, "teams", seats=3))
        assert (text(change.price_now), text(change.price_next)) == ("85.00", "85.00")
        clock.advance(days=15)
        more = change_of(await manage(ledger, "set_seats", seats=5))
        assert (text(more.price_now), text(more.price_next)) == ("12.00", "109.00")  # half of two seats
        assert more.after.seats == 5
        fewer = change_of(await manage(ledger, "set_seats", seats=2))
        assert fewer.is_scheduled and text(fewer.price_next) == "73.00"
        clock.set("2026-11-30T23:59:59Z")
        assert (await look(ledger)).subscription.seats == 5  # type: ignore[union-attr]
        clock.set("2026-12-01T00:00:00Z")
        assert (await look(ledger)).subscription.seats == 2  # type: ignore[union-attr]


async def test_seats_through_upgrade_tier_are_the_same_change(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await buy(ledger, "teams", seats=2)
        assert text(change_of(await buy(ledger, "teams", seats=3)).price_next) == "85.00"
        assert code_of(await buy(ledger, "teams", seats=3)) == "conflict"


@pytest.mark.parametrize(
    ("plan", "seats", "code"), [("pro", 2, "invalid_request"), ("teams", 2, "ok"), ("teams", None, "ok")]
)
async def test_seats_go_with_a_plan_that_sells_them(
    tmp_path: Path, plan: str, seats: int | None, code: str
) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        assert code_of(await buy(ledger, plan, seats=seats)) == code


async def test_a_member_needs_a_seat_that_was_bought(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await arrive(ledger, TEAM)
        one_seat = await ledger.submit_one(Arrive(a_subject("tina", group="team")))
        assert (code_of(one_seat), sentence(one_seat)) == (
            "conflict",
            "The one seat of this group is taken on the Trial plan: a larger plan has more, or remove somebody.",
        )
        await buy(ledger, "teams", TEAM, actor="tom", seats=2)
        assert code_of(await ledger.submit_one(Arrive(a_subject("tina", group="team")))) == "ok"
        third = await ledger.submit_one(Arrive(a_subject("theo", group="team")))
        assert sentence(third) == (
            "All 2 seats of this group are taken on the Teams plan: its administrator can buy more with "
            "manage_subscription, or remove somebody."
        )
        fewer = await manage(ledger, "set_seats", TEAM, actor="tom", seats=1)
        assert code_of(fewer) == "conflict" and "2 users" in sentence(fewer)
        # Without a number it is as many as there are users.
        assert code_of(await manage(ledger, "set_seats", TEAM, actor="tom", seats=3)) == "ok"
        assert code_of(await ledger.submit_one(Arrive(a_subject("theo", group="team")))) == "ok"


async def test_seats_stay_while_something_else_is_scheduled(tmp_path: Path) -> None:
    """Fewer would take the place of a cancellation unasked; the same would take it back."""
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await buy(ledger, "teams", seats=3)
        await manage(ledger, "cancel")
        for seats in (2, 3, 4):
            refused = await manage(ledger, "set_seats", seats=seats)
            assert code_of(refused) == "conflict"
        assert sentence(refused) == (
            "Teams ends or changes 2026-12-20 14:03 UTC, so its seats stay until then. Take back what is scheduled first "
            "(manage_subscription with action resume); days that were sold end by themselves."
        )
        assert code_of(await buy(ledger, "teams", seats=2)) == "conflict"
        clock.advance(days=31)
        assert await status(ledger) == "canceled"


async def test_fewer_seats_are_scheduled_once(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await buy(ledger, "teams", seats=3)
        await manage(ledger, "set_seats", seats=2)
        again = await ledger.submit_one(a_subscription_change("set_seats", seats=2))
        assert sentence(again) == "The change to 2 seats is already scheduled for 2026-12-20 14:03 UTC."
        change = change_of(await manage(ledger, "set_seats", seats=3))  # to stay on them after all
        assert (text(change.price_now), text(change.price_next)) == ("0.00", "85.00")
        assert (await look(ledger)).subscription.scheduled is None  # type: ignore[union-attr]


async def test_seats_that_were_not_named_are_not_more_than_the_plan_has(tmp_path: Path) -> None:
    plans = [a_plan(), a_plan(key="duo", monthly="9.00", per_seat="1.00", seats=2)]
    async with a_ledger(tmp_path, catalog=a_catalog(*plans)) as ledger:
        for user in ("tom", "tina", "theo"):
            await arrive(ledger, a_subject(user, group="team"))
        assert code_of(await buy(ledger, "duo", "tom")) == "conflict"


async def test_seats_cost_what_the_held_version_of_the_plan_says(tmp_path: Path) -> None:
    def plans(per_seat: str) -> list[Plan]:
        return [a_plan(), a_plan(key="team", monthly="10.00", per_seat=per_seat)]

    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, catalog=a_catalog(*plans("5.00")), clock=clock) as ledger:
        await buy(ledger, "team", seats=2)
        await ledger.submit_one(a_publication(*plans("8.00")))
        clock.advance(days=15)
        more = change_of(await buy(ledger, "team", seats=4))
        assert (text(more.price_now), text(more.price_next)) == ("5.00", "30.00")


async def test_a_plan_that_costs_less_than_the_seats_that_are_held_waits(tmp_path: Path) -> None:
    """Up and down are told by what is paid: at once it would give nothing back of what ten seats cost."""
    plans = [
        a_plan(),
        a_plan(key="team", monthly="10.00", per_seat="10.00"),
        a_plan(key="pro", monthly="50.00"),
    ]
    async with a_ledger(tmp_path, catalog=a_catalog(*plans)) as ledger:
        await buy(ledger, "team", seats=10)
        assert change_of(await buy(ledger, "pro")).is_scheduled
        await buy(ledger, "team", "eve", seats=2)
        assert not change_of(await buy(ledger, "pro", "eve", actor="eve")).is_scheduled


# A fixed number of days

OPERATOR = {"actor": "olivia", "role": "tenant_admin", "origin": "operator"}


async def test_a_plan_for_some_days_is_paid_at_once_and_ends_by_itself(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        change = change_of(await buy(ledger, "advanced", duration_days=45, **OPERATOR))  # type: ignore[arg-type]
        # All of November, and 15 of the 31 days of December.
        assert (text(change.price_now), text(change.price_next)) == ("43.03", "0.00")
        assert not change.is_scheduled
        assert code_of(await manage(ledger, "cancel")) == "conflict"
        clock.set("2026-12-15T23:59:59Z")
        assert (await look(ledger)).plan.key == "advanced"  # type: ignore[union-attr]
        clock.set("2026-12-16T00:00:00Z")
        assert (await look(ledger)).plan.key == "basic"  # type: ignore[union-attr]


async def test_what_was_paid_ahead_is_given_back_on_the_way_up(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "advanced", duration_days=30, **OPERATOR)  # type: ignore[arg-type]
        clock.advance(days=15)
        change = change_of(await buy(ledger, "premium"))
        assert text(change.price_now) == "84.50"  # 99.00 less half of 29.00
        assert (change.after.anchor, change.after.prepaid_until) == (clock.now, None)


async def test_where_nothing_free_follows_it_expires(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "pro", duration_days=10, **OPERATOR)  # type: ignore[arg-type]
        clock.advance(days=10)
        assert await status(ledger) == "expired"
        refused = decision_of(await ledger.submit_one(a_record()))
        assert refused.code == "subscription_inactive"
        assert refused.message.startswith(
            "The Pro subscription was for a fixed time and ended 2026-11-11 00:00 UTC."
        )
        assert code_of(await buy(ledger, "pro")) == "ok"


async def test_what_follows_days_that_were_sold_begins_its_own_billing_period(tmp_path: Path) -> None:
    """It is paid for as a whole when it begins, so its period is a whole one."""
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "premium", duration_days=45, **OPERATOR)  # type: ignore[arg-type]
        change = change_of(await buy(ledger, "advanced"))
        assert format_instant(change.effective_at) == "2026-12-16T00:00:00Z"
        clock.set("2026-12-20T00:00:00Z")
        held = (await look(ledger)).subscription
        assert held is not None and (held.plan, held.past_due_since) == ("advanced", None)
        start, end = held.period_at(clock.now)
        assert end is not None
        assert (format_instant(start), format_instant(end)) == (
            "2026-12-16T00:00:00Z",
            "2027-01-16T00:00:00Z",
        )


async def test_usage_after_days_that_were_sold_verifies(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    plans = [
        a_plan(a_limit(9, window="billing_period")),
        a_plan(a_limit(90, window="billing_period"), key="pro", monthly="10.00"),
    ]
    async with a_ledger(tmp_path, catalog=a_catalog(*plans), clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "pro", duration_days=45, **OPERATOR)  # type: ignore[arg-type]
        for _ in range(6):
            await ledger.submit_one(a_record(quantity=2))
            clock.advance(days=9)
        # What was used on 16 December, the first day of the period, and this.
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 3
        assert (await ledger.engine.verify()).differences == ()


async def test_a_settle_right_after_days_that_were_sold_verifies(tmp_path: Path) -> None:
    """It is the first to count in a billing period, from an anchor no other command has written down yet."""
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "advanced", duration_days=45, **OPERATOR)  # type: ignore[arg-type]
        clock.set("2026-12-15T23:00:00Z")
        held = await ledger.submit_one(a_reserve(quantity=3, ttl_seconds=7_200))
        clock.advance(minutes=10)
        newer = a_plan(a_limit(90, window="billing_period"), key="premium", monthly="99.00")
        await ledger.submit_one(a_publication(*three_plans()[:2], newer))
        clock.set("2026-12-16T00:30:00Z")
        assert code_of(await ledger.submit_one(a_settle(held))) == "ok"
        assert (await ledger.engine.verify()).differences == ()


async def test_days_that_were_sold_have_their_end_again_when_a_change_is_taken_back(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "premium", duration_days=45, **OPERATOR)  # type: ignore[arg-type]
        await buy(ledger, "advanced")
        change = change_of(await manage(ledger, "resume"))
        assert (text(change.price_now), text(change.price_next)) == ("0.00", "0.00")
        clock.set("2026-12-16T00:00:00Z")
        assert (await look(ledger)).plan.key == "basic"  # type: ignore[union-attr]


async def test_a_line_over_several_periods_is_rounded_once(tmp_path: Path) -> None:
    clock = Clock("2026-02-01T00:00:00Z")
    plans = [a_plan(), a_plan(key="pro", monthly="0.01"), a_plan(key="max", monthly="1.00")]
    async with a_ledger(tmp_path, catalog=a_catalog(*plans), clock=clock) as ledger:
        await arrive(ledger)
        await buy(ledger, "pro", duration_days=44, **OPERATOR)  # type: ignore[arg-type]
        clock.advance(days=14)
        change = change_of(await buy(ledger, "max"))
        # Half of February and 16 days of March are one cent; each rounded by itself would be two.
        assert text(change.price_now) == "0.99"


# By hand


@pytest.mark.parametrize("before", ["trialing", "expired", "active", "canceled"])
async def test_a_suspended_account_is_refused_everything_but_reading(tmp_path: Path, before: str) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        if before in ("active", "canceled"):
            await buy(ledger, "pro")
        if before == "canceled":
            await manage(ledger, "cancel")
            clock.advance(days=31)
        if before == "expired":
            clock.advance(days=7)
        assert await status(ledger) == before
        suspended = await ledger.submit_one(a_status("suspend"))
        assert isinstance(suspended, StatusChanged)
        assert (suspended.audit.action, suspended.audit.reason) == ("subscription.suspend", "asked for it")
        assert await status(ledger) == "suspended"
        refused = decision_of(await ledger.submit_one(a_record()))
        assert refused.code == "subscription_inactive" and not refused.unlocks
        assert "only the operator of this service can activate it again" in refused.message
        for command in (a_reserve(), an_opening(), a_change("teams", offer="h")):
            assert code_of(await ledger.submit_one(command)) == "subscription_inactive"
        assert code_of(await ledger.submit_one(a_status("activate"))) == "ok"
        assert await status(ledger) == before


async def test_a_payment_may_be_overdue_for_seven_days(tmp_path: Path) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await arrive(ledger)
        assert (
            code_of(await ledger.submit_one(a_status("payment_failed"))) == "conflict"
        )  # nothing is paid for
        await buy(ledger, "advanced")
        await ledger.submit_one(a_status("payment_failed"))
        assert await status(ledger) == "past_due"
        clock.set("2026-11-26T23:59:59Z")
        assert decision_of(await ledger.submit_one(a_record())).allowed
        clock.set("2026-11-27T00:00:00Z")
        refused = decision_of(await ledger.submit_one(a_record()))
        assert (refused.code, refused.message) == (
            "payment_required",
            "The payment for Advanced is overdue since 2026-11-20 00:00 UTC, more than 7 days. It goes on as soon as it "
            "is paid.",
        )
        assert code_of(await buy(ledger, "premium")) == "payment_required"
        await ledger.submit_one(a_status("payment_received"))
        assert decision_of(await ledger.submit_one(a_record())).allowed
        assert await status(ledger) == "active"


@pytest.mark.parametrize("how", ["cancel", "down to the free plan"])
async def test_nobody_owes_anything_for_a_plan_that_is_free(tmp_path: Path, how: str) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await buy(ledger, "advanced")
        await ledger.submit_one(a_status("payment_failed"))
        await (manage(ledger, "cancel") if how == "cancel" else buy(ledger, "basic"))
        clock.set("2026-12-20T00:00:00Z")
        assert await status(ledger) == "active"
        assert decision_of(await ledger.submit_one(a_record())).allowed


STATUSES = ("trialing", "active", "past_due", "suspended", "canceled", "expired")


async def _in_status(ledger: Ledger, clock: Clock, wanted: str) -> None:
    await arrive(ledger)
    if wanted in ("active", "past_due", "canceled"):
        await buy(ledger, "pro")
    match wanted:
        case "past_due":
            await ledger.submit_one(a_status("payment_failed"))
        case "suspended":
            await ledger.submit_one(a_status("suspend"))
        case "canceled":
            await manage(ledger, "cancel")
            clock.advance(days=31)
        case "expired":
            clock.advance(days=7)
    assert await status(ledger) == wanted


@pytest.mark.parametrize("held", STATUSES)
@pytest.mark.parametrize(
    "action", ["suspend", "activate", "payment_failed", "payment_received", "cancel", "change"]
)
async def test_only_legal_transitions_happen(tmp_path: Path, held: Status, action: str) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await _in_status(ledger, clock, held)
        if action == "cancel":
            outcome = await manage(ledger, "cancel")
        elif action == "change":
            outcome = await buy(ledger, "teams")
        else:
            outcome = await ledger.submit_one(a_status(action))
        legal = held in ALLOWED_FROM[action]  # type: ignore[index]
        assert (code_of(outcome) == "ok") is legal, outcome
        if not legal:
            assert code_of(outcome) in ("conflict", "subscription_inactive", "trial_expired")
            assert await status(ledger) == held


async def test_statuses_survive_a_restart_and_verify(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger)
        await arrive(ledger, "eve")
        await buy(ledger, "teams", seats=4)
        await ledger.submit([a_record(quantity=7), a_record("eve")])
        await manage(ledger, "set_seats", seats=2)
        before = [(await look(ledger, user)).subscription for user in ("bob", "eve")]
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        assert [(await look(ledger, user)).subscription for user in ("bob", "eve")] == before
        clock.advance(days=40)
        await ledger.submit([a_record(), a_record("eve", enforce=False)])
        assert (await ledger.engine.verify()).differences == ()


async def test_where_the_issuer_decides_about_plans_nobody_has_to_buy_seats(tmp_path: Path) -> None:
    issued = {"group": "team", "tier": "teams", "tier_decides": True}
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await arrive(ledger, a_subject("tom", group_admin=True, claimed_at=1, **issued))
        for number in range(3):
            await arrive(ledger, a_subject(f"member-{number}", claimed_at=2 + number, **issued))
        view = await look(ledger, TEAM)
        assert (view.plan and view.plan.key, view.seats_used) == ("teams", 4)
        # Should seats be bought here one day after all, they begin with the one that is paid.
        more = change_of(await manage(ledger, "set_seats", TEAM, actor="tom", seats=4))
        assert text(more.price_next) == "97.00"


# What it may not be used for


async def test_who_pays_by_the_year_goes_up_at_once(tmp_path: Path) -> None:
    plans = [a_plan(key=key, monthly=m, yearly=y) for key, m, y in (("s", "5", "50"), ("l", "10", "100"))]
    async with a_ledger(tmp_path, catalog=a_catalog(a_plan(), *plans)) as ledger:
        await buy(ledger, "s", interval="yearly")
        change = change_of(await buy(ledger, "l"))
        assert (change.is_scheduled, change.after.interval, text(change.price_next)) == (
            False,
            "yearly",
            "100.00",
        )


async def test_going_to_and_fro_between_free_plans_gives_nothing_back(tmp_path: Path) -> None:
    limit = a_limit(5, window="billing_period")
    clock = Clock()
    async with a_ledger(
        tmp_path, catalog=a_catalog(a_plan(limit), a_plan(limit, key="student")), clock=clock
    ) as ledger:
        await ledger.submit_one(a_record(quantity=5))
        for plan in ("student", "basic"):
            clock.advance(minutes=1)
            await buy(ledger, plan)
            assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"


async def test_nobody_joins_whom_fewer_seats_would_have_no_place_for(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        await arrive(ledger, TEAM)
        await buy(ledger, "teams", TEAM, actor="tom", seats=3)
        await manage(ledger, "set_seats", TEAM, actor="tom", seats=1)
        assert code_of(await ledger.submit_one(Arrive(a_subject("tina", group="team")))) == "conflict"
        await manage(ledger, "resume", TEAM, actor="tom")
        assert code_of(await ledger.submit_one(Arrive(a_subject("tina", group="team")))) == "ok"


async def test_what_is_owed_stays_owed_when_an_operator_sells_some_days(tmp_path: Path) -> None:
    async with a_ledger(tmp_path) as ledger:
        await buy(ledger, "advanced")
        await ledger.submit_one(a_status("payment_failed"))
        await buy(ledger, "premium", duration_days=10, **OPERATOR)  # type: ignore[arg-type]
        assert await status(ledger) == "past_due"


async def test_waiting_is_no_help_beyond_the_end_of_a_trial(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=notes_catalog()) as ledger:
        refused = decision_of(await ledger.submit_one(a_record(quantity=121)))
        await ledger.submit_one(a_record(quantity=120))
        refused = decision_of(await ledger.submit_one(a_record()))
        assert [unlock.action for unlock in refused.unlocks] == ["upgrade_tier"]


async def test_what_is_offered_after_an_end_has_a_place_for_everybody(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=notes_catalog(), clock=clock) as ledger:
        await arrive(ledger, TEAM)
        await buy(ledger, "teams", TEAM, actor="tom", seats=2)
        await arrive(ledger, a_subject("tina", group="team"))
        await manage(ledger, "cancel", TEAM, actor="tom")
        clock.advance(days=40)
        refused = decision_of(await ledger.submit_one(a_record("tina")))
        assert (refused.code, [unlock.plan for unlock in refused.unlocks]) == (
            "subscription_inactive",
            ["teams"],
        )


async def test_what_a_change_gives_back_beyond_its_price_is_credit(tmp_path: Path) -> None:
    async with a_ledger(tmp_path) as ledger:
        await arrive(ledger)
        await buy(ledger, "advanced", duration_days=365, **OPERATOR)  # type: ignore[arg-type]
        change = change_of(await buy(ledger, "premium"))
        assert (text(change.price_now), text(change.credited)) == ("0.00", "249.00")
