"""Every request sent two and three times at once under one key: done once, and everybody hears the same."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders import (
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_reserve,
    a_settle,
    an_opening,
    reservation_of,
)
from tests.chaos.recount import recount
from tests.chaos.telling import facts_of
from tests.harness import TODAY, Place

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger.commands import Command
from subscription_mcp.ledger.writer import Ledger

Effort = Callable[[int, int, int], int]
CATALOG = a_catalog(a_plan(a_limit(UNLIMITED)))


async def records(ledger: Ledger, key: str) -> list[Command]:
    return [a_record(quantity=3, key=key)]


async def batches(ledger: Ledger, key: str) -> list[Command]:
    return [a_record(f"user{n}", quantity=n + 1, key=f"{key}-{n}") for n in range(5)]


async def reservations(ledger: Ledger, key: str) -> list[Command]:
    return [a_reserve(quantity=2, key=key)]


async def settlements(ledger: Ledger, key: str) -> list[Command]:
    return [a_settle(reservation_of(await ledger.submit_one(a_reserve(quantity=2))), 1)]


async def openings(ledger: Ledger, key: str) -> list[Command]:
    return [an_opening(key=key)]


@pytest.mark.parametrize("make", [records, batches, reservations, settlements, openings])
async def test_a_request_sent_several_times_at_once_is_done_once(
    tmp_path: Path, make: Any, effort: Effort, dice: random.Random
) -> None:
    async with (
        a_ledger(tmp_path, catalog=CATALOG) as one,
        a_ledger(tmp_path, catalog=CATALOG) as other,
    ):
        for number in range(effort(20, 300, 5_000)):
            request = await make(one, f"k{number}")
            times = dice.choice((2, 3))
            sent = [dice.choice((one, other)).submit(request) for _ in range(times)]
            answers = [[facts_of(outcome) for outcome in answer] for answer in await asyncio.gather(*sent)]
            for told in zip(*answers, strict=True):
                assert sorted(one.pop("replayed") for one in told) == [False] + [True] * (times - 1)
                assert all(one == told[0] for one in told)
                assert told[0]["thing"]
    recount(tmp_path / "ledger.db")


async def test_the_same_over_http_at_two_servers(tmp_path: Path, effort: Effort) -> None:
    place = Place(tmp_path, clock=TODAY)
    rounds = effort(2, 20, 200)
    with place.serving() as server, place.serving() as other:
        token = place.token("app", role="service")
        async with server.api(token) as app, other.api(token) as elsewhere:

            async def at_once(tool: str, **arguments: Any) -> list[dict[str, Any]]:
                calls = [api.call(tool, **arguments) for api in (app, elsewhere, app)]
                answers = []
                for response in await asyncio.gather(*calls):
                    assert response.status_code == 200, response.text
                    answers.append(response.json()["result"])
                return answers

            for number in range(rounds):
                petra = {"user_id": f"petra{number}"}
                message = petra | {"event": "message"}
                key = {"idempotency_key": f"k{number}"}
                done_once(await at_once("record_usage", **message, **key))
                held = await at_once("reserve_usage", **petra, event="message", idempotency_key=f"r{number}")
                done_once(held)
                done_once(await at_once("settle_usage", reservation_id=held[0]["reservation_id"], quantity=0))
                events = [message | {"idempotency_key": f"b{number}-{n}"} for n in range(3)]
                batches = await at_once("record_usage_batch", events=events)
                for same in zip(*(batch["results"] for batch in batches), strict=True):
                    done_once(list(same))
                opened = await at_once("open_session", **petra, idempotency_key=f"s{number}")
                assert len({answer["session_id"] for answer in opened}) == 1
                assert sum(not answer["replayed"] for answer in opened) == 1
                await app.call("close_session", session_id=opened[0]["session_id"])
    assert place.rows()["event"] == 4 * rounds
    recount(place.database)


def done_once(answers: list[dict[str, Any]]) -> None:
    assert sum(not answer.pop("replayed") for answer in answers) == 1
    assert all(answer == answers[0] for answer in answers), answers
