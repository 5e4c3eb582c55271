"""What if: a period of a real ledger, told again under another catalog."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_limit_set,
    a_plan,
    a_record,
    a_reserve,
    a_settle,
    a_status,
    a_subject,
    buy,
    code_of,
    decision_of,
    manage,
    three_plans,
)
from tests.contract.test_prices import PRO, priced_catalog

from subscription_mcp.domain.catalog import UNLIMITED, Catalog, ModelPrice, Money
from subscription_mcp.domain.instants import DAY, HOUR, format_instant, parse_instant
from subscription_mcp.domain.invoices import InvoiceLine
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import Period
from subscription_mcp.ledger.commands import Actor, Arrive, CorrectUsage, GrantAllowance, Outcome
from subscription_mcp.ledger.queries import EventPage, StatementOf, Whose
from subscription_mcp.ledger.what_if import Tried, UnknownPlan, WhatIf, what_if
from subscription_mcp.ledger.writer import Ledger

NOVEMBER = Period(parse_instant("2026-11-01T00:00:00Z"), parse_instant("2026-12-01T00:00:00Z"))
DOLLAR = 1_000_000
OLIVIA = Actor("olivia", "tenant_admin")


async def try_on(
    ledger: Ledger, draft: Catalog, period: Period = NOVEMBER, renamed: Mapping[str, str] | None = None
) -> Tried:
    asked = WhatIf(draft, "acme", period, renamed or {})
    return await ledger.engine.read_aside(lambda ask: what_if(ask, asked, ledger.now()))


async def use(ledger: Ledger, clock: Clock, times: int, user: str = "bob", **fields: Any) -> list[str]:
    """Use something some times, a minute apart; the codes of the answers."""
    codes = []
    for _ in range(times):
        clock.advance(minutes=1)
        codes.append(code_of(await ledger.submit_one(a_record(user, **fields))))
    return codes


async def last_event(ledger: Ledger, nth: int) -> str:
    """The id of the nth event, counted from 1."""
    page, _ = await ledger.query(EventPage(Whose("acme"), *NOVEMBER, size=-1, oldest_first=True))
    return page[nth - 1][1].id


async def take_back(ledger: Ledger, event_id: str) -> None:
    taken_back = CorrectUsage("acme", event_id, OLIVIA, "recorded twice")
    assert code_of(await ledger.submit_one(taken_back)) == "ok"


async def test_a_lower_limit_refuses_from_the_first_unit_beyond_it(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 12)
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(7))))
        (account,) = tried.accounts
        assert (account.account, account.events, account.refused_events) == (
            AccountKey("acme", "personal", "bob"),
            12,
            5,
        )
        assert account.first_event_id == await last_event(ledger, 8)
        assert format_instant(account.first_refused_at) == "2026-11-20T14:11:11Z"
        limit = account.first_limit
        assert (limit.plan, limit.limit, limit.unit) == ("basic", a_limit(7), "message")
        assert (tried.events, tried.refused_events, list(tried.limits.values())) == (12, 5, [(5, 1)])


@pytest.mark.parametrize("limit", [1, 3, 11, 12, 13])
async def test_the_first_refusal_is_the_unit_after_the_limit(tmp_path: Path, limit: int) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 12)
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(limit))))
        assert tried.refused_events == max(0, 12 - limit)
        if limit < 12:
            assert tried.accounts[0].first_event_id == await last_event(ledger, limit + 1)


async def test_what_is_refused_does_not_count(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        for quantity in (3, 5, 2, 1, 4):
            await use(ledger, clock, 1, quantity=quantity)
        # 3 fits, 5 does not, 2 and 1 do, and 4 does not.
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(6))))
        assert (tried.refused_events, tried.accounts[0].first_event_id) == (2, await last_event(ledger, 2))


async def test_a_window_that_begins_anew_refuses_anew(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        for _ in range(3):
            await use(ledger, clock, 4)
            clock.advance(days=1)
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(3), a_limit(10, window="month"))))
        by_window = {limit.limit.window.name: events for limit, (events, _) in tried.limits.items()}
        assert by_window == {"day": 3} and tried.refused_events == 3


async def test_what_was_used_before_the_period_fills_the_windows_that_reach_into_it(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 5)
        since = clock.advance(hours=1)
        await use(ledger, clock, 5)
        period = Period(since, NOVEMBER.end)
        for window in ("day", "month", "billing_period", "lifetime", "rolling:PT5H"):
            tried = await try_on(ledger, a_catalog(a_plan(a_limit(7, window=window))), period)
            assert (tried.events, tried.refused_events) == (5, 3), window
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(7, window="hour"))), period)
        assert tried.refused_events == 0


async def test_a_draft_may_count_otherwise(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        for provider, tokens in (("openai", 100), ("gemini", 400), ("google", 400), ("openai", 900)):
            await use(
                *(ledger, clock, 1), event="llm_call", attributes={"provider": provider, "tokens": tokens}
            )
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(1, meter="gemini_calls"))))
        assert (tried.refused_events, tried.accounts[0].first_event_id) == (1, await last_event(ledger, 3))
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(1_000, meter="llm_tokens"))))
        assert (tried.refused_events, tried.accounts[0].first_event_id) == (1, await last_event(ledger, 4))


async def test_everybody_is_tried_on_the_plan_they_had_then(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 5)
        await buy(ledger, "advanced")
        await use(ledger, clock, 5)
        await use(ledger, clock, 2, "ann")
        basic, advanced, premium = three_plans()
        draft = a_catalog(a_plan(a_limit(4)), advanced, premium)
        tried = await try_on(ledger, draft)
        refused = {one.plan: (one.accounts, one.events, one.refused_events) for one in tried.plans}
        assert refused == {"basic": (2, 7, 1), "advanced": (1, 5, 0)}
        # The day's counter runs on across plans: four of Basic and five of Advanced.
        tight = a_plan(a_limit(8), key="advanced", monthly="29.00")
        tried = await try_on(ledger, a_catalog(basic, tight, premium))
        assert tried.refused_events == 2


async def test_a_group_shares_a_pool_in_a_draft_too(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        for user in ("ann", "bob", "cat"):
            for _ in range(3):
                clock.advance(minutes=1)
                assert code_of(await ledger.submit_one(a_record(a_subject(user, group="team")))) == "ok"
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(7, scope="account"))))
        (team,) = tried.accounts
        assert (team.account.account_kind, team.refused_events, team.first_limit.limit.scope) == (
            "group",
            2,
            "account",
        )


async def test_a_limit_set_by_hand_stands_in_place_of_the_drafts(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 10)
        await ledger.submit_one(a_limit_set(8))
        assert (await try_on(ledger, a_catalog(a_plan(a_limit(3))))).refused_events == 2
        await ledger.submit_one(a_limit_set(UNLIMITED))
        assert (await try_on(ledger, a_catalog(a_plan(a_limit(3))))).refused_events == 0


async def test_a_plan_the_draft_does_not_have_is_named_unless_another_stands_for_it(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 3)
        draft = a_catalog(a_plan(a_limit(2), key="starter"), default_plan="starter")
        with pytest.raises(UnknownPlan, match="basic"):
            await try_on(ledger, draft)
        tried = await try_on(ledger, draft, renamed={"basic": "starter"})
        assert [(one.plan, one.draft_plan, one.refused_events) for one in tried.plans] == [
            ("basic", "starter", 1)
        ]


async def test_an_event_the_draft_does_not_know_is_told_and_not_tried(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 2)
        await use(ledger, clock, 3, event="tool_call")
        catalog = a_catalog()
        events = {name: one for name, one in catalog.events.items() if name != "tool_call"}
        meters = {name: one for name, one in catalog.meters.items() if one.event != "tool_call"}
        draft = Catalog("test", "Test", "USD", "UTC", "basic", events, meters, {}, catalog.plans)
        tried = await try_on(ledger, draft)
        ((event, _),) = tried.misfits
        assert (event, list(tried.misfits.values()), tried.events) == ("tool_call", [3], 2)


async def test_what_was_earned_is_by_time_and_interval(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    cheap = a_plan(a_limit(50), key="advanced", monthly="29.00", yearly="290.00")
    basic, _, premium = three_plans()
    async with a_ledger(tmp_path, catalog=a_catalog(basic, cheap, premium), clock=clock) as ledger:
        await use(ledger, clock, 1, "ann")
        clock.set("2026-11-16T00:00:00Z")
        await buy(ledger, "advanced", "ann", actor="ann")
        clock.set("2026-12-01T00:00:00Z")
        dear = a_plan(a_limit(50), key="advanced", monthly="60.00")
        tried = await try_on(ledger, a_catalog(basic, dear, premium))
        (of_basic, of_advanced) = tried.plans
        assert (of_basic.earned_micros, of_basic.draft_earned_micros) == (0, 0)
        # Fifteen of thirty days, from the 16th to the 16th.
        assert (of_advanced.earned_micros, of_advanced.draft_earned_micros) == (
            14_500_000,
            30 * DOLLAR,
        )


async def test_what_was_taken_back_fills_its_window_only_until_then(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 5)
        await take_back(ledger, await last_event(ledger, 1))
        await use(ledger, clock, 1)
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(3))))
        # The fourth and the fifth came before that, the sixth after it; the first was nobody's use.
        assert (tried.events, tried.refused_events) == (5, 2)
        assert tried.accounts[0].first_event_id == await last_event(ledger, 4)


async def test_what_the_draft_would_have_refused_is_not_taken_back_of_it(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 1, quantity=3)
        await use(ledger, clock, 1, quantity=2)
        await take_back(ledger, await last_event(ledger, 2))
        await use(ledger, clock, 1)
        tried = await try_on(ledger, a_catalog(a_plan(a_limit(3))))
        # Three, and two that were too many; with those given back there would have been room for one more.
        assert (tried.events, tried.refused_events) == (2, 1)


async def test_what_a_draft_sells_beyond_its_limits_is_earned_and_not_refused(tmp_path: Path) -> None:
    clock = Clock()
    limit = {"window": "billing_period", "meter": "messages", "scope": "account"}
    dear = a_plan(a_limit(20, overage="0.50", **limit), key="advanced", monthly="29.00")  # type: ignore[arg-type]
    basic, _, premium = three_plans()
    async with a_ledger(tmp_path, catalog=a_catalog(basic, dear, premium), clock=clock) as ledger:
        await buy(ledger, "advanced")
        await use(ledger, clock, 30)
        cheap = a_plan(
            a_limit(5, overage="0.10", overage_max=20, **limit),  # type: ignore[arg-type]
            key="advanced",
            monthly="29.00",
        )
        tried = await try_on(ledger, a_catalog(basic, cheap, premium))
        (advanced,) = [one for one in tried.plans if one.plan == "advanced"]
        # Ten beyond the twenty at 0.50, and twenty beyond the five at 0.10; the last five are one too many.
        assert (advanced.earned_overage_micros, advanced.draft_overage_micros) == (5 * DOLLAR, 2 * DOLLAR)
        assert advanced.refused_events == 5


async def test_nothing_is_written(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await use(ledger, clock, 5)
        parts: list[bytes] = []
        await ledger.engine.dump(parts.append)
        await try_on(ledger, a_catalog(a_plan(a_limit(2))))
        again: list[bytes] = []
        await ledger.engine.dump(again.append)
        assert parts == again and not (await ledger.engine.verify()).differences


WINDOWS = ("minute", "hour", "day", "week", "month", "billing_period", "rolling:PT5H", "lifetime")


def a_random_catalog(dice: random.Random) -> Catalog:
    def limits() -> list[Any]:
        pairs = dice.sample([(m, w) for m in ("messages", "llm_tokens", "llm_calls") for w in WINDOWS], 5)
        return [
            a_limit(
                dice.randint(3, 12) * (100 if meter == "llm_tokens" else 1),
                meter=meter,
                window=window,
                scope=dice.choice(["user", "account"]),
            )
            for meter, window in pairs
        ]

    return a_catalog(
        a_plan(*limits()),
        a_plan(*limits(), key="advanced", monthly="29.00"),
        a_plan(*limits(), key="premium", monthly="99.00"),
    )


@pytest.mark.parametrize("seed", range(8))
async def test_the_very_catalog_refuses_nobody_it_did_not(tmp_path: Path, seed: int) -> None:
    """Whatever was recorded had been allowed; late events, changes of plan and groups among it."""
    dice, clock = random.Random(seed), Clock("2026-11-01T00:00:00Z")
    catalog = a_random_catalog(dice)
    refused = 0
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        for _ in range(150):
            clock.advance(minutes=dice.choice([0, 1, 20, 200, 900]))
            user = dice.choice(["ann", "bob", "cat"])
            subject = a_subject(user, group="team") if user == "cat" else user
            if dice.random() < 0.04:
                await buy(
                    *(ledger, dice.choice(["advanced", "premium"]), user),
                    actor=user,
                    digest=clock.now.to_bytes(8),
                )
                continue
            late = clock.now - dice.choice([0, 0, 0, 3_600_000_000, 2 * 86_400_000_000])
            outcome = await ledger.submit_one(
                a_record(
                    subject,
                    dice.choice(["message", "llm_call"]),
                    dice.randint(1, 3),
                    occurred_at=max(late, NOVEMBER.start),
                    attributes={},
                )
            )
            refused += not decision_of(outcome).allowed
        whole = Period(NOVEMBER.start, clock.now + 1)
        middle = Period((NOVEMBER.start + clock.now) // 2, clock.now + 1)
        assert refused > 10
        for period in (whole, middle):
            tried = await try_on(ledger, catalog, period)
            assert tried.events > 10 and tried.accounts == []


async def test_what_calls_cost_is_tried_at_the_drafts_prices_else_at_those_of_then(tmp_path: Path) -> None:
    clock, then = Clock(), priced_catalog()
    attributes = {"provider": "gemini", "model": "gemini-2.5-pro", "input_tokens": 100_000}
    dear = ModelPrice("gemini", "gemini-2.5-pro", "Pro", Money(10 * DOLLAR, "USD"))
    async with a_ledger(tmp_path, catalog=then, clock=clock) as ledger:
        # 0.125 USD each, of 1.00 a month
        await use(ledger, clock, 6, event="api_call", attributes=attributes, price=PRO)
        for prices, refused in ((), 0), ((dear,), 5):
            tried = await try_on(ledger, replace(then, prices=prices))
            assert (tried.events, tried.refused_events) == (6, refused)


async def grant(ledger: Ledger, quantity: int, user: str = "bob", **fields: Any) -> None:
    granted = GrantAllowance(
        a_subject(user), Actor("olivia", "tenant_admin"), "messages", "month", quantity, "kind", **fields
    )
    assert code_of(await ledger.submit_one(granted)) == "ok"


async def test_what_was_granted_is_there_from_when_it_was(tmp_path: Path) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    catalog = a_catalog(a_plan(a_limit(5, window="month")))
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        await use(ledger, clock, 5)
        clock.advance(days=1)
        await grant(ledger, 10)
        assert set(await use(ledger, clock, 8)) == {"ok"}
        assert (await try_on(ledger, catalog)).accounts == []
        (account,) = (await try_on(ledger, a_catalog(a_plan(a_limit(3, window="month"))))).accounts
        # Two before there was a grant; then three of the plan and ten granted: none of the eight.
        assert (account.refused_events, account.first_event_id) == (2, await last_event(ledger, 4))
        half = Period(clock.now - 4 * 60_000_000 + 1, clock.now + 1)
        assert (await try_on(ledger, catalog, half)).accounts == []


async def test_a_grant_that_was_used_before_is_not_given_again(tmp_path: Path) -> None:
    clock = Clock("2026-10-20T00:00:00Z")
    catalog = a_catalog(a_plan(a_limit(5, window="month")))
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        await use(ledger, clock, 1)
        await grant(ledger, 10)
        await use(ledger, clock, 12)  # eight of the grant, in October
        clock.set("2026-11-02T00:00:00Z")
        assert (await use(ledger, clock, 8))[-2:] == ["ok", "quota_exceeded"]
        draft = a_catalog(a_plan(a_limit(4, window="month")))
        tried = await try_on(ledger, draft)
        assert (tried.events, tried.refused_events) == (7, 1)


PLANS = ("advanced", "premium")


def a_catalog_that_sells_more() -> Catalog:
    def beyond(maximum: int, price: str, most: int | None = None) -> Any:
        window: dict[str, Any] = {"window": "billing_period", "scope": "account"}
        return a_limit(maximum, overage=price, overage_max=most, **window)

    return a_catalog(
        a_plan(a_limit(4)),
        a_plan(beyond(10, "0.05", 40), a_limit(6), key="advanced", monthly="29.00"),
        a_plan(beyond(30, "0.02"), a_limit(6), key="premium", monthly="99.00"),
    )


async def test_what_a_token_names_is_its_issuers_to_charge(tmp_path: Path) -> None:
    clock, catalog = Clock("2026-11-01T00:00:00Z"), a_catalog_that_sells_more()
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("cat", tier="advanced")))
        for _ in range(4):
            clock.advance(days=1)
            await use(ledger, clock, 1, "cat", quantity=4)
        clock.set("2026-12-01T00:00:00Z")
        (of_cat,) = (await try_on(ledger, catalog)).plans
        assert (of_cat.earned_micros, of_cat.earned_overage_micros, of_cat.draft_overage_micros) == (0, 0, 0)
        assert of_cat.by_issuer_micros == of_cat.draft_by_issuer_micros == 29 * DOLLAR


async def test_a_period_that_began_while_it_stood_still_earns_nothing(tmp_path: Path) -> None:
    clock, catalog = Clock("2026-11-01T00:00:00Z"), a_catalog_that_sells_more()
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        await buy(ledger, "advanced")
        clock.set("2026-11-20T00:00:00Z")
        await ledger.submit_one(a_status("suspend"))
        clock.set("2026-12-11T00:00:00Z")
        await ledger.submit_one(a_status("activate"))
        clock.set("2027-02-01T00:00:00Z")
        whole = Period(NOVEMBER.start, clock.now)
        (plan,) = (await try_on(ledger, catalog, whole)).plans
        # November was paid for, also the days it stood still, December was not; January was.
        assert plan.earned_micros == plan.draft_earned_micros == 58 * DOLLAR


class Life:
    """Two months of some people: they use, buy, cancel and are suspended; they are granted something, and something is
    taken back; some of what they use is told late, and some of it is reserved first."""

    def __init__(self, ledger: Ledger, clock: Clock, dice: random.Random) -> None:
        self.ledger, self.clock, self.dice = ledger, clock, dice
        self.kept: list[str] = []
        self.reserved: list[str] = []
        self.refused = 0

    async def goes_on(self, user: str) -> None:
        dice, clock, submit = self.dice, self.clock, self.ledger.submit_one
        clock.advance(minutes=dice.choice([1, 200, 900, 1500]))
        match dice.randint(0, 19):
            case 0 | 1:
                until = dice.choice([None, clock.now + 3 * DAY])
                place = "messages", "billing_period", dice.randint(1, 6)
                await submit(GrantAllowance(a_subject(user), OLIVIA, *place, "kind", expires_at=until))
            case 2 if self.kept:
                await take_back(self.ledger, self.kept.pop(dice.randrange(len(self.kept))))
            case 3:
                await submit(a_status(dice.choice(["suspend", "activate", "activate"]), user))
            case 4:
                await submit(a_status("suspend", user))
                clock.advance(minutes=1)
                await submit(a_record(user, quantity=2, enforce=False))
                clock.advance(minutes=1)
                await submit(a_status("activate", user))
            case 5:
                fields: dict[str, Any] = {"actor": user, "digest": clock.now.to_bytes(8)}
                await buy(self.ledger, dice.choice(PLANS), user, **fields)
            case 6:
                await manage(self.ledger, dice.choice(["cancel", "resume"]), user, actor=user)
            case 7 | 8:
                held = await submit(a_reserve(user, quantity=dice.randint(1, 4)))
                if decision_of(held).allowed:
                    clock.advance(minutes=1)
                    self.keep(await submit(a_settle(held, dice.randint(1, decision_of(held).quantity))))
            case 9 | 10:
                at = max(clock.now - dice.choice([HOUR, 2 * DAY, 9 * DAY]), NOVEMBER.start)
                self.keep(await submit(a_record(user, quantity=dice.randint(1, 4), occurred_at=at)))
            case _:
                self.keep(await submit(a_record(user, quantity=dice.randint(1, 4))))

    def keep(self, outcome: Outcome) -> None:
        decision = decision_of(outcome)
        self.refused += not decision.allowed
        self.kept += [decision.event_id] if decision.event_id else []


def earned_by_time(lines: Iterable[InvoiceLine], period: Period) -> Fraction:
    """What invoices charge for a period: of each line its share."""
    assert period.end is not None
    sum_micros = Fraction(0)
    for line in lines:
        if line.kind in ("base", "seats", "proration"):
            within = min(line.end, period.end) - max(line.start, period.start)
            sum_micros += line.micros * Fraction(max(within, 0), line.end - line.start)
    return sum_micros


@pytest.mark.parametrize("seed", range(12))
async def test_the_very_catalog_refuses_and_earns_what_the_ledger_did(tmp_path: Path, seed: int) -> None:
    dice, clock = random.Random(seed), Clock("2026-11-01T00:00:00Z")
    catalog, end = a_catalog_that_sells_more(), parse_instant("2027-01-01T00:00:00Z")
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        life = Life(ledger, clock, dice)
        for user in ("ann", "bob"):
            clock.advance(minutes=1)
            await buy(ledger, dice.choice(PLANS), user, actor=user)
        await ledger.submit_one(Arrive(a_subject("cat", tier="advanced")))
        while clock.now < end - 2 * DAY:
            await life.goes_on(dice.choice(["ann", "bob", "cat"]))
        clock.now = end
        assert life.refused
        for start in (NOVEMBER.start, NOVEMBER.end):
            tried = await try_on(ledger, catalog, Period(start, end))
            assert tried.events and not tried.accounts and not tried.misfits
            for one in tried.plans:
                assert one.earned_micros == one.draft_earned_micros
                assert one.earned_overage_micros == one.draft_overage_micros
                assert one.by_issuer_micros == one.draft_by_issuer_micros
        whole = Period(NOVEMBER.start, end)
        tried = await try_on(ledger, catalog, whole)
        lines: list[InvoiceLine] = []
        for user in ("ann", "bob", "cat"):  # long after: then all that was used by the end has been charged
            asked = StatementOf(AccountKey("acme", "personal", user), end + 70 * DAY)
            statement, _ = await ledger.query(asked)
            lines += [line for invoice in statement.invoices for line in invoice.lines]
        charged = sum(line.micros for line in lines if line.kind == "overage")
        assert sum(one.earned_overage_micros for one in tried.plans) == charged
        # Each line of an invoice is rounded to a cent, and each plan here.
        difference = sum(one.earned_micros for one in tried.plans) - earned_by_time(lines, whole)
        assert abs(difference) <= 5_000 * (len(lines) + len(tried.plans))
