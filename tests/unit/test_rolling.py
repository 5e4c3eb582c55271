"""Rolling windows: against a list of everything that was ever used."""

from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.rolling import CELLS_MAX, CELLS_MERGED, back_at, used_within, with_use

LENGTH = 60_000_000
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
