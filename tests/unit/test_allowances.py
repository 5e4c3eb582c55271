"""The plan's own allowance first, then grants, then overage; what is taken back leaves in the other order."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.allowances import NOTHING_BEYOND, Pot, Shares, Sum, refund_of, shares_of
from subscription_mcp.domain.catalog import Overage

PRICE = Overage(2_000, "USD")


@pytest.mark.parametrize(
    ("used", "gain", "overage"),
    [(0, 10, 0), (0, 11, 1), (9, 1, 0), (9, 2, 1), (10, 1, 1), (10, 5, 5), (12, 3, 3)],
)
def test_only_the_part_beyond_is_overage(used: int, gain: int, overage: int) -> None:
    assert shares_of(10, used, gain, overage=PRICE, charged=max(0, used - 10)).overage == overage


def test_no_more_than_the_most_is_overage() -> None:
    at_most_3 = Overage(2_000, "USD", 3)
    assert shares_of(10, 8, 9, overage=at_most_3).overage == 3
    assert shares_of(10, 12, 9, overage=at_most_3, charged=2).overage == 1
    assert shares_of(10, 19, 9, overage=at_most_3, charged=3).overage == 0


def test_what_was_granted_is_used_before_anything_is_charged() -> None:
    soon, later = Pot("soon", 0, 4), Pot("later", 0, 5)
    shares = shares_of(10, 8, 12, pots=[soon, later], overage=PRICE)
    assert (shares.granted, shares.overage) == ({"soon": 4, "later": 5}, 1)


def test_what_a_grant_gave_already_is_not_asked_of_it_again() -> None:
    assert shares_of(10, 12, 3, pots=[Pot("a", 2, 5)]).granted == {"a": 3}


def test_what_is_taken_back_was_charged_first_then_granted_by_what_lasts_longest() -> None:
    pots = [Pot("soon", 4, 0), Pot("later", 5, 0)]
    back = shares_of(10, 22, -2, pots=pots, overage=PRICE, charged=3)
    assert (back.granted, back.overage) == ({}, -2)
    back = shares_of(10, 22, -9, pots=pots, overage=PRICE, charged=3)
    assert (back.granted, back.overage) == ({"later": -5, "soon": -1}, -3)
    back = shares_of(10, 22, -22, pots=pots, overage=PRICE, charged=3)
    assert (back.granted, back.overage) == ({"later": -5, "soon": -4}, -3)


def test_what_is_taken_back_gives_back_its_own_at_the_least() -> None:
    """Of 125 used 100 were another plan's own; this one includes 10, so that more is beyond it than was ever charged."""
    pots = [Pot("soon", 2, 0), Pot("later", 3, 0)]
    assert shares_of(10, 125, -5, pots=pots, charged=20) == Shares({}, 0)
    back = shares_of(10, 125, -5, pots=pots, charged=20, own=Shares({"soon": 2}, 3))
    assert back == Shares({"soon": -2}, -3)
    # No more than there still is
    back = shares_of(10, 125, -5, pots=[Pot("soon", 1, 1)], charged=2, own=Shares({"soon": 2}, 3))
    assert back == Shares({"soon": -1}, -2)


@pytest.mark.parametrize(
    ("units", "own", "charged", "micros"),
    [
        (5, (5, 10_000), (25, 30_000), 10_000),  # its own, at its own price
        (7, (5, 10_000), (25, 30_000), 10_000 + 2_000),  # two of others, at theirs
        (5, (0, 0), (25, 30_000), 6_000),  # others' alone, at their average
        (25, (5, 10_000), (25, 30_000), 30_000),  # all there is
        (5, (20, 40_000), (6, 9_000), 9_000),  # never more than all there is
        (1, (0, 0), (3, 10), 3),
    ],
)
def test_what_is_given_back_cost_what_it_cost(
    units: int, own: tuple[int, int], charged: tuple[int, int], micros: int
) -> None:
    assert refund_of(units, Sum(*own), Sum(*charged)) == micros


@dataclass
class Month:
    """One period in which things are used, taken back and granted."""

    included: int
    overage: Overage | None
    grants: dict[str, int]
    given: dict[str, int] = field(default_factory=dict)
    used: int = 0
    charged: int = 0

    def add(self, gain: int, own: Shares = NOTHING_BEYOND) -> Shares:
        pots = [Pot(one, self.given.get(one, 0), left) for one, left in self.grants.items()]
        shares = shares_of(
            self.included, self.used, gain, pots=pots, overage=self.overage, charged=self.charged, own=own
        )
        for grant, units in shares.granted.items():
            self.grants[grant] -= units
            self.given[grant] = self.given.get(grant, 0) + units
        self.charged += shares.overage
        self.used += gain
        return shares


GAINS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def test_nobody_pays_for_a_unit_that_a_grant_has_room_for_again() -> None:
    month = Month(0, Overage(1, "USD", 1), {"g0": 1, "g1": 3})
    first, second, _ = month.add(2), month.add(2), month.add(3)
    month.add(-2, first)
    month.add(1)
    month.add(-2, second)
    assert (month.used, month.charged) == (4, 0)


@given(
    included=st.integers(0, 60),
    most=st.none() | st.integers(1, 30),
    grants=st.lists(st.integers(1, 30), max_size=3),
    gains=GAINS,
    data=st.data(),
)
def test_every_unit_is_included_granted_charged_or_beyond_it_all_exactly_once(
    included: int, most: int | None, grants: list[int], gains: list[int], data: st.DataObject
) -> None:
    granted = {f"g{index}": quantity for index, quantity in enumerate(grants)}
    month = Month(included, Overage(1, "USD", most), dict(granted))
    kept = []
    for gain in gains:
        kept.append((gain, month.add(gain)))
        if kept and data.draw(st.booleans(), label="take one back"):
            back, own = kept.pop(data.draw(st.integers(0, len(kept) - 1), label="which"))
            month.add(-back, own)
        of_grants = min(max(0, month.used - included), sum(grants))
        beyond = max(0, month.used - included - of_grants)
        assert month.used == sum(gain for gain, _ in kept)
        assert sum(month.given.values()) <= of_grants
        if (
            most is None
        ):  # else something was recorded that nobody paid for, and stays that when others are taken back
            assert sum(month.given.values()) == of_grants
            assert month.charged == beyond
        assert 0 <= month.charged <= min(beyond, most or beyond)
        assert all(0 <= left <= granted[one] for one, left in month.grants.items())
        assert {one: left + month.given.get(one, 0) for one, left in month.grants.items()} == granted
