"""The ledger in this process, and the load on it: commands made beforehand, so that only the ledger is timed.

with opened(Path("ledger.db"), quarter_clock()) as (runner, ledger):
    load = Load(random.Random(1), keys=True)
    runner.run(warm(ledger, load))
    turn(runner, ledger, load.some(10_000), callers=256, seconds=1)
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tests.builders import a_catalog, a_limit, a_plan, a_publication

from benchmarks.load import CannotMeasure
from benchmarks.rounds import Measures
from subscription_mcp.assembly import Clock, system_clock
from subscription_mcp.cli.collector import spare_what_stays
from subscription_mcp.domain.instants import QUARTER
from subscription_mcp.ledger.commands import Decided, Outcome, RecordUsage, Subject
from subscription_mcp.ledger.sqlite.engine import SqliteEngine
from subscription_mcp.ledger.writer import Ledger

TENANTS, GROUPS, USERS, HOT_USERS, MODELS = 50, 1_000, 10_000, 10, 5
CALLERS = 256
BATCH = 1_000
COMMANDS_A_SECOND = 80_000
"""As many are made for a second of a turn; one that has used them all ends sooner."""
ENOUGH = 10**12
PLAN = a_plan(
    *(
        a_limit(ENOUGH, meter=meter, window=window, scope=scope)
        for meter in ("messages", "llm_calls", "llm_tokens", "gemini_calls")
        for window, scope in (("day", "user"), ("month", "account"))
    )
)


@dataclass
class Load:
    """Commands of one kind: messages move one meter, calls of a model three."""

    dice: random.Random
    mixed: bool = False
    keys: bool = False
    hot: bool = False

    def some(self, count: int) -> list[RecordUsage]:
        """By anybody, with any model."""
        dice, users = self.dice, self._users()
        return [self.command(dice.randrange(users), dice.randrange(MODELS)) for _ in range(count)]

    def everyone(self) -> Iterator[RecordUsage]:
        """By each user with each model once."""
        return (self.command(user, model) for user in range(self._users()) for model in range(MODELS))

    def command(self, number: int, model: int) -> RecordUsage:
        group = 0 if self.hot else number % GROUPS
        subject = Subject(f"tenant-{group % TENANTS}", f"user-{number}", group=f"group-{group}")
        attributes: dict[str, str | int] = {"model": f"model-{model}"}
        if self.mixed:
            attributes |= {"provider": "gemini", "tokens": 500}
        key = f"{self.dice.getrandbits(128):032x}" if self.keys else None
        event = "llm_call" if self.mixed else "message"
        return RecordUsage(
            subject, event, "app", attributes=attributes, idempotency_key=key, digest=b"d" * 16
        )

    def _users(self) -> int:
        return HOT_USERS if self.hot else USERS


def quarter_clock() -> Clock:
    """The machine's clock put back to the last full quarter of an hour: no window or rollup begins anew while
    we measure."""
    back = system_clock() % QUARTER
    return lambda: system_clock() - back


@contextmanager
def opened(path: Path, clock: Clock) -> Iterator[tuple[asyncio.Runner, Ledger]]:
    """A ledger with the plan above, and the event loop it lives in."""
    engine = SqliteEngine(path, a_catalog(PLAN), clock=clock, random_bits=random.getrandbits)
    ledger = Ledger(engine)
    with asyncio.Runner() as runner:
        runner.run(ledger.open())
        try:
            runner.run(ledger.submit([a_publication(PLAN)]))
            yield runner, ledger
        finally:
            runner.run(ledger.close())


async def warm(ledger: Ledger, load: Load) -> None:
    """Nothing that comes later is seen for the first time."""
    everyone = load.everyone()
    while batch := list(islice(everyone, BATCH)):
        must_be_recorded(await ledger.submit(batch))


def turn(
    runner: asyncio.Runner,
    ledger: Ledger,
    commands: Sequence[RecordUsage],
    *,
    seconds: float,
    callers: int = CALLERS,
    each: int = 1,
) -> Measures:
    """So many callers who each send so many commands, wait for the answer and send the next."""
    left = iter(commands)

    async def call(until: float) -> int:
        done = 0
        while time.monotonic() < until and (batch := list(islice(left, each))):
            must_be_recorded(await ledger.submit(batch))
            done += len(batch)
        return done

    async def calls() -> int:
        until = time.monotonic() + seconds
        return sum(await asyncio.gather(*[call(until) for _ in range(callers)]))

    return timed(lambda: runner.run(calls()))


def timed(work: Callable[[], int]) -> Measures:
    """What some work, which says how many decisions it came to, took in time and in processor time."""
    with collecting_as_a_server():
        began, cpu = time.monotonic(), time.process_time()
        done = work()
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    return {"decisions/s": done / seconds, "CPU µs/decision": cpu_seconds / done * 1e6}


@contextmanager
def collecting_as_a_server() -> Iterator[None]:
    """What there is stays out of the garbage collector's sight, as it does once a server has started; of what was
    made for this turn the server would know nothing either."""
    before = gc.get_threshold()
    spare_what_stays()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def must_be_recorded(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if type(outcome) is not Decided or outcome.decision.event_id is None:
            raise CannotMeasure(f"The ledger did not record an event: {outcome}")
