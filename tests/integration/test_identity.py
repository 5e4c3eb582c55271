"""Who is calling, through the real server: keys of a provider, tokens taken back, plans of the issuer."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from mcp.shared.exceptions import MCPError
from tests.harness import ERAS, Place, Talk, problem_of, talking

ISSUER, AUDIENCE = "https://id.example", "subscription-mcp"
AUTHENTICATION = 4
KEY = rsa.generate_private_key(65537, 2048)
NEXT_KEY = rsa.generate_private_key(65537, 2048)
WITHIN_SECONDS = 1.0
SOON = 10
EAGER = (sys.executable, str(Path(__file__).with_name("eager_server.py")))


class Provider:
    """An identity provider's JWKS URL. Down until it publishes."""

    def __init__(self) -> None:
        self.status, self.document = 503, b""
        self.requests = 0

    def publish(self, **keys: Any) -> None:
        jwks = [
            {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in keys.items()
        ]
        self.status, self.document = 200, json.dumps({"keys": jwks}).encode()

    @contextmanager
    def serving(self) -> Iterator[str]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests += 1
                self.send_response(provider.status)
                self.end_headers()
                self.wfile.write(provider.document)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/jwks.json"
            finally:
                server.shutdown()
                thread.join()


def issued(key: Any = KEY, kid: str = "k1", user: str = "bella", **claims: Any) -> str:
    now = int(time.time())
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "tenant_id": "acme", "iat": now, "exp": now + 600}
    return jwt.encode({**payload, **claims}, key, algorithm="RS256", headers={"kid": kid})


def at_provider(folder: Path, url: str, **variables: Any) -> Place:
    return Place(folder, AUTH__JWKS_URL=url, AUTH__ISSUER=ISSUER, **variables)


