"""The TOML form of a catalog: what it means, and a sentence for everything that can be wrong with it."""

import json
from pathlib import Path

import pytest

from subscription_mcp.catalogs import load_catalog, shipped_names
from subscription_mcp.domain.catalog import (
    TOTAL_MAX,
    UNLIMITED,
    Limit,
    Meter,
    ModelPrice,
    Money,
    Overage,
    Price,
    Sessions,
    ToolRule,
)
from subscription_mcp.domain.catalog_file import (
    CatalogError,
    parse_catalog,
    plan_digest,
    plan_from_definition,
)
from subscription_mcp.domain.instants import parse_duration
from subscription_mcp.domain.money import AMOUNT_MAX
from subscription_mcp.domain.windows import BillingPeriod, Day, Month

GOOD = """\
name = "desk"
title = "Help desk"
currency = "USD"
timezone = "UTC"
default_plan = "basic"

[events.message]
[events.api_call]
attributes = { provider = "text", tokens = "integer" }

[meters.messages]
unit = "message"
event = "message"

[meters.gemini_calls]
unit = "call"
event = "api_call"
aggregate = "count"
where = { provider = ["gemini", "google"] }

[meters.llm_tokens]
unit = "token"
event = "api_call"
aggregate = "sum_of"
attribute = "tokens"
where = { provider = "gemini" }

[features]
mcp_access = "Tools over MCP"
priority_support = "Answers within the hour"

[plans.basic]
title = "Basic"
price = { monthly = "0" }
limits = [
  { meter = "messages", window = "day", limit = 50 },
  { meter = "messages", window = "month", limit = 1000, scope = "account" },
]

[plans.team]
title = "Team"
price = { monthly = "49.00", yearly = "490", per_seat = "12.5" }
features = ["mcp_access"]
sessions = { max_concurrent = 3, max_duration = "PT2H" }
seats = { max = 10 }
rate_limit_multiplier = "5.0"
timezone = "Europe/Berlin"
limits = [
  { meter = "messages", window = "day", limit = "unlimited" },
  { meter = "llm_tokens", window = "billing_period", limit = 1_000_000 },
]

[tools]
get_usage_analytics = "mcp_access"
"gate:*" = "mcp_access"

[[prices]]
provider = "gemini"
model = "gemini-2.5-flash"
title = "Gemini 2.5 Flash"
input_per_million_tokens = "0.125"
output_per_million_tokens = "0.375"

[[prices]]
provider = "firecrawl"
currency = "EUR"
per_unit = "0.002"
unit = "page"
"""


