"""Every counter, rollup and hold worked out again from the rows and held against what is stored.

One pass over the events adds up what each cell must be, in a private temporary file where memory is not enough;
then the cells and the stored rows are walked through side by side, in the order of their common key.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any, cast

from subscription_mcp.domain.catalog_file import plan_from_definition
from subscription_mcp.domain.instants import Instant, format_instant, parse_instant
from subscription_mcp.domain.windows import Anchor, Interval, Period, Window, quarter_of
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.counting import (
    AnchorHistory,
    PlanVersion,
    Publication,
    SubscriptionEntry,
    WindowHistory,
    follows_anchor,
    window_of_key,
)
from subscription_mcp.ledger.machine.facts import NO_ANCHOR
from subscription_mcp.ledger.machine.plans import PUBLISHED
from subscription_mcp.ledger.machine.usage import dimensions_of
from subscription_mcp.ledger.port import Verification
from subscription_mcp.ledger.retention import counter_is_over
from subscription_mcp.ledger.sqlite_cells import Cells, Key, Sums, keyed, side_by_side
from subscription_mcp.ledger.sqlite_consistency import Names, answers, dangling, holds, make_room
from subscription_mcp.ledger.sqlite_schema import damage_of
from subscription_mcp.ledger.sqlite_transfer import row_counts
from subscription_mcp.ledger.transfer import encode

DIFFERENCES_MAX = 10
NO_ANCHORS = frozenset({NO_ANCHOR})


def verify(connection: sqlite3.Connection, now: Instant) -> Verification:
    """Compare in both directions; call it within one read transaction. The first differences are named."""
    damage = damage_of(connection)
    if damage:  # what stands on damaged pages proves nothing
        return Verification(0, 0, 0, 0, tuple(f"The file is damaged: {text}." for text in damage))
    loose = tuple(islice(dangling(connection), DIFFERENCES_MAX))
    if loose:
        return Verification(0, 0, 0, 0, loose)
    with closing(Cells()) as counters, closing(Cells()) as rollups:
        recount = _Recount(connection, now, counters, rollups)
        events = recount.add_events()
        compared = [recount.counters(), recount.rollups()]
        found: list[str] = []
        for differences in (*compared, holds(connection, recount.names, now), answers(connection)):
            found += islice(differences, DIFFERENCES_MAX - len(found))
    count = row_counts(connection)
    return Verification(events, count["counter"], count["rollup"], count["hold"], tuple(found))


class _Recount:
    """What the events say every counter and rollup must be."""

    def __init__(self, connection: sqlite3.Connection, now: Instant, counters: Cells, rollups: Cells) -> None:
        self.names = Names(connection)
        self._db = connection
        self._now = now
        self._counters = counters
        self._rollups = rollups
        self._plans: dict[int, PlanVersion] = {0: ("", 0)}
        self._history = self._window_history()
        self._anchors: dict[int, AnchorHistory] = {}
        self._windows: dict[str, Window] = {}
        self._periods: dict[tuple[str, Anchor], Period] = {}
        self._found_dimensions: dict[tuple[int, int, str | None], int] = {}

    def add_events(self) -> int:
        """Add up every event; how many there are."""
        events = 0
        for row in self._db.execute(
            "SELECT holder, event, plan, attributes, gains, occurred_at, recorded_at FROM event ORDER BY seq"
        ):
            self._add(*row)
            events += 1
        return events

    def _add(
        self,
        holder: int,
        event: int,
        plan_id: int,
        attributes: str | None,
        gains: str,
        occurred_at: Instant,
        recorded_at: Instant,
    ) -> None:
        who, plan = self.names.holder(holder), self._plans[plan_id]
        counted_for = [holder]
        if who.account_kind == "group":
            # Without a holder the group's counters were never made: they are missing.
            counted_for.append(who.whole if who.whole is not None else -holder)
        dimensions: int | None = None
        for meter_name, gain in json.loads(gains).items():
            meter = self.names.word(meter_name)
            if dimensions is None:
                dimensions = self._dimensions(event, plan_id, attributes)
            self._rollups.add((who.tenant, quarter_of(occurred_at), holder, meter, dimensions), 1, gain)
            counted = self._history.counted(meter_name, plan, occurred_at, recorded_at)
            for key in counted.possible:
                window = self.names.word(key)
                starts = self._starts(key, holder, plan_id, occurred_at, recorded_at)
                is_certain = key in counted.certain and len(starts) == 1
                least, most = (gain, gain) if is_certain else (min(gain, 0), max(gain, 0))
                for start in starts:
                    for one in counted_for:
                        self._counters.add((who.tenant, start, window, one, meter), least, most)

    def _starts(
        self, key: str, holder: int, plan: int, occurred_at: Instant, recorded_at: Instant
    ) -> set[Instant]:
        """Where the period of a window that an event was counted in may begin."""
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = window_of_key(key)
        anchors = NO_ANCHORS
        if plan and follows_anchor(window):
            anchors = self._anchors_of(holder).anchors(occurred_at, recorded_at)
        return {self._period(key, window, anchor, occurred_at).start for anchor in anchors}

    def _period(self, key: str, window: Window, anchor: Anchor, at: Instant) -> Period:
        # Calendars are slow, and most events fall into the last period.
        period = self._periods.get((key, anchor))
        if period is None or not period.holds(at):
            make_room(self._periods)
            period = self._periods[(key, anchor)] = window.period_at(at, anchor)
        return period

    def _dimensions(self, event: int, plan: int, attributes: str | None) -> int:
        found = self._found_dimensions.get((event, plan, attributes))
        if found is None:
            make_room(self._found_dimensions)
            given = json.loads(attributes) if attributes else {}
            recorded = UsageEvent(
                *("", "", "personal", "", "", self.names.text(event)),
                *self._plans[plan],
                0,
                given,
                {},
                "",
                0,
                0,
            )
            found = self.names.word(encode(dimensions_of(recorded)))
            self._found_dimensions[(event, plan, attributes)] = found
        return found

    def _window_history(self) -> WindowHistory:
        plans: dict[PlanVersion, Mapping[str, frozenset[str]]] = {}
        made_at: list[Instant] = []
        for number, key, version, definition, created_at in self._db.execute(
            "SELECT id, plan, version, definition, created_at FROM plan_version"
        ):
            plan = plan_from_definition(key, version, json.loads(definition))
            windows: dict[str, set[str]] = {}
            for limit in plan.limits:
                windows.setdefault(limit.meter, set()).add(limit.window.key)
            plans[(key, version)] = {meter: frozenset(keys) for meter, keys in windows.items()}
            self._plans[number] = (key, version)
            made_at.append(created_at)
        publications = [
            Publication(at, list(json.loads(after)["plans"].items()))
            for at, after in self._db.execute(
                "SELECT at, after FROM audit WHERE action = ? ORDER BY seq", (PUBLISHED,)
            )
        ]
        seen = frozenset(
            self.names.text(word) for (word,) in self._db.execute("SELECT DISTINCT window FROM counter")
        )
        # Every version was made when it was put on offer, so a history that lacks none is whole.
        is_complete = bool(publications) and publications[0].at <= min(made_at)
        return WindowHistory(plans, publications, seen, is_complete=is_complete)

    def _anchors_of(self, holder: int) -> AnchorHistory:
        found = self._anchors.get(holder)
        if found is None:
            make_room(self._anchors)
            found = self._anchors[holder] = self._anchor_history(holder)
        return found

    def _anchor_history(self, holder: int) -> AnchorHistory:
        tenant, kind, account = self._db.execute(
            "SELECT tenant, account_kind, account FROM holder WHERE id = ?", (holder,)
        ).fetchone()
        stored = self._db.execute(
            "SELECT anchor, interval FROM subscription WHERE tenant = ? AND account_kind = ? AND account = ?",
            (tenant, kind, account),
        ).fetchone()
        entries = self._db.execute(
            "SELECT a.at, a.after FROM audit a JOIN holder h ON h.id = a.holder JOIN word w ON w.id = h.user"
            " WHERE a.tenant = ? AND h.tenant = ? AND h.account_kind = ? AND h.account = ? AND w.text = ''"
            " AND a.action LIKE 'subscription.%' AND a.after IS NOT NULL ORDER BY a.seq",
            (tenant, tenant, kind, account),
        ).fetchall()
        return AnchorHistory(
            [_subscription_entry(at, json.loads(after)) for at, after in entries],
            None if stored is None else Anchor(*stored),
        )

    def counters(self) -> Iterator[str]:
        """How the counters differ from the events."""
        stored = self._db.execute(
            "SELECT tenant, start, window, holder, meter, used, used FROM counter"
            " ORDER BY tenant, start, window, holder, meter"
        )
        for key, used, said in side_by_side(keyed(stored), self._counters.in_order()):
            least, most = said or (0, 0)
            if used is None:
                if least > 0 and not self._is_pruned(key):
                    yield f"{self._counter(key)} is missing; the events say {least:,}."
            elif not least <= used[0] <= most:
                says = f"{least:,}" if least == most else f"{least:,} to {most:,}"
                yield f"{self._counter(key)} says {used[0]:,}; the events say {says}."

    def rollups(self) -> Iterator[str]:
        """How the rollups differ from the events."""
        stored = self._db.execute(
            "SELECT tenant, quarter, holder, meter, dimensions, events, quantity FROM rollup"
            " ORDER BY tenant, quarter, holder, meter, dimensions"
        )
        for key, sums, said in side_by_side(keyed(stored), self._rollups.in_order()):
            if sums != said:
                yield f"{self._rollup(key)} says {_sums(sums)}; the events say {_sums(said)}."

    def _is_pruned(self, key: Key) -> bool:
        _, start, window, _, _ = key
        return window > 0 and counter_is_over(self.names.text(window), start, self._now)

    def _counter(self, key: Key) -> str:
        _, start, window, holder, meter = key
        kind = self.names.text(window).replace("_", " ") if window > 0 else "a window never counted in"
        return f"The counter of {self._what(meter)} per {kind} from {format_instant(start)} of {self._who(holder)}"

    def _rollup(self, key: Key) -> str:
        _, quarter, holder, meter, dimensions = key
        by = f" by {self.names.text(dimensions)}" if dimensions > 0 else ""
        return f"The rollup of {self._what(meter)} at {format_instant(quarter)} of {self._who(holder)}{by}"

    def _what(self, meter: int) -> str:
        return self.names.text(meter) if meter > 0 else "a meter never counted"

    def _who(self, holder: int) -> str:
        return (
            self.names.whose(holder)
            if holder > 0
            else f"the whole group of {self.names.whose(-holder)}, which has no holder,"
        )


def _sums(sums: Sums | None) -> str:
    return "nothing" if sums is None else f"{sums[1]:,} in {sums[0]:,} events"


def _subscription_entry(at: Instant, after: Mapping[str, Any]) -> SubscriptionEntry:
    anchor, next_at = after.get("billing_anchor"), after.get("next_plan_at")
    return SubscriptionEntry(
        at,
        None if anchor is None else parse_instant(anchor),
        cast(Interval, after["interval"]),
        after.get("next_interval"),
        None if next_at is None else parse_instant(next_at),
    )
