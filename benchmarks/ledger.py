"""The ledger alone, in this process: full decisions with two limits, event row, rollup, durable commit."""

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import peer
from benchmarks.inprocess import BATCH, COMMANDS_A_SECOND, Load, opened, quarter_clock, timed, turn, warm
from benchmarks.rounds import Goal, Measures, Report, Turns, at_least, in_turns, not_measured, ratio, spread
from subscription_mcp.ledger.commands import RecordUsage
from subscription_mcp.ledger.writer import Ledger

RATE = "decisions/s"
KEYED = "msg, a key each"
BATCHES, ONE_CALLER = "batches of 1,000 msg, a key each", "one caller, a key each"
ONE_BY_ONE = "committed one by one, a key each"
DISK = "the disk: 4 KiB and fdatasync"
PEER_EVENTS = 100_000
PEER = f"{peer.NAME}, {PEER_EVENTS:,} events in the month"
ONE_CALLER_COMMANDS_A_SECOND = 10_000
GOALS = {
    KEYED: 20_000,
    "msg": 35_000,
    "mixed, a key each": 12_000,
    "mixed": 17_000,
    "one hot account, a key each": 40_000,
    BATCHES: 30_000,
}
TIMES = {ONE_BY_ONE: 10.0, PEER: 50.0}
"""How many times as much *msg*, a key each, is to come to."""


def ledger(rounds: int, seconds: int) -> Report:
    """Decisions a second at 256 waiting callers, in batches, one by one, and for one caller."""
    loads = {
        KEYED: Load(random.Random(1), keys=True),
        "msg": Load(random.Random(2)),
        "mixed, a key each": Load(random.Random(3), mixed=True, keys=True),
        "mixed": Load(random.Random(4), mixed=True),
        "one hot account, a key each": Load(random.Random(5), keys=True, hot=True),
    }
    keyed = loads[KEYED]
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(Path(folder) / "ledger.db", quarter_clock()) as (runner, ours),
        peer.peer(Path(folder) / "peer.db", PEER_EVENTS) as theirs,
    ):
        for load in loads.values():
            runner.run(warm(ours, load))

        def loading(load: Load, a_second: int = COMMANDS_A_SECOND, **how: int) -> Callable[[], Measures]:
            return lambda: turn(runner, ours, load.some(a_second * seconds), seconds=seconds, **how)

        def one_by_one() -> Measures:
            commands = keyed.some(ONE_CALLER_COMMANDS_A_SECOND * seconds)
            return timed(lambda: runner.run(_committed_one_by_one(ours, commands, seconds)))

        sides = {
            **{name: loading(load) for name, load in loads.items()},
            BATCHES: loading(keyed, callers=1, each=BATCH),
            ONE_CALLER: loading(keyed, ONE_CALLER_COMMANDS_A_SECOND, callers=1),
            ONE_BY_ONE: one_by_one,
            DISK: lambda: timed(lambda: _written_to_disk(Path(folder) / "disk", seconds)),
            PEER: lambda: theirs.turn(seconds) if theirs else {},
        }
        turns = in_turns(sides, rounds)
    return Report(
        "ledger: decisions in one process",
        "10,000 users in 1,000 groups of 50 tenants, two limits for each meter, `synchronous=FULL`, random keys, nothing "
        "seen for the first time; *msg* moves one meter, *mixed* three. 256 callers wait at once unless said otherwise. "
        f"{peer.NAME} decides, records and commits for one customer with one limit.",
        turns,
        _goals(turns),
    )


def _goals(turns: Turns) -> list[Goal]:
    goals = [at_least(f"{RATE}: {name}", spread(turns, name, RATE), wanted) for name, wanted in GOALS.items()]
    for other, times in TIMES.items():
        what = f"{RATE}: {KEYED} / {other}"
        goals.append(
            at_least(what, ratio(turns, KEYED, other, RATE), times)
            if turns[other][0]
            else not_measured(what, times, "could not be installed")
        )
    one_caller = ratio(turns, ONE_CALLER, DISK, RATE)
    return [*goals, at_least(f"{RATE}: one caller / the disk's own", one_caller, 0.25)]


async def _committed_one_by_one(ledger: Ledger, commands: list[RecordUsage], seconds: int) -> int:
    until = time.monotonic() + seconds
    for done, command in enumerate(commands):
        if time.monotonic() >= until:
            return done
        await ledger.engine.transact([command], lambda: True)
    return len(commands)


def _written_to_disk(path: Path, seconds: int) -> int:
    """How often the disk takes 4 KiB for certain."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        block, done, until = b"x" * 4096, 0, time.monotonic() + seconds
        while time.monotonic() < until:
            os.pwrite(descriptor, block, 0)
            os.fdatasync(descriptor)
            done += 1
        return done
    finally:
        os.close(descriptor)