def good_but(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def fault_of(text: str) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        parse_catalog(text, source="desk.toml")
    return caught.value


# What it means.


def test_the_head_of_the_file_names_the_catalog() -> None:
    catalog = parse_catalog(GOOD, source="desk.toml")
    assert (catalog.name, catalog.title, catalog.currency, catalog.timezone, catalog.default_plan) == (
        "desk",
        "Help desk",
        "USD",
        "UTC",
        "basic",
    )


def test_events_carry_the_attributes_they_declare() -> None:
    events = parse_catalog(GOOD, source="desk.toml").events
    assert {name: event.attributes for name, event in events.items()} == {
        "message": {},
        "api_call": {"provider": "text", "tokens": "integer"},
    }


def test_meters_count_what_they_say() -> None:
    meters = parse_catalog(GOOD, source="desk.toml").meters
    assert list(meters.values()) == [
        Meter("messages", "message", "message"),
        Meter("gemini_calls", "call", "api_call", "count", (), (("provider", ("gemini",)),)),
        Meter("llm_tokens", "token", "api_call", "sum_of", ("tokens",), (("provider", ("gemini",)),)),
    ]


def test_a_plan_is_read_whole() -> None:
    team = parse_catalog(GOOD, source="desk.toml").plans["team"]
    assert team.price == Price(Money(49_000_000, "USD"), Money(490_000_000, "USD"), Money(12_500_000, "USD"))
    assert team.limits == (
        Limit("messages", Day("Europe/Berlin"), UNLIMITED),
        Limit("llm_tokens", BillingPeriod("Europe/Berlin"), 1_000_000),
    )
    assert team.sessions == Sessions(max_concurrent=3, max_duration_seconds=7200)
    assert (team.seats_max, team.rate_limit_multiplier, team.timezone) == (10, "5", "Europe/Berlin")


def test_a_limit_may_say_what_a_unit_beyond_it_costs() -> None:
    text = good_but("limit = 1_000_000", 'limit = 9, overage = "0.0020", overage_max = 5')
    plan = parse_catalog(text, source="desk.toml").plans["team"]
    limit = plan.limits[1]
    assert limit.overage == Overage(2_000, "USD", 5)
    assert (limit.included, limit.ceiling) == (9, 14)
    stored = plan_from_definition("team", 1, json.loads(json.dumps(plan.definition)))
    assert stored.limits == plan.limits


def test_a_trial_charges_for_nothing_beyond_its_limits() -> None:
    text = good_but("limit = 1_000_000", 'limit = 9, overage = "1"')
    text = text.replace('{ monthly = "49.00", yearly = "490", per_seat = "12.5" }', '{ monthly = "0" }')
    fault = fault_of(text.replace("[plans.team]", "[plans.team]\ntrial = { days = 5 }"))
    assert (fault.key, fault.problem) == (
        "plans.team.limits[1].overage",
        "a trial is free: nothing beyond it can cost",
    )


def test_what_a_plan_leaves_out_has_a_plain_default() -> None:
    basic = parse_catalog(GOOD, source="desk.toml").plans["basic"]
    assert basic.limits == (
        Limit("messages", Day("UTC"), 50),
        Limit("messages", Month("UTC"), 1000, "account"),
    )
    assert basic.sessions == Sessions(UNLIMITED, UNLIMITED)
    assert (basic.seats_max, basic.rate_limit_multiplier, basic.timezone) == (None, "1", "UTC")
    assert basic.price.is_free


def test_every_plan_has_every_declared_feature_in_the_order_of_declaration() -> None:
    plans = parse_catalog(
        good_but('features = ["mcp_access"]', 'features = ["priority_support"]'), source="desk.toml"
    ).plans
    assert list(plans["basic"].features.items()) == [("mcp_access", False), ("priority_support", False)]
    assert list(plans["team"].features.items()) == [("mcp_access", False), ("priority_support", True)]


def test_features_may_have_values() -> None:
    text = good_but('features = ["mcp_access"]', 'features = { mcp_access = 3, priority_support = "1h" }')
    assert parse_catalog(text, source="desk.toml").plans["team"].features == {
        "mcp_access": 3,
        "priority_support": "1h",
    }


def test_tool_rules_keep_their_order() -> None:
    assert parse_catalog(GOOD, source="desk.toml").tool_rules == (
        ToolRule("get_usage_analytics", "mcp_access"),
        ToolRule("gate:*", "mcp_access"),
    )


def test_prices_keep_their_order_and_their_own_currency() -> None:
    assert parse_catalog(GOOD, source="desk.toml").prices == (
        ModelPrice(
            *("gemini", "gemini-2.5-flash", "Gemini 2.5 Flash"),
            input_per_million_tokens=Money(125_000, "USD"),
            output_per_million_tokens=Money(375_000, "USD"),
        ),
        ModelPrice("firecrawl", None, "firecrawl", per_unit=Money(2_000, "EUR"), unit="page"),
    )


def test_what_has_no_title_is_called_by_its_model_else_its_provider() -> None:
    prices = parse_catalog(good_but('title = "Gemini 2.5 Flash"\n', ""), source="desk.toml").prices
    assert [price.title for price in prices] == ["gemini-2.5-flash", "firecrawl"]


@pytest.mark.parametrize(
    ("text", "micros"),
    [("0", 0), ("0.000001", 1), ("0.15", 150_000), ("10.00", 10_000_000), ("9007199254.740991", AMOUNT_MAX)],
)
def test_a_price_of_a_million_tokens_loses_nothing(text: str, micros: int) -> None:
    """0.15 USD for a million is 0.00000015 for one."""
    prices = parse_catalog(good_but('"0.125"', f'"{text}"'), source="desk.toml").prices
    assert prices[0].input_per_million_tokens == Money(micros, "USD")


@pytest.mark.parametrize(
    ("old", "new", "provider"),
    [
        ('"firecrawl"\n', '"gemini"\n', "gemini"),
        ('"firecrawl"\n', '"gemini"\nmodel = "gemini-2.5-pro"\n', "gemini"),
        ('"firecrawl"\n', '"vertex"\nmodel = "gemini-2.5-flash"\n', "vertex"),
    ],
)
def test_a_provider_its_models_and_another_providers_model_are_priced_apart(
    old: str, new: str, provider: str
) -> None:
    prices = parse_catalog(good_but(old, new), source="desk.toml").prices
    assert [price.provider for price in prices] == ["gemini", provider]


def test_a_price_may_be_of_one_side_only_and_of_tokens_and_units_together() -> None:
    text = good_but('output_per_million_tokens = "0.375"', 'per_unit = "0.035"\nunit = "search"')
    (both, _) = parse_catalog(text, source="desk.toml").prices
    assert (both.input_per_million_tokens, both.output_per_million_tokens, both.per_unit, both.unit) == (
        *(Money(125_000, "USD"), None, Money(35_000, "USD")),
        "search",
    )


def test_a_catalog_needs_no_prices_and_a_plan_does_not_know_them() -> None:
    unpriced = parse_catalog(GOOD[: GOOD.index("[[prices]]")], source="desk.toml")
    assert unpriced.prices == ()
    assert unpriced.plans == parse_catalog(GOOD, source="desk.toml").plans


def test_without_a_default_plan_there_is_none() -> None:
    assert parse_catalog(good_but('default_plan = "basic"', ""), source="desk.toml").default_plan is None


@pytest.mark.parametrize("maximum", [0, TOTAL_MAX])
def test_a_limit_may_be_nothing_and_may_be_the_largest_total(maximum: int) -> None:
    plans = parse_catalog(good_but("limit = 50", f"limit = {maximum}"), source="desk.toml").plans
    assert plans["basic"].limits[0].maximum == maximum


# What a definition promises.


@pytest.mark.parametrize("key", ["basic", "team"])
def test_a_plan_is_rebuilt_from_its_stored_definition_alone(key: str) -> None:
    plan = parse_catalog(GOOD, source="desk.toml").plans[key].with_version(7)
    stored = json.loads(json.dumps(plan.definition))
    assert plan_from_definition(key, 7, stored) == plan


def test_a_definition_is_plain_json_with_nothing_left_to_look_up() -> None:
    assert parse_catalog(GOOD, source="desk.toml").plans["team"].definition == {
        "title": "Team",
        "currency": "USD",
        "timezone": "Europe/Berlin",
        "price": {"monthly": "49.00", "yearly": "490.00", "per_seat": "12.50"},
        "limits": [
            {"meter": "messages", "window": "day", "limit": "unlimited", "scope": "user"},
            {"meter": "llm_tokens", "window": "billing_period", "limit": 1_000_000, "scope": "user"},
        ],
        "features": {"mcp_access": True, "priority_support": False},
        "sessions": {"max_concurrent": 3, "max_duration_seconds": 7200},
        "seats": {"max": 10},
        "rate_limit_multiplier": "5",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"49.00"', '"49"'),
        ('"5.0"', '"5"'),
        ('"PT2H"', '"PT120M"'),
        ('features = ["mcp_access"]', "features = { mcp_access = true }"),
        ('limit = "unlimited" }', 'limit = "unlimited", scope = "user" }'),
    ],
)
def test_two_spellings_of_one_plan_have_one_digest(old: str, new: str) -> None:
    spelt, respelt = (
        parse_catalog(text, source="desk.toml").plans["team"] for text in (GOOD, good_but(old, new))
    )
    assert plan_digest(spelt.definition) == plan_digest(respelt.definition)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"49.00"', '"49.01"'),
        ('"PT2H"', '"PT3H"'),
        ('limit = "unlimited" }', 'limit = "unlimited", scope = "account" }'),
        ('timezone = "Europe/Berlin"', ""),
        ("seats = { max = 10 }", ""),
    ],
)
def test_another_plan_has_another_digest(old: str, new: str) -> None:
    one, other = (
        parse_catalog(text, source="desk.toml").plans["team"] for text in (GOOD, good_but(old, new))
    )
    assert plan_digest(one.definition) != plan_digest(other.definition)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    definition = parse_catalog(GOOD, source="desk.toml").plans["team"].definition
    assert plan_digest(dict(reversed(list(definition.items())))) == plan_digest(definition)


