"""Several ledgers on one file beside the reference model: whatever is done is done to both, and compared."""

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.builders import (
    Clock,
    a_change,
    a_limit,
    a_plan,
    a_publication,
    a_record,
    a_subject,
    a_subscription_change,
)
from tests.chaos.faults import Faults, Kind, Stopped, abandon, connecting
from tests.chaos.model import Model
from tests.chaos.model_costs import line_kept, line_said
from tests.chaos.model_grants import GRANTED, Granting
from tests.chaos.periods import SECOND
from tests.chaos.prices import a_priced_catalog, price_of
from tests.chaos.recount import recount
from tests.chaos.telling import facts_of

from subscription_mcp.domain.catalog import UNLIMITED, Limit, Plan
from subscription_mcp.ledger.commands import (
    Arrive,
    CheckUsage,
    Command,
    GrantAllowance,
    PublishPlans,
    Subject,
)
from subscription_mcp.ledger.queries import EventPage, UsageTotals, Whose
from subscription_mcp.ledger.sqlite.engine import SqliteEngine
from subscription_mcp.ledger.writer import Ledger

USERS = ("ann", "bob", "cleo")
GROUPS = ("north", "south")
TENANTS = ("acme", "globex")
PLANS = ("basic", "advanced", "premium", "team")
DEFAULTS = ("free", "trial", "none")
"""What everybody begins with: a plan for nothing, a trial of some days, or nothing at all."""
TRIAL_DAYS, SEATS_MAX = 3, 9
ZONES = ("America/New_York", "Europe/Berlin", "UTC")
PRUNED = ("answer", "key_index", "offer", "reservation", "session", "rate_cleared")
FOR_EVER = 4_000_000_000_000_000
DAY = 86_400 * SECOND

LATE: tuple[dict[str, list[Limit]], ...] = (
    {},
    {
        "basic": [
            a_limit(20, window="week"),
            a_limit(9, meter="tool_calls", window="month", scope="account"),
        ],
        "advanced": [a_limit(40, window="month"), a_limit(5, meter="tool_calls", window="week")],
        "premium": [a_limit(14, meter="storage_mb", window="level", scope="account")],
    },
    {
        "basic": [a_limit(30, window="lifetime", scope="account"), a_limit(6, meter="llm_calls")],
        "advanced": [
            a_limit(10, window="week", scope="account"),
            a_limit(12, meter="tool_calls", window="hour"),
        ],
        "premium": [
            a_limit(UNLIMITED, meter="tool_calls", window="lifetime"),
            a_limit(UNLIMITED, meter="tool_calls", window="billing_period"),
            a_limit(UNLIMITED, meter="tool_calls", window="rolling:PT2H", scope="account"),
        ],
    },
)
"""Limits that are only published once something was used: they begin with that."""
ROUGH = (("tool_calls", "billing_period"), ("tool_calls", "rolling:PT2H"))
"""What came before such a window was kept is known by the quarter of an hour, or by the anchor of another day. They
are left to `recount` and `verify`, which know how exact they must be."""


