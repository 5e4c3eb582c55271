"""Who listens to a quota hears when it gets tight, when the plan or a limit changes, and of nobody else."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import ResourceUpdatedNotification, ToolListChangedNotification
from tests.harness import ERAS, TODAY, LegacySession, Place, Server, talking

from subscription_mcp.server.listening import LISTENERS_OF_ONE_USER_MAX

# A client of the legacy era calls what the SDK's client calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.MCPDeprecationWarning")

UNAWARE = (sys.executable, str(Path(__file__).with_name("unaware_server.py")))
TOO_MUCH = "Too much is listened to at once by one user. End some of it first."
SOON = 10
"""Seconds in which an update must have come."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("live"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


class Session(LegacySession):
    async def subscribe(self, uri: str = "quota://me") -> str | None:
        """What is said against it."""
        answer = await self.post("resources/subscribe", id=2, params={"uri": uri})
        (body,) = [line[5:] for line in answer.splitlines() if line.startswith("data: {")]
        error = json.loads(body).get("error")
        return error and error["message"]


class Ear:
    """What a client is told, in order: URIs of resources, and `tools` for their list."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.ended = asyncio.Event()
        """A modern stream came to its end in good order."""

    async def next(self) -> str:
        return await asyncio.wait_for(self.heard.get(), SOON)

    async def all(self, count: int) -> set[str]:
        return {await self.next() for _ in range(count)}

    async def on_message(self, message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.heard.put_nowait(str(message.params.uri))
        elif isinstance(message, ToolListChangedNotification):
            self.heard.put_nowait("tools")


@asynccontextmanager
async def listening(
    place: Place, server: Server, transport: str, era: str, access_token: str, *uris: str
) -> AsyncIterator[Ear]:
    ear = Ear()
    on_message = ear.on_message if era == "legacy" else None
    async with talking(place, server, transport, access_token, ERAS[era], on_message=on_message) as talk:
        if era == "legacy":
            for uri in uris:
                await talk.client.subscribe_resource(uri)
            yield ear
            return
        async with talk.client.listen(
            tools_list_changed=True, resource_subscriptions=list(uris)
        ) as subscription:

            async def hear() -> None:
                async for event in subscription:
                    if isinstance(event, ResourceUpdated):
                        ear.heard.put_nowait(event.uri)
                    elif isinstance(event, ToolsListChanged):
                        ear.heard.put_nowait("tools")
                ear.ended.set()

            hearing = asyncio.create_task(hear())
            try:
                yield ear
            finally:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)


def later_token(place: Place, user: str, tenant: str, **claims: Any) -> str:
    """One that is issued, within the leeway, after what a test revokes."""
    return place.token(user, tenant=tenant, issued_ago_seconds=-25, **claims)


def claims_of(access_token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
    return claims


async def record(
    place: Place, server: Server, user: str, quantity: int, token_of_app: str | None = None
) -> None:
    async with server.api(token_of_app or place.token("app", role="service")) as app:
        answer = await app.call("record_usage", user_id=user, event="message", quantity=quantity)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_listener_hears_thresholds_plan_changes_and_overrides(
    place: Place, server: Server, transport: str, era: str
) -> None:
    """Over stdio another process than the listener's makes every change."""
    user = f"listener.{transport}.{era}"
    token = place.token(user)
    uris = {"quota://me", "quota://me/messages", f"quota://accounts/{user}"}
    async with listening(place, server, transport, era, token, *uris) as ear:
        await record(place, server, f"other.{transport}.{era}", 50)
        await record(place, server, user, 39)  # 78 %
        for quantity in (1, 5, 5):  # 80, 90, 100 %
            await record(place, server, user, quantity)
            assert await ear.all(3) == uris
        async with server.client(place.token("tara", role="tenant_admin")) as tara:
            await tara.call(
                "manage_limits",
                action="set",
                user_id=user,
                meter="messages",
                window="day",
                limit=60,
                reason="more",
            )
        assert await ear.all(3) == uris
        async with server.api(token) as api:
            offered = (await api.call("upgrade_tier", plan="advanced")).json()["result"]
            await api.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert await ear.all(4) == {*uris, "tools"}
        assert ear.heard.empty()


