"""Rolling windows: against a list of everything that was ever used."""

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_limit

from subscription_mcp.domain.decisions import LimitState, state_of
from subscription_mcp.domain.rolling import CELLS_MAX, CELLS_MERGED, back_at, used_within, with_use
from subscription_mcp.domain.windows import Anchor, Rolling
from subscription_mcp.ledger.machine.counting import total_of
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE, Counter, CounterKey

LENGTH = 60_000_000
ANCHOR = Anchor(0)
USES = st.lists(
    st.tuples(st.integers(0, 5 * LENGTH), st.integers(1, 10)),
    max_size=60,
    unique_by=lambda use: use[0],
)


def cells_of(uses: list[tuple[int, int]], length: int = LENGTH) -> tuple[list[tuple[int, int]], int]:
    """The cells after the uses in order of time, and the last instant."""
    cells, now = [], 0
    for at, quantity in sorted(uses):
        now = at
        cells = with_use(cells, at, quantity, length, now)
    return list(cells), now


@given(USES, st.integers(0, 2 * LENGTH))
def test_what_counts_is_what_was_used_within_the_length(uses: list[tuple[int, int]], later: int) -> None:
    cells, now = cells_of(uses)
    now += later
    assert used_within(cells, LENGTH, now) == sum(
        quantity for at, quantity in uses if now - LENGTH < at <= now
    )


@given(USES.filter(bool), st.integers(1, 100))
def test_it_is_back_when_it_says_and_not_a_microsecond_before(
    uses: list[tuple[int, int]], excess: int
) -> None:
    cells, now = cells_of(uses)
    used = used_within(cells, LENGTH, now)
    back = back_at(cells, LENGTH, now, excess)
    wanted = used - min(excess, used)
    assert used_within(cells, LENGTH, back) <= wanted
    assert used_within(cells, LENGTH, back - 1) > wanted


MAXIMUM = 12
REPORTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, LENGTH // 3, LENGTH - 1, LENGTH]),
        st.sampled_from([0, 0, -1, -LENGTH // 2, 1 - LENGTH, -LENGTH, 1, LENGTH, FUTURE_TOLERANCE]),
        st.integers(0, 7),
        st.booleans(),
    ),
    max_size=25,
)
"""How long after the last one, as of how much earlier or later, how much, and whether it happened anyway."""


@given(REPORTS)
def test_used_and_reset_are_those_of_a_list_of_all_that_was_reported(
    reports: list[tuple[int, int, int, bool]],
) -> None:
    limit, counter = a_limit(MAXIMUM, window="minute"), a_counter()
    listed: list[tuple[int, int]] = []
    now = 10 * LENGTH
    for later, ahead, gain, anyway in reports:
        now += later
        at = now + ahead
        window = limit.window
        assert isinstance(window, Rolling)
        total = total_of(counter, window, window.period_at(now, ANCHOR), at, now)
        assert total.counts is (at + LENGTH > now)
        assert total.used == naively_used(listed, now)
        if not total.counts:
            counter.add(gain, at, now)
            continue
        state = state_of(limit, "message", total, gain, anyway=anyway)
        fits = total.used + gain <= MAXIMUM
        if fits or anyway:
            # What is said to lie in the future is used now, and counts no longer than anything else.
            listed.append((min(at, now), gain))
            counter.add(gain, at, now)
        if fits:
            assert_something_is_back(state, listed, now)
        elif anyway or gain <= MAXIMUM:
            assert_enough_is_back(state, listed, 0 if anyway else gain)


def assert_something_is_back(state: LimitState, listed: list[tuple[int, int]], now: int) -> None:
    """The first of what counts, the event itself among it, comes back then and not before."""
    back = state.resets_at
    assert back is not None
    used = naively_used(listed, now)
    if used:
        assert naively_used(listed, back) < used == naively_used(listed, back - 1)


def assert_enough_is_back(state: LimitState, listed: list[tuple[int, int]], gain: int) -> None:
    back = state.resets_at
    assert back is not None
    assert naively_used(listed, back) + gain <= MAXIMUM < naively_used(listed, back - 1) + gain


def naively_used(listed: list[tuple[int, int]], now: int) -> int:
    return sum(quantity for at, quantity in listed if at <= now < at + LENGTH)


def a_counter() -> Counter:
    return Counter(CounterKey("acme", 0, "minute", "personal", "bob", "bob", "messages"), length=LENGTH)


def test_where_nothing_counts_something_used_now_would_be_back_a_length_later() -> None:
    assert back_at([], LENGTH, 7, 1) == 7 + LENGTH
    assert back_at([(1, 5)], LENGTH, LENGTH + 1, 1) == 2 * LENGTH + 1


def test_a_use_reported_late_takes_its_place_in_time() -> None:
    cells = with_use([(10, 1), (30, 1)], 20, 5, LENGTH, 40)
    assert list(cells) == [(10, 1), (20, 5), (30, 1)]
    assert list(with_use(cells, 20, 1, LENGTH, 40)) == [(10, 1), (20, 6), (30, 1)]


def test_a_use_that_no_longer_counts_changes_nothing() -> None:
    cells = [(2 * LENGTH, 1)]
    assert with_use(cells, LENGTH, 5, LENGTH, 2 * LENGTH) is cells


@given(st.lists(st.integers(0, LENGTH - 1), min_size=CELLS_MAX, max_size=4 * CELLS_MAX, unique=True))
def test_many_uses_become_few_cells_that_give_back_late_and_never_early(instants: list[int]) -> None:
    cells, _ = cells_of([(at, 1) for at in instants])
    assert len(cells) <= CELLS_MAX
    for now in range(LENGTH, 2 * LENGTH, LENGTH // 7):
        exact = sum(1 for at in instants if at > now - LENGTH)
        late = sum(1 for at in instants if at > now - LENGTH - LENGTH // CELLS_MERGED)
        assert exact <= used_within(cells, LENGTH, now) <= late
