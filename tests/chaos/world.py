"""Several ledgers on one file beside the reference model: whatever is done is done to both, and compared."""

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

from tests.builders import Clock, a_catalog, a_limit, a_plan, a_publication, a_subject
from tests.chaos.faults import Faults, Kind, Stopped, abandon, connecting
from tests.chaos.model import Model
from tests.chaos.model_accounts import Thing
from tests.chaos.recount import recount
from tests.chaos.telling import facts_of

from subscription_mcp.domain.catalog import UNLIMITED, Plan
from subscription_mcp.ledger.commands import Arrive, CheckUsage, Command, PublishPlans, Subject
from subscription_mcp.ledger.queries import EventPage, UsageTotals, Whose
from subscription_mcp.ledger.sqlite import SqliteEngine
from subscription_mcp.ledger.writer import Ledger

USERS = ("ann", "bob", "cleo")
GROUPS = ("north", "south")
TENANTS = ("acme", "globex")
PLANS = ("basic", "advanced", "premium")
FOR_EVER = 4_000_000_000_000_000


def plans(basic_messages: int = 12) -> list[Plan]:
    """Every window some plan has is in the largest one, so that all are counted from the first event on."""
    everything = [
        a_limit(60),
        a_limit(25, window="hour"),
        a_limit(400, window="month"),
        a_limit(300, window="billing_period", scope="account"),
        a_limit(UNLIMITED, window="lifetime"),
        a_limit(30, window="minute", scope="account"),
        a_limit(90, window="rolling:PT2H"),
        a_limit(9, meter="storage_mb", window="level"),
        a_limit(14, meter="storage_mb", window="level", scope="account"),
        a_limit(8, window="minute"),
        a_limit(30, window="rolling:PT2H", scope="account"),
        a_limit(100, meter="llm_tokens", window="day"),
        a_limit(40, meter="gemini_calls", window="month", scope="account"),
        a_limit(UNLIMITED, meter="llm_calls", window="hour"),
    ]
    small = [a_limit(basic_messages), a_limit(9, window="hour"), a_limit(40, meter="llm_tokens")]
    small += [a_limit(8, window="minute"), a_limit(6, meter="storage_mb", window="level")]
    small += [a_limit(30, window="rolling:PT2H", scope="account")]
    pool = a_limit(60, window="billing_period", scope="account")
    gemini = a_limit(5, meter="gemini_calls", window="month", scope="account")
    return [
        a_plan(*small, sessions=1, session_seconds=1_800, seats=2),
        a_plan(a_limit(30), pool, gemini, key="advanced", monthly="29.00", sessions=2, session_seconds=7_200),
        a_plan(*everything, key="premium", monthly="99.00"),
    ]


