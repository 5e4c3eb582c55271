"""What the ledger does with more requests than it can get through: hold so many, and refuse the next at once.

As a program, `waiting LEDGER` or `waiting`, it is the process whose callers wait, with the ledger at that path or
for nothing at all; it says in JSON what it came to.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.inprocess import BATCH, Load, must_be_recorded, opened, quarter_clock
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Measures, Report, at_most, in_turns, resident_mib, spread
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.ledger.commands import RecordUsage
from subscription_mcp.ledger.filelock import FileLock
from subscription_mcp.ledger.sqlite.schema import lock_path
from subscription_mcp.ledger.writer import WAITING_COMMANDS_MAX, Ledger

ROUNDS_MAX = 3
LOCK_SECONDS = 0.1
"""Longer than the writer needs to come to the lock."""
HELD_MIB_MAX = 100
REFUSED_MILLISECONDS_MAX = 10
REQUESTS = WAITING_COMMANDS_MAX
SIDE, BARE = f"{REQUESTS:,} callers of the ledger", f"{REQUESTS:,} callers who wait for nothing"

T = TypeVar("T")


def waiting(rounds: int) -> Report:
    """100,000 waiting requests hold at most 100 MiB; the next is answered `unavailable` at once."""
    turns = in_turns({SIDE: _at_a_ledger, BARE: _in_a_process}, min(rounds, ROUNDS_MAX))
    held, refused = spread(turns, SIDE, "MiB held"), spread(turns, SIDE, "one more refused after ms")
    return Report(
        "waiting: more requests than the ledger gets through",
        "*msg*, a key and a task for each, by ten users, while somebody else holds the file's lock. Memory is what the "
        "process holds more when all wait than when the requests were made. The one that came on top was answered "
        "`unavailable`; all others were recorded once the lock was free.",
        turns,
        [
            at_most(f"held while {REQUESTS:,} wait", held, HELD_MIB_MAX, "MiB"),
            at_most("one more, refused after", refused, REFUSED_MILLISECONDS_MAX, "ms"),
        ],
    )


def _at_a_ledger() -> Measures:
    with tempfile.TemporaryDirectory() as folder:
        return _in_a_process(Path(folder) / "ledger.db")


def _in_a_process(*path: Path) -> Measures:
    words = [sys.executable, "-m", "benchmarks.waiting", *map(str, path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"The process whose requests wait has failed: {done.stderr}")
    measures: dict[str, float] = json.loads(done.stdout)
    return measures


async def _wait_for_the_ledger(ledger: Ledger, path: Path, requests: list[RecordUsage]) -> Measures:
    first, *others, last = requests
    lock = FileLock(lock_path(path))
    with lock:
        # The writer takes this one and stands at the lock; what comes now waits behind it.
        waits = [asyncio.create_task(ledger.submit_one(first))]
        await asyncio.sleep(LOCK_SECONDS)
        held = await _held_by(waits, ledger.submit_one, others)
        asked = time.monotonic()
        refused = await ledger.submit_one(last)
        milliseconds = (time.monotonic() - asked) * 1000
    lock.close()
    if not isinstance(refused, Refusal) or refused.code != "unavailable":
        raise CannotMeasure(f"One more than can wait was answered {refused}.")
    must_be_recorded(await asyncio.gather(*waits))
    return {"MiB held": held, "one more refused after ms": milliseconds}


async def _wait_for_nothing(requests: list[RecordUsage]) -> Measures:
    nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(request: RecordUsage) -> None:
        await nothing

    waits: list[asyncio.Task[None]] = []
    held = await _held_by(waits, wait, requests)
    nothing.set_result(None)
    await asyncio.gather(*waits)
    return {"MiB held": held}


async def _held_by(
    waits: "list[asyncio.Task[T]]",
    caller: Callable[[RecordUsage], Coroutine[Any, Any, T]],
    requests: list[RecordUsage],
) -> float:
    before = resident_mib(os.getpid())
    for start in range(0, len(requests), BATCH):
        waits += [asyncio.create_task(caller(one)) for one in requests[start : start + BATCH]]
        await asyncio.sleep(0)
    return resident_mib(os.getpid()) - before


def main() -> None:
    requests = Load(random.Random(1), keys=True, hot=True).some(REQUESTS + 2)
    if len(sys.argv) == 1:
        measures = asyncio.run(_wait_for_nothing(requests[:REQUESTS]))
    else:
        path = Path(sys.argv[1])
        with opened(path, quarter_clock()) as (runner, ledger):
            measures = runner.run(_wait_for_the_ledger(ledger, path, requests))
    print(json.dumps(measures))


if __name__ == "__main__":
    main()