def plans(zones: Sequence[str], basic_messages: int = 12, late: int = 0, default: str = "free") -> list[Plan]:
    basic = [a_limit(basic_messages), a_limit(9, window="hour"), a_limit(40, meter="llm_tokens")]
    basic += [a_limit(8, window="minute"), a_limit(6, meter="storage_mb", window="level")]
    basic += [a_limit(30, window="rolling:PT2H", scope="account"), a_limit(2_500, meter="cost")]
    price = ("0.002", "0.0025", "0.001001")[late]
    advanced = [
        a_limit(30),
        a_limit(14, window="billing_period", scope="account", overage=price, overage_max=40),
        a_limit(5, meter="gemini_calls", window="month", scope="account"),
        a_limit(9_000, meter="cost", window="billing_period", scope="account"),
        a_limit(3_000, meter="cost", window="hour"),
    ]
    team = [
        *(one for one in advanced if one.overage is None),
        a_limit(11, window="month", overage="0.0015"),
        a_limit(3, meter="tool_calls", window="day", scope="account", overage="0.01", overage_max=3),
    ]
    premium = [
        a_limit(60),
        a_limit(25, window="hour"),
        a_limit(120, window="week", scope="account"),
        a_limit(400, window="month"),
        a_limit(25, window="billing_period", scope="account", overage=price),
        a_limit(UNLIMITED, window="lifetime"),
        a_limit(30, window="minute", scope="account"),
        a_limit(90, window="rolling:PT2H"),
        a_limit(9, meter="storage_mb", window="level"),
        a_limit(30, meter="llm_tokens", window="day", overage="0.000001", overage_max=15),
        a_limit(40, meter="gemini_calls", window="month", scope="account"),
        a_limit(UNLIMITED, meter="llm_calls", window="hour"),
        a_limit(8_000, meter="cost", window="rolling:PT2H"),
        a_limit(99_999, meter="cost", window="month", scope="account"),
    ]
    limits = {
        key: early + LATE[late].get(key, [])
        for key, early in zip(PLANS, (basic, advanced, premium, team), strict=True)
    }
    zone = dict(zip(PLANS, (*zones, zones[0]), strict=True))
    trial = {"trial_days": TRIAL_DAYS, "changes_to": ["advanced", "team"]} if default == "trial" else {}
    return [
        a_plan(*limits["basic"], timezone=zone["basic"], sessions=1, session_seconds=1_800, seats=2, **trial),
        a_plan(
            *limits["advanced"],
            key="advanced",
            timezone=zone["advanced"],
            monthly="29.00",
            yearly="290.00",
            sessions=2,
            session_seconds=7_200,
        ),
        a_plan(
            *limits["premium"],
            key="premium",
            timezone=zone["premium"],
            monthly=("99.00", "119.50", "89.00")[late],
            yearly="990.00",
        ),
        # Cheaper than the others or not, as the seats say.
        a_plan(
            *limits["team"],
            key="team",
            timezone=zone["team"],
            monthly="9.99",
            yearly="99.90",
            per_seat=("12.01", "12.01", "14.99")[late],
            seats=SEATS_MAX,
            changes_to=["premium"],
            sessions=4,
        ),
    ]


def without_rough(facts: dict[str, Any]) -> dict[str, Any]:
    limits = facts.get("limits", {})
    return facts | {"limits": {key: row[:GRANTED] for key, row in limits.items() if key[:2] not in ROUGH}}