def test_a_stored_definition_this_version_does_not_understand_is_refused_by_name() -> None:
    definition = parse_catalog(GOOD, source="desk.toml").plans["team"].definition
    with pytest.raises(CatalogError) as caught:
        plan_from_definition("team", 3, {**definition, "overage": {}})
    assert str(caught.value) == "plan team, version 3: overage: unknown key"


# What can be wrong. Each case: a text of the good file, what replaces it, then key, problem and nearest word.

# fmt: off
FAULTS = {
    "a misspelt key at the top": (
        "default_plan =", "defualt_plan =",
        "defualt_plan", "unknown key", "default_plan",
    ),
    "a misspelt key of an event": (
        "attributes =", "atributes =",
        "events.api_call.atributes", "unknown key", "attributes",
    ),
    "a misspelt key of a meter": (
        'unit = "message"', 'units = "message"',
        "meters.messages.units", "unknown key", "unit",
    ),
    "a misspelt key of a plan": (
        "sessions =", "session =",
        "plans.team.session", "unknown key", "sessions",
    ),
    "a misspelt key of a price": (
        "yearly =", "yearley =",
        "plans.team.price.yearley", "unknown key", "yearly",
    ),
    "a misspelt key of a limit": (
        "limit = 50", "limt = 50",
        "plans.basic.limits[0].limt", "unknown key", "limit",
    ),
    "a misspelt key of sessions": (
        "max_duration =", "max_durations =",
        "plans.team.sessions.max_durations", "unknown key", "max_duration",
    ),
    "a misspelt key of seats": (
        "{ max = 10 }", "{ maxi = 10 }",
        "plans.team.seats.maxi", "unknown key", "max",
    ),
    "a key nothing is near to": (
        "[tools]", "[zzz]\n[tools]",
        "zzz", "unknown key", None,
    ),
    "a missing title": (
        'title = "Help desk"\n', "",
        "title", "is missing", None,
    ),
    "a missing currency": (
        'currency = "USD"\n', "",
        "currency", "is missing", None,
    ),
    "a missing price": (
        'price = { monthly = "0" }\n', "",
        "plans.basic.price", "is missing", None,
    ),
    "a missing event": (
        'event = "message"\n', "",
        "meters.messages.event", "is missing", None,
    ),
    "a missing window": (
        'window = "day", limit = 50', "limit = 50",
        "plans.basic.limits[0].window", "is missing", None,
    ),
    "an empty title": (
        'title = "Basic"', 'title = " "',
        "plans.basic.title", "must not be empty", None,
    ),
    "a title that is a number": (
        'title = "Basic"', "title = 1",
        "plans.basic.title", "must be a text in quotes", None,
    ),
    "a plan that is a text": (
        "[tools]", '[plans]\nx = "y"\n[tools]',
        "plans.x", "must be a table", None,
    ),
    "a seats number that is no table": (
        "seats = { max = 10 }", "seats = 10",
        "plans.team.seats", "must be a table", None,
    ),
    "an unknown meter": (
        'meter = "messages"', 'meter = "mesages"',
        "plans.basic.limits[0].meter", "unknown meter 'mesages'", "messages",
    ),
    "an unknown event": (
        'event = "message"', 'event = "mesage"',
        "meters.messages.event", "unknown event 'mesage'", "message",
    ),
    "an unknown attribute in a filter": (
        "where = { provider =", "where = { providr =",
        "meters.gemini_calls.where.providr", "unknown attribute 'providr'", "provider",
    ),
    "an unknown attribute to add up": (
        'attribute = "tokens"', 'attribute = "token"',
        "meters.llm_tokens.attribute", "unknown attribute 'token'", "tokens",
    ),
    "nothing to add up": (
        'attribute = "tokens"\n', "",
        "meters.llm_tokens.attribute", 'is missing: aggregate = "sum_of" needs the attribute to add up', None,
    ),
    "text to add up": (
        'attribute = "tokens"', 'attribute = "provider"',
        "meters.llm_tokens.attribute", "cannot add up 'provider': it is text", None,
    ),
    "an attribute where nothing adds up": (
        'aggregate = "count"', 'aggregate = "count"\nattribute = "tokens"',
        "meters.gemini_calls.attribute", 'only a meter with aggregate = "sum_of" has one', None,
    ),
    "an unknown aggregate": (
        '"sum_of"', '"sumof"',
        "meters.llm_tokens.aggregate", "must be one of sum, count, sum_of", "sum_of",
    ),
    "an unknown attribute type": (
        'tokens = "integer"', 'tokens = "int"',
        "events.api_call.attributes.tokens", "must be one of text, integer", "integer",
    ),
    "a number usage would be grouped by": (
        'provider = "text", tokens', 'provider = "text", model = "integer", tokens',
        "events.api_call.attributes.model", "usage is grouped by it, so it is text", None,
    ),
    "a filter of the wrong type": (
        'provider = "gemini"', "provider = 5",
        "meters.llm_tokens.where.provider", "must match the attribute's type, text", None,
    ),
    "a filter of fractions": (
        'provider = "gemini"', "provider = 0.5",
        "meters.llm_tokens.where.provider", "must be a text, an integer, or a list of them", None,
    ),
    "a filter that accepts nothing": (
        '["gemini", "google"]', "[]",
        "meters.gemini_calls.where.provider", "must list at least one value", None,
    ),
    "a negative limit": (
        "limit = 50", "limit = -1",
        "plans.basic.limits[0].limit", 'must not be negative; for no maximum write "unlimited"', None,
    ),
    "a fractional limit": (
        "limit = 50", "limit = 50.0",
        "plans.basic.limits[0].limit", 'must be an integer or "unlimited"', None,
    ),
    "a boolean limit": (
        "limit = 50", "limit = true",
        "plans.basic.limits[0].limit", 'must be an integer or "unlimited"', None,
    ),
    "a misspelt unlimited": (
        'limit = "unlimited"', 'limit = "unlimted"',
        "plans.team.limits[0].limit", 'must be an integer or "unlimited"', "unlimited",
    ),
    "a limit too large": (
        "limit = 50", f"limit = {TOTAL_MAX + 1}",
        "plans.basic.limits[0].limit", "must be at most 9007199254740991 (2**53 - 1)", None,
    ),
    "an unknown window": (
        'window = "day"', 'window = "days"',
        "plans.basic.limits[0].window", "must be one of minute, hour, day, week, month, billing_period,", "day",
    ),
    "a rolling window of no length": (
        'window = "day"', 'window = "rolling:5h"',
        "plans.basic.limits[0].window", "must be an ISO 8601 duration", "rolling:DURATION",
    ),
    "a level where there is none": (
        'window = "day"', 'window = "level"',
        "plans.basic.limits[0].window", "messages is no level: its window cannot be 'level'", None,
    ),
    "an unknown scope": (
        'scope = "account"', 'scope = "acount"',
        "plans.basic.limits[1].scope", "must be one of user, account", "account",
    ),
    "two limits on one thing": (
        'window = "month", limit = 1000, scope = "account"', 'window = "day", limit = 1000',
        "plans.basic.limits[1]", "limits messages per day and user again: limits[0] already does", None,
    ),
    "an overage as a fraction": (
        'limit = 1000,', 'limit = 1000, overage = 0.002,',
        "plans.basic.limits[1].overage", 'must be a decimal string in quotes, like "29.00", not a number', None,
    ),
    "an overage for nothing": (
        'limit = 1000,', 'limit = 1000, overage = "0",',
        "plans.basic.limits[1].overage", "must be more than 0", None,
    ),
    "an overage of what slides": (
        'window = "billing_period", limit = 1_000_000', 'window = "rolling:P30D", limit = 9, overage = "1"',
        "plans.team.limits[1].overage", "the window 'rolling:P30D' never begins anew", None,
    ),
    "an overage of a rate": (
        'window = "billing_period", limit = 1_000_000', 'window = "minute", limit = 9, overage = "1"',
        "plans.team.limits[1].overage", "the window 'minute' never begins anew", None,
    ),
    "an overage of what never comes back": (
        'window = "billing_period", limit = 1_000_000', 'window = "lifetime", limit = 9, overage = "1"',
        "plans.team.limits[1].overage", "the window 'lifetime' never begins anew", None,
    ),
    "an overage of no limit": (
        'limit = "unlimited"', 'limit = "unlimited", overage = "1"',
        "plans.team.limits[0].overage", "nothing is beyond an unlimited limit", None,
    ),
    "a most of no overage": (
        'limit = 1_000_000', 'limit = 9, overage_max = 5',
        "plans.team.limits[1].overage_max", "needs overage, the price of one unit beyond the limit", None,
    ),
    "an overage of at most nothing": (
        'limit = 1_000_000', 'limit = 9, overage = "1", overage_max = 0',
        "plans.team.limits[1].overage_max", "must be an integer from 1", None,
    ),
    "two prices of one unit": (
        '{ meter = "llm_tokens", window = "billing_period", limit = 1_000_000 }',
        '{ meter = "llm_tokens", window = "day", limit = 5, overage = "1" },'
        ' { meter = "llm_tokens", window = "month", limit = 9, overage = "2" }',
        "plans.team.limits[2].overage", "one unit of llm_tokens has one price: limits[1] already has an overage", None,
    ),
    "a default plan with an overage": (
        'limit = 1000,', 'limit = 1000, overage = "0.002",',
        "default_plan", "plan 'basic' is not free", None,
    ),
    "a price as a fraction": (
        '"49.00"', "49.0",
        "plans.team.price.monthly", 'must be a decimal string in quotes, like "29.00", not a number', None,
    ),
    "a price as an integer": (
        '"49.00"', "49",
        "plans.team.price.monthly", 'must be a decimal string in quotes, like "29.00", not a number', None,
    ),
    "a price with a sign": (
        '"49.00"', '"$49"',
        "plans.team.price.monthly", 'must be a decimal string like "29.00"', None,
    ),
    "a negative price": (
        '"12.5"', '"-12.5"',
        "plans.team.price.per_seat", "must not be negative", None,
    ),
    "a price too fine": (
        '"12.5"', '"0.0000001"',
        "plans.team.price.per_seat", "must have at most 6 decimals", None,
    ),
    "a plan that is not sold": (
        'price = { monthly = "0" }', "price = {}",
        "plans.basic.price", "must have monthly or yearly", None,
    ),
    "a currency in lower case": (
        '"USD"', '"usd"',
        "currency", "unknown currency 'usd': must be three upper-case letters (ISO 4217)", "USD",
    ),
    "a currency that is a word": (
        '"USD"', '"dollars"',
        "currency", "unknown currency 'dollars'", None,
    ),
    "an unknown time zone": (
        'timezone = "UTC"', 'timezone = "Europe/Berln"',
        "timezone", "unknown time zone 'Europe/Berln'", "Europe/Berlin",
    ),
    "an unknown time zone of a plan": (
        '"Europe/Berlin"', '"Mars"',
        "plans.team.timezone", "unknown time zone 'Mars'", None,
    ),
    "a time zone that is a path": (
        '"Europe/Berlin"', '"../../etc/passwd"',
        "plans.team.timezone", "unknown time zone '../../etc/passwd'", None,
    ),
    "a default plan that is none": (
        'default_plan = "basic"', 'default_plan = "basik"',
        "default_plan", "unknown plan 'basik'", "basic",
    ),
    "a default plan that costs": (
        'default_plan = "basic"', 'default_plan = "team"',
        "default_plan", "plan 'team' is not free; a default plan must be", None,
    ),
    "a default plan that costs per seat": (
        '{ monthly = "0" }', '{ monthly = "0", per_seat = "1" }',
        "default_plan", "plan 'basic' is not free", None,
    ),
    "an undeclared feature in a list": (
        'features = ["mcp_access"]', 'features = ["mcp_acess"]',
        "plans.team.features[0]", "unknown feature 'mcp_acess'", "mcp_access",
    ),
    "an undeclared feature in a table": (
        'features = ["mcp_access"]', "features = { mcp_acess = true }",
        "plans.team.features.mcp_acess", "unknown feature 'mcp_acess'", "mcp_access",
    ),
    "a feature with a fraction": (
        'features = ["mcp_access"]', "features = { mcp_access = 0.5 }",
        "plans.team.features.mcp_access", "must be true, false, an integer or a text", None,
    ),
    "features as a text": (
        'features = ["mcp_access"]', 'features = "mcp_access"',
        "plans.team.features", "must be a list of feature names, or a table", None,
    ),
    "a tool rule with an undeclared feature": (
        '"gate:*" = "mcp_access"', '"gate:*" = "mcp_acces"',
        'tools."gate:*"', "unknown feature 'mcp_acces'", "mcp_access",
    ),
    "a catalog with a bad name": (
        'name = "desk"', 'name = "Help Desk"',
        "name", "a name must be a lower-case letter", None,
    ),
    "an event with a bad name": (
        "[events.message]", "[events.Message]",
        "events.Message", "a name must be a lower-case letter", None,
    ),
    "a plan with a bad name": (
        "[plans.team]", '[plans."big team"]',
        'plans."big team"', "a name must be a lower-case letter", None,
    ),
    "a plan with a long name": (
        "[plans.team]", f"[plans.{'t' * 65}]",
        f"plans.{'t' * 65}", "a name must be a lower-case letter", None,
    ),
    "a feature with a bad name": (
        "priority_support =", "1st_support =",
        "features.1st_support", "a name must be a lower-case letter", None,
    ),
    "an attribute with a bad name": (
        "tokens = ", "Tokens = ",
        "events.api_call.attributes.Tokens", "a name must be a lower-case letter", None,
    ),
    "a duration in words": (
        '"PT2H"', '"2 hours"',
        "plans.team.sessions.max_duration", "must be an ISO 8601 duration in weeks, days, hours, minutes or seconds", None,
    ),
    "a duration as a number": (
        '"PT2H"', "7200",
        "plans.team.sessions.max_duration", "must be an ISO 8601 duration", None,
    ),
    "a duration of nothing": (
        '"PT2H"', '"PT0S"',
        "plans.team.sessions.max_duration", 'must be longer than nothing, or "unlimited"', None,
    ),
    "a negative duration": (
        '"PT2H"', '"-PT2H"',
        "plans.team.sessions.max_duration", "must be an ISO 8601 duration", None,
    ),
    "a misspelt unlimited duration": (
        '"PT2H"', '"unlimitd"',
        "plans.team.sessions.max_duration", "must be an ISO 8601 duration", "unlimited",
    ),
    "negative concurrent sessions": (
        "max_concurrent = 3", "max_concurrent = -3",
        "plans.team.sessions.max_concurrent", "must not be negative", None,
    ),
    "a plan without any seat": (
        "{ max = 10 }", "{ max = 0 }",
        "plans.team.seats.max", "must be at least 1", None,
    ),
    "a rate that is scaled to nothing": (
        '"5.0"\ntimezone = "Europe/Berlin"\nlimits = [\n  { meter = "messages", window = "day", limit = "unlimited" },',
        '"0.01"\nlimits = [\n  { meter = "messages", window = "minute", limit = 50 },',
        "plans.team.limits[0].limit", "is less than one a minute", None,
    ),
    "a multiplier of nothing": (
        '"5.0"', '"0"',
        "plans.team.rate_limit_multiplier", "must be more than 0", None,
    ),
    "a multiplier as a number": (
        '"5.0"', "5.0",
        "plans.team.rate_limit_multiplier", "must be a decimal string in quotes", None,
    ),
    "a time zone that is a folder": (
        '"Europe/Berlin"', '"America/Indiana"',
        "plans.team.timezone", "unknown time zone 'America/Indiana'", "America/Indianapolis",
    ),
    "a misspelt key of a model's price": (
        "input_per_million_tokens =", "input_per_milion_tokens =",
        "prices[0].input_per_milion_tokens", "unknown key", "input_per_million_tokens",
    ),
    "a model's price without a provider": (
        'provider = "firecrawl"\n', "",
        "prices[1].provider", "is missing", None,
    ),
    "a model's price with an empty provider": (
        '"firecrawl"', '""',
        "prices[1].provider", "must not be empty", None,
    ),
    "a model's price with a model that hides something": (
        '"gemini-2.5-flash"', '"gemini-2.5\\u202e-flash"',
        "prices[0].model", "must be at most 256 characters on one line, without control characters", None,
    ),
    "a model that is a number": (
        'model = "gemini-2.5-flash"', "model = 2.5",
        "prices[0].model", "must be a text in quotes", None,
    ),
    "a model's price as a fraction": (
        '"0.125"', "0.125",
        "prices[0].input_per_million_tokens", 'must be a decimal string in quotes, like "29.00", not a number', None,
    ),
    "a model's price as an integer": (
        '"0.375"', "1",
        "prices[0].output_per_million_tokens", 'must be a decimal string in quotes, like "29.00", not a number', None,
    ),
    "a negative price of a model": (
        '"0.002"', '"-0.002"',
        "prices[1].per_unit", "must not be negative", None,
    ),
    "a model's price too fine": (
        '"0.125"', '"0.0000001"',
        "prices[0].input_per_million_tokens", "must have at most 6 decimals", None,
    ),
    "a model's price in scientific notation": (
        '"0.125"', '"1.5e-7"',
        "prices[0].input_per_million_tokens", 'must be a decimal string like "29.00"', None,
    ),
    "a model's price too large": (
        '"0.125"', '"9007199254.740992"',
        "prices[0].input_per_million_tokens", "must be at most 9007199254.740991", None,
    ),
    "an unknown currency of a model's price": (
        '"EUR"', '"eur"',
        "prices[1].currency", "unknown currency 'eur': must be three upper-case letters (ISO 4217)", "EUR",
    ),
    "a model without any price": (
        'input_per_million_tokens = "0.125"\noutput_per_million_tokens = "0.375"\n', "",
        "prices[0]", "must have at least one of input_per_million_tokens, output_per_million_tokens, per_unit", None,
    ),
    "a price of one of nothing named": (
        'unit = "page"\n', "",
        "prices[1].unit", 'is missing: per_unit needs what it is the price of, like unit = "search"', None,
    ),
    "a unit where only tokens have a price": (
        'output_per_million_tokens = "0.375"', 'unit = "search"',
        "prices[0].unit", "only a price with per_unit has one", None,
    ),
    "two prices of one model": (
        'provider = "firecrawl"', 'provider = "gemini"\nmodel = "gemini-2.5-flash"',
        "prices[1]", "prices gemini gemini-2.5-flash again: prices[0] already does", None,
    ),
    "two prices of one provider": (
        'provider = "gemini"\nmodel = "gemini-2.5-flash"', 'provider = "firecrawl"',
        "prices[1]", "prices firecrawl again: prices[0] already does", None,
    ),
    "prices that are one table": (
        GOOD[GOOD.index("[[prices]]"):], '[prices]\nprovider = "gemini"\n',
        "prices", "must be a list", None,
    ),
    "features that are no table": (
        '[features]\nmcp_access = "Tools over MCP"\npriority_support = "Answers within the hour"\n', '[[features]]\nmcp_access = "Tools over MCP"\n',
        "features", "must be a table", None,
    ),
}
# fmt: on


