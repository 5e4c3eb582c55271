"""Whether a month's report is a matter of milliseconds, however many events there are: beside adding up the events."""

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from tests.builders import Clock, a_record, a_subject

from benchmarks.inprocess import must_be_recorded, opened
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Report, Spread, Turns, at_least, at_most, spread
from subscription_mcp.domain.analytics import UsageRow, grouped, series, step_starts, totals
from subscription_mcp.domain.identifiers import uuid7s
from subscription_mcp.domain.instants import DAY, parse_instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import Period, quarter_of
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.machine.facts import Changes, Holder
from subscription_mcp.ledger.machine.usage import dimensions_of_event
from subscription_mcp.ledger.queries import TenantSummary, UsageTotals, Whose
from subscription_mcp.ledger.sqlite.engine import connect_file
from subscription_mcp.ledger.sqlite.store import Store

TENANT, GROUPS, USERS, TOOLS = "acme", 50, 500, ("search", "fetch", "write")
MONTH = Period(parse_instant("2026-10-01T00:00:00Z"), parse_instant("2026-11-01T00:00:00Z"))
AT_ONCE = 50_000
ANSWER_MS_MAX, TIMES = 50.0, 1_000.0
GROUP = Whose(TENANT, "group", "group-7")
Sums = dict[tuple[Any, ...], int]


def reports(rounds: int, events: int) -> Report:
    """A month of one account by day, and of a whole tenant by plan and tool, from the rollups and from the events."""
    with tempfile.TemporaryDirectory() as folder:
        path, clock = Path(folder) / "ledger.db", Clock("2026-11-01T00:00:00Z")
        with opened(path, clock) as (runner, ledger):
            people = [a_record(_subject(user), quantity=1) for user in range(USERS)]
            must_be_recorded(runner.run(ledger.submit(people)))
        _fill(path, events)
        with opened(path, clock) as (runner, ledger), closing(connect_file(path)) as database:
            end = MONTH.end or 0
            steps = step_starts(MONTH, "day", "UTC")

            def rows_of(whose: Whose, *columns: str) -> list[UsageRow]:
                question = UsageTotals(whose, MONTH.start, end, frozenset(columns), steps)
                found: list[UsageRow] = runner.run(ledger.query(question))
                return found

            def account() -> Sums:
                rows = rows_of(GROUP, "quarter")
                days = {(line.start,): line.quantity for line in series(rows, "day", (), "UTC")}
                return {**days, (): sum(line.quantity for line in totals(rows))}

            def tenant() -> Sums:
                runner.run(ledger.query(TenantSummary(TENANT, ledger.now())))
                lines = grouped(rows_of(Whose(TENANT), "dimensions"), ("plan", "tool"))
                return {(line.keys["plan"], line.keys["tool"]): line.quantity for line in lines}

            sides: dict[str, tuple[Callable[[], Sums], Callable[[], Sums]]] = {
                "a group of 10, the month and its days": (account, lambda: _account_of_events(database)),
                "the whole tenant, by plan and tool": (tenant, lambda: _tenant_of_events(database)),
            }
            turns: Turns = {}
            goals = []
            for what, (from_rollups, from_events) in sides.items():
                slow, expected = _timed(from_events)
                fast = [_timed(from_rollups) for _ in range(max(rounds, 3))]
                if any(found != expected for _, found in fast):
                    raise CannotMeasure(f"{what}: the rollups and the events do not say the same")
                turns[f"{what}: rollups"] = [{"ms": ms} for ms, _ in fast]
                turns[f"{what}: {events:,} events"] = [{"ms": slow}]
                goals += [
                    at_most(what, spread(turns, f"{what}: rollups", "ms"), ANSWER_MS_MAX, "ms"),
                    at_least(f"{what}: times faster", Spread.of([slow / ms for ms, _ in fast]), TIMES),
                ]
    return Report(
        "reports: a month out of many events",
        f"{events:,} events of one month in one tenant: {USERS} users in {GROUPS} groups, {len(TOOLS)} tools, a plan and none. The "
        "rollups are asked through the ledger, the events read one after the other in the same file. Both say the same.",
        turns,
        goals,
    )