@pytest.mark.parametrize("era", ERAS)
async def test_nobody_listens_to_what_they_may_not_read(place: Place, server: Server, era: str) -> None:
    await record(place, server, "somebody", 1)
    async with server.client(place.token("spy"), ERAS[era]) as spy:
        for uri in ("quota://accounts/somebody", "quota://accounts/nobody", "quota://me/gold", "foo://x"):
            if era == "legacy":
                asked: Any = spy.client.subscribe_resource(uri)
            else:
                asked = spy.client.listen(resource_subscriptions=[uri]).__aenter__()
            assert await spy.fault(asked) == (-32602, f"Unknown resource: {uri}", {"uri": uri})


@pytest.mark.parametrize("era", ERAS)
async def test_an_account_is_heard_of_by_who_answers_for_it(place: Place, server: Server, era: str) -> None:
    user = f"watched.{era}"
    await record(place, server, user, 39)
    uri = f"quota://accounts/{user}"
    tara = place.token("tara", role="tenant_admin")
    async with listening(place, server, "http", era, tara, uri, "quota://me") as ear:
        await record(place, server, user, 1)
        assert await ear.next() == uri
        assert ear.heard.empty()


async def test_a_stream_ends_with_its_token(place: Place, server: Server) -> None:
    token = place.token("brief", ttl_seconds=3)
    ended = []
    async with (
        server.client(token) as talk,
        talk.client.listen(resource_subscriptions=["quota://me"]) as subscription,
    ):
        try:
            async with asyncio.timeout(SOON):
                async for event in subscription:
                    ended.append(event)
        except SubscriptionLost:
            pytest.fail("the stream was dropped, not ended")
    assert ended == []


@pytest.mark.parametrize("by", ["id", "subject", "tenant"])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_who_is_revoked_by_another_process_hears_nothing_more(
    place: Place, server: Server, transport: str, era: str, by: str
) -> None:
    tenant, user = f"{transport}.{era}.{by}", "robbed"
    token = place.token(user, tenant=tenant, issued_ago_seconds=60)
    who = {
        "id": ["--id", claims_of(token)["jti"]],
        "subject": ["--subject", user, "--tenant", tenant],
        "tenant": ["--tenant", tenant],
    }[by]
    async with (
        listening(place, server, transport, era, token, "quota://me") as thief,
        listening(place, server, transport, era, later_token(place, user, tenant), "quota://me") as owner,
    ):
        app = later_token(place, "app", tenant, role="service")
        await record(place, server, user, 40, app)  # 80 %
        assert await thief.next() == await owner.next() == "quota://me"
        assert place.run("token", "revoke", *who).returncode == 0
        if era == "modern":
            async with asyncio.timeout(SOON):
                await thief.ended.wait()
        for quantity in (5, 5):  # 90, 100 %
            await record(place, server, user, quantity, app)
            assert await owner.next() == "quota://me"
        assert thief.heard.empty()
        assert not owner.ended.is_set()


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_told_is_never_told_to_who_was_revoked_before(tmp_path: Path, era: str) -> None:
    """This server would not notice a revocation by itself."""
    place = Place(tmp_path, clock=TODAY, command=UNAWARE)
    token = place.token("robbed", issued_ago_seconds=60)
    with place.serving() as server:
        async with (
            listening(place, server, "http", era, token, "quota://me") as thief,
            listening(place, server, "http", era, place.token("robbed"), "quota://me") as owner,
        ):
            assert place.run("token", "revoke", "--id", claims_of(token)["jti"]).returncode == 0
            for quantity in (40, 5, 5):
                await record(place, server, "robbed", quantity)
                assert await owner.next() == "quota://me"
            assert thief.heard.empty()


async def test_the_stream_of_a_legacy_connection_ends_when_its_token_is_revoked(
    place: Place, server: Server
) -> None:
    token, renewed = (place.token("parted", issued_ago_seconds=ago) for ago in (60, 0))
    async with server.api(token) as before, server.api(renewed) as after:
        headers = (await Session.begun(before)).headers
        async with asyncio.timeout(SOON):
            async with before.http.stream("GET", "/mcp", headers=headers) as stream:
                assert stream.status_code == 200
                assert place.run("token", "revoke", "--id", claims_of(token)["jti"]).returncode == 0
                assert await stream.aread() == b""  # to its end, which comes in good order
            assert (await before.get("/mcp", headers=headers)).status_code == 401
            async with after.http.stream("GET", "/mcp", headers=headers) as again:
                assert again.status_code == 200


