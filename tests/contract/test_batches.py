"""A batch is its commands one after the other, whatever is among them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_limit,
    a_limit_set,
    a_member_change,
    a_plan,
    a_publication,
    a_record,
    a_reserve,
    a_subject,
    an_opening,
)
from tests.chaos.telling import facts_of
from tests.contract.test_engine import STORES, SqliteStore

from subscription_mcp.domain.instants import HOUR
from subscription_mcp.ledger.commands import Actor, Arrive, Command, EditPlan, MigratePlan

BASIC = a_plan(a_limit(9), a_limit(6, window="hour"), sessions=1)
LARGER = a_plan(
    a_limit(30),
    a_limit(20, window="billing_period"),
    a_limit(8, window="minute"),
    key="larger",
    monthly="29.00",
    sessions=3,
)
EDITED = a_plan(a_limit(12), a_limit(11, window="month"), a_limit(10, window="rolling:PT5H"), sessions=2)
CREW = a_subject("ann", group="crew")
CREW_ADMIN = a_subject("cat", group="crew", group_admin=True)
OPERATOR = {"actor": "olivia", "actor_role": "tenant_admin"}
SUPERADMIN = Actor("susan", "superadmin")
COMMANDS: dict[str, Callable[[Clock], Command]] = {
    "record": lambda clock: a_record(quantity=3),
    "record late": lambda clock: a_record(quantity=2, occurred_at=clock.now - HOUR),
    "record for the crew": lambda clock: a_record(CREW, quantity=4),
    "reserve": lambda clock: a_reserve(quantity=2),
    "open": lambda clock: an_opening(),
    "offer": lambda clock: a_change("larger", offer="handle"),
    "change plan": lambda clock: a_change("larger", confirmation="handle"),
    "publish": lambda clock: a_publication(EDITED, LARGER),
    "edit": lambda clock: EditPlan(
        SUPERADMIN, "update", "basic", {"limits": [{"meter": "messages", "window": "week", "limit": 13}]}
    ),
    "migrate": lambda clock: MigratePlan(SUPERADMIN, "basic", "new terms"),
    "set limit": lambda clock: a_limit_set(5),
    "look": lambda clock: Arrive(a_subject()),
    "join the crew": lambda clock: Arrive(CREW_ADMIN),
    "join another crew": lambda clock: Arrive(a_subject("cat", group="other", group_admin=True)),
    "add to the crew": lambda clock: a_member_change("add", "bob", "crew", actor="cat"),
    "remove from the crew": lambda clock: a_member_change("remove", "bob", "crew", actor="cat"),
    "remove the administrator": lambda clock: a_member_change("remove", "cat", "crew", **OPERATOR),
    "make an administrator": lambda clock: a_member_change(
        "set_role", "bob", "crew", role="admin", **OPERATOR
    ),
}
PEOPLE = [
    "join the crew",
    "record",
    "add to the crew",
    "record",
    "make an administrator",
    "join another crew",
]
LONG = ["record", "offer", "change plan", "record", "publish", "record", "set limit", "record late"]


@pytest.mark.parametrize("opened", STORES, ids=lambda store: store.engine)
@settings(max_examples=20)
@given(names=st.lists(st.sampled_from(sorted(COMMANDS)), min_size=2, max_size=16))
@example(names=["record", "offer", "change plan", "record", "publish", "record"])
@example(names=[*PEOPLE, "remove from the crew", "record", "add to the crew", "record"])
@example(
    names=["join the crew", "add to the crew", "remove from the crew", "record", "remove the administrator"]
)
@example(names=["record", "record for the crew", "edit", "migrate", "record"])
@example(names=[*LONG, "record for the crew", "open", "open", "reserve", "look", "record"])
def test_a_batch_with_changes_of_plan_and_catalog_in_it_is_the_same_as_one_by_one(
    opened: Callable[[Path], SqliteStore], names: list[str]
) -> None:
    async def told(place: Path, size: int) -> list[dict[str, Any]]:
        clock = Clock()
        commands = [COMMANDS[name](clock) for name in names]
        async with opened(place).open(catalog=a_catalog(BASIC, LARGER), clock=clock) as ledger:
            outcomes = []
            for batch in batches(commands, size):
                outcomes += await ledger.submit(batch)
            assert (await ledger.engine.verify()).differences == ()
        async with opened(place).open(catalog=a_catalog(BASIC, LARGER), clock=clock, publish=False) as ledger:
            # Whoever comes next, with nothing remembered.
            outcomes += await ledger.submit([a_record(enforce=False), a_record(CREW, enforce=False)])
        return [{name: said for name, said in facts_of(one).items() if name != "thing"} for one in outcomes]

    def at_a_time(size: int) -> list[dict[str, Any]]:
        with TemporaryDirectory() as place:
            return asyncio.run(told(Path(place), size))

    assert at_a_time(len(names)) == at_a_time(1)


def batches(commands: list[Command], size: int) -> Iterator[list[Command]]:
    return (commands[first : first + size] for first in range(0, len(commands), size))