def _subject(user: int) -> Any:
    return a_subject(f"user-{user}", TENANT, group=f"group-{user % GROUPS}")


def _timed(work: Callable[[], Sums]) -> tuple[float, Sums]:
    began = time.perf_counter()
    found = work()
    return (time.perf_counter() - began) * 1000, found


def _fill(path: Path, events: int) -> None:
    """Write events as the engine does, but many in a transaction and without deciding about each."""
    dice = random.Random(1)
    holders = [
        Holder((AccountKey(TENANT, "group", f"group-{n % GROUPS}"), f"user-{n}")) for n in range(USERS)
    ]
    with closing(connect_file(path)) as database:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
            database.execute(f"PRAGMA {setting}")
        store = Store(database)
        began = time.monotonic()
        for first in range(0, events, AT_ONCE):
            database.execute("BEGIN IMMEDIATE")
            store.save(_changes(dice, holders, first, min(first + AT_ONCE, events), events))
            database.execute("COMMIT")
            if first % (20 * AT_ONCE) == 0:
                rate = (first + AT_ONCE) / (time.monotonic() - began)
                print(f"reports: {first:,} of {events:,} events, {rate:,.0f}/s", file=sys.stderr, flush=True)


def _changes(dice: random.Random, holders: Sequence[Holder], first: int, last: int, events: int) -> Changes:
    changes = Changes()
    length = (MONTH.end or 0) - MONTH.start
    for number in range(first, last):
        at = MONTH.start + length * number // events
        holder = holders[dice.randrange(USERS)]
        account, user = holder.key
        plan = "basic" if number % 3 else ""
        event = UsageEvent(
            *(
                uuid7s(at, dice.getrandbits)(),
                TENANT,
                "group",
                account.account,
                user,
                "message",
                plan,
                1 if plan else 0,
            ),
            *(1, {"tool": TOOLS[dice.randrange(3)]}, {"messages": 1}, "app", at, at),
        )
        changes.events.append((holder, event))
        key = (holder, quarter_of(at), "messages", dimensions_of_event(event))
        cell = changes.rollups.setdefault(key, [0, 0])
        cell[0] += 1
        cell[1] += 1
    return changes


def _account_of_events(database: Any) -> Sums:
    sums: Counter[tuple[Any, ...]] = Counter()
    rows = database.execute(
        "SELECT e.occurred_at, e.gains FROM event e NOT INDEXED WHERE e.holder IN (SELECT h.id FROM holder h"
        " JOIN word w ON w.id = h.account WHERE h.account_kind = 1 AND w.text = ?) AND e.occurred_at >= ?"
        " AND e.occurred_at < ?",
        (GROUP.account, *MONTH),
    )
    for at, gains in rows:
        gained = from_json(gains)["messages"]
        sums[(at - at % DAY,)] += gained
        sums[()] += gained
    return dict(sums)


def _tenant_of_events(database: Any) -> Sums:
    plans = {0: "", **dict(database.execute("SELECT id, plan FROM plan_version"))}
    sums: Counter[tuple[Any, ...]] = Counter()
    for plan, attributes, gains in _events_of_tenant(database):
        tool = from_json(attributes).get("tool") if attributes else None
        sums[(plans[plan], tool)] += from_json(gains)["messages"]
    return dict(sums)


def _events_of_tenant(database: Any) -> Iterator[tuple[int, str | None, str]]:
    found: Iterator[tuple[int, str | None, str]] = database.execute(
        "SELECT plan, attributes, gains FROM event WHERE tenant = (SELECT id FROM word WHERE text = ?)"
        " AND occurred_at >= ? AND occurred_at < ?",
        (TENANT, *MONTH),
    )
    return found