async def test_a_legacy_subscription_ends_with_its_token_and_when_asked(place: Place, server: Server) -> None:
    ear = Ear()
    token = place.token("fading", ttl_seconds=2)
    async with server.client(token, "legacy", on_message=ear.on_message) as talk:
        await talk.client.subscribe_resource("quota://me")
        await talk.client.subscribe_resource("quota://me/messages")
        await talk.client.unsubscribe_resource("quota://me")
        await record(place, server, "fading", 40)
        assert await ear.next() == "quota://me/messages"
        async with (
            server.client(place.token("fading")) as probe,
            probe.client.listen(resource_subscriptions=["quota://me"]) as subscription,
        ):
            # The token's clock is the real one, so this waits for it.
            await asyncio.sleep(2.5)
            await record(place, server, "fading", 6)
            async with asyncio.timeout(SOON):
                assert await anext(aiter(subscription)) == ResourceUpdated(uri="quota://me")
        assert ear.heard.empty()


async def test_connections_that_end_at_once_leave_nobody_who_listens(place: Place, server: Server) -> None:
    async with server.api(place.token("hasty")) as api:
        for _ in range(2 * LISTENERS_OF_ONE_USER_MAX):
            session = await Session.begun(api)
            await session.post("notifications/initialized")
            await session.end()
        assert await (await Session.begun(api)).subscribe() is None


async def test_one_user_cannot_listen_so_often_that_nobody_else_can(place: Place, server: Server) -> None:
    token = place.token("greedy")
    async with server.api(token) as api, server.api(place.token("modest")) as other:
        sessions = [await Session.begun(api) for _ in range(LISTENERS_OF_ONE_USER_MAX + 1)]
        *listening, refused = sessions
        assert {await session.subscribe() for session in listening} == {None}
        assert await refused.subscribe() == TOO_MUCH
        asked = {"notifications": {"resourceSubscriptions": ["quota://me"]}}
        error = (await server.modern(token, "subscriptions/listen", asked))["error"]
        assert (error["code"], error["message"]) == (429, TOO_MUCH)
        # Who listens already may listen to more; others are not concerned; and what ends makes room.
        assert await listening[0].subscribe("quota://me/messages") is None
        assert await (await Session.begun(other)).subscribe() is None
        await listening[1].end()
        async with asyncio.timeout(SOON):
            while await refused.subscribe() is not None:
                pass


@pytest.mark.parametrize("era", ERAS)
async def test_listening_is_declared(place: Place, server: Server, era: str) -> None:
    async with server.client(place.token("asker"), ERAS[era]) as talk:
        assert await talk.tools()
        declared = talk.client.server_capabilities
        assert declared.resources is not None and declared.tools is not None and declared.prompts is not None
        assert declared.resources.subscribe is True
        assert declared.tools.list_changed is declared.prompts.list_changed is True
        assert declared.resources.list_changed is True


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_legacy_client_hears_of_its_tools_unasked(
    place: Place, server: Server, transport: str
) -> None:
    ear, token = Ear(), place.token(f"unasked.{transport}")
    async with talking(place, server, transport, token, "legacy", on_message=ear.on_message) as talk:
        before = set(await talk.tools())
        async with server.api(token) as api:
            offered = (await api.call("upgrade_tier", plan="advanced")).json()["result"]
            await api.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert await ear.next() == "tools"
        assert set(await talk.tools()) > before


async def test_the_server_stops_while_somebody_listens(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.serving() as server:
        async with server.client(place.token("loyal")) as talk:
            subscription = talk.client.listen(resource_subscriptions=["quota://me"])
            opened = await subscription.__aenter__()
            assert await asyncio.to_thread(server.stop) == 0
            with contextlib.suppress(SubscriptionLost):
                async for _ in opened:
                    pass
            with contextlib.suppress(Exception):
                await subscription.__aexit__(None, None, None)
        assert "Traceback" not in server.log
