"""What was answered survives a cut of the power at any moment; nothing is half there."""

import asyncio
import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders import (
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_reserve,
    decision_of,
)
from tests.chaos.power import Disk, connecting
from tests.chaos.recount import answers_of, recount

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.sqlite import schema as sqlite_schema
from subscription_mcp.ledger.writer import Ledger

CALLERS = 6
CUTS_PER_ROUND = 20


CATALOG = a_catalog(a_plan(*[a_limit(UNLIMITED, window=window) for window in ("hour", "day", "lifetime")]))


class Cuts:
    """Runs a ledger on a disk and at random operations keeps what a cut would leave, with what had been
    answered by then."""

    def __init__(self, place: Path, dice: random.Random, answered: dict[str, str]) -> None:
        self.place, self.dice = place, dice
        self.answered = dict(answered)
        self.images: list[tuple[Path, dict[str, str]]] = []
        self.is_cutting = False
        self.next_in = dice.randrange(1, 30)
        self.disk = Disk(f"disk-{place.name}", self.on_operation)

    def on_operation(self) -> None:
        self.next_in -= 1
        if not self.is_cutting or self.next_in > 0 or len(self.images) == CUTS_PER_ROUND:
            return
        self.next_in = self.dice.randrange(1, 30)
        image = self.place / f"cut{len(self.images)}"
        image.mkdir()
        # What was answered is read first: everything in it had been synced by then.
        self.images.append((image, dict(self.answered)))
        self.disk.image(image, self.dice)

    async def run(self, first: int) -> int:
        """Callers record and reserve until the last cut; the number after the last key."""
        numbers = itertools.count(first)

        async def caller(ledger: Ledger) -> None:
            while len(self.images) < CUTS_PER_ROUND:
                number = next(numbers)
                make = a_reserve if number % 7 == 0 else a_record
                command = make(f"user{number % 5}", quantity=number % 3 + 1, key=f"k{number}")
                decision = decision_of(await ledger.submit_one(command))
                self.answered[f"k{number}"] = decision.event_id or decision.reservation_id

        async with a_ledger(self.place, catalog=CATALOG, connect=connecting(self.disk)) as ledger:
            self.is_cutting = True
            await asyncio.gather(*[caller(ledger) for _ in range(CALLERS)])
        self.disk.unregister()
        return next(numbers)


def lost_in(image: Path, answered: dict[str, str]) -> set[tuple[str, str]]:
    """What had been answered and is not there; everything that is there must add up."""
    recount(image / "ledger.db")
    return answered.items() - answers_of(image / "ledger.db").items()


async def cut_the_power(place: Path, dice: random.Random, rounds: int) -> set[tuple[str, str]]:
    """Every round goes on from what the last cut of the one before has left; what was lost in any of them."""
    lost: set[tuple[str, str]] = set()
    answered: dict[str, str] = {}
    start, first = place / "start", 1
    start.mkdir()
    for number in range(rounds):
        cuts = Cuts(start.rename(place / f"round{number}"), dice, answered)
        first = await cuts.run(first)
        for image, by_then in cuts.images:
            lost |= lost_in(image, by_then)
        last, answered = cuts.images[-1]
        start = last.rename(place / "start")
        shutil.rmtree(cuts.place)
    return lost


@pytest.fixture(autouse=True)
def _checkpoints_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 60)


async def test_nothing_answered_is_lost_and_nothing_is_half_there(
    tmp_path: Path, effort: Callable[[int, int, int], int], dice: random.Random
) -> None:
    assert await cut_the_power(tmp_path, dice, effort(5, 50, 500)) == set()


@pytest.mark.parametrize("synchronous", [0, 1], ids=["OFF", "NORMAL"])
async def test_the_cuts_are_real_with_fewer_syncs_they_lose_what_was_answered(
    tmp_path: Path, dice: random.Random, monkeypatch: pytest.MonkeyPatch, synchronous: int
) -> None:
    monkeypatch.setitem(sqlite_schema.PRAGMAS, "synchronous", synchronous)
    try:
        lost = await cut_the_power(tmp_path, dice, 5)
    except (AssertionError, sqlite3.DatabaseError):
        return  # no longer adding up, or not even readable
    assert lost