@pytest.fixture
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of these tests have a provider instead of the secret they usually share."""
    original = Place.environment

    def without_secret(self: Place, **more: str | None) -> dict[str, str]:
        return original(self, **{"AUTH__SECRET": None, **more})

    monkeypatch.setattr(Place, "environment", without_secret)


@pytest.mark.usefixtures("no_secret")
async def test_a_provider_that_is_down_at_the_start_makes_nobody_a_stranger(tmp_path: Path) -> None:
    provider = Provider()
    with provider.serving() as url, at_provider(tmp_path, url).serving() as server:
        async with server.api(issued()) as bella:
            for _ in range(3):
                response = await bella.call("get_tier_info")
                problem_of(response, 503, "unavailable")
                assert 1 <= int(response.headers["retry-after"]) <= 31
            assert (await bella.get("/healthz")).status_code == 200
            assert provider.requests == 1


@pytest.mark.usefixtures("no_secret")
async def test_readiness_says_how_it_stands_with_the_providers_keys(tmp_path: Path) -> None:
    provider = Provider()
    with provider.serving() as url, at_provider(tmp_path, url, command=EAGER).serving() as server:
        async with server.api() as probe:

            async def until(status: int, word: str) -> httpx2.Response:
                async with asyncio.timeout(SOON):
                    while (answer := await probe.get("/readyz")).json()["status"] != word:
                        pass
                assert answer.status_code == status
                assert (await probe.get("/healthz")).json() == {"status": "ok"}
                return answer

            never = await until(503, "unavailable")
            assert "no access token can be judged" in never.json()["message"]
            provider.publish(k1=KEY)
            assert (await until(200, "ok")).json() == {"status": "ok"}
            provider.status = 503
            degraded = await until(200, "degraded")
            assert "The last good ones are used" in degraded.json()["message"]
            async with server.api(issued()) as bella:
                assert (await bella.call("get_tier_info")).status_code == 200
            provider.status = 200
            await until(200, "ok")


@pytest.mark.usefixtures("no_secret")
async def test_a_server_is_ready_before_its_first_caller(tmp_path: Path) -> None:
    provider = Provider()
    provider.publish(k1=KEY)
    with provider.serving() as url, at_provider(tmp_path, url).serving() as server:
        async with server.api() as probe:
            for _ in range(3):
                assert (await probe.get("/readyz")).json() == {"status": "ok"}
        assert provider.requests == 1


@pytest.mark.usefixtures("no_secret")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_key_of_the_provider_is_accepted_everywhere(tmp_path: Path, transport: str, era: str) -> None:
    provider = Provider()
    provider.publish(k1=KEY)
    with provider.serving() as url:
        place = at_provider(tmp_path, url)
        with place.serving() as server:
            async with talking(place, server, transport, issued(tier="advanced"), ERAS[era]) as bella:
                for _ in range(3):
                    assert (await bella.call("get_tier_info"))["plan"] == "advanced"
            assert provider.requests == 1
            for stranger in (issued(NEXT_KEY), issued(KEY, "k9"), issued(NEXT_KEY, "k9")):
                async with server.api(stranger) as mallory:
                    problem_of(await mallory.call("get_tier_info"), 401, "unauthenticated")
            assert provider.requests <= 2


@pytest.mark.usefixtures("no_secret")
def test_the_commands_ask_the_provider_too(tmp_path: Path) -> None:
    provider = Provider()
    with provider.serving() as url:
        place = at_provider(tmp_path, url)
        assert "cannot be had" in place.run("doctor").stdout
        provider.publish(k1=KEY)
        assert place.run("token", "inspect", issued()).returncode == 0
        assert place.run("token", "inspect", issued(NEXT_KEY, "k2")).returncode == AUTHENTICATION
        assert "jwks, RS256, ES256, EdDSA" in place.run("doctor").stdout
        assert place.run("usage", TOKEN=issued()).returncode == 0


@pytest.mark.usefixtures("no_secret")
@pytest.mark.parametrize("era", ERAS)
async def test_without_a_token_stdio_sends_you_to_the_provider(tmp_path: Path, era: str) -> None:
    place = at_provider(tmp_path, "http://127.0.0.1:9/jwks.json")
    async with place.over_stdio(None, ERAS[era]) as nobody:
        refusal = await nobody.refusal("get_tier_info")
    assert refusal["code"] == "unauthenticated"
    assert f"Your identity provider, {ISSUER}, issues them" in refusal["message"]
    assert "mint" not in refusal["message"]
    assert ISSUER in place.run("doctor").stdout


# Tokens taken back


async def refused_within_a_second(bella: Talk) -> str:
    """The sentence of the refusal that must come soon."""
    until = time.monotonic() + WITHIN_SECONDS
    while True:
        asked_at = time.monotonic()
        answer = await bella.result("get_tier_info")
        if answer.is_error:
            return json.loads(answer.content[1].text)["message"]  # type: ignore[union-attr, no-any-return]
        assert asked_at < until, "still accepted"


@pytest.mark.parametrize(
    ("era", "by"),
    [
        ("modern", "id"),
        ("legacy", "id"),
        ("modern", "subject"),
        ("legacy", "tenant"),
        ("modern", "subject in tenant"),
    ],
)
async def test_A23_a_revoked_token_is_refused_everywhere_within_a_second(
    tmp_path: Path, era: str, by: str
) -> None:
    place = Place(tmp_path)
    token, bystander = place.token("bella"), place.token("sam", tenant="other")
    token_id = jwt.decode(token, options={"verify_signature": False})["jti"]
    arguments = {
        "id": ["--id", token_id],
        "subject": ["--subject", "bella"],
        "tenant": ["--tenant", "acme"],
        "subject in tenant": ["--subject", "bella", "--tenant", "acme"],
    }[by]
    with place.serving() as one, place.serving() as other:
        async with (
            place.over_stdio(token, ERAS[era]) as by_stdio,
            one.client(token, ERAS[era]) as by_http,
            one.api(token) as by_api,
            other.api(token) as elsewhere,
            other.api(bystander) as sam,
        ):
            assert (await by_stdio.call("get_tier_info"))["user_id"] == "bella"
            assert (await by_http.call("get_tier_info"))["user_id"] == "bella"
            for api in (by_api, elsewhere, sam):
                assert (await api.call("get_tier_info")).status_code == 200
            revoked = place.run("token", "revoke", *arguments, "--reason", "lost laptop", "--json")
            assert revoked.returncode == 0, revoked.stderr
            until = time.monotonic() + WITHIN_SECONDS
            for api in (by_api, elsewhere):
                asked_at = time.monotonic()
                while (response := await api.call("get_tier_info")).status_code == 200:
                    assert asked_at < until, "still accepted"
                    asked_at = time.monotonic()
                problem_of(response, 401, "unauthenticated")
                assert "revoked" in response.json()["message"]
                assert 'error="invalid_token"' in response.headers["www-authenticate"]
            assert "revoked" in await refused_within_a_second(by_stdio)
            # The open MCP session is of the process that has refused the token above: its next call is too.
            with pytest.raises(MCPError):  # the client has no better words for a 401
                await by_http.result("get_tier_info")
            assert (await sam.call("get_tier_info")).status_code == 200
        if by != "id":
            async with other.api(place.token("bella", issued_ago_seconds=-2)) as again:
                assert (await again.call("get_tier_info")).status_code == 200
    document = json.loads(revoked.stdout)
    assert document["reason"] == "lost laptop"
    ((action, actor, reason),) = place.select(
        "SELECT action, actor, reason FROM audit WHERE action LIKE 'token.%'"
    )
    assert (action, actor, reason) == ("token.revoke", "local-operator", "lost laptop")
    inspected = place.run("token", "inspect", token)
    assert inspected.returncode == AUTHENTICATION
    assert "revoked" in inspected.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--id", "t1", "--subject", "bella"],
        ["--id", "t1", "--tenant", "acme"],
        ["--subject", "a b"],
        ["--id", ""],
        ["--id", "t1", "--reason", ""],
        ["--id", "t1", "--reason", " "],
    ],
)
def test_a_revocation_that_names_nothing_or_too_much_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    place = Place(tmp_path)
    assert place.run("token", "revoke", *arguments).returncode == 2
    assert not place.database.exists()


# A token file


@pytest.mark.parametrize("era", ERAS)
async def test_a_renewed_token_file_is_used_by_the_running_server(tmp_path: Path, era: str) -> None:
    place, file = Place(tmp_path), tmp_path / "token"
    file.write_text(place.token("bella", ttl_seconds=1, issued_ago_seconds=60))
    async with place.over_stdio(None, ERAS[era], TOKEN_FILE=str(file)) as talk:
        assert (await talk.refusal("get_tier_info"))["code"] == "unauthenticated"
        fresh = tmp_path / "fresh"
        fresh.write_text(place.token("bella"))
        fresh.replace(file)
        assert (await talk.call("get_tier_info"))["user_id"] == "bella"
        file.unlink()
        assert (await talk.refusal("get_tier_info"))["code"] == "unauthenticated"
        file.write_text(place.token("sam"))
        assert (await talk.call("get_tier_info"))["user_id"] == "sam"


# Plans of the issuer


async def test_with_tier_token_the_issuer_changes_the_plan(tmp_path: Path) -> None:
    place = Place(tmp_path, AUTH__TIER="token")
    old, new = place.token("bella", tier="basic", issued_ago_seconds=60), place.token("bella", tier="premium")
    with place.serving() as server:
        async with (
            server.api(old) as before,
            server.api(new) as after,
            server.api(place.token("app", role="service", tier="basic")) as app,
            server.api(place.token("olivia", role="superadmin")) as olivia,
        ):
            assert (await before.call("get_tier_info")).json()["result"]["plan"] == "basic"
            assert (await after.call("get_tier_info")).json()["result"]["plan"] == "premium"
            recorded = await app.call("record_usage", user_id="bella", event="message")
            assert recorded.json()["result"]["plan"] == "premium"
            info = (await before.call("get_tier_info")).json()["result"]
            assert (info["plan"], info["origin"]) == ("premium", "token")
            for caller, arguments in (
                (after, {"plan": "basic"}),
                (after, {"plan": "basic", "dry_run": True}),
                (olivia, {"plan": "basic", "tenant_id": "acme", "user_id": "bella"}),
            ):
                document = problem_of(await caller.call("upgrade_tier", **arguments), 409, "conflict")
                assert "plans are managed by your identity provider" in document["message"]
    changes = place.select("SELECT actor, actor_role, after FROM audit WHERE action = 'subscription.change'")
    (change,) = [(actor, role, json.loads(after)) for actor, role, after in changes]
    assert (change[0], change[1], change[2]["plan"], change[2]["origin"]) == (
        "bella",
        "token",
        "premium",
        "token",
    )


@pytest.mark.parametrize("era", ERAS)
async def test_with_tier_token_the_members_of_a_group_do_not_toss_its_plan_about(
    tmp_path: Path, era: str
) -> None:
    place = Place(tmp_path, AUTH__TIER="token")

    def of(user: str, tier: str, ago: int, group: str | None = "team", role: str | None = None) -> str:
        return place.token(user, tier=tier, group=group, role=role, issued_ago_seconds=ago)

    with place.serving() as one, place.serving() as other:
        async with (
            one.client(of("eve", "premium", 60, role="admin"), ERAS[era]) as eve,
            place.over_stdio(of("bob", "basic", 90), ERAS[era]) as bob,
            other.client(of("ann", "premium", 30), ERAS[era]) as ann,
            other.client(of("bob", "basic", 45), ERAS[era]) as bob_again,
            other.client(of("bob", "basic", 0, group=None), ERAS[era]) as bob_alone,
            one.client(of("bob", "advanced", 10), ERAS[era]) as bob_now,
        ):
            for _ in range(2):
                for caller in (eve, bob, ann, bob_again, bob_alone, eve):
                    info = await caller.call("get_tier_info")
                    assert (info["account_id"], info["plan"], info["origin"]) == ("team", "premium", "token")
            for caller in (bob_now, eve, bob, ann, bob_alone):
                assert (await caller.call("get_tier_info"))["plan"] == "advanced"
    changes = place.select("SELECT actor, action FROM audit WHERE action LIKE 'subscription.%' ORDER BY seq")
    assert changes == [("eve", "subscription.start"), ("bob", "subscription.change")]


# Challenges


async def test_a_challenge_names_the_scopes_to_ask_for_where_some_are_configured(tmp_path: Path) -> None:
    place = Place(tmp_path, AUTH__SCOPES="usage:read usage:write")
    with place.serving() as server:
        async with server.api() as nobody, server.api(place.token("bella")) as bella:
            response = await nobody.get("/api/mcp/tools")
            assert response.status_code == 401
            assert response.headers["www-authenticate"].endswith(', scope="usage:read usage:write"')
            metadata = (await nobody.get("/.well-known/oauth-protected-resource/mcp")).json()
            assert metadata["scopes_supported"] == ["usage:read", "usage:write"]
            # They are no condition: roles decide.
            assert (await bella.call("get_tier_info")).status_code == 200
