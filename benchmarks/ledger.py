"""The ledger alone, in this process: full decisions with two limits, event row, rollup, durable commit."""

import asyncio
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.builders import a_catalog, a_limit, a_plan, a_publication

from benchmarks.rounds import Measures, Report, at_least, ratio, spread
from subscription_mcp.assembly import system_clock
from subscription_mcp.ledger.commands import RecordUsage, Subject
from subscription_mcp.ledger.sqlite import SqliteEngine
from subscription_mcp.ledger.writer import Ledger

TENANTS, GROUPS, USERS, MODELS = 50, 1_000, 10_000, 5
WAITING = 256
BATCH = 1_000
ENOUGH = 10**12
PLAN = a_plan(
    a_limit(ENOUGH),
    a_limit(ENOUGH, window="month", scope="account"),
    *(
        a_limit(ENOUGH, meter=meter, window=window, scope=scope)
        for meter in ("llm_calls", "llm_tokens", "gemini_calls")
        for window, scope in (("day", "user"), ("month", "account"))
    ),
)
GOALS = {
    "msg, a key each": 20_000,
    "msg": 35_000,
    "mixed, a key each": 12_000,
    "mixed": 17_000,
    "one hot account, a key each": 40_000,
    "batches of 1,000 msg, a key each": 30_000,
}


@dataclass
class Load:
    """Commands of one kind: messages move one meter, calls of a model two or three."""

    dice: random.Random
    mixed: bool = False
    keys: bool = False
    hot: bool = False

    def command(self) -> RecordUsage:
        dice = self.dice
        number = dice.randrange(10) if self.hot else dice.randrange(USERS)
        group = 0 if self.hot else number % GROUPS
        subject = Subject(f"tenant-{group % TENANTS}", f"user-{number}", group=f"group-{group}")
        attributes: dict[str, str | int] = {"model": f"model-{dice.randrange(MODELS)}"}
        if self.mixed:
            attributes |= {"provider": dice.choice(("gemini", "openai")), "tokens": 500}
        key = f"{dice.getrandbits(128):032x}" if self.keys else None
        event = "llm_call" if self.mixed else "message"
        return RecordUsage(
            subject, event, "app", attributes=attributes, idempotency_key=key, digest=b"d" * 16
        )


def ledger(rounds: int, seconds: int) -> Report:
    """Decisions a second at 256 waiting callers, in batches, one by one, and for one caller."""
    return asyncio.run(_ledger(rounds, seconds))


async def _ledger(rounds: int, seconds: int) -> Report:
    loop = asyncio.get_running_loop()
    loads = {
        "msg, a key each": Load(random.Random(1), keys=True),
        "msg": Load(random.Random(2)),
        "mixed, a key each": Load(random.Random(3), mixed=True, keys=True),
        "mixed": Load(random.Random(4), mixed=True),
        "one hot account, a key each": Load(random.Random(5), keys=True, hot=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        engine = SqliteEngine(
            Path(folder) / "ledger.db", a_catalog(PLAN), clock=system_clock, random_bits=random.getrandbits
        )
        ledger = Ledger(engine)
        await ledger.open()
        await ledger.submit_one(a_publication(PLAN))
        for load in loads.values():  # warm counters
            for _ in range(20):
                await ledger.submit([load.command() for _ in range(BATCH)])

        async def in_parallel(load: Load, callers: int, each: int) -> Measures:
            async def call() -> int:
                done = 0
                while loop.time() < until:
                    await ledger.submit([load.command() for _ in range(each)])
                    done += each
                return done

            began, cpu, until = loop.time(), time.process_time(), loop.time() + seconds
            done = sum(await asyncio.gather(*[call() for _ in range(callers)]))
            return _measures(done, loop.time() - began, time.process_time() - cpu)

        async def one_by_one(load: Load) -> Measures:
            began, cpu, done = loop.time(), time.process_time(), 0
            while loop.time() < began + seconds:
                await engine.transact([load.command()], lambda: True)
                done += 1
            return _measures(done, loop.time() - began, time.process_time() - cpu)

        keyed = loads["msg, a key each"]
        sides = {name: lambda load=load: in_parallel(load, WAITING, 1) for name, load in loads.items()}
        sides["batches of 1,000 msg, a key each"] = lambda: in_parallel(keyed, 1, BATCH)
        sides["one caller, a key each"] = lambda: in_parallel(keyed, 1, 1)
        sides["committed one by one, a key each"] = lambda: one_by_one(keyed)
        sides["the disk: 4 KiB and fdatasync"] = lambda: asyncio.to_thread(_disk, Path(folder), seconds)
        taken: dict[str, list[Measures]] = {name: [] for name in sides}
        names = list(sides)
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                taken[name].append(await sides[name]())
        await ledger.close()
    rate = "decisions/s"
    goals = [at_least(f"{rate}: {name}", spread(taken, name, rate), wanted) for name, wanted in GOALS.items()]
    goals.append(
        at_least(
            f"{rate}: 256 callers / committed one by one",
            ratio(taken, "msg, a key each", "committed one by one, a key each", rate),
            10,
        )
    )
    disk = "the disk: 4 KiB and fdatasync"
    goals.append(
        at_least(
            f"{rate}: one caller / the disk's own", ratio(taken, "one caller, a key each", disk, rate), 0.25
        )
    )
    return Report(
        "ledger: decisions in one process",
        "10,000 users in 1,000 groups of 50 tenants, two limits for each meter, `synchronous=FULL`, warm counters, random "
        "keys; *msg* moves one meter, *mixed* two or three. 256 callers wait at once unless said otherwise.",
        taken,
        goals,
    )


def _measures(done: int, seconds: float, cpu_seconds: float) -> Measures:
    return {"decisions/s": done / seconds, "CPU µs/decision": cpu_seconds / done * 1e6}


def _disk(folder: Path, seconds: int) -> Measures:
    """How often a second the disk takes 4 KiB for certain."""
    descriptor = os.open(folder / "disk", os.O_WRONLY | os.O_CREAT)
    try:
        block, done, began, cpu = b"x" * 4096, 0, time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds:
            os.pwrite(descriptor, block, 0)
            os.fdatasync(descriptor)
            done += 1
        return _measures(done, time.monotonic() - began, time.process_time() - cpu)
    finally:
        os.close(descriptor)
