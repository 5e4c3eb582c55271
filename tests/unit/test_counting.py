"""Which counters an event was counted in, as told from history: exactly, or as a range where it met a change."""

import pytest

from subscription_mcp.domain.windows import Anchor
from subscription_mcp.ledger.counting import (
    AnchorHistory,
    Publication,
    SubscriptionEntry,
    WindowHistory,
    latest_end,
    window_of_key,
)
from subscription_mcp.ledger.machine.facts import NO_ANCHOR

HELD, OLD = ("basic", 1), ("basic", 0)


def windows(text: str) -> frozenset[str]:
    return frozenset(text.split())


def a_history(*, is_complete: bool = True) -> WindowHistory:
    """From 10 on basic counts by the day and the week, from 20 on by the day and the month; an older version,
    of which nobody knows when it was on offer, by the hour."""
    plans = {
        ("basic", 0): {"messages": windows("hour")},
        ("basic", 1): {"messages": windows("day week")},
        ("basic", 2): {"messages": windows("day month")},
    }
    publications = [Publication(10, [("basic", 1)]), Publication(20, [("basic", 2)])]
    return WindowHistory(plans, publications, windows("lifetime"), is_complete=is_complete)


@pytest.mark.parametrize(
    ("plan", "occurred_at", "recorded_at", "certain", "possible"),
    [
        (HELD, 15, 15, "day week", "day week"),
        (HELD, 25, 25, "day month week", "day month week"),  # those of the own version, too
        (OLD, 15, 15, "day week hour", "day week hour"),
        (OLD, 26, 25, "day month hour", "day month hour"),  # reported early
        (HELD, 20, 20, "day week", "day month week"),  # in the microsecond of a publication
        (HELD, 12, 15, "day week", "day hour month week"),  # it may have been held under any version
        (HELD, 15, 25, "day", "day hour month week"),
    ],
)
def test_an_event_was_counted_in_the_windows_on_offer_and_those_of_its_own_version(
    plan: tuple[str, int], occurred_at: int, recorded_at: int, certain: str, possible: str
) -> None:
    counted = a_history().counted("messages", plan, occurred_at, recorded_at)
    assert counted == (windows(certain), windows(possible))


def test_before_the_history_begins_only_the_own_version_is_certain() -> None:
    counted = a_history(is_complete=False).counted("messages", HELD, 5, 5)
    assert counted == (windows("day week"), windows("day week lifetime"))


def test_a_meter_that_nobody_limited_was_counted_nowhere() -> None:
    assert a_history().counted("images", HELD, 15, 15) == (frozenset(), frozenset())


def anchors(*entries: SubscriptionEntry, now: Anchor, occurred_at: int, recorded_at: int) -> set[Anchor]:
    return set(AnchorHistory(entries, now).anchors(occurred_at, recorded_at))


FIRST = SubscriptionEntry(10, 10, "monthly")
LAST = SubscriptionEntry(20, 20, "yearly")
NOW = Anchor(20, "yearly")


@pytest.mark.parametrize(
    ("occurred_at", "recorded_at", "found"),
    [
        (15, 15, {Anchor(10)}),
        (5, 10, {Anchor(10)}),  # the event that made the account known
        (20, 20, {Anchor(10), NOW}),
        (25, 25, {NOW}),
        (15, 25, {Anchor(10), NOW}),
    ],
)
def test_a_billing_period_counts_from_the_anchor_of_its_time(
    occurred_at: int, recorded_at: int, found: set[Anchor]
) -> None:
    assert anchors(FIRST, LAST, now=NOW, occurred_at=occurred_at, recorded_at=recorded_at) == found


def test_an_anchor_that_was_not_written_down_is_one_of_those_there_were() -> None:
    unsaid, later = SubscriptionEntry(20, None, "monthly"), SubscriptionEntry(40, 40, "monthly")
    for now in (Anchor(40), Anchor(15)):
        found = anchors(FIRST, unsaid, later, now=now, occurred_at=21, recorded_at=21)
        assert found == {Anchor(10), Anchor(20), *([now] if now.at < 20 else [])}


def test_another_interval_holds_from_the_instant_it_was_scheduled_for() -> None:
    scheduled = SubscriptionEntry(10, 10, "yearly", "monthly", 30)
    for occurred_at, recorded_at, intervals in (
        (29, 29, {"yearly"}),
        (30, 30, {"monthly"}),
        (29, 31, {"yearly", "monthly"}),
    ):
        found = anchors(scheduled, now=Anchor(10), occurred_at=occurred_at, recorded_at=recorded_at)
        assert {anchor.interval for anchor in found} == intervals


def test_without_a_subscription_there_is_no_anchor() -> None:
    assert AnchorHistory([], None).anchors(15, 15) == {NO_ANCHOR}


@pytest.mark.parametrize("key", ["hour", "day", "week@Europe/Berlin", "month", "billing_period", "lifetime"])
def test_a_window_is_known_by_its_key(key: str) -> None:
    assert window_of_key(key).key == key


@pytest.mark.parametrize(("key", "days"), [("hour", 0), ("day", 1), ("billing_period", 365), ("month", 31)])
def test_a_period_is_over_at_its_latest_end(key: str, days: int) -> None:
    day = 86_400_000_000
    end = latest_end(key, 0)
    assert end is not None and end // day == days


def test_a_lifetime_never_ends() -> None:
    assert latest_end("lifetime", 0) is None
