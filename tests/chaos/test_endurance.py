"""Two hours of load under a clock that runs fast, and more callers than the queue takes: nothing grows that
need not."""

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_closing,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_reserve,
    a_settle,
    an_opening,
    code_of,
)
from tests.chaos.recount import recount
from tests.contract.test_engine import SqliteStore, everybody_had_a_turn

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger import writer
from subscription_mcp.ledger.commands import Decided, Outcome, SessionDecided
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.writer import WAITING_COMMANDS_MAX, Ledger

Effort = Callable[[int, int, int], int]
STEP_SECONDS = 10
STEPS_PER_HOUR = 360
USERS = 50
TTL_SECONDS = 60
LOG_BYTES_MAX = 4 << 20
WAITING_BYTES_MAX = 100_000_000
SAMPLE = 10_000
BOUNDED = ("hold", "offer")
"""Tables that do not grow however long the ledger runs. One that is pruned belongs here."""


@pytest.fixture(autouse=True)
def _small_bounds_that_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 1_000)
    monkeypatch.setattr(sqlite_engine, "CACHED_FACTS_MAX", 2_000)


async def test_two_hours_of_load_leave_memory_flat_and_the_files_bounded(
    tmp_path: Path, effort: Effort
) -> None:
    per_step, clock, store = effort(16, 64, 640), Clock("2026-11-20T08:00:00Z"), SqliteStore(tmp_path)
    log = store.path.with_name("ledger.db-wal")
    blocks, logs, sizes, rows = [], [], [store.path.stat().st_size if store.path.exists() else 0], []
    catalog = a_catalog(a_plan(a_limit(UNLIMITED), a_limit(UNLIMITED, window="hour"), sessions=10**6))
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        for _ in range(2):
            most_blocks = most_log = 0
            for step in range(STEPS_PER_HOUR):
                clock.advance(seconds=STEP_SECONDS)
                await load(ledger, per_step, f"{clock}")
                most_log = max(most_log, log.stat().st_size)
                # The first half hour fills the caches.
                if step >= STEPS_PER_HOUR // 2 and step % 20 == 0:
                    gc.collect()
                    most_blocks = max(most_blocks, sys.getallocatedblocks())
            blocks.append(most_blocks)
            logs.append(most_log)
            sizes.append(store.path.stat().st_size)
            rows.append(store.rows())
    assert blocks[1] <= blocks[0] * 1.05, blocks
    assert max(logs) < LOG_BYTES_MAX * max(1, per_step // 64), logs
    assert sizes[2] - sizes[1] <= 1.2 * (sizes[1] - sizes[0]), sizes
    for table in BOUNDED:
        assert rows[1][table] <= rows[0][table] + per_step, (table, rows)
    assert rows[1]["event"] == 2 * rows[0]["event"]
    assert recount(store.path) == rows[1]["event"]


async def load(ledger: Ledger, count: int, moment: str) -> None:
    """Half are records, a quarter reservations of which every other is settled, an eighth sessions."""
    commands = []
    for number in range(count):
        user, key = f"user{number % USERS}", f"{moment} {number}"
        if number % 8 == 1:
            commands.append(an_opening(user, ttl_seconds=TTL_SECONDS, key=key))
        elif number % 4 == 2:
            commands.append(a_reserve(user, ttl_seconds=TTL_SECONDS, key=key))
        else:
            commands.append(a_record(user, key=key))
    ends = []
    for number, outcome in enumerate(await ledger.submit(commands)):
        match outcome:
            case Decided(decision=decision) if decision.reservation_id is not None and number % 8 == 2:
                ends.append(a_settle(decision.reservation_id))
            case SessionDecided() if number % 16 == 1:
                ends.append(a_closing(outcome))
    assert all(code_of(outcome) == "ok" for outcome in await ledger.submit(ends))


async def test_100_000_may_wait_in_bounded_memory_and_the_next_is_told_at_once(
    tmp_path: Path, effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "START_WITHIN_SECONDS", 300)  # the lock is held for as long as the test needs
    store = SqliteStore(tmp_path)
    async with store.open(catalog=a_catalog(a_plan(a_limit(UNLIMITED)))) as ledger:

        def request(n: int) -> Coroutine[Any, Any, Outcome]:
            return ledger.submit_one(a_record(f"user{n % 1_000}", key=f"k{n}"))

        with store.locked():
            first = asyncio.create_task(ledger.submit_one(a_record()))
            await everybody_had_a_turn()
            many, bytes_of_sample = await waiting(request, range(SAMPLE))
            many += [asyncio.create_task(request(n)) for n in range(SAMPLE, WAITING_COMMANDS_MAX)]
            await everybody_had_a_turn()
            async with asyncio.timeout(60):  # much sooner than the lock is given up
                assert code_of(await ledger.submit_one(a_record())) == "unavailable"
            answered = effort(1_000, 20_000, WAITING_COMMANDS_MAX)
            for task in many[answered:]:
                task.cancel()
        assert code_of(await first) == "ok"
        assert {code_of(outcome) for outcome in await asyncio.gather(*many[:answered])} == {"ok"}
        await asyncio.gather(*many[answered:], return_exceptions=True)
    assert recount(store.path) == answered + 1
    bytes_waiting = bytes_of_sample * WAITING_COMMANDS_MAX // SAMPLE
    assert bytes_waiting <= WAITING_BYTES_MAX, f"{bytes_waiting:,} bytes"


async def waiting(
    make: Callable[[int], Coroutine[Any, Any, Any]], numbers: range
) -> tuple[list["asyncio.Task[Any]"], int]:
    """So many tasks that wait, and what they hold beyond what any waiting task does, in bytes."""
    never = asyncio.get_running_loop().create_future()

    async def idle(_: int) -> None:
        await never

    held = []
    for kind in (idle, make):
        tracemalloc.start()
        try:
            tasks = [asyncio.create_task(kind(number)) for number in numbers]
            await everybody_had_a_turn()
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        if kind is idle:
            never.set_result(None)
            await asyncio.gather(*tasks)
    return tasks, held[1] - held[0]
