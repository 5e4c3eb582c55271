"""How long somebody waits who only asks, while events are written."""

import asyncio
import random
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from benchmarks.inprocess import (
    MODELS,
    USERS,
    Load,
    collecting_as_a_server,
    must_be_recorded,
    opened,
    quarter_clock,
    warm,
)
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Measures, Report, at_least, at_most, in_turns, spread
from subscription_mcp.ledger.commands import CheckUsage, Decided, Outcome, RecordUsage
from subscription_mcp.ledger.writer import Ledger

EVENTS_A_SECOND = 8_000
CHECKS_A_SECOND = 200
PACE_SECONDS = 0.001
P99_MILLISECONDS_MAX = 0.5
IDLE, WRITING = "nothing written", f"{EVENTS_A_SECOND:,} events/s written"


def checking(rounds: int, seconds: int) -> Report:
    """A check is answered within half a millisecond while 8,000 events a second are written."""
    load = Load(random.Random(1), keys=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(Path(folder) / "ledger.db", quarter_clock()) as (runner, ledger),
    ):
        runner.run(warm(ledger, load))

        def side(events_a_second: int) -> Measures:
            events = load.some(events_a_second * seconds)
            with collecting_as_a_server():
                return runner.run(_checked(ledger, events, load.dice, seconds))

        turns = in_turns({IDLE: lambda: side(0), WRITING: lambda: side(EVENTS_A_SECOND)}, rounds)
    p99, written = spread(turns, WRITING, "p99 ms"), spread(turns, WRITING, "events/s")
    return Report(
        "check: asking while others write",
        f"*msg*, a key each, sent at their pace whether or not the last were answered; in the same process "
        f"{CHECKS_A_SECOND} checks a second, each from its asking to its answer.",
        turns,
        [
            at_most(f"p99, {WRITING}", p99, P99_MILLISECONDS_MAX, "ms"),
            at_least(f"events/s answered, {WRITING}", written, EVENTS_A_SECOND * 0.95),
        ],
    )


async def _checked(ledger: Ledger, events: list[RecordUsage], dice: random.Random, seconds: int) -> Measures:
    began = time.monotonic()
    writing = asyncio.create_task(_write(ledger, events, began, seconds))
    milliseconds = await _check(ledger, dice, began, seconds)
    answers = await writing
    rate = len(answers) / (time.monotonic() - began)
    must_be_recorded(answers)
    percents = quantiles(milliseconds, n=100)
    return {"p50 ms": percents[49], "p99 ms": percents[98], "events/s": rate}


async def _write(ledger: Ledger, events: list[RecordUsage], began: float, seconds: int) -> list[Outcome]:
    """Send the events evenly over the seconds; all answers, when the last is there."""
    waiting: list[asyncio.Task[Outcome]] = []
    while len(waiting) < len(events):
        await asyncio.sleep(PACE_SECONDS)
        due = round((time.monotonic() - began) / seconds * len(events))
        waiting += [asyncio.create_task(ledger.submit_one(event)) for event in events[len(waiting) : due]]
    return await asyncio.gather(*waiting)


async def _check(ledger: Ledger, dice: random.Random, began: float, seconds: int) -> list[float]:
    """Ask evenly over the seconds; the milliseconds until each answer."""
    everybody = Load(dice)
    users = [everybody.command(dice.randrange(USERS), dice.randrange(MODELS)).subject for _ in range(100)]

    async def ask(number: int) -> float:
        due = began + number / CHECKS_A_SECOND
        await asyncio.sleep(due - time.monotonic())
        asked = time.monotonic()
        outcome = await ledger.rehearse(CheckUsage(users[number % len(users)], "message"))
        if not isinstance(outcome, Decided) or not outcome.decision.allowed:
            raise CannotMeasure(f"A check was not answered: {outcome}")
        return (time.monotonic() - asked) * 1000

    return await asyncio.gather(*[ask(number) for number in range(CHECKS_A_SECOND * seconds)])
