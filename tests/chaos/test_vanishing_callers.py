"""A caller that gives up or is gone, at any moment: its request happened whole or not at all."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders import a_catalog, a_ledger, a_limit, a_plan, a_record, code_of
from tests.chaos.faults import Faults, connecting
from tests.chaos.recount import recount
from tests.harness import TODAY, Place

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger.commands import Outcome
from subscription_mcp.ledger.queries import EventPage, Whose
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.writer import Ledger

CATALOG = a_catalog(a_plan(a_limit(UNLIMITED)))
SIZE = 5


async def test_a_caller_cancelled_at_any_statement_is_done_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two requests in the batch one is cancelled, of two that wait another. After each commit comes a
    checkpoint: a moment where all is done and nobody has been answered."""
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 1)
    faults = Faults()
    async with a_ledger(tmp_path, catalog=CATALOG, connect=connecting(faults)) as ledger:
        begun = await cancelled_at_every_statement(ledger, faults)
    assert recount(tmp_path / "ledger.db") == begun * 3 * SIZE + 2 * SIZE


async def cancelled_at_every_statement(ledger: Ledger, faults: Faults) -> int:
    """How many statements a batch has."""

    def request(user: str) -> "asyncio.Task[list[Outcome]]":
        return asyncio.create_task(ledger.submit([a_record(user) for _ in range(SIZE)]))

    begun, seen = 0, set()
    while True:
        at = begun
        faults.arm("wait", lambda number, statement, at=at: number == at and not seen.add(statement))
        inside, beside = request(f"inside{at}"), request(f"beside{at}")
        paused = asyncio.create_task(asyncio.to_thread(faults.reached.wait, 30))
        await asyncio.wait([inside, paused], return_when=asyncio.FIRST_COMPLETED)
        if inside.done():  # there are no more statements
            faults.reached.set()
            await asyncio.gather(paused, beside)
            break
        waiting = request(f"waiting{at}")
        staying = request(f"staying{at}")
        await asyncio.sleep(0)
        inside.cancel()
        waiting.cancel()
        faults.go_on.set()
        async with asyncio.timeout(10):
            for outcomes in (await beside, await staying):
                assert [code_of(outcome) for outcome in outcomes] == ["ok"] * SIZE
        events = [event.user for _, event in (await ledger.query(EventPage(Whose("acme"), 0, 2**60, -1)))[0]]
        assert events.count(f"inside{at}") == SIZE
        assert events.count(f"waiting{at}") == 0
        begun += 1
    assert {"BEGIN IMMEDIATE", "COMMIT", "PRAGMA wal_checkpoint(PASSIVE)"} <= seen
    return begun


async def test_a_connection_cut_at_any_moment_leaves_whole_batches(
    tmp_path: Path, effort: Callable[[int, int, int], int], dice: random.Random
) -> None:
    place = Place(tmp_path, clock=TODAY)
    rounds = effort(30, 150, 4_000)
    with place.serving() as server:
        token = place.token("app", role="service")
        async with server.api(token) as staying:
            for number in range(rounds):
                user = {"user_id": f"user{number}", "event": "message"}
                async with server.api(token) as leaving:
                    call = leaving.call("record_usage_batch", events=[user] * SIZE)
                    cut = asyncio.create_task(call)
                    await asyncio.wait([cut], timeout=dice.random() / 100)
                    cut.cancel()
                    await asyncio.gather(cut, return_exceptions=True)
            answer = await staying.call("record_usage_batch", events=[user | {"user_id": "last"}] * SIZE)
            assert answer.status_code == 200
    counted = place.select("SELECT count(*) FROM event GROUP BY holder")
    assert set(counted) == {(SIZE,)}
    assert recount(place.database) == SIZE * len(counted)