class World:
    def __init__(self, place: Path, seed: Any, clock: Clock) -> None:
        self.path, self.clock = place / "ledger.db", clock
        self.dice = random.Random(seed)
        self.model = Model()
        self.ledgers: list[Ledger] = []
        self.faults: list[Faults] = []
        self.said: list[str] = []

    async def open(self, ledgers: int) -> None:
        self.ledgers, self.faults = [None] * ledgers, [None] * ledgers
        for number in range(ledgers):
            await self.start(number)
        # Open all the while: no engine is then the last to close, which would write the log back first.
        self.spectator = sqlite3.connect(self.path, isolation_level=None)
        self.spectator.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        await self.do(0, [self.publication()])

    async def start(self, number: int) -> None:
        faults = self.faults[number] = Faults()
        engine = SqliteEngine(
            self.path,
            a_catalog(*plans()),
            clock=self.clock,
            random_bits=self.dice.getrandbits,
            connect=connecting(faults),
        )
        self.ledgers[number] = Ledger(engine)
        await self.ledgers[number].open()

    async def close(self) -> None:
        for ledger in self.ledgers:
            await ledger.close()
        self.spectator.close()
        recount(self.path)

    def publication(self, basic_messages: int = 12) -> PublishPlans:
        return a_publication(*plans(basic_messages))

    # Doing

    async def do(
        self, number: int, batch: list[Command], fault: tuple[Kind, int] | None = None, *, split: bool = False
    ) -> None:
        """One batch through one of the ledgers, perhaps hit by a fault at its n-th statement. `split`: each
        command is a caller of its own, all waiting at the same time."""
        self.said.append(f"{self.clock} ledger {number} {fault or ''} {batch}")
        ledger, faults = self.ledgers[number], self.faults[number]
        committed = faults.committed
        if fault is not None:
            kind, at = fault
            faults.arm(kind, lambda statement, _: statement == at)
        callers = [[command] for command in batch] if split else [batch]
        asked = [asyncio.ensure_future(ledger.submit(commands)) for commands in callers]
        answered = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.wait([answered, ledger._writing], return_when=asyncio.FIRST_COMPLETED)
        faults.disarm()
        now = ledger.engine._last_now
        if not answered.done():
            for one in asked:
                one.cancel()
            await answered
            if faults.committed > committed:
                self.apply(batch, now)
            await self.crash(number)
            return
        outcomes = [outcome for answers in await answered for outcome in answers]
        if all(facts_of(outcome) == {"code": "unavailable"} for outcome in outcomes):
            assert fault is not None
            assert faults.committed == committed
            return
        # The clock was read once, and never ran backwards.
        assert now >= self.clock.now
        assert [one.recorded_at for one in self.model.events[-1:]] <= [now]
        self.compare(self.apply(batch, now), outcomes)

    def apply(self, batch: list[Command], now: int) -> list[dict[str, Any]]:
        before = len(self.model.events)
        expected = []
        for command in batch:
            answer = self.model.apply(command, now)
            # What follows in the batch changes the model's things, not what was answered.
            expected.append(
                {**answer, "limits": {k: list(v) for k, v in answer["limits"].items()}}
                if "limits" in answer
                else dict(answer)
            )
        for event in self.model.events[before:]:
            event.recorded_at = now
        return expected

    def compare(self, expected: list[dict[str, Any]], outcomes: list[Any]) -> None:
        for wanted, outcome in zip(expected, outcomes, strict=True):
            found = facts_of(outcome)
            thing = wanted.pop("thing", None)
            id_ = found.pop("thing", None)
            assert found == wanted
            if isinstance(thing, Thing) and id_ is not None:
                thing.id = thing.id or id_
            assert (thing and thing.id) == id_

    async def crash(self, number: int) -> None:
        """The process is gone as it stood; a new one opens the file."""
        assert isinstance(self.ledgers[number]._writing.exception(), Stopped)
        await abandon(self.ledgers[number].engine)
        await self.start(number)

    # Looking

    async def look(self, number: int) -> None:
        """Every number that can be asked for, through one of the ledgers."""
        ledger, model = self.ledgers[number], self.model
        for tenant in TENANTS:
            for subject in [a_subject(user, tenant) for user in USERS] + [
                Subject(tenant, None, account=group, account_kind="group") for group in GROUPS
            ]:
                outcome = await ledger.rehearse(Arrive(subject))
                now = getattr(outcome, "as_of", self.clock.now)
                assert facts_of(outcome) == model.view(subject, now)
            check = CheckUsage(
                a_subject(self.dice.choice(USERS), tenant), "message", self.dice.randrange(1, 9)
            )
            outcome = await ledger.rehearse(check)
            self.compare([model.apply(check, outcome.decision.as_of)], [outcome])
            await self.look_at_events(ledger, tenant)
        recount(self.path, self.spectator)

    async def look_at_events(self, ledger: Ledger, tenant: str) -> None:
        mine = [one for one in self.model.events if one.account[0] == tenant]
        page, more = await ledger.query(EventPage(Whose(tenant), 0, FOR_EVER, size=-1))
        found = [event for _, event in reversed(page)]
        assert not more
        for event, thing in zip(found, mine, strict=True):
            thing.id = thing.id or event.id
            told = (event.event, event.quantity, dict(event.attributes), event.plan, event.plan_version)
            assert (event.account_kind, event.account, event.user) == (*thing.account[1:], thing.user)
            assert (event.id, told, event.occurred_at) == (thing.id, thing.told, thing.at)
            assert (dict(event.gains), event.recorded_at) == (thing.gains, thing.recorded_at)
        start = self.clock.now - self.dice.randrange(40 * 86_400_000_000)
        end = start + self.dice.randrange(40 * 86_400_000_000)
        rows = await ledger.query(UsageTotals(Whose(tenant), start, end, frozenset({"user"})))
        totals: dict[Any, list[int]] = {}
        for row in rows:
            cell = totals.setdefault((row.meter, row.account, row.user), [0, 0])
            cell[0], cell[1] = cell[0] + row.events, cell[1] + row.quantity
        wanted: dict[Any, list[int]] = {}
        for thing in mine:
            for meter, gain in thing.gains.items() if start <= thing.at < end else ():
                cell = wanted.setdefault((meter, thing.account[2], thing.user), [0, 0])
                cell[0], cell[1] = cell[0] + 1, cell[1] + gain
        assert totals == wanted
