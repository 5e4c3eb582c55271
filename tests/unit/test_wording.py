"""The sentences people and models read."""

import pytest
from tests.builders import TODAY, a_catalog, a_limit, a_plan

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.decisions import Total, limit_states
from subscription_mcp.domain.instants import parse_instant
from subscription_mcp.domain.windows import Anchor
from subscription_mcp.domain.wording import (
    clock_time,
    counted,
    line_of,
    meter_words,
    overview_sentence,
    share_text,
)

NOW = parse_instant(TODAY)


def states_of(plan, used: int = 0):
    return limit_states(
        a_catalog(plan), plan.limits, lambda limit: Total(used, 0, limit.window.period_at(NOW, Anchor(NOW)))
    )


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "message", "0 messages"),
        (1, "message", "1 message"),
        (1_000, "tool call", "1,000 tool calls"),
        (100, "MB", "100 MB"),
        (1, "MB", "1 MB"),
        (2, "GiB", "2 GiB"),
        (2, "kWh", "2 kWh"),
        (250, "ms", "250 ms"),
        (3, "kg", "3 kg"),
        (50, "%", "50 %"),
        (20, "°C", "20 °C"),
        (5, "CPU hour", "5 CPU hours"),
        (5, "node GB", "5 node GB"),
        (2, "minutes", "2 minutes"),
        (1, "minutes", "1 minute"),
        (1, "process", "1 process"),
        (2, "query", "2 queries"),
        (2, "day", "2 days"),
        (2, "search", "2 searches"),
        (2, "process", "2 processes"),
        (0, "box", "0 boxes"),
    ],
)
def test_numbers_are_read_with_their_unit(count: int, unit: str, text: str) -> None:
    assert counted(count, unit) == text


@pytest.mark.parametrize(
    ("meter", "unit", "text"),
    [
        ("messages", "message", "messages"),
        ("api_calls", "API call", "API calls"),
        ("storage_mb", "MB", "storage MB"),
        ("llm_tokens", "LLM token", "LLM tokens"),
        ("compute_minutes", "minute", "compute minutes"),
    ],
)
def test_a_meter_is_spelled_like_its_unit(meter: str, unit: str, text: str) -> None:
    assert meter_words(meter, unit) == text


@pytest.mark.parametrize(
    ("window", "text"),
    [
        ("hour", "Messages: 3 of 50 used this hour, 47 left, resets 2026-11-20 15:00 UTC"),
        ("day", "Messages: 3 of 50 used today, 47 left, resets 2026-11-21 00:00 UTC"),
        ("week", "Messages: 3 of 50 used this week, 47 left, resets 2026-11-23 00:00 UTC"),
        ("month", "Messages: 3 of 50 used this month, 47 left, resets 2026-12-01 00:00 UTC"),
        (
            "billing_period",
            "Messages: 3 of 50 used this billing period, 47 left, resets 2026-12-20 14:03 UTC",
        ),
        ("lifetime", "Messages: 3 of 50 used in all, 47 left"),
    ],
)
def test_every_window_has_its_words(window: str, text: str) -> None:
    (state,) = states_of(a_plan(a_limit(50, window=window)), 3)
    assert line_of(state) == text


def test_a_reset_is_told_in_the_plans_time_zone() -> None:
    (state,) = states_of(a_plan(a_limit(50), timezone="Asia/Kolkata"))
    assert line_of(state).endswith("resets 2026-11-21 00:00 Asia/Kolkata")
    assert clock_time(NOW, "Asia/Kolkata") == "2026-11-20 19:33 Asia/Kolkata"


def test_the_overview_has_a_sentence_for_every_limit() -> None:
    plan = a_plan(a_limit(UNLIMITED, meter="tool_calls"), a_limit(5, window="lifetime", scope="account"))
    assert overview_sentence(plan, states_of(plan, 2)) == (
        "Basic plan. Tool calls: 2 used today, no limit. Messages: 2 of 5 used in all by the whole account, 3 left."
    )
    assert overview_sentence(plan, []) == "Basic plan. No limit on the account as a whole."
    assert overview_sentence(a_plan(), []) == "Basic plan. No limits."
    assert overview_sentence(None, []) == "No subscription yet: choose a plan with upgrade_tier."


@pytest.mark.parametrize(
    ("millionths", "text"),
    [
        (0, "0.0 %"),
        (1, "<0.1 %"),
        (999, "<0.1 %"),
        (1_000, "0.1 %"),
        (999_999, "99.9 %"),
        (1_000_000, "100.0 %"),
        (-50_000, "-5.0 %"),
    ],
)
def test_a_share_of_something_is_never_nothing(millionths: int, text: str) -> None:
    assert share_text(millionths) == text