class World:
    def __init__(
        self, place: Path, seed: Any, clock: Clock, zones: Sequence[str] = ZONES, default: str = "free"
    ) -> None:
        self.path, self.clock, self.zones, self.default = place / "ledger.db", clock, zones, default
        self.dice = random.Random(seed)
        self.default_plan = None if default == "none" else "basic"
        self.model = Model(Granting(self.default_plan))
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
        # A window that is published in the very microsecond of the first event is taken for one that came later. What is
        # committed after it keeps them apart, also where the clock goes back.
        self.clock.advance(microseconds=1)
        await self.do(0, [a_change("advanced", a_subject("bob"), offer="the first")])

    async def start(self, number: int) -> None:
        faults = self.faults[number] = Faults()
        engine = SqliteEngine(
            self.path,
            a_priced_catalog(*self.plans(), default_plan=self.default_plan),
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

    async def grow_old(self) -> None:
        """It verifies; and long after, when somebody comes now and then, all that is over is gone."""
        differences = (await self.ledgers[0].engine.verify()).differences
        assert differences == (), differences
        self.clock.advance(days=500)
        over = " + ".join(f"(SELECT count(*) FROM {table})" for table in PRUNED)
        for _ in range(200):
            self.clock.advance(minutes=11)
            await self.do(0, [a_record("ann", "tool_call", enforce=False)])
            if self.spectator.execute(f"SELECT {over}").fetchone() == (0,):
                break
        else:
            raise AssertionError("something that is over stays")
        await self.look(0)
        assert (await self.ledgers[0].engine.verify()).differences == ()

    def plans(self, basic_messages: int = 12, late: int = 0) -> list[Plan]:
        return plans(self.zones, basic_messages, late, self.default)

    def publication(self, basic_messages: int = 12, late: int = 0) -> PublishPlans:
        return a_publication(*self.plans(basic_messages, late))

    def edges(self) -> list[int]:
        """When something ends by itself: a trial, a billing period, days that were sold, the patience with who owes."""
        now = self.clock.now
        held = [one.at(now) for one in self.model.accounts.held.values()]
        ends = {end for one in held for end in (one.trial_ends, one.then and one.then.at, one.period(now)[1])}
        ends |= {one.overdue + 7 * DAY for one in held if one.overdue is not None}
        return sorted(end for end in ends if end is not None and now < end)

    # Doing

    async def do(
        self, number: int, batch: list[Command], fault: tuple[Kind, int] | None = None, *, split: bool = False
    ) -> None:
        """One batch through one of the ledgers, perhaps hit by a fault at its n-th statement. `split`: each
        command is a caller of its own, all waiting at the same time."""
        told = ["the plans" if isinstance(one, PublishPlans) else one for one in batch]
        self.said.append(f"{self.clock} ledger {number} {fault or ''} {told}")
        ledger, faults = self.ledgers[number], self.faults[number]
        committed = faults.committed
        if fault is not None:
            kind, at = fault
            faults.arm(kind, lambda statement, _: statement == at)
        callers = [[command] for command in batch] if split else [batch]
        asked = [asyncio.ensure_future(ledger.submit(commands)) for commands in callers]
        answered = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.wait([answered, ledger._writing], return_when=asyncio.FIRST_COMPLETED)
        now, is_answered = ledger.engine._last_now, answered.done()
        if is_answered and faults.is_armed:
            # After an outage the ledger writes of itself that it is over; that may be what is hit.
            behind = asyncio.ensure_future(ledger.submit([]))
            await asyncio.wait([behind, ledger._writing], return_when=asyncio.FIRST_COMPLETED)
            behind.cancel()
        faults.disarm()
        if not is_answered:
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
        self.compare(self.apply(batch, now, outcomes), outcomes)
        if ledger._writing.done():
            await self.crash(number)

    def apply(self, batch: list[Command], now: int, outcomes: Sequence[Any] = ()) -> list[dict[str, Any]]:
        before = len(self.model.events)
        expected = []
        for command, outcome in zip_longest(batch, outcomes):
            answer = self.model.apply(command, now)
            if isinstance(command, GrantAllowance) and answer["code"] == "ok":
                # Of grants that end together the smaller id gives first.
                answer["thing"].id = (
                    facts_of(outcome).get("thing") if outcome else self.made_unheard(answer["thing"])
                )
            # What follows in the batch changes the model's things, not what was answered.
            expected.append(
                {**answer, "limits": {k: list(v) for k, v in answer["limits"].items()}}
                if "limits" in answer
                else dict(answer)
            )
        for event in self.model.events[before:]:
            event.recorded_at = now
        return expected

    def made_unheard(self, one: Any) -> str:
        """The id of a grant that was made by a process that answered nobody any more."""
        known = {one.id for one in self.model.accounts.grants}
        found = self.spectator.execute(
            "SELECT g.id FROM allowance_grant g JOIN holder h ON h.id = g.holder JOIN word w ON w.id = g.meter"
            " JOIN word a ON a.id = h.account WHERE (a.text, w.text, g.window, g.scope, g.quantity, g.starts_at) ="
            " (?, ?, ?, ?, ?, ?) AND g.ends_at IS ?",
            (one.account[2], *one.limit, one.quantity, one.starts, one.ends),
        )
        return min({str(UUID(bytes=id_)) for (id_,) in found} - known)

    def compare(self, expected: list[dict[str, Any]], outcomes: list[Any]) -> None:
        for wanted, outcome in zip(expected, outcomes, strict=True):
            found = facts_of(outcome)
            thing = wanted.pop("thing", None)
            id_ = found.pop("thing", None)
            assert without_rough(found) == without_rough(wanted)
            if thing is not None and id_ is not None:
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
            subjects = [a_subject(user, tenant) for user in USERS]
            subjects += [Subject(tenant, None, account=group, account_kind="group") for group in GROUPS]
            for subject in subjects:
                outcome = await ledger.rehearse(Arrive(subject))
                now = getattr(outcome, "as_of", self.clock.now)
                wanted = model.at(now).answer(model.accounts.view, subject)
                assert without_rough(facts_of(outcome)) == without_rough(wanted)
            user, event = self.dice.choice(USERS), self.dice.choice(("message", "tool_call", "llm_call"))
            check = CheckUsage(a_subject(user, tenant), event, self.dice.randrange(1, 9))
            if event == "llm_call":
                called = {"model": "image", "input_tokens": self.dice.randrange(3)}
                check.attributes, check.price = called, price_of(event, called, 0)
            outcome = await ledger.rehearse(check)
            self.compare([model.apply(check, outcome.decision.as_of)], [outcome])
            # How it would stand under another plan, perhaps under limits it has only come to have.
            change = a_change(self.dice.choice(PLANS), self.dice.choice(subjects), actor=user)
            action, seats = self.dice.choice((("cancel", None), ("resume", None), ("set_seats", 3)))
            other = a_subscription_change(action, self.dice.choice(subjects), actor=user, seats=seats)
            for preview in (change, other):
                outcome = await ledger.rehearse(preview)
                self.compare([model.apply(preview, getattr(outcome, "as_of", model.now))], [outcome])
            await self.look_at_events(ledger, tenant)
        self.look_at_what_is_gone()
        self.look_at_refusals()
        self.look_at_grants()
        recount(self.path, self.spectator)

    def look_at_what_is_gone(self) -> None:
        """Nothing was deleted that may still be asked for; what was is forgotten here too."""
        now = self.model.now
        there = {
            table: {str(UUID(bytes=id_)) for (id_,) in self.spectator.execute(f"SELECT id FROM {table}")}
            for table in ("session", "reservation")
        }
        keys = set(
            self.spectator.execute(
                "SELECT t.text, s.text, a.key FROM answer a JOIN word t ON t.id = a.tenant"
                " JOIN word s ON s.id = a.source"
            )
        )
        young = {key for key, _, at, _ in self.model.answers if now - at < 35 * DAY}
        assert young <= keys <= {key for key, *_ in self.model.answers}
        for one in self.model.reservations:
            assert one.id is None or one.id in there["reservation"] or now - one.at > 35 * DAY
        sessions = self.model.accounts.sessions
        for one in [one for one in sessions if one.id is not None and one.id not in there["session"]]:
            assert now - min(one.ends, one.closed_at or one.ends) >= 400 * DAY
            sessions.remove(one)

    def look_at_refusals(self) -> None:
        """Each was counted once, in its hour, for a limit that refused it; for 401 days."""
        rows = self.spectator.execute(
            "SELECT t.text, h.account_kind, a.text, u.text, d.hour, c.text, m.text, d.count FROM denial d"
            " JOIN holder h ON h.id = d.holder JOIN word t ON t.id = d.tenant JOIN word a ON a.id = h.account"
            " JOIN word u ON u.id = h.user JOIN word c ON c.id = d.code JOIN word m ON m.id = d.meter"
        )
        found: Counter[Any] = Counter()
        reasons = self.model.reasons()
        for tenant, kind, account, user, hour, code, meter, count in rows:
            place = ((tenant, ("personal", "group")[kind], account), user, hour, code)
            found[place] += count
            assert meter in reasons[place]
        wanted = self.model.refused_by_hour()
        young = {place: count for place, count in wanted.items() if self.model.now - place[2] < 401 * DAY}
        assert found.items() <= wanted.items()
        assert young.items() <= found.items()

    def look_at_grants(self) -> None:
        """What each gave in which period, and which event took it."""
        grants = {one.id: one for one in self.model.accounts.grants}
        rows = self.spectator.execute("SELECT id, quantity, starts_at, ends_at FROM allowance_grant")
        found = {str(UUID(bytes=id_)): terms for id_, *terms in rows}
        assert found == {id_: [one.quantity, one.starts, one.ends] for id_, one in grants.items()}
        gave: dict[str, list[int]] = {}
        for id_, units in self.spectator.execute("SELECT id, quantity FROM grant_use WHERE quantity > 0"):
            gave.setdefault(str(UUID(bytes=id_)), []).append(units)
        for id_, one in grants.items():
            by_period: Counter[Any] = Counter()
            for place, units in one.gave:
                by_period[place] += units
            wanted = [units for units in by_period.values() if units]
            assert sum(gave.get(id_, ())) == sum(wanted)
            if self.model.now - one.starts < 400 * DAY:  # later it becomes one sum
                assert sorted(gave.get(id_, ())) == sorted(wanted)
        took = {
            str(UUID(bytes=id_)): sorted((grant, units) for grant, _, units in json.loads(text))
            for id_, text in self.spectator.execute("SELECT id, grants FROM event WHERE grants IS NOT NULL")
        }
        assert took == {
            one.id: sorted((grant.id, units) for grant, _, units in one.took)
            for one in self.model.events
            if one.took
        }

    async def look_at_events(self, ledger: Ledger, tenant: str) -> None:
        mine = [one for one in self.model.events if one.account[0] == tenant]
        page, more = await ledger.query(EventPage(Whose(tenant), 0, FOR_EVER, size=-1))
        found = [event for _, event in reversed(page)]
        assert not more
        for event, thing in zip(found, mine, strict=True):
            thing.id = thing.id or event.id
            told = (event.event, event.quantity, dict(event.attributes))
            plan = (thing.plan.key, thing.plan.version) if thing.plan else ("", 0)
            assert (event.plan, event.plan_version) == plan
            assert (event.account_kind, event.account, event.user) == (*thing.account[1:], thing.user)
            assert (event.id, told, event.occurred_at) == (thing.id, thing.told, thing.at)
            assert (dict(event.gains), event.recorded_at) == (thing.gains, thing.recorded_at)
            assert line_said(event.price) == line_kept(thing)
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
