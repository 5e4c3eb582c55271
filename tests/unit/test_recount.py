"""Which counters an event was counted in, as told from what is kept."""

import pytest

from subscription_mcp.domain.instants import DAY, MINUTE, QUARTER
from subscription_mcp.domain.windows import Anchor
from subscription_mcp.ledger.machine.facts import NO_ANCHOR
from subscription_mcp.ledger.recount import (
    AnchorHistory,
    Place,
    Places,
    SubscriptionEntry,
    latest_end,
    slack_of,
)

OLD, NEW = ("basic", 1), ("basic", 2)
DAY_OF_ALL = ("messages", "day", "account")
PLACES = Places(
    {OLD: {("messages", "day", "user")}, NEW: {DAY_OF_ALL, ("messages", "week", "account")}},
    {("messages", "day", "user"): 10, DAY_OF_ALL: 20, ("messages", "week", "account"): 30},
    {"storage_mb"},
)


@pytest.mark.parametrize(
    ("meter", "is_group", "places"),
    [
        ("messages", True, {Place("day", False, 10), Place("day", True, 20), Place("week", True, 30)}),
        ("messages", False, {Place("day", False, 10), Place("week", False, 30)}),  # its one user either way
        ("storage_mb", True, {Place("level", False, 0)}),
        ("storage_mb", False, {Place("level", False, 0)}),
        ("images", True, set()),
    ],
)
def test_a_meter_is_counted_where_a_version_limits_it_and_levels_for_every_user(
    meter: str, is_group: bool, places: set[Place]
) -> None:
    assert set(PLACES.of(meter, is_group=is_group)) == places


@pytest.mark.parametrize(
    ("recorded_at", "plan", "is_group", "is_kept"),
    [
        (19, NEW, True, False),
        (21, OLD, True, True),
        (20, OLD, True, False),
        (20, NEW, True, True),
        (20, OLD, False, True),  # a person's day either way
    ],
)
def test_in_the_microsecond_of_a_publication_only_that_of_the_own_version_surely_came_before(
    recorded_at: int, plan: tuple[str, int], is_group: bool, is_kept: bool
) -> None:
    place = Place("day", is_group, 20)
    assert PLACES.is_kept(place, "messages", plan, recorded_at, is_group=is_group) is is_kept


@pytest.mark.parametrize(
    ("length", "came_late", "slack"),
    [
        (MINUTE, False, MINUTE // 60),
        (DAY, False, DAY // 60),
        (MINUTE, True, MINUTE // 60 + QUARTER + 5 * MINUTE),
        (7, False, 1),
    ],
)
def test_a_rolling_window_gives_back_late_by_no_more_than_its_cells_are_long(
    length: int, came_late: bool, slack: int
) -> None:
    assert slack_of(length, came_late=came_late) == slack


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


@pytest.mark.parametrize(("key", "days"), [("hour", 0), ("day", 1), ("billing_period", 365), ("month", 31)])
def test_a_period_is_over_at_its_latest_end(key: str, days: int) -> None:
    day = 86_400_000_000
    end = latest_end(key, 0)
    assert end is not None and end // day == days


def test_a_lifetime_never_ends() -> None:
    assert latest_end("lifetime", 0) is None
