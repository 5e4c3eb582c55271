"""Alerts, through the ledger: each threshold of each limit once in each period, whatever usage and limits do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import (
    TODAY,
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_limit_set,
    a_plan,
    a_record,
    a_reserve,
    a_settle,
    a_subject,
    buy,
    code_of,
    decision_of,
)
from tests.contract.test_engine import SqliteStore, one_plan
from tests.contract.test_prices import a_call, priced_catalog

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, HOUR, format_instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    Actor,
    Alert,
    AlertsMarked,
    CorrectUsage,
    MarkAlerts,
    ReportOutage,
    SetAlertThresholds,
)
from subscription_mcp.ledger.queries import AlertPage, AuditTrail, DeliveryPage, Whose
from subscription_mcp.ledger.writer import Ledger

BOB = Whose("acme", "personal", "bob", "bob")
OPERATOR = Actor("olivia", "tenant_admin")
GROUP = {"group": "crew"}


async def alerts(ledger: Ledger, whose: Whose = BOB, **page) -> list[Alert]:
    """The oldest first."""
    found: list[Alert] = [alert for _, alert in await ledger.query(AlertPage(whose, 100, **page))]
    return found[::-1]


async def thresholds(ledger: Ledger, whose: Whose = BOB, meter: str = "messages") -> list[int | None]:
    return [alert.threshold_percent for alert in await alerts(ledger, whose) if alert.meter == meter]


async def test_an_alert_says_what_is_used_and_what_to_do(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(quantity=39))
        assert await alerts(ledger) == []
        await ledger.submit_one(a_record())
        (alert,) = await alerts(ledger)
    assert (alert.meter, alert.window, alert.scope, alert.threshold_percent, alert.severity) == (
        *("messages", "day", "user", 80, "info"),
    )
    assert (alert.used, alert.maximum, alert.read_at) == (40, 50, None)
    assert format_instant(alert.window_start) == "2026-11-20T00:00:00Z"
    assert alert.message == "Basic plan: 40 of 50 messages used today; 80 % is reached."
    assert alert.suggested_plan is None
    assert alert.recommendation == (
        "No other plan is needed as long as the 10 messages left will do. It resets 2026-11-21 00:00 UTC."
    )


async def test_a_jump_over_several_thresholds_raises_each_with_its_severity(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(quantity=50))
        found = await alerts(ledger)
    assert [(alert.threshold_percent, alert.severity) for alert in found] == [
        (80, "info"),
        (90, "warning"),
        (100, "critical"),
    ]
    assert found[-1].message == "Basic plan: 50 of 50 messages used today; the limit is reached."
    assert found[-1].suggested_plan == "advanced"
    assert found[-1].recommendation == (
        "Advanced is the cheapest plan that would have been enough for the 50 messages used so far: it has 200 a day for "
        "29.00 USD a month. Call upgrade_tier with plan advanced. It resets 2026-11-21 00:00 UTC."
    )


async def test_the_plan_suggested_is_the_cheapest_that_would_have_sufficed_last_time(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record())
        clock.advance(days=1)
        await ledger.submit_one(a_record(quantity=210, enforce=False))
        clock.advance(days=1)
        await ledger.submit_one(a_record(quantity=40))
        *_, last = await alerts(ledger)
        assert (last.threshold_percent, last.suggested_plan) == (80, "premium")
        assert "Premium is the cheapest plan that would have been enough for the last day (210 messages)" in (
            last.recommendation
        )
        clock.advance(days=1)
        await ledger.submit_one(a_record(quantity=45))
        *_, eighty, ninety = await alerts(ledger)
    assert [(one.threshold_percent, one.suggested_plan) for one in (eighty, ninety)] == [
        (80, None),
        (90, None),
    ]
    assert ninety.recommendation == (
        "The last day took 40 messages, for which Basic is enough. This one took more already: no other plan is needed as "
        "long as the 5 messages left will do. It resets 2026-11-24 00:00 UTC."
    )


async def test_where_no_plan_has_enough_the_alert_says_whom_to_ask(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10))) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        *_, last = await alerts(ledger)
    assert last.suggested_plan is None
    assert last.recommendation == (
        "No plan that can be changed to would have been enough for the 10 messages used so far. Wait until 2026-11-21 00:00 "
        "UTC, or ask the operator of this service for a higher limit."
    )


async def test_each_threshold_alerts_once_in_each_period(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T23:00:00Z")
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        for _ in range(12):
            await ledger.submit_one(a_record(enforce=False))
        assert await thresholds(ledger) == [80, 90, 100]
        clock.advance(hours=1)
        for _ in range(8):
            await ledger.submit_one(a_record())
        assert await thresholds(ledger) == [80, 90, 100, 80]


async def test_use_that_is_refused_or_only_held_alerts_of_nothing(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10))) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=9))
        assert code_of(await ledger.submit_one(a_record(quantity=2))) == "quota_exceeded"
        assert await thresholds(ledger) == []
        await ledger.submit_one(a_settle(held, 8))
        assert await thresholds(ledger) == [80]


async def test_a_settle_alerts_in_the_window_it_was_held_in_unless_that_is_over(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T23:30:00Z")
    async with store.open(catalog=one_plan(a_limit(10), a_limit(10, window="month")), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=8, ttl_seconds=3600))
        clock.advance(minutes=45)
        await ledger.submit_one(a_settle(held))
        assert [(one.window, one.threshold_percent) for one in await alerts(ledger)] == [("month", 80)]


async def test_what_comes_late_alerts_of_no_period_that_is_over(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10), a_limit(100, window="month")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=9, occurred_at=clock.now - DAY))
        assert await alerts(ledger) == []


async def test_an_override_below_what_is_used_alerts_at_once_and_one_above_changes_nothing(
    store: SqliteStore,
) -> None:
    async with store.open(catalog=one_plan(a_limit(100))) as ledger:
        await ledger.submit_one(a_record(quantity=50))
        await ledger.submit_one(a_limit_set(55))
        found = await alerts(ledger)
        assert [(one.threshold_percent, one.maximum) for one in found] == [(80, 55), (90, 55)]
        await ledger.submit_one(a_limit_set(1_000))
        await ledger.submit_one(a_limit_set(50))
        assert await thresholds(ledger) == [80, 90, 100]
        await ledger.submit_one(a_limit_set(UNLIMITED))
        await ledger.submit_one(a_limit_set(None))
        assert await thresholds(ledger) == [80, 90, 100]


async def test_a_limit_that_became_another_by_time_alone_alerts_with_the_next_event(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_limit_set(100, expires_at=clock.now + HOUR))
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == []
        clock.advance(hours=1)
        await ledger.submit_one(a_record())
        assert await thresholds(ledger) == [80, 90, 100]


async def test_a_plan_with_more_says_nothing_until_its_own_thresholds(
    store: SqliteStore,
) -> None:
    small = a_plan(a_limit(10, window="month"))
    large = a_plan(a_limit(100, window="month"), key="large", monthly="5.00")
    async with store.open(catalog=a_catalog(small, large)) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        assert code_of(await buy(ledger, "large")) == "ok"
        assert await thresholds(ledger) == [80, 90, 100]
        await ledger.submit_one(a_record(quantity=69))
        assert await thresholds(ledger) == [80, 90, 100]


async def test_a_smaller_plan_an_operator_gives_alerts_of_what_is_used_at_once(store: SqliteStore) -> None:
    default = a_plan(a_limit(100, window="month"))
    small = a_plan(a_limit(10, window="month"), key="small", monthly="1.00")
    async with store.open(catalog=a_catalog(default, small)) as ledger:
        await ledger.submit_one(a_record(quantity=9))
        assert code_of(await buy(ledger, "small", role="tenant_admin", actor="olivia")) == "ok"
        found = await alerts(ledger)
    assert [one.threshold_percent for one in found] == [80, 90]
    assert found[0].message == "Small plan: 9 of 10 messages used this month; 80 % is reached."


async def test_a_rolling_window_alerts_again_after_a_whole_window_below(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with store.open(catalog=one_plan(a_limit(10, window="rolling:PT4H")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == [80]
        clock.advance(hours=3)
        await ledger.submit_one(a_record(quantity=1))
        clock.advance(hours=1)  # 8 of 9 are back
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == [80, 90]
        clock.advance(hours=7)  # all of it is back for 3 hours: 80 was reached less than a window ago
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == [80, 90]
        clock.advance(hours=8, minutes=15)
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == [80, 90, 80]


async def test_a_level_alerts_again_after_a_day_below(store: SqliteStore) -> None:
    clock = Clock()
    limit = a_limit(10, meter="storage_mb", window="level")
    async with store.open(catalog=one_plan(limit), clock=clock) as ledger:
        await ledger.submit_one(a_record(event="storage", quantity=8))
        await ledger.submit_one(a_record(event="storage", quantity=-3))
        clock.advance(hours=23)
        await ledger.submit_one(a_record(event="storage", quantity=3))
        assert await thresholds(ledger, meter="storage_mb") == [80]
        await ledger.submit_one(a_record(event="storage", quantity=-3))
        clock.advance(hours=24)
        await ledger.submit_one(a_record(event="storage", quantity=3))
        assert await thresholds(ledger, meter="storage_mb") == [80, 80]


async def test_a_level_that_is_taken_back_below_a_threshold_alerts_again_a_day_later(
    store: SqliteStore,
) -> None:
    clock = Clock()
    limit = a_limit(10, meter="storage_mb", window="level")
    async with store.open(catalog=one_plan(limit), clock=clock) as ledger:
        stored = decision_of(await ledger.submit_one(a_record(event="storage", quantity=8)))
        assert stored.event_id is not None
        assert (
            code_of(await ledger.submit_one(CorrectUsage("acme", stored.event_id, OPERATOR, "twice"))) == "ok"
        )
        clock.advance(hours=24)
        await ledger.submit_one(a_record(event="storage", quantity=8))
        assert await thresholds(ledger, meter="storage_mb") == [80, 80]


async def test_use_that_was_taken_back_and_happens_again_is_no_news(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10))) as ledger:
        used = decision_of(await ledger.submit_one(a_record(quantity=8)))
        assert used.event_id is not None
        assert (
            code_of(await ledger.submit_one(CorrectUsage("acme", used.event_id, OPERATOR, "twice"))) == "ok"
        )
        await ledger.submit_one(a_record(quantity=8))
        assert await thresholds(ledger) == [80]
        assert (await ledger.engine.verify()).differences == ()


async def test_the_sliding_minute_and_limits_without_a_maximum_never_alert(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(3, window="minute"), a_limit(UNLIMITED))
    async with store.open(catalog=catalog) as ledger:
        for _ in range(4):
            await ledger.submit_one(a_record())
        assert await alerts(ledger) == []


async def test_a_group_alerts_its_members_of_their_own_and_everybody_of_the_pool(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(10), a_limit(20, scope="account"))
    async with store.open(catalog=catalog) as ledger:
        await ledger.submit_one(a_record(a_subject("ann", **GROUP), quantity=8))
        await ledger.submit_one(a_record(a_subject("ben", **GROUP), quantity=8))
        seen = {
            who: [(one.user, one.scope) for one in await alerts(ledger, Whose("acme", "group", "crew", who))]
            for who in ("ann", "ben", None)
        }
        assert seen == {
            "ann": [("ann", "user"), ("", "account")],
            "ben": [("ben", "user"), ("", "account")],
            None: [("ann", "user"), ("ben", "user"), ("", "account")],
        }


async def test_thresholds_are_the_plans_or_the_accounts_own(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10), alerts=[50, 120])) as ledger:
        await ledger.submit_one(a_record(quantity=5))
        assert await thresholds(ledger) == [50]
        own = SetAlertThresholds(a_subject(), OPERATOR, (60, 70))
        assert code_of(await ledger.submit_one(own)) == "ok"
        await ledger.submit_one(a_record())
        assert await thresholds(ledger) == [50, 60]
        await ledger.submit_one(SetAlertThresholds(a_subject(), OPERATOR, None))
        await ledger.submit_one(a_record(quantity=6, enforce=False))
        assert await thresholds(ledger) == [50, 60, 120]
        entries = await ledger.query(AuditTrail(Whose("acme"), "alerts.", 10))
    assert [(entry.before, entry.after) for entry in entries] == [
        ({"thresholds": [60, 70]}, {"thresholds": [50, 120]}),
        ({"thresholds": [50, 120]}, {"thresholds": [60, 70]}),
    ]


async def test_no_threshold_is_no_alert(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10), alerts=[])) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        assert await alerts(ledger) == []


async def test_two_processes_raise_each_threshold_once(tmp_path: Path) -> None:
    catalog = one_plan(a_limit(100))
    async with a_ledger(tmp_path, catalog=catalog) as one, a_ledger(tmp_path, catalog=catalog) as other:
        await asyncio.gather(*[ledger.submit_one(a_record()) for _ in range(50) for ledger in (one, other)])
        assert await thresholds(one) == await thresholds(other) == [80, 90, 100]


async def test_alerts_are_marked_as_read_by_who_may_read_them(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=9))
        await ledger.submit_one(a_record("eve", quantity=8))
        first, second = await alerts(ledger)
        bob, eve = (AccountKey("acme", "personal", who) for who in ("bob", "eve"))

        async def mark(account: AccountKey | None, *ids: str, tenant: str = "acme"):
            user = account.account if account is not None else None
            return await ledger.submit_one(MarkAlerts(tenant, account, user, False, ids))

        for refused in (
            await mark(eve, first.id),
            await mark(bob, first.id, "no id"),
            await mark(None, first.id, tenant="globex"),
        ):
            assert isinstance(refused, Refusal) and refused.code == "not_found"
        assert len(await alerts(ledger, unread_only=True)) == 2
        assert await mark(bob, first.id, first.id) == AlertsMarked(1)
        assert await mark(bob, first.id) == AlertsMarked(0)
        assert [one.id for one in await alerts(ledger, unread_only=True)] == [second.id]
        assert (await alerts(ledger))[0].read_at == clock.now
        assert await mark(None, second.id) == AlertsMarked(1)


async def test_an_outage_is_told_once_an_hour_to_who_reads_the_tenant(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record())
        for minutes in (10, 20, 40):
            await ledger.submit_one(ReportOutage(clock.now - HOUR))
            clock.advance(minutes=minutes)
        assert await alerts(ledger) == [] == await alerts(ledger, Whose("acme"))
        found = await alerts(ledger, Whose("acme"), with_service=True)
    assert [(one.tenant, one.meter, one.severity, one.threshold_percent) for one in found] == [
        ("", "service:unavailable", "critical", None)
    ]
    assert found[0].message == (
        "The ledger could not be written from 2026-11-20 13:03 UTC on; it is again. What was refused as unavailable was "
        "not counted."
    )


async def test_a_model_without_a_price_is_told_once_a_day_and_a_cost_as_money(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock) as ledger:
        await ledger.submit([a_call(1_000, price=None) for _ in range(3)])
        clock.advance(days=1)
        await ledger.submit_one(a_call(1_000, price=None))
        await ledger.submit_one(a_call(640_000))
        (cost,) = await alerts(ledger)
        found = [one for one in await alerts(ledger, Whose("acme")) if one.threshold_percent is None]
        assert (await ledger.engine.verify()).differences == ()
    assert cost.message == "Basic plan: 0.80 of 1.00 USD used this month; 80 % is reached."
    assert [(one.tenant, one.account, one.meter, one.severity) for one in found] == [
        ("acme", "", "cost:unpriced", "critical")
    ] * 2
    assert found[0].message == (
        "Calls of the model gemini-2.5-pro are counted as if they cost nothing: no price for them is "
        "known, or they say no tokens."
    )


async def test_each_alert_goes_to_the_webhook_and_a_change_of_plan_too(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(quantity=45))
        await buy(ledger, "advanced")
        sent = await ledger.query(DeliveryPage(10))
    assert [one.event for one in sent] == ["alert.created", "alert.created", "subscription.changed"]


# Any order of things

steps = st.lists(
    st.tuples(
        st.sampled_from(("record", "anyway", "lower", "higher", "clear", "hour", "day", "late")),
        st.sampled_from(("bob", "eve")),
        st.integers(1, 12),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, plan_thresholds=st.sampled_from(((80, 90, 100), (50,), (10, 100, 150), ())))
async def test_there_is_one_alert_for_each_threshold_reached(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, str, int]],
    plan_thresholds: Sequence[int],
) -> None:
    clock = Clock(TODAY)
    limits = (a_limit(10), a_limit(25, window="month"))
    catalog = one_plan(*limits, alerts=plan_thresholds)
    used: dict[tuple[str, str, str], int] = {}
    maxima: dict[tuple[str, str], int] = {}
    reached: set[tuple[str, str, str, int]] = set()

    def periods(at: str) -> dict[str, str]:
        return {"day": at[:10], "month": at[:7]}

    def look(who: str) -> None:
        for window, period in periods(str(clock)).items():
            maximum = maxima.get((who, window), {"day": 10, "month": 25}[window])
            total = used.get((who, window, period), 0)
            reached.update(
                (who, window, period, threshold)
                for threshold in plan_thresholds
                if total > 0 and total * 100 >= threshold * maximum
            )

    async with a_ledger(tmp_path_factory.mktemp("alerts"), catalog=catalog, clock=clock) as ledger:
        await ledger.submit([a_record(who, quantity=1) for who in ("bob", "eve")])
        for who in ("bob", "eve"):
            for window, period in periods(str(clock)).items():
                used[(who, window, period)] = 1
            look(who)
        for step, who, number in steps:
            match step:
                case "record" | "anyway" | "late":
                    at = clock.now - DAY if step == "late" else None
                    command = a_record(who, quantity=number, enforce=step == "record", occurred_at=at)
                    if code_of(await ledger.submit_one(command)) == "ok" or step != "record":
                        when = format_instant(at) if at is not None else str(clock)
                        for window, period in periods(when).items():
                            used[(who, window, period)] = used.get((who, window, period), 0) + number
                        look(who)
                case "lower" | "higher":
                    maximum = number if step == "lower" else number * 10
                    assert code_of(await ledger.submit_one(a_limit_set(maximum, who))) == "ok"
                    maxima[(who, "day")] = maximum
                    look(who)
                case "clear":
                    if code_of(await ledger.submit_one(a_limit_set(None, who))) == "ok":
                        del maxima[(who, "day")]
                        look(who)
                case "hour":
                    clock.advance(hours=number)
                case "day":
                    clock.advance(days=number)
        raised = [
            (
                *(one.user, one.window, format_instant(one.window_start)[: 10 if one.window == "day" else 7]),
                one.threshold_percent,
            )
            for who in ("bob", "eve")
            for one in await alerts(ledger, Whose("acme", "personal", who, who))
        ]
        assert sorted(raised) == sorted(reached)
        assert (await ledger.engine.verify()).differences == ()