@pytest.mark.parametrize(("old", "new", "key", "problem", "nearest"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_names_file_and_key_and_the_nearest_word(
    old: str, new: str, key: str, problem: str, nearest: str | None
) -> None:
    fault = fault_of(good_but(old, new))
    assert (fault.source, fault.key, fault.nearest) == ("desk.toml", key, nearest)
    assert str(fault).startswith(f"desk.toml: {key}: {problem}")
    assert str(fault).endswith(f"; did you mean '{nearest}'?") == (nearest is not None)


EMPTY = 'name = "desk"\ntitle = "Desk"\ncurrency = "USD"\n'
AN_EVENT = "[events.message]\n"
A_METER = '[meters.messages]\nunit = "message"\nevent = "message"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "desk.toml: name: is missing"),
        (EMPTY, "desk.toml: events: is missing"),
        (EMPTY + "[events]\n[meters]\n[plans]\n", "desk.toml: events: must declare at least one"),
        (EMPTY + AN_EVENT + "[meters]\n[plans]\n", "desk.toml: meters: must declare at least one"),
        (EMPTY + AN_EVENT + A_METER + "[plans]\n", "desk.toml: plans: must declare at least one"),
        (EMPTY + AN_EVENT + A_METER + "plans = 3\n", "desk.toml: meters.messages.plans: unknown key"),
    ],
)
def test_an_unfinished_catalog_is_told_what_comes_next(text: str, message: str) -> None:
    assert str(fault_of(text)) == message


