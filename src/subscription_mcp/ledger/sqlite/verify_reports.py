"""The hourly counts reports are made of: how long things took, worked out again from the events, and refusals, of which
nothing else is kept: there only what cannot be is found."""

import json
import sqlite3
from collections.abc import Iterator
from typing import get_args

from subscription_mcp.domain.erasure import ALIAS_PREFIX
from subscription_mcp.domain.errors import Code
from subscription_mcp.domain.histogram import cell_of
from subscription_mcp.domain.instants import HOUR, Instant, format_instant
from subscription_mcp.domain.usage import has_failed
from subscription_mcp.ledger.machine.facts import NO_CELL
from subscription_mcp.ledger.machine.sessions import METER as SESSIONS
from subscription_mcp.ledger.retention import REPORT_RETENTION
from subscription_mcp.ledger.sqlite.cells import Cells, keyed, side_by_side
from subscription_mcp.ledger.sqlite.consistency import Names


class Responses:
    """How often what took how long, by the hour, of each holder and of each tenant as a whole. Of an erased user the events
    do not say it any more: what is kept of them is taken as it is, and the tenant's sums are held against it."""

    def __init__(self, connection: sqlite3.Connection, names: Names, now: Instant, cells: Cells) -> None:
        self._db = connection
        self._names = names
        self._since = now - REPORT_RETENTION
        self._cells = cells
        nobody = names.word("")
        self._wholes: dict[int, int] = dict(
            connection.execute(
                "SELECT tenant, id FROM holder WHERE account_kind = 0 AND account = ? AND user = ?",
                (nobody, nobody),
            ).fetchall()
        )

    def add(self, tenant: int, holder: int, event: int, attributes: str | None, occurred_at: Instant) -> None:
        """Count what an event tells."""
        if attributes is None or ('"response_ms"' not in attributes and '"status"' not in attributes):
            return
        hour = occurred_at - occurred_at % HOUR
        if hour < self._since or self._is_erased(holder):
            return
        given = json.loads(attributes)
        took, status = given.get("response_ms"), given.get("status")
        if isinstance(took, int) or status is not None:
            cell = cell_of(took) if isinstance(took, int) else NO_CELL
            self._add(tenant, hour, holder, 2 * event + has_failed(status), cell, 1)

    def _add(self, tenant: int, hour: Instant, holder: int, what: int, cell: int, count: int) -> None:
        for whose in (holder, self._wholes.get(tenant, 0)):
            self._cells.add((tenant, hour, whose, what, cell), count, 0)

    def _is_erased(self, holder: int) -> bool:
        return self._names.holder(holder).user.startswith(ALIAS_PREFIX)

    def differences(self) -> Iterator[str]:
        """How the counts differ from the events."""
        of_old = (
            "SELECT tenant, hour, holder, 2 * event + failed, cell, count, 0, 0 FROM response WHERE hour >= ?"
        )
        for (erased,) in self._db.execute("SELECT DISTINCT holder FROM response").fetchall():
            if self._is_erased(erased):
                for tenant, hour, holder, what, cell, count, _, _ in self._db.execute(
                    f"{of_old} AND holder = ?", (self._since, erased)
                ):
                    self._add(tenant, hour, holder, what, cell, count)
        stored = self._db.execute(
            f"{of_old} ORDER BY tenant, hour, holder, event, failed, cell", (self._since,)
        )
        for (tenant, hour, holder, what, _), kept, said in side_by_side(
            keyed(stored), self._cells.in_order()
        ):
            counted, told = (kept or (0,))[0], (said or (0,))[0]
            if counted != told:
                is_whole = holder == self._wholes.get(tenant, 0)
                whose = f"tenant {self._names.text(tenant)}" if is_whole else self._names.whose(holder)
                yield (
                    f"The response times of {self._names.text(what // 2)} in the hour from {format_instant(hour)} of "
                    f"{whose} are those of {counted:,} events in one cell; the events say {told:,}."
                )


def denials(connection: sqlite3.Connection, names: Names, now: Instant) -> Iterator[str]:
    """Counts of refusals that cannot be: of somebody else's tenant, of no refusal, of no meter there ever was, of no whole
    hour, of one that is to come, and of less than one."""
    codes = frozenset(get_args(Code)) - {"ok"}
    meters = {"", SESSIONS, *(name for (name,) in connection.execute("SELECT name FROM ledger_meter"))}
    for tenant, hour, holder, code, meter, count in connection.execute(
        "SELECT tenant, hour, holder, code, meter, count FROM denial"
    ):
        who = names.holder(holder)
        problem = None
        if who.tenant != tenant:
            problem = f"are those of somebody in tenant {names.text(who.tenant)}"
        elif names.text(code) not in codes:
            problem = f"say {names.text(code)}, which refuses nothing"
        elif names.text(meter) not in meters:
            problem = f"name the meter {names.text(meter)}, which there never was"
        elif hour % HOUR or hour > now:
            problem = "are of no hour that has begun"
        elif count < 1:
            problem = f"are {count:,}"
        if problem:
            whose = names.whose(holder) if who.user or who.account else f"tenant {names.text(tenant)}"
            yield f"The refusals of {whose} in the hour from {format_instant(hour)} {problem}."
