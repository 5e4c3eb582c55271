"""Processes that write into one ledger until they have done it or are killed.

`python -m tests.chaos.recording_process` is their nursery: it has everything imported and forks a process for
each line it reads, so that two hundred of them cost seconds.

calls PLACE NAME         opens the ledger, waits for the lock of PLACE/go, makes its calls at once, says the codes
endless PLACE NAME       opens, records until it is killed; says `key id` after each answer, never before
kill PID                 kills it with -9 and waits until it is gone

It answers with the process's number, or `dead`. What a process says goes to the pipe PLACE/NAME.
"""

import asyncio
import itertools
import json
import os
import signal
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
    a_reserve,
    a_settle,
    a_subject,
    an_opening,
    code_of,
    decision_of,
    reservation_of,
    session_of,
)

from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.ledger.commands import Arrive, Command
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.writer import Ledger

CALLS = 200
WORKERS = 24
USERS = 10
TTL_SECONDS = 3_600


class SystemClock(Clock):
    def __call__(self) -> int:
        return time.time_ns() // 1000


def limited_catalog() -> Catalog:
    hundred = a_limit(100, window="lifetime")
    return a_catalog(a_plan(hundred, a_limit(1_000, meter="tool_calls", window="lifetime")))


def open_catalog() -> Catalog:
    windows = ("hour", "day", "month", "lifetime")
    return a_catalog(a_plan(*[a_limit(UNLIMITED, window=window) for window in windows]))


async def calls(place: Path) -> None:
    import fcntl  # POSIX only, like the nursery

    async with a_ledger(place, catalog=limited_catalog(), clock=SystemClock()) as ledger:
        say("open")
        with (place / "go").open() as go:
            fcntl.flock(go, fcntl.LOCK_SH)
        events = ["message", "tool_call"] * CALLS
        outcomes = await asyncio.gather(*[ledger.submit_one(a_record("bob", event)) for event in events])
    codes = zip(events, map(code_of, outcomes), strict=True)
    say(json.dumps([[*which, count] for which, count in Counter(codes).items()]))


def the_request(number: int, key: str) -> Command:
    """What a number asks for; always the same, so that it can be asked again."""
    user = f"user{number % USERS}"
    if number % 11 == 5:
        return an_opening(user, ttl_seconds=TTL_SECONDS, key=key)
    if number % 5 == 3:
        return a_reserve(user, quantity=number % 7 + 1, ttl_seconds=TTL_SECONDS, key=key)
    return a_record(user, quantity=number % 7 + 1, key=key)


async def endless(place: Path, name: str) -> None:
    """Half of the users are in a group, so that two counters move with each of their events."""
    async with a_ledger(place, catalog=open_catalog(), clock=SystemClock()) as ledger:
        for user in range(0, USERS, 2):
            await ledger.submit_one(Arrive(a_subject(f"user{user}", group="team")))
        numbers = itertools.count()
        await asyncio.gather(*[work(ledger, name, numbers) for _ in range(WORKERS)])


async def work(ledger: Ledger, name: str, numbers: "itertools.count[int]") -> None:
    for number in numbers:
        key = f"{name}-{number}"
        outcome = await ledger.submit_one(the_request(number, key))
        if number % 11 == 5:
            say(f"{key} {session_of(outcome).id}")
            continue
        decision = decision_of(outcome)
        say(f"{key} {decision.event_id or decision.reservation_id}")
        if decision.reservation_id and number % 2:
            settled = await ledger.submit_one(a_settle(reservation_of(outcome), 1))
            say(f"settled-{key} {decision_of(settled).event_id}")


def say(line: str) -> None:
    # Straight to the pipe: what was said stays said when the process is killed.
    os.write(1, f"{line}\n".encode())


def nursery() -> None:
    for line in sys.stdin:
        kind, *rest = line.split()
        if kind == "kill":
            os.kill(int(rest[0]), signal.SIGKILL)
            os.waitpid(int(rest[0]), 0)
            say("dead")
            continue
        place, name = Path(rest[0]), rest[1]
        child = os.fork()
        if child == 0:
            os.dup2(os.open(place / name, os.O_WRONLY), 1)
            sqlite_engine.CHECKPOINT_ROWS = 500
            asyncio.run(calls(place) if kind == "calls" else endless(place, name))
            os._exit(0)
        say(str(child))


if __name__ == "__main__":
    nursery()