def test_a_plan_declared_twice_is_named_with_its_second_line() -> None:
    fault = fault_of(GOOD + '\n[plans.basic]\ntitle = "Basic again"\n')
    line = GOOD.count("\n") + 2
    assert str(fault) == f"desk.toml: plans.basic: declared twice, the second time in line {line}"
    assert fault.key == "plans.basic"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Help desk"', "Help desk", "desk.toml: line 2, column 9: not valid TOML: invalid value"),
        ('"Help desk"', '"Help desk', "desk.toml: line 2, column 19: not valid TOML: illegal character"),
        (
            '"Help desk"',
            '"Help desk"\ntitle = "b"',
            "desk.toml: line 3, column 12: not valid TOML: cannot overwrite a value",
        ),
        ("[tools]", "[tools", "not valid TOML: expected ']'"),
    ],
)
def test_a_syntax_error_names_its_line(old: str, new: str, message: str) -> None:
    assert message in str(fault_of(good_but(old, new)))


def test_a_file_nested_too_deeply_is_a_fault_like_any_other() -> None:
    assert str(fault_of("a = " + "[" * 100_000)) == "desk.toml: is nested too deeply"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT1S", 1), ("PT30M", 1800), ("PT2H", 7200), ("P1D", 86_400), ("P1W", 604_800), ("P1DT1H1M1S", 90_061)],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1DT", "30M", "PT1.5H", "P1M", "P1Y", "pt1h", "PT1H ", "P٣D", "PT0S", f"P{'9' * 20}D"],
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|longer|too long"):
        parse_duration(text)


