"""The lock files beside a ledger."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from subscription_mcp.ledger.filelock import FileLock

NOT_YET_SECONDS = 0.1
SOON_SECONDS = 10


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FileLock]:
    with closing(FileLock(tmp_path / "a.lock")) as made:
        yield made


@pytest.mark.parametrize("whose", ["the same", "one of its own"])
def test_another_thread_waits_for_the_lock(lock: FileLock, tmp_path: Path, whose: str) -> None:
    entered = Event()
    with closing(FileLock(tmp_path / "a.lock")) as another:

        def enter() -> None:
            with lock if whose == "the same" else another:
                entered.set()

        waiting = Thread(target=enter)
        with lock:
            waiting.start()
            assert not entered.wait(NOT_YET_SECONDS)
            assert not lock.is_free_within(NOT_YET_SECONDS)
        assert entered.wait(SOON_SECONDS)
        waiting.join()
    assert lock.is_free_within(SOON_SECONDS)


def test_a_thread_that_leaves_does_not_give_back_what_another_has_taken(lock: FileLock) -> None:
    turns, together, inside = 200, [], []

    def take_turns(name: str) -> None:
        for _ in range(turns):
            with lock:
                inside.append(name)
                if len(inside) > 1:
                    together.append(name)
                inside.pop()

    threads = [Thread(target=take_turns, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == []


def test_an_error_inside_gives_the_lock_back(lock: FileLock) -> None:
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        pass


def test_a_number_is_left_to_the_next_holder(lock: FileLock, tmp_path: Path) -> None:
    with lock:
        assert lock.noted() == 0
        lock.note(1_795_183_230_000_000)
    with closing(FileLock(tmp_path / "a.lock")) as another, another:
        assert another.noted() == 1_795_183_230_000_000
        another.note(0)
    with lock:
        assert lock.noted() == 0
