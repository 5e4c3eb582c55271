"""What events cost: counted like any other meter, and kept with the price they were counted with."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from tests.builders import (
    Clock,
    a_ledger,
    a_limit_set,
    a_record,
    a_reserve,
    a_settle,
    a_status,
    a_subject,
    code_of,
    decision_of,
)
from tests.contract.test_engine import SqliteStore

from subscription_mcp.domain.catalog import Catalog, ModelPrice, Money
from subscription_mcp.domain.catalog_file import parse_catalog
from subscription_mcp.domain.pricing import Tier, UnitPrice
from subscription_mcp.ledger.commands import Actor, CheckUsage, GrantAllowance, UsageEvent
from subscription_mcp.ledger.queries import AlertPage, EventPage, UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.prices import Prices

PRO = UnitPrice("catalog", "USD", 1_250_000, 10_000_000)
CACHING = replace(PRO, per_million=(("cache_read_tokens", 310_000), ("input_audio_tokens", 2_000_000)))
SPEECH = UnitPrice("library", "USD", per_million=(("audio_seconds", 100_000_000),))
SEARCH = UnitPrice("catalog", "USD", per_unit=1_000, unit="search")
CALL = {"provider": "gemini", "model": "gemini-2.5-pro"}


def priced_catalog(more: str = "") -> Catalog:
    return parse_catalog(
        f"""