# The shipped catalogs, and files.


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_catalog_loads_under_its_own_name(name: str) -> None:
    assert load_catalog(name).name == name


def test_bedrock_chat_is_the_base_system() -> None:
    catalog = load_catalog("bedrock-chat")
    found = {
        key: (
            plan.price.monthly,
            [(limit.meter, limit.window, limit.maximum, limit.scope) for limit in plan.limits],
            plan.sessions,
            plan.features,
        )
        for key, plan in catalog.plans.items()
    }
    day, month = Day(), Month()
    assert catalog.default_plan == "basic"
    assert found == {
        "basic": (
            Money(0, "USD"),
            [("messages", day, 50, "user"), ("messages", month, 1_000, "user")],
            Sessions(1, 1_800),
            {"mcp_access": False},
        ),
        "advanced": (
            Money(29_000_000, "USD"),
            [("messages", day, 200, "user"), ("messages", month, 5_000, "user")],
            Sessions(3, 7_200),
            {"mcp_access": True},
        ),
        "premium": (
            Money(99_000_000, "USD"),
            [("messages", day, 1_000, "user"), ("messages", month, 25_000, "user")],
            Sessions(10, 28_800),
            {"mcp_access": True},
        ),
    }


@pytest.mark.parametrize(
    ("tool", "feature"),
    [
        *[
            (tool, "mcp_access")
            for tool in (
                "get_usage_analytics",
                "list_usage_events",
                "manage_limits",
                "manage_members",
                "export_usage",
                "gate:search",
            )
        ],
        *[
            (tool, None)
            for tool in ("get_tier_info", "check_quota", "list_plans", "list_alerts", "upgrade_tier")
        ],
    ],
)
def test_bedrock_chat_withholds_its_analytics_but_never_the_way_up(tool: str, feature: str | None) -> None:
    assert load_catalog("bedrock-chat").feature_of_tool(tool) == feature


