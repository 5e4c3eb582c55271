"""What was used beyond limits, worked out again from the events: what it cost, and how much of it had been counted
whenever an invoice was closed."""

import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from uuid import UUID

from subscription_mcp.domain.catalog import OVERAGE, OVERAGE_CHARGE, Plan, derived
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import CountKey, OverageCount
from subscription_mcp.domain.invoices_proved import CountedAt, CountedThen
from subscription_mcp.ledger.recount import Place
from subscription_mcp.ledger.sqlite.cells import Cells
from subscription_mcp.ledger.sqlite.consistency import Names, make_room

BILLED = Place("billing_period", True, 0)
"""Where what invoices charge is counted."""
IN_GAINS = f":{OVERAGE}"
"""What the gains of an event have in them, as text, where any of it was beyond a limit."""
_UNITS, _MICROS = 0, 1
_PERHAPS = 2
"""Added to the two above: what was recorded in the microsecond of a closing, and may have come before it or after."""
_ALL = 4
"""Added to them: all there is, whichever billing period it is in."""


class Overages:
    """What each account used beyond limits, by billing period and by the closing of invoices that came next."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        names: Names,
        plans: Mapping[tuple[str, int], Plan],
        cells: Cells,
    ) -> None:
        self._db = connection
        self._names = names
        self._plans = plans
        self._cells = cells
        self._closings: dict[int, list[Instant]] = {}

    def add(
        self, holder: int, gains: Mapping[str, int], starts: Collection[Instant], recorded_at: Instant
    ) -> None:
        """Count an event of an account's `holder`, in the billing period that begins at one of `starts`."""
        closings = self._closings_of(holder)
        following = bisect_right(closings, recorded_at)
        is_close = following > 0 and closings[following - 1] == recorded_at
        for name, gain in gains.items():
            meter, _, what = name.rpartition(":")
            if what not in (OVERAGE, OVERAGE_CHARGE):
                continue
            kind, word = _UNITS if what == OVERAGE else _MICROS, self._names.word(meter)
            self._cells.add((holder, 0, word, -1, _ALL + kind), gain, gain)
            perhaps = (min(gain, 0), max(gain, 0))
            counted = (gain, gain) if len(starts) == 1 else perhaps
            for start in starts:
                self._cells.add((holder, start, word, following, kind), *counted)
                if is_close:
                    self._cells.add((holder, start, word, following - 1, _PERHAPS + kind), *perhaps)

    def differences(self, id_: bytes, plan: tuple[str, int], gains: Mapping[str, int]) -> Iterator[str]:
        """How what an event cost beyond limits differs from the price of its plan. What a token named costs nothing
        here."""
        held = self._plans.get(plan)
        for limit in held.limits if held is not None else ():
            if limit.overage is None:
                continue
            units = gains.get(derived(limit.meter, OVERAGE), 0)
            charged = gains.get(derived(limit.meter, OVERAGE_CHARGE))
            wanted = units * limit.overage.price_micros
            if charged is not None and charged != wanted:
                yield (
                    f"Event {UUID(bytes=id_)} says {charged:,} for {units:,} of {limit.meter} beyond the limit; by its "
                    f"plan they cost {wanted:,}."
                )

    def counted_at(self, holder: int) -> CountedAt:
        """What had been counted whenever an invoice of the account was closed."""
        closings = self._closings_of(holder)
        then: CountedAt = {}
        surely: dict[CountKey, CountedThen] = {}
        # In the order of the closings; what only perhaps came before one surely came before the next.
        for (_, start, word, following, kind), (least, most, _) in sorted(
            self._cells.of(holder), key=lambda cell: (cell[0][3], cell[0][4])
        ):
            if not 0 <= following < len(closings):
                continue
            key, counted = (start, self._names.text(word)), CountedThen.of(kind % 2 == _UNITS, least, most)
            counts = then.setdefault(closings[following], {})
            if kind < _PERHAPS:
                surely[key] = counts[key] = surely.get(key, CountedThen()).plus(counted)
            else:
                counts[key] = counts.get(key, surely.get(key, CountedThen())).plus(counted)
        return then

    def sums(self, who: str, holder: int, stored: Sequence[OverageCount]) -> Iterator[str]:
        """How all the counters of an account differ from the events, also where nothing says which billing period an
        event was counted in."""
        counted: Counter[tuple[str, int]] = Counter()
        for one in stored:
            counted[(one.meter, _UNITS)] += one.units
            counted[(one.meter, _MICROS)] += one.micros
        said = {
            (self._names.text(word), kind - _ALL): gain
            for (_, _, word, _, kind), (gain, _, _) in self._cells.of(holder)
            if kind >= _ALL
        }
        for meter in sorted({meter for meter, _ in (*counted, *said)}):
            units, micros = (
                (counted[(meter, kind)], said.get((meter, kind), 0)) for kind in (_UNITS, _MICROS)
            )
            if units[0] != units[1] or micros[0] != micros[1]:
                yield (
                    f"Of {meter} the {who} is counted {units[0]:,} beyond limits for {micros[0]:,} in all; the events "
                    f"say {units[1]:,} for {micros[1]:,}."
                )

    def of_nobody(self) -> Iterator[str]:
        """What was sold to accounts that no invoice is ever made for."""
        for holder in self._cells.firsts():
            has_history = self._db.execute(
                "SELECT 1 FROM holder h JOIN subscription_history s ON s.tenant = h.tenant AND"
                " s.account_kind = h.account_kind AND s.account = h.account WHERE h.id = ? LIMIT 1",
                (abs(holder),),
            ).fetchone()
            if has_history is None:
                yield f"What {self._names.whose(abs(holder))} used beyond limits is on no invoice: there is no subscription."

    def _closings_of(self, holder: int) -> list[Instant]:
        found = self._closings.get(holder)
        if found is None:
            make_room(self._closings)
            found = self._closings[holder] = [
                at
                for (at,) in self._db.execute(
                    "SELECT DISTINCT i.closed_at FROM holder h JOIN invoice i ON i.tenant = h.tenant AND"
                    " i.account_kind = h.account_kind AND i.account = h.account WHERE h.id = ? ORDER BY i.closed_at",
                    (abs(holder),),
                )
            ]
        return found