name = "test"
title = "Test"
currency = "USD"
default_plan = "basic"
[events.api_call]
attributes = {{ provider = "text", input_tokens = "integer", output_tokens = "integer", cache_read_tokens = "integer", audio_seconds = "integer" }}
[events.message]
[meters.calls]
unit = "call"
event = "api_call"
aggregate = "count"
[meters.tokens]
unit = "token"
event = "api_call"
aggregate = "sum_of"
attribute = ["input_tokens", "output_tokens"]
[meters.cost]
event = "api_call"
aggregate = "cost"
[meters.gemini_calls]
unit = "Gemini call"
event = "api_call"
aggregate = "count"
where = {{ provider = "gemini" }}
[meters.messages]
unit = "message"
event = "message"
[plans.basic]
title = "Basic"
price = {{ monthly = "0" }}
limits = [{{ meter = "cost", window = "month", limit = "1.00" }}, {{ meter = "calls", window = "day", limit = 1_000_000 }}{more}]
""",
        source="test.toml",
    )


def a_call(tokens_in: int = 0, tokens_out: int = 0, price: UnitPrice | None = PRO, **fields):  # type: ignore[no-untyped-def]
    attributes = {**CALL, "input_tokens": tokens_in, "output_tokens": tokens_out}
    return a_record("bob", "api_call", attributes=attributes, price=price, **fields)


async def events_of(ledger: Ledger) -> list[UsageEvent]:
    now = ledger.now()
    page, _ = await ledger.query(EventPage(Whose("acme"), now - 10**9, now + 1, size=-1))
    return [event for _, event in page]


async def test_a_cost_is_counted_to_the_micro_and_refused_at_the_limit(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        first = decision_of(await ledger.submit_one(a_call(1_000, 500)))
        assert [(s.meter, s.used) for s in first.limits] == [("cost", 6_250), ("calls", 1)]
        assert first.message.startswith("Basic plan: 0.00625 of 1.00 USD used this month, 0.99375 left.")
        # 0.99375 left: exactly that fits, a micro more does not
        over = decision_of(await ledger.submit_one(a_call(795_001)))
        assert (over.code, over.message) == (
            "quota_exceeded",
            "Basic plan: 0.00625 of 1.00 USD used this month, and 0.993752 more would pass the limit. "
            "Resets 2026-12-01 00:00 UTC.",
        )
        fits = decision_of(await ledger.submit_one(a_call(795_000)))
        assert (fits.code, fits.limits[0].used) == ("ok", 1_000_000)
        assert (await ledger.engine.verify()).differences == ()


async def test_each_event_keeps_the_price_it_was_counted_with(tmp_path: Path) -> None:
    dearer = replace(PRO, source="genai-prices 9.9", input_per_million_tokens=2_500_000)
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        command = a_call(1_000, key="k")
        first = decision_of(await ledger.submit_one(command))
        await ledger.submit([a_call(1_000, price=dearer), a_call(1_000), a_call(1, price=SEARCH)])
        # The price went up meanwhile; the same request has its first answer
        again = decision_of(await ledger.submit_one(replace(command, price=dearer)))
        assert (first.limits[0].used, again.replayed, again.limits[0].used) == (1_250, True, 1_250)
    async with a_ledger(tmp_path, catalog=priced_catalog(), publish=False) as ledger:
        events = await events_of(ledger)
        assert [(e.price, e.gains["cost"]) for e in reversed(events)] == [
            (PRO, 1_250),
            (dearer, 2_500),
            (PRO, 1_250),
            (SEARCH, 1_000),
        ]


async def test_each_distinct_price_is_kept_once(store: SqliteStore) -> None:
    async with store.open(catalog=priced_catalog()) as ledger:
        for price in (PRO, SEARCH, PRO, None):
            await ledger.submit_one(a_call(1_000, price=price))
    async with store.open(catalog=priced_catalog(), publish=False) as ledger:
        await ledger.submit_one(a_call(1_000))
        prices = [event.price for event in reversed(await events_of(ledger))]
    assert prices == [PRO, SEARCH, PRO, None, PRO]
    assert store.rows()["price"] == 2


async def test_the_price_kept_of_a_long_call_is_that_of_its_tier(tmp_path: Path) -> None:
    tiered = replace(PRO, tiers=(Tier(1_000, 2_500_000, 15_000_000),))
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit([a_call(1_000, price=tiered), a_call(1_001, price=tiered)])
        long, short = await events_of(ledger)
        assert short.price == PRO
        assert long.price == UnitPrice("catalog", "USD", 2_500_000, 15_000_000)
        assert (short.gains["cost"], long.gains["cost"]) == (1_250, 2_503)


CACHED = (("cache_read_tokens", 625_000),)
LIBRARY = replace(PRO, source="genai-prices 1", tiers=(Tier(200_000, 2_500_000, 15_000_000, CACHED),))


@pytest.mark.parametrize(
    ("tokens", "cost_micros", "applied"),
    [
        (200_000, 250_000, replace(LIBRARY, tiers=())),
        (200_001, 500_003, UnitPrice("genai-prices 1", "USD", 2_500_000, 15_000_000, per_million=CACHED)),
    ],
    ids=["short", "long"],
)
@pytest.mark.parametrize("reserved", [1_000, 300_000], ids=["as short", "as long"])
async def test_a_settle_costs_what_a_call_of_its_own_length_does(
    tmp_path: Path, reserved: int, tokens: int, cost_micros: int, applied: UnitPrice
) -> None:
    clock, attributes = Clock(), {**CALL, "input_tokens": reserved}
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve("bob", "api_call", attributes=attributes, price=LIBRARY))
    # Also in another process, which knows only what was kept
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock, publish=False) as ledger:
        settle = a_settle(held, attributes={"input_tokens": tokens})
        assert decision_of(await ledger.submit_one(settle)).limits[0].used == cost_micros
        recorded = decision_of(
            await ledger.submit_one(replace(a_call(tokens, price=LIBRARY), subject=a_subject("eve")))
        )
        assert recorded.limits[0].used == cost_micros
        assert [event.price for event in await events_of(ledger)] == [applied, applied]
        assert (await ledger.engine.verify()).differences == ()


async def test_a_long_call_costs_the_same_recorded_and_settled_by_the_price_library(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        price = Prices(priced_catalog()).of_event("api_call", CALL, ledger.now())
        assert price is not None
        assert price.tiers
        said = {"input_tokens": price.tiers[0].above_input_tokens + 1, "output_tokens": 10}
        long = {**CALL, **said}
        held = await ledger.submit_one(a_reserve("bob", "api_call", attributes=CALL, price=price))
        await ledger.submit_one(a_settle(held, attributes=said))
        await ledger.submit_one(a_record("eve", "api_call", attributes=long, price=price))
        recorded, settled = await events_of(ledger)
        assert recorded.gains == settled.gains
        assert recorded.price == settled.price == price.for_call(long)


async def test_a_settle_that_does_not_say_how_long_the_call_was_costs_what_was_held(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        attributes = {**CALL, "input_tokens": 300_000}
        held = await ledger.submit_one(a_reserve("bob", "api_call", attributes=attributes, price=LIBRARY))
        assert decision_of(held).limits[0].held == 750_000
        settled = decision_of(await ledger.submit_one(a_settle(held)))
        assert (settled.limits[0].used, settled.limits[0].held) == (750_000, 0)


async def test_what_nobody_knows_the_price_of_is_told_and_counted(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        said = decision_of(await ledger.submit_one(a_call(1_000, price=None, key="k")))
        assert (said.code, said.unpriced) == ("ok", True)
        assert {state.meter: state.used for state in said.limits} == {"cost": 0, "calls": 1}
        assert said.message.endswith("What it costs is not known, so nothing is added to the cost.")
        again = decision_of(await ledger.submit_one(a_call(1_000, price=None, key="k")))
        assert (again.replayed, again.unpriced, again.message) == (True, True, said.message)
        message = decision_of(await ledger.submit_one(a_record("bob", "message")))
        assert not message.unpriced
        rows = await ledger.query(UsageTotals(Whose("acme"), 0, ledger.now() + 10**12, frozenset()))
        totals = {row.meter: row.quantity for row in rows}
        assert (totals["cost:unpriced"], totals["tokens"], totals["cost"]) == (1, 1_000, 0)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_call_that_says_no_tokens_is_not_free_without_a_word(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        silent = a_record("bob", "api_call", attributes=CALL, price=PRO)
        said = decision_of(await ledger.submit_one(silent))
        assert (said.code, said.unpriced) == ("ok", True)
        found = [alert.meter for _, alert in await ledger.query(AlertPage(Whose("acme"), 100))]
        assert found == ["cost:unpriced"]
        # None at all is something else than nothing said
        assert not decision_of(await ledger.submit_one(a_call(0, 0))).unpriced
        assert [event.price for event in await events_of(ledger)] == [PRO, None]
        assert (await ledger.engine.verify()).differences == ()


async def test_without_room_nothing_begins_whose_cost_is_still_to_be_known(tmp_path: Path) -> None:
    check = CheckUsage(a_subject(), "api_call", 1, CALL, PRO)
    reserve = a_reserve("bob", "api_call", attributes=CALL, price=PRO)
    silent = a_record("bob", "api_call", attributes=CALL, price=PRO)
    refused = "Basic plan: 1.00 of 1.00 USD used this month. Resets 2026-12-01 00:00 UTC."
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit_one(a_call(799_998))
        # A little is left: that there is any is all there is to know, and what it costs the record will say
        before = decision_of(await ledger.rehearse(check))
        assert (before.code, before.unpriced, before.affordable and before.affordable.cost_micros) == (
            "ok",
            False,
            2,
        )
        held = await ledger.submit_one(reserve)
        assert (decision_of(held).code, decision_of(held).unpriced) == ("ok", False)
        await ledger.submit_one(a_settle(held, attributes={"input_tokens": 1}))
        for asked in (await ledger.rehearse(check), *await ledger.submit([reserve, silent])):
            decision = decision_of(asked)
            assert (decision.code, decision.sentence) == ("quota_exceeded", refused)
            assert [state.meter for state in decision.limits if state.refused] == ["cost"]
            assert [unlock.action for unlock in decision.unlocks] == ["wait"]
        left = decision_of(await ledger.rehearse(check)).affordable
        assert left is not None and (left.calls, left.output_tokens, left.cost_micros) == (0, 0, 0)
        # What really happened goes on; what costs nothing, and what nobody knows the price of, does, too
        went_on = decision_of(await ledger.submit_one(replace(silent, enforce=False)))
        assert (went_on.code, went_on.event_id is not None) == ("quota_exceeded", True)
        assert decision_of(await ledger.submit_one(a_call(0, 0))).allowed
        assert decision_of(await ledger.submit_one(a_call(9, price=None))).allowed
        assert decision_of(await ledger.submit_one(a_record("bob", "message"))).allowed
        assert (await ledger.engine.verify()).differences == ()


@pytest.mark.parametrize("window", ["month", "rolling:PT2H"])
async def test_a_limit_of_tokens_that_is_used_up_refuses_what_says_none(tmp_path: Path, window: str) -> None:
    bare = {"provider": "gemini"}
    limit = f', {{ meter = "tokens", window = "{window}", limit = 10 }}'
    async with a_ledger(tmp_path, catalog=priced_catalog(limit)) as ledger:
        assert decision_of(await ledger.submit_one(a_call(9, price=None))).allowed
        check = CheckUsage(a_subject(), "api_call", 1, bare, None)
        assert decision_of(await ledger.rehearse(check)).allowed
        await ledger.submit_one(a_call(1, price=None))
        refused = decision_of(await ledger.rehearse(check))
        assert [state.meter for state in refused.limits if state.refused] == ["tokens"]
        assert [unlock.action for unlock in refused.unlocks] == ["wait"]
        # A search has none, as its price says; one that says it has none, neither
        assert decision_of(await ledger.rehearse(replace(check, price=SEARCH))).allowed
        assert decision_of(await ledger.submit_one(a_call(0, 0, price=None))).allowed
        # Where there is never any room, waiting does not help
        await ledger.submit_one(a_limit_set(0, meter="tokens", window=window))
        never = decision_of(await ledger.rehearse(check))
        assert (never.code, never.unlocks) == ("quota_exceeded", [])


async def test_it_is_told_and_alerted_also_where_the_subscription_stands_still(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit([a_record("bob", "message"), a_status("suspend")])
        said = decision_of(await ledger.submit_one(a_call(1_000, price=None, enforce=False)))
        assert (said.code, said.unpriced) == ("subscription_inactive", True)
        found = [alert for _, alert in await ledger.query(AlertPage(Whose("acme"), 100))]
        assert [alert.meter for alert in found] == ["cost:unpriced"]
        assert (await events_of(ledger))[0].gains["cost:unpriced"] == 1


async def test_of_many_models_without_a_price_a_few_are_told_one_by_one(tmp_path: Path) -> None:
    async def told(ledger: Ledger) -> list[str]:
        found = [alert for _, alert in await ledger.query(AlertPage(Whose("acme"), 100))]
        return [alert.message for alert in reversed(found)]

    clock = Clock()
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock) as ledger:
        for number in (*range(25), 3):
            call = a_record("bob", "api_call", attributes={"model": f"m{number}"}, price=None)
            assert decision_of(await ledger.submit_one(call)).unpriced
        found = await told(ledger)
        assert len(found) == 21
        assert found[19].startswith("Calls of the model m19 are counted as if they cost nothing")
        assert found[20].startswith("Calls of the model m20, and perhaps of others after it, are counted")
        clock.advance(days=1)
        await ledger.submit_one(a_record("bob", "api_call", attributes={"model": "m24"}, price=None))
        assert (await told(ledger))[21].startswith("Calls of the model m24 are counted")
        assert (await ledger.engine.verify()).differences == ()


async def test_a_settle_prices_what_really_happened(tmp_path: Path) -> None:
    flash = replace(PRO, input_per_million_tokens=125_000, output_per_million_tokens=375_000)
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:

        async def held(price: UnitPrice | None = PRO) -> str:
            attributes = {**CALL, "input_tokens": 1_000, "output_tokens": 10_000}
            outcome = await ledger.submit_one(
                a_reserve("bob", "api_call", attributes=attributes, price=price, estimated=("input_tokens",))
            )
            decision = decision_of(outcome)
            assert decision.limits[0].held == (101_250 if price else 0)
            assert decision.reservation_id is not None
            return decision.reservation_id

        # Fewer tokens of the same model; none said about the model: what was reserved it costs
        settle = a_settle(await held(), attributes={"input_tokens": 1_000, "output_tokens": 100})
        assert decision_of(await ledger.submit_one(settle)).limits[0].used == 2_250
        # Another model answered
        actual = {"provider": "gemini", "model": "flash", "input_tokens": 1_000, "output_tokens": 100}
        settle = a_settle(await held(), attributes=actual)
        settle.price = flash
        assert decision_of(await ledger.submit_one(settle)).limits[0].used == 2_250 + 163
        # Nothing said: the estimate, and it is told to be one
        assert decision_of(await ledger.submit_one(a_settle(await held()))).limits[0].used == 103_663
        unpriced = decision_of(await ledger.submit_one(a_settle(await held(None))))
        assert (unpriced.unpriced, unpriced.limits[0].used) == (True, 103_663)
        events = list(reversed(await events_of(ledger)))
        assert [event.price for event in events] == [PRO, flash, PRO, None]
        assert [event.gains.get("tokens:estimated", 0) for event in events] == [0, 0, 1_000, 1_000]
        assert [event.gains.get("cost:estimated", 0) for event in events] == [0, 0, 1_250, 0]
        assert (await ledger.engine.verify()).differences == ()


async def test_a_settle_that_does_not_say_who_was_called_means_who_was_reserved(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:

        async def settled(**said: str | int) -> UsageEvent:
            attributes = {**CALL, "input_tokens": 1_000}
            reserved = await ledger.submit_one(a_reserve("bob", "api_call", attributes=attributes, price=PRO))
            decision_of(await ledger.submit_one(a_settle(reserved, attributes=said)))
            return (await events_of(ledger))[0]

        same = await settled(output_tokens=100)
        assert same.attributes == {**CALL, "output_tokens": 100}
        assert (same.gains["gemini_calls"], same.price) == (1, PRO)
        # One name that is said speaks for both: the model of one provider is none of another's
        other = await settled(provider="tavily", output_tokens=100)
        assert other.attributes == {"provider": "tavily", "output_tokens": 100}
        assert (other.gains.get("gemini_calls", 0), other.price) == (0, None)
        rows = await ledger.query(UsageTotals(Whose("acme"), 0, ledger.now() + 10**12, frozenset()))
        assert {row.meter: row.quantity for row in rows}["gemini_calls"] == 1
        assert (await ledger.engine.verify()).differences == ()


async def test_a_reservation_keeps_its_price_through_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock) as ledger:
        attributes = {**CALL, "input_tokens": 1_000}
        outcome = await ledger.submit_one(
            a_reserve("bob", "api_call", attributes=attributes, price=PRO, estimated=("input_tokens",))
        )
    async with a_ledger(tmp_path, catalog=priced_catalog(), clock=clock, publish=False) as ledger:
        settled = decision_of(await ledger.submit_one(a_settle(outcome)))
        assert settled.limits[0].used == 1_250
        (event,) = await events_of(ledger)
        assert (event.price, event.gains["cost:estimated"]) == (PRO, 1_250)


async def test_a_cheaper_model_is_named_where_what_was_granted_has_room_for_it(tmp_path: Path) -> None:
    def line(model: str, output_micros: int) -> ModelPrice:
        return ModelPrice("gemini", model, model, None, Money(output_micros, "USD"))

    catalog = replace(priced_catalog(), prices=(line("gemini-2.5-pro", 10_000_000), line("flash", 375_000)))
    async with a_ledger(tmp_path, catalog=catalog) as ledger:
        await ledger.submit_one(
            a_record("bob", "api_call", attributes={**CALL, "output_tokens": 100_000}, price=PRO)
        )
        check = CheckUsage(a_subject(), "api_call", 1, {**CALL, "output_tokens": 200_000}, PRO)
        spent = decision_of(await ledger.rehearse(check)).affordable
        assert spent is not None and (spent.cost_micros, spent.cheaper) == (0, None)
        await ledger.submit_one(
            GrantAllowance(
                a_subject(), Actor("olivia", "tenant_admin"), "cost", "month", 1_000_000, "a good customer"
            )
        )
        granted = decision_of(await ledger.rehearse(check)).affordable
        assert granted is not None and granted.cheaper is not None
        assert (granted.calls, granted.cost_micros, granted.cheaper.model) == (0, 1_000_000, "flash")


async def test_a_cost_too_large_to_be_one_events_is_refused(tmp_path: Path) -> None:
    dear = UnitPrice("catalog", "USD", per_unit=2**53 - 1)
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        outcome = await ledger.submit_one(a_call(0, price=dear, enforce=False))
        assert code_of(outcome) == "invalid_request"
        assert "costs more than 1,000,000 USD" in str(outcome)
        assert await events_of(ledger) == []


async def test_an_override_of_a_cost_limit_is_in_micros_and_told_as_money(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit_one(a_call(1_000))
        await ledger.submit_one(a_limit_set(2_500_000, meter="cost", window="month"))
        decision = decision_of(await ledger.submit_one(a_call(1_000)))
        assert decision.message.startswith("Basic plan: 0.0025 of 2.50 USD used this month, 2.4975 left.")


async def test_what_is_read_from_a_cache_is_counted_at_its_own_price(store: SqliteStore) -> None:
    attributes = {**CALL, "input_tokens": 1_000, "cache_read_tokens": 800}
    async with store.open(catalog=priced_catalog()) as ledger:
        said = decision_of(
            await ledger.submit_one(a_record("bob", "api_call", attributes=attributes, price=CACHING))
        )
        assert {state.meter: state.used for state in said.limits}["cost"] == 250 + 248
    async with store.open(catalog=priced_catalog(), publish=False) as ledger:
        await ledger.submit_one(a_call(1_000, price=CACHING))
        assert [event.price for event in await events_of(ledger)] == [CACHING, CACHING]
        assert (await ledger.engine.verify()).differences == ()
    assert store.rows()["price"] == 1


async def test_a_settle_that_says_nothing_its_price_is_by_is_unpriced(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:

        async def held() -> str:
            attributes = {**CALL, "audio_seconds": 60}
            asked = a_reserve("bob", "api_call", attributes=attributes, price=SPEECH)
            decision = decision_of(await ledger.submit_one(asked))
            assert decision.reservation_id is not None
            return decision.reservation_id

        spoken = decision_of(
            await ledger.submit_one(a_settle(await held(), attributes={"audio_seconds": 30}))
        )
        assert (spoken.unpriced, spoken.limits[0].used) == (False, 3_000)
        silent = decision_of(await ledger.submit_one(a_settle(await held(), attributes={"input_tokens": 9})))
        assert (silent.unpriced, silent.limits[0].used) == (True, 3_000)
        assert [event.price for event in await events_of(ledger)] == [None, SPEECH]
        check = CheckUsage(a_subject(), "api_call", 1, {**CALL, "input_tokens": 9}, SPEECH)
        asked = decision_of(await ledger.rehearse(check))
        assert (asked.unpriced, asked.affordable) == (True, None)


async def test_prices_travel_with_an_export(tmp_path: Path) -> None:
    async with a_ledger(tmp_path / "one", catalog=priced_catalog()) as ledger:
        await ledger.submit([a_call(1_000), a_call(1, price=SEARCH), a_call(1, price=None)])
        await ledger.submit_one(a_call(1, price=CACHING))
        await ledger.submit_one(a_reserve("bob", "api_call", attributes=CALL, price=SEARCH))
        await ledger.submit_one(a_reserve("bob", "api_call", attributes=CALL, price=CACHING))
        held = await ledger.submit_one(a_reserve("bob", "api_call", attributes=CALL, price=LIBRARY))
        stream = BytesIO()
        await ledger.engine.dump(stream.write)
        before = [(event.id, event.price) for event in await events_of(ledger)]
    async with a_ledger(tmp_path / "other", catalog=priced_catalog(), publish=False) as ledger:
        stream.seek(0)
        await ledger.engine.load(stream)
    async with a_ledger(tmp_path / "other", catalog=priced_catalog(), publish=False) as ledger:
        assert [(event.id, event.price) for event in await events_of(ledger)] == before
        again = BytesIO()
        await ledger.engine.dump(again.write)
        assert again.getvalue() == stream.getvalue()
        settle = a_settle(held, attributes={"input_tokens": 200_001})
        assert decision_of(await ledger.submit_one(settle)).allowed
        assert (await events_of(ledger))[0].gains["cost"] == 500_003
        assert (await ledger.engine.verify()).differences == ()