def test_a_catalog_is_loaded_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "desk.toml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load_catalog(str(path)) == parse_catalog(GOOD, source="desk.toml")


def test_a_fault_in_a_file_names_its_path(tmp_path: Path) -> None:
    path = tmp_path / "desk.toml"
    path.write_text(good_but("limits =", "limit ="), encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        load_catalog(str(path))
    assert str(caught.value) == f"{path}: plans.basic.limit: unknown key; did you mean 'limits'?"


@pytest.mark.parametrize("name", ["bedrok-chat", "bedrock-chat.toml", "./somewhere/bedrock_chat.toml"])
def test_a_missing_catalog_is_answered_with_the_nearest_shipped_one(name: str) -> None:
    with pytest.raises(CatalogError) as caught:
        load_catalog(name)
    assert str(caught.value).startswith(f"{name}: no such file, and no shipped catalog (")
    assert caught.value.nearest == "bedrock-chat"


def test_a_folder_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        load_catalog(str(tmp_path))


def test_a_path_no_file_can_have_is_no_catalog() -> None:
    with pytest.raises(CatalogError, match="cannot be read: not a path"):
        load_catalog("a\0b")


def test_a_file_that_is_no_text_is_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "desk.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match="is not UTF-8 text"):
        load_catalog(str(path))
