"""Not one message too many and not one lost: under concurrency, across processes, through kill -9."""

import asyncio
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
from tests.harness import TODAY, Api, Place, Server, audit

CONCURRENT = 64
KILLS = 8


async def all_at_once(calls: list[Any], concurrent: int = CONCURRENT) -> list[Any]:
    """Every call, at most so many in flight."""
    free = asyncio.Semaphore(concurrent)

    async def one(call: Any) -> Any:
        async with free:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def counts(place: Place, user: str, window: str) -> list[int]:
    """What the counters of a user hold, read without the product."""
    rows = place.select(
        "SELECT c.used FROM counter c JOIN holder h ON h.id = c.holder JOIN word u ON u.id = h.user"
        " JOIN word w ON w.id = c.window WHERE u.text = ? AND w.text LIKE ?",
        user,
        f"{window}%",
    )
    return [used for (used,) in rows]


async def test_a_limit_of_50_lets_50_of_640_concurrent_calls_through(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            responses = await all_at_once(
                [app.call("record_usage", user_id="bella", event="message") for _ in range(640)]
            )
    statuses = [response.status_code for response in responses]
    assert (statuses.count(200), statuses.count(429)) == (50, 590)
    ids = {response.json()["result"]["event_id"] for response in responses if response.status_code == 200}
    assert len(ids) == 50
    used = sorted(
        response.json()["result"]["limits"][0]["used"]
        for response in responses
        if response.status_code == 200
    )
    assert used == list(range(1, 51))
    assert audit(place) == 50
    assert counts(place, "bella", "day") == [50]


async def test_a_limit_of_50_lets_50_of_600_through_three_servers(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with ExitStack() as servers:
        running = [servers.enter_context(place.serving()) for _ in range(3)]
        token = place.token("app", role="service")

        async def share(server: Server) -> list[httpx2.Response]:
            async with server.api(token) as app:
                calls = [app.call("record_usage", user_id="bella", event="message") for _ in range(200)]
                return await all_at_once(calls, 32)

        shares = await asyncio.gather(*(share(server) for server in running))
    statuses = [response.status_code for responses in shares for response in responses]
    assert (statuses.count(200), statuses.count(429)) == (50, 550)
    assert audit(place) == 50
    assert counts(place, "bella", "day") == [50]


async def test_a_key_counts_once_however_often_it_comes(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    arguments = {"user_id": "bella", "event": "message", "quantity": 3, "idempotency_key": "order-1"}
    with place.serving() as server, place.serving() as other:
        token = place.token("app", role="service")
        async with server.api(token) as app, other.api(token) as elsewhere:
            first = (await app.call("record_usage", **arguments)).json()["result"]
            again = (await app.call("record_usage", **arguments)).json()["result"]
            assert (first["replayed"], again["replayed"]) == (False, True)
            assert again | {"replayed": False, "as_of": first["as_of"]} == first
            await app.call("record_usage", user_id="bella", event="message")
            later = (await elsewhere.call("record_usage", **arguments)).json()["result"]
            assert later["limits"] == first["limits"]

            concurrent = arguments | {"idempotency_key": "order-2"}
            calls = [api.call("record_usage", **concurrent) for api in (app, elsewhere) for _ in range(10)]
            answers = [response.json()["result"] for response in await all_at_once(calls)]
        assert [answer["replayed"] for answer in answers].count(False) == 1
        assert len({answer["event_id"] for answer in answers}) == 1
        assert {answer["limits"][0]["used"] for answer in answers} == {7}
    assert audit(place) == 3
    assert counts(place, "bella", "day") == [7]


async def load(
    app: Api, keys: list[str], acknowledged: dict[str, str], enough: asyncio.Event, goal: int
) -> None:
    """Record one message for each key until the server is gone."""

    async def one(key: str) -> None:
        try:
            response = await app.call(
                "record_usage", user_id="petra", event="message", enforce=False, idempotency_key=key
            )
        except httpx2.TransportError:
            return
        assert response.status_code == 200, response.text
        acknowledged[key] = response.json()["result"]["event_id"]
        if len(acknowledged) >= goal:
            enough.set()

    await all_at_once([one(key) for key in keys])


async def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    dice = random.Random(20_261_120)
    place = Place(tmp_path, clock=TODAY)
    token = place.token("app", role="service")
    sent = 0
    for cycle in range(KILLS):
        acknowledged: dict[str, str] = {}
        keys = [f"{cycle}-{number}" for number in range(400)]
        enough = asyncio.Event()
        with place.serving() as server:
            async with server.api(token) as app:
                loading = asyncio.create_task(load(app, keys, acknowledged, enough, dice.randrange(1, 200)))
                await enough.wait()
                server.process.kill()
                await loading
            server.process.wait()
        assert len(acknowledged) < len(keys)

        ids = [id_ for (id_,) in place.select("SELECT lower(hex(id)) FROM event")]
        assert len(ids) == len(set(ids))
        assert {event_id.replace("-", "") for event_id in acknowledged.values()} <= set(ids)
        stored = {key for (key,) in place.select("SELECT key FROM answer WHERE key LIKE ?", f"{cycle}-%")}
        assert set(acknowledged) <= stored

        # The client that heard nothing asks again, with the same keys.
        with place.serving() as server:
            async with server.api(token) as app:
                unheard = [key for key in keys if key not in acknowledged]
                repeated = await all_at_once(
                    [
                        app.call(
                            "record_usage",
                            user_id="petra",
                            event="message",
                            enforce=False,
                            idempotency_key=key,
                        )
                        for key in [*unheard, *list(acknowledged)[:20]]
                    ]
                )
        answers = dict(zip([*unheard, *list(acknowledged)[:20]], repeated, strict=True))
        for key, response in answers.items():
            result = response.json()["result"]
            assert result["replayed"] == (key in stored), key
            assert acknowledged.get(key, result["event_id"]) == result["event_id"]
        sent += len(keys)
        assert audit(place) == sent
        assert counts(place, "petra", "day") == [sent]
