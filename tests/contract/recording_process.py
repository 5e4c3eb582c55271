"""A process of its own that records into a shared ledger: `python -m tests.contract.recording_process`.

calls PLACE COUNT        waits for a line on stdin, records COUNT times at once for one user, prints the codes
endless PLACE NAME       records until it is killed; prints `key event_id` after each answer, never before
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from tests.builders import (
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_subject,
    code_of,
    decision_of,
)

from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.ledger.commands import Arrive

WORKERS = 24
USERS = 10


class SystemClock(Clock):
    def __call__(self) -> int:
        return time.time_ns() // 1000


def limited_catalog() -> Catalog:
    return a_catalog(a_plan(a_limit(50, window="lifetime")))


def open_catalog() -> Catalog:
    windows = ("hour", "day", "month", "lifetime")
    return a_catalog(a_plan(*[a_limit(UNLIMITED, window=window) for window in windows]))


async def calls(place: Path, count: int) -> None:
    async with a_ledger(place, catalog=limited_catalog(), clock=SystemClock()) as ledger:
        say("open")
        sys.stdin.readline()
        outcomes = await asyncio.gather(*[ledger.submit_one(a_record()) for _ in range(count)])
    say(json.dumps(Counter(map(code_of, outcomes))))


async def endless(place: Path, name: str) -> None:
    """Half of the users are in a group, so that two counters move with each of their events."""
    async with a_ledger(place, catalog=open_catalog(), clock=SystemClock()) as ledger:
        numbers = itertools.count()
        for user in range(0, USERS, 2):
            await ledger.submit_one(Arrive(a_subject(f"user{user}", group="team")))

        async def worker() -> None:
            for number in numbers:
                user, key = f"user{number % USERS}", f"{name}-{number}"
                outcome = await ledger.submit_one(a_record(user, quantity=number % 7 + 1, key=key))
                say(f"{key} {decision_of(outcome).event_id}")

        await asyncio.gather(*[worker() for _ in range(WORKERS)])


def say(line: str) -> None:
    # Straight to the pipe: what was said stays said when the process is killed.
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    kind, where, argument = sys.argv[1:]
    asyncio.run(calls(Path(where), int(argument)) if kind == "calls" else endless(Path(where), argument))
