"""Every counter, rolling window, rollup, hold, cost, grant and response time worked out again from the rows and held against
what is stored.

One pass over the events adds up what each cell must be, in a private temporary file where memory is not enough;
then the cells and the stored rows are walked through side by side, in the order of their common key.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, closing
from itertools import chain, groupby, islice
from pathlib import Path
from uuid import UUID

from subscription_mcp.domain.catalog import places_of
from subscription_mcp.domain.instants import DAY, Instant, format_instant
from subscription_mcp.domain.rolling import used_at, used_within
from subscription_mcp.domain.windows import (
    Anchor,
    Level,
    Period,
    Window,
    quarter_of,
    rolling_length,
    window_of_key,
)
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE, NO_ANCHOR
from subscription_mcp.ledger.machine.usage import dimensions_of_event, folded
from subscription_mcp.ledger.port import LedgerUnusable, Verification
from subscription_mcp.ledger.recount import (
    AnchorHistory,
    Place,
    Places,
    follows_anchor,
    slack_of,
)
from subscription_mcp.ledger.retention import counter_is_over
from subscription_mcp.ledger.sqlite.anchors import anchor_history
from subscription_mcp.ledger.sqlite.cells import Cells, Key, Sums, keyed, side_by_side
from subscription_mcp.ledger.sqlite.consistency import (
    Names,
    alerts,
    answers,
    dangling,
    holds,
    make_room,
    sizes,
)
from subscription_mcp.ledger.sqlite.events import event_of_id
from subscription_mcp.ledger.sqlite.plans import load_plans
from subscription_mcp.ledger.sqlite.schema import (
    check_identity,
    committed_at,
    damage_of,
    is_plain_copy,
    log_path,
    migrations,
    opening_advice,
    schema_version,
)
from subscription_mcp.ledger.sqlite.tables import Tables
from subscription_mcp.ledger.sqlite.transfer import row_counts
from subscription_mcp.ledger.sqlite.verify_billing import charges
from subscription_mcp.ledger.sqlite.verify_costs import Costs
from subscription_mcp.ledger.sqlite.verify_grants import Grants
from subscription_mcp.ledger.sqlite.verify_overage import BILLED, IN_GAINS, Overages
from subscription_mcp.ledger.sqlite.verify_reports import Responses, denials
from subscription_mcp.ledger.sqlite.wide import EVERYBODY, differences
from subscription_mcp.ledger.transfer import encode

DIFFERENCES_MAX = 10
NO_ANCHORS = frozenset({NO_ANCHOR})
FOR_EVER: Instant = 2**62
NOTHING: Sums = (0, 0, 0)


def verify(connection: sqlite3.Connection, now: Instant, levels: Set[str]) -> Verification:
    """Compare in both directions; call it within one read transaction. The first differences are named.
    `levels` are the meters that are levels."""
    damage = damage_of(connection)
    if damage:  # what stands on damaged pages proves nothing
        return Verification(0, 0, 0, 0, tuple(f"The file is damaged: {text}." for text in damage))
    loose = tuple(islice(dangling(connection), DIFFERENCES_MAX))
    if loose:
        return Verification(0, 0, 0, 0, loose)
    with ExitStack() as stack:
        cells = [stack.enter_context(closing(Cells())) for _ in range(6)]
        recount = _Recount(connection, now, levels, *cells)
        events = recount.add_events()
        found = tuple(
            islice(
                chain(
                    recount.of_events(),
                    recount.grants.sums(),
                    recount.counters(),
                    recount.rolling(),
                    recount.rollups(),
                    recount.wide_rollups(),
                    holds(connection, recount.names, now),
                    sizes(connection, recount.names),
                    recount.responses.differences(),
                    denials(connection, recount.names, now),
                    alerts(connection, recount.names),
                    answers(connection),
                    charges(connection, now, recount.overages),
                    recount.overages.of_nobody(),
                ),
                DIFFERENCES_MAX,
            )
        )
    count = row_counts(connection)
    return Verification(events, count["counter"] + count["rolling"], count["rollup"], count["hold"], found)


def verify_copy(path: Path, clock: Callable[[], Instant], levels: Set[str]) -> Verification:
    """The same of a file that no server has open, which is only read: nothing in it or beside it is touched. Raises
    LedgerUnusable."""
    if not path.is_file():
        raise LedgerUnusable(f"There is no file {path}.")
    was_opened = not is_plain_copy(path)
    if was_opened and log_path(path).exists():
        raise LedgerUnusable(
            f"{path} is a ledger with a log beside it, not a copy. Name it in DATABASE_URL to verify it."
        )
    # One that was opened before would get a log for the reader; without one nobody writes into it.
    how = "immutable=1" if was_opened else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as connection:
            check_identity(connection, path)
            schema, newest = schema_version(connection), max(migrations())
            if schema != newest:
                raise LedgerUnusable(_schema_advice(path, schema, newest))
            connection.execute("BEGIN")
            now = max(clock(), committed_at(connection))
            return verify(connection, now, levels)
    except sqlite3.Error as error:
        raise LedgerUnusable(opening_advice(error, path)) from error


def _schema_advice(path: Path, schema: int, newest: int) -> str:
    if schema == 0:
        return f"{path} holds no ledger."
    if schema > newest:
        return f"{path} has schema {schema}, this version knows up to {newest}. Verify it with the version that made it."
    return (
        f"{path} has schema {schema}, and this version verifies schema {newest}. Verify it with the version that made it, "
        "or `restore` it: a ledger is brought up to date when it is opened."
    )


class _Recount:
    """What the events say every counter, rolling window and rollup must be."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        now: Instant,
        levels: Set[str],
        counters: Cells,
        rolling: Cells,
        rollups: Cells,
        responses: Cells,
        grant_uses: Cells,
        overages: Cells,
    ) -> None:
        self.names = Names(connection)
        self._db = connection
        self._now = now
        self._counters = counters
        self._rolling = rolling
        self._rollups = rollups
        self._plans = {0: ("", 0)}
        for number, plan, version in connection.execute("SELECT id, plan, version FROM plan_version"):
            self._plans[number] = (plan, version)
        counted = connection.execute(
            "SELECT DISTINCT m.text FROM counter c JOIN word w ON w.id = c.window AND w.text = ?"
            " JOIN word m ON m.id = c.meter",
            (Level.name,),
        )
        book = load_plans(connection, {})
        limited = {
            version: frozenset(
                (meter, window.key, scope)
                for limit in plan.limits
                for meter, window, scope in places_of(limit)
            )
            for version, plan in book.plans.items()
        }
        self._places = Places(limited, book.counted_since, {*levels, *(meter for (meter,) in counted)})
        first = connection.execute("SELECT recorded_at FROM event ORDER BY seq LIMIT 1").fetchone()
        self._first_recorded_at: Instant = FOR_EVER if first is None else first[0]
        self._cleared: dict[Key, Instant] = {
            (tenant, 0, *rest): at
            for tenant, *rest, at in connection.execute(
                "SELECT tenant, window, holder, meter, at FROM rate_cleared"
            )
        }
        self._tables = Tables(connection)
        self._costs = Costs(connection)
        self.grants = Grants(connection, now, grant_uses)
        self.overages = Overages(connection, self.names, book.plans, overages)
        self.responses = Responses(connection, self.names, now, responses)
        self._of_events: list[str] = []
        self._anchors: dict[int, AnchorHistory] = {}
        self._windows: dict[str, Window] = {}
        self._periods: dict[tuple[str, Anchor], Period] = {}
        self._found_dimensions: dict[tuple[int, int, int, str | None], int] = {}

    def add_events(self) -> int:
        """Add up every event; how many there are."""
        events = 0
        for id_, tenant, quantity, price, grants, corrects, recorded_at, *row in self._db.execute(
            "SELECT id, tenant, quantity, price, grants, corrects, recorded_at, holder, event, plan, attributes, gains,"
            " occurred_at FROM event ORDER BY seq"
        ):
            holder, event, _, attributes, text, occurred_at = row
            gains: dict[str, int] = json.loads(text)
            told_at = recorded_at
            number = 1 if corrects is None else -1
            name = self.names.text(event)
            self._note(self._costs.differences(id_, name, quantity, attributes, gains, price, number))
            if grants is not None:
                whole = self.names.holder(holder).whole
                holders = (holder,) if whole is None else (holder, whole)
                self._note(self.grants.differences(id_, tenant, holders, occurred_at, gains, grants))
            if corrects is None:
                self.responses.add(tenant, holder, event, attributes, occurred_at)
            else:
                # It is taken back from where it was counted, which goes by when it was recorded.
                found = event_of_id(self._tables, self.names.text(tenant), corrects)
                if found is None:
                    self._note([f"Event {UUID(bytes=corrects)} is taken back and is not there."])
                else:
                    recorded_at = found.recorded_at
                    self._note(self._costs.taken_back(id_, gains, found))
            self._add(holder, event, row[2], attributes, gains, occurred_at, recorded_at, number)
            if IN_GAINS in text:
                starts = self._starts(BILLED, holder, row[2], occurred_at, recorded_at)
                whole = self.names.holder(holder).whole
                self.overages.add(holder if whole is None else whole, gains, starts, told_at)
                if corrects is None:
                    self._note(self.overages.differences(id_, self._plans[row[2]], gains))
            events += 1
        return events

    def _note(self, differences: Iterable[str]) -> None:
        if len(self._of_events) < DIFFERENCES_MAX:
            self._of_events += differences

    def _add(
        self,
        holder: int,
        event: int,
        plan_id: int,
        attributes: str | None,
        gains: Mapping[str, int],
        occurred_at: Instant,
        recorded_at: Instant,
        number: int,
    ) -> None:
        who = self.names.holder(holder)
        is_group = who.account_kind == "group"
        # Without a holder the group's counters were never made: they are missing.
        whole = -holder if who.whole is None else who.whole
        dimensions: int | None = None
        for meter_name, gain in gains.items():
            meter = self.names.word(meter_name)
            if dimensions is None:
                dimensions = self._dimensions(who.tenant, event, plan_id, attributes)
            self._rollups.add((who.tenant, quarter_of(occurred_at), holder, meter, dimensions), number, gain)
            for place in self._places.of(meter_name, is_group=is_group):
                is_kept = int(
                    self._places.is_kept(
                        place, meter_name, self._plans[plan_id], recorded_at, is_group=is_group
                    )
                )
                counted_for = whole if place.whole else holder
                window = self.names.word(place.window_key)
                length = rolling_length(place.window_key)
                if length is not None:
                    key = (who.tenant, 0, window, counted_for, meter)
                    # What adds nothing leaves no cell, and a window without cells may be deleted.
                    is_kept = is_kept if gain else 0
                    self._add_rolling(key, place, length, gain, used_at(occurred_at, recorded_at), is_kept)
                    continue
                starts = self._starts(place, holder, plan_id, occurred_at, recorded_at)
                is_certain = len(starts) == 1
                least, most = (gain, gain) if is_certain else (min(gain, 0), max(gain, 0))
                for start in starts:
                    key = (who.tenant, start, window, counted_for, meter)
                    self._counters.add(key, least, most, is_kept if is_certain else 0)

    def _add_rolling(
        self, key: Key, place: Place, length: Instant, gain: int, at: Instant, is_kept: int
    ) -> None:
        if at < self._cleared.get(key, 0):
            return
        began = self._now - length
        slack = slack_of(length, came_late=place.since >= self._first_recorded_at)
        if at > began:
            self._rolling.add(key, gain, gain, is_kept)
        elif at > began - slack:
            self._rolling.add(key, min(gain, 0), max(gain, 0))

    def _starts(
        self, place: Place, holder: int, plan: int, occurred_at: Instant, recorded_at: Instant
    ) -> set[Instant]:
        """Where the period of a window that an event was counted in may begin."""
        key = place.window_key
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = window_of_key(key)
        anchors = NO_ANCHORS
        if follows_anchor(window):
            came_before = occurred_at < place.since + FUTURE_TOLERANCE
            if plan or came_before:
                # What was there before a counter was kept was added up when it was first needed, by whatever
                # anchor held then.
                until = FOR_EVER if came_before else recorded_at
                anchors = self._anchors_of(holder).anchors(min(occurred_at, recorded_at), until)
            if not plan:
                anchors |= NO_ANCHORS
        return {self._period(key, window, anchor, occurred_at).start for anchor in anchors}

    def _period(self, key: str, window: Window, anchor: Anchor, at: Instant) -> Period:
        # Calendars are slow, and most events fall into the last period.
        period = self._periods.get((key, anchor))
        if period is None or not period.holds(at - anchor.nudge if follows_anchor(window) else at):
            make_room(self._periods)
            period = self._periods[(key, anchor)] = window.period_at(at, anchor)
        return period

    def _dimensions(self, tenant: int, event: int, plan: int, attributes: str | None) -> int:
        found = self._found_dimensions.get((tenant, event, plan, attributes))
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
            dimensions = dimensions_of_event(recorded)
            found = self.names.word(encode(dimensions))
            if not self._is_told_apart(tenant, found):
                found = self.names.word(encode(folded(dimensions)))
            self._found_dimensions[(tenant, event, plan, attributes)] = found
        return found

    def _is_told_apart(self, tenant: int, dimensions: int) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM dimension WHERE tenant = ? AND dimensions = ?", (tenant, dimensions)
        ).fetchone()
        return row is not None

    def _anchors_of(self, holder: int) -> AnchorHistory:
        found = self._anchors.get(holder)
        if found is None:
            make_room(self._anchors)
            account = self._db.execute(
                "SELECT tenant, account_kind, account FROM holder WHERE id = ?", (holder,)
            ).fetchone()
            found = self._anchors[holder] = anchor_history(self._db, *account)
        return found

    def of_events(self) -> Iterator[str]:
        """What cannot be of single events: what they cost, what they take of grants or back."""
        yield from self._of_events

    def counters(self) -> Iterator[str]:
        """How the counters differ from the events."""
        stored = self._db.execute(
            "SELECT tenant, start, window, holder, meter, used, 0, 0 FROM counter"
            " ORDER BY tenant, start, window, holder, meter"
        )
        for key, used, said in side_by_side(keyed(stored), self._counters.in_order()):
            least, most, kept = said or NOTHING
            if used is not None:
                if not least <= used[0] <= most:
                    yield f"{self._counter(key)} says {used[0]:,}; the events say {_between(least, most)}."
            elif kept and not self._is_pruned(key):
                yield f"{self._counter(key)} is missing; the events say {_between(least, most)}."

    def rolling(self) -> Iterator[str]:
        """How the rolling windows differ from the events that count now."""
        for key, used, said in side_by_side(self._rolling_stored(), self._rolling.in_order()):
            least, most, kept = said or NOTHING
            if used is not None:
                if used[1]:
                    yield f"{self._rolled(key)} is no list of uses in order of time."
                elif not least <= used[0] <= most:
                    yield f"{self._rolled(key)} says {used[0]:,}; the events say {_between(least, most)}."
            elif kept and most:  # one whose uses were all taken back may be deleted
                yield f"{self._rolled(key)} is missing; the events say {_between(least, most)}."

    def _rolling_stored(self) -> Iterator[tuple[Key, Sums]]:
        """What counts now in each window, and whether it cannot be read."""
        for tenant, window, holder, meter, text in self._db.execute(
            "SELECT tenant, window, holder, meter, cells FROM rolling ORDER BY tenant, window, holder, meter"
        ):
            key = (tenant, 0, window, holder, meter)
            length = rolling_length(self.names.text(window))
            try:
                cells = [(int(at), int(quantity)) for at, quantity in json.loads(text)]
                is_spoilt = length is None or cells != sorted(cells, key=lambda cell: cell[0])
            except (ValueError, TypeError):
                cells, is_spoilt = [], True
            yield key, (used_within(cells, length or 0, self._now), int(is_spoilt), 0)

    def rollups(self) -> Iterator[str]:
        """How the rollups differ from the events."""
        stored = self._db.execute(
            "SELECT tenant, quarter, holder, meter, dimensions, events, quantity, 0 FROM rollup"
            " ORDER BY tenant, quarter, holder, meter, dimensions"
        )
        pairs = side_by_side(keyed(stored), self._rollups.in_order())
        for _, group in groupby(pairs, key=lambda pair: pair[0][:4]):
            found = [pair for pair in group if pair[1] != pair[2]]
            if found and not self._is_folded_otherwise(found):
                for key, sums, said in found:
                    yield f"{self._rollup(key)} says {_sums(sums)}; the events say {_sums(said)}."

    def wide_rollups(self) -> Iterator[str]:
        """How the sums of days and of whole tenants differ from the rollups."""
        for tenant, span, start, holder, meter, *_ in differences(self._db):
            who = f"tenant {self.names.text(tenant)}" if holder == EVERYBODY else self._who(holder)
            kind = "day" if span == DAY else "quarter of an hour"
            yield (
                f"The sum of {self._what(meter)} for the {kind} from {format_instant(start)} of {who} is not that of "
                "its rollups."
            )

    def _is_folded_otherwise(self, found: list[tuple[Key, Sums | None, Sums | None]]) -> bool:
        """Whether the differences of one quarter are those of a bound that was raised since: what is told apart
        now was `other` then, and the sums are the same."""
        stored: dict[str, list[int]] = {}
        for key, sums, said in found:
            if key[4] < 0:
                return False
            dimensions = tuple(json.loads(self.names.text(key[4])))
            less_than_said = said is not None and (sums or NOTHING)[0] < said[0]
            if folded(dimensions) != dimensions and not less_than_said:
                return False
            total = stored.setdefault(encode(folded(dimensions)), [0, 0])
            for index in range(2):
                total[index] += (sums or NOTHING)[index] - (said or NOTHING)[index]
        return not any(chain.from_iterable(stored.values()))

    def _is_pruned(self, key: Key) -> bool:
        _, start, window, _, meter = key
        is_known = window > 0 and meter > 0
        return is_known and counter_is_over(self.names.text(window), start, self._now, self.names.text(meter))

    def _counter(self, key: Key) -> str:
        _, start, window, holder, meter = key
        kind = self.names.text(window).replace("_", " ") if window > 0 else "a window never counted in"
        return f"The counter of {self._what(meter)} per {kind} from {format_instant(start)} of {self._who(holder)}"

    def _rolled(self, key: Key) -> str:
        _, _, window, holder, meter = key
        kind = self.names.text(window) if window > 0 else "never counted in"
        return f"The window {kind} of {self._what(meter)} of {self._who(holder)}"

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


def _between(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _sums(sums: Sums | None) -> str:
    return "nothing" if sums is None else f"{sums[1]:,} in {sums[0]:,} events"
