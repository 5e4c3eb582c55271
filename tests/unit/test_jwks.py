"""The key set of a provider: which keys count, how seldom it is fetched, and what a bad endpoint can do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from subscription_mcp.auth import jwks
from subscription_mcp.auth.jwks import KeySet, KeySetFault, fetched, keys_of
from subscription_mcp.auth.keys import VerificationKey
from subscription_mcp.auth.tokens import TokenVerifier
from subscription_mcp.domain.errors import Refusal

ALGORITHMS = ("RS256", "ES256", "EdDSA")
ISSUER, AUDIENCE = "https://id.example", "subscription-mcp"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
SHORT_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_JWK = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)
OTHER_JWK = RSAAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True)
EC_JWK = ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True)
ED_JWK = OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True)
PRIVATE_JWK = RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)
SHORT_JWK = RSAAlgorithm.to_jwk(SHORT_KEY.public_key(), as_dict=True)
P384_JWK = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)


def a_jwk(jwk: dict[str, Any] = RSA_JWK, kid: Any = "k1", **changes: Any) -> dict[str, Any]:
    """A key as a set lists it; a change to `...` takes the member away."""
    made = {**jwk, "kid": kid, **changes}
    return {name: value for name, value in made.items() if value is not ...}


def a_document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def found_in(*keys: Any) -> set[tuple[str, str]]:
    return set(keys_of(a_document(*keys), frozenset(ALGORITHMS)))


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (a_jwk(), "RS256"),
        (a_jwk(use="sig", alg="RS256"), "RS256"),
        (a_jwk(key_ops=["verify"]), "RS256"),
        (a_jwk(use=...), "RS256"),
        (a_jwk(EC_JWK), "ES256"),
        (a_jwk(ED_JWK), "EdDSA"),
        (a_jwk(ED_JWK, alg="Ed25519"), "EdDSA"),
    ],
)
def test_a_public_key_for_signatures_counts_for_its_one_algorithm(jwk: Any, algorithm: str) -> None:
    assert found_in(jwk) == {("k1", algorithm)}


@pytest.mark.parametrize(
    "jwk",
    [
        pytest.param({"kty": "oct", "kid": "k1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}, id="A21-oct"),
        pytest.param(a_jwk(SHORT_JWK), id="A21-RSA-1024"),
        pytest.param(a_jwk(use="enc"), id="A21-enc"),
        pytest.param(a_jwk(key_ops=["encrypt"]), id="key_ops"),
        pytest.param(a_jwk(key_ops="verify"), id="key_ops-text"),
        pytest.param(a_jwk(alg="RS512"), id="RS512"),
        pytest.param(a_jwk(alg="HS256"), id="HS256"),
        pytest.param(a_jwk(alg="RSA-OAEP"), id="for-encryption"),
        pytest.param(a_jwk(P384_JWK), id="P-384"),
        pytest.param(a_jwk(PRIVATE_JWK), id="private"),
        pytest.param(a_jwk(kid=...), id="no-kid"),
        pytest.param(a_jwk(kid=""), id="empty-kid"),
        pytest.param(a_jwk(kid=5), id="number-kid"),
        pytest.param(a_jwk(kid="k" * 257), id="long-kid"),
        pytest.param(a_jwk(n="AQAB"), id="tiny"),
        pytest.param(a_jwk(n=5), id="no-number"),
        pytest.param(a_jwk(EC_JWK, x="AAAA"), id="not-on-the-curve"),
        pytest.param("k1", id="text"),
        pytest.param(None, id="null"),
    ],
)
def test_what_is_no_such_key_is_passed_over(jwk: Any) -> None:
    assert found_in(jwk, a_jwk(EC_JWK, "good")) == {("good", "ES256")}
    with pytest.raises(KeySetFault, match="no key in it can be used"):
        found_in(jwk)


def test_of_two_keys_with_one_id_the_one_for_signatures_counts() -> None:
    assert found_in(a_jwk(OTHER_JWK, use="enc"), a_jwk(use="sig")) == {("k1", "RS256")}
    assert found_in(a_jwk(), a_jwk(EC_JWK)) == {("k1", "RS256"), ("k1", "ES256")}


def test_keys_for_an_algorithm_that_is_not_configured_are_passed_over() -> None:
    assert set(keys_of(a_document(a_jwk(), a_jwk(EC_JWK)), frozenset({"ES256"}))) == {("k1", "ES256")}


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b"\xff", b"[" * 100_000]
)
def test_a_document_without_keys_is_a_fault(text: bytes) -> None:
    with pytest.raises(KeySetFault):
        keys_of(text, frozenset(ALGORITHMS))


# When it is fetched.


class Endpoint:
    """A JWKS URL that answers what it is told to, and counts."""

    def __init__(self, *keys: Any) -> None:
        self.answer: Callable[[], bytes] = lambda: a_document(*keys)
        self.fetches = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, url: str) -> bytes:
        self.fetches += 1
        await self.open.wait()
        return self.answer()

    def publish(self, *keys: Any) -> None:
        self.answer = lambda: a_document(*keys)

    def fail(self) -> None:
        def fails() -> bytes:
            raise OSError("no route to host, and a name nobody should read")

        self.answer = fails


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


def a_key_set(endpoint: Endpoint, clock: Time) -> KeySet:
    return KeySet("https://id.example/jwks.json", ALGORITHMS, fetch=endpoint, monotonic=clock)


def a_verifier(key_set: KeySet) -> TokenVerifier:
    key = VerificationKey(key_set, ALGORITHMS, "jwks", may_mint=False)
    return TokenVerifier(key, issuer=ISSUER, audiences=[AUDIENCE])


def a_token(key: Any = RSA_KEY, kid: Any = "k1", algorithm: str = "RS256", **headers: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 600}
    given = {"kid": kid, **headers} if kid is not ... else headers
    return jwt.encode(claims, key, algorithm=algorithm, headers=given)


async def code_of(verifier: TokenVerifier, access_token: str) -> str:
    try:
        await verifier.verify_or_fetch(access_token)
    except Refusal as refusal:
        return refusal.code
    return "ok"


async def test_a_known_key_needs_no_second_fetch() -> None:
    endpoint, clock = Endpoint(a_jwk(), a_jwk(EC_JWK, "k2"), a_jwk(ED_JWK, "k3")), Time()
    verifier = a_verifier(a_key_set(endpoint, clock))
    for token in (a_token(), a_token(EC_KEY, "k2", "ES256"), a_token(ED_KEY, "k3", "EdDSA")):
        assert (await verifier.verify_or_fetch(token)).user == "ann"
    assert endpoint.fetches == 1


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(a_token(OTHER_KEY), id="A10-same-kid-of-another-issuer"),
        pytest.param(a_token(EC_KEY, "k1", "ES256"), id="kid-of-another-algorithm"),
        pytest.param(a_token(kid=...), id="A15-absent"),
        pytest.param(a_token(kid=""), id="A15-empty"),
        pytest.param(a_token(kid="k" * 257), id="A15-long"),
        pytest.param(a_token(kid="../../../../dev/null"), id="A15-path"),
        pytest.param(a_token(kid="x' UNION SELECT 'k'--"), id="A15-sql"),
        pytest.param(a_token(OTHER_KEY, "k9", jku="http://127.0.0.1:9/", jwk=OTHER_JWK), id="A16-jku"),
    ],
)
async def test_a_token_of_a_key_that_is_not_in_the_set_is_refused(token: str) -> None:
    endpoint = Endpoint(a_jwk())
    verifier = a_verifier(a_key_set(endpoint, Time()))
    assert await code_of(verifier, a_token()) == "ok"
    assert await code_of(verifier, token) == "unauthenticated"
    assert endpoint.fetches == 1


async def test_a_secret_in_the_set_makes_no_hmac_key() -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    oct_jwk = {"kty": "oct", "kid": "k1", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}
    verifier = a_verifier(a_key_set(Endpoint(oct_jwk, a_jwk()), Time()))
    assert await code_of(verifier, a_token(secret, "k1", "HS256")) == "unauthenticated"


@pytest.mark.parametrize("state", ["healthy", "failing", "hanging"])
async def test_A20_a_thousand_unknown_keys_cause_one_fetch_in_each_cooldown(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_WITHIN_SECONDS", 0.05)
    endpoint, clock = Endpoint(a_jwk()), Time()
    verifier = a_verifier(a_key_set(endpoint, clock))
    assert await code_of(verifier, a_token()) == "ok"
    if state == "failing":
        endpoint.fail()
    if state == "hanging":
        endpoint.open.clear()
    tokens = [a_token(kid=f"k-{number}") for number in range(200)]
    for cooldown in range(1, 4):
        clock.advance(30)
        for _ in range(5):
            codes = set(await asyncio.gather(*(code_of(verifier, token) for token in tokens)))
            assert codes == {"unauthenticated" if state == "healthy" else "unavailable"}
        assert endpoint.fetches == 1 + cooldown
        assert await code_of(verifier, a_token()) == "ok"


async def test_a_known_key_does_not_wait_for_an_endpoint_that_hangs() -> None:
    endpoint, clock = Endpoint(a_jwk()), Time()
    key_set = a_key_set(endpoint, clock)
    verifier = a_verifier(key_set)
    assert await code_of(verifier, a_token()) == "ok"
    clock.advance(30)
    endpoint.open.clear()
    waiting = asyncio.create_task(code_of(verifier, a_token(kid="new")))
    await asyncio.sleep(0)
    assert await code_of(verifier, a_token()) == "ok"
    assert not waiting.done()
    endpoint.open.set()
    assert await waiting == "unauthenticated"


async def test_a_caller_that_goes_away_does_not_take_the_fetch_along() -> None:
    endpoint, clock = Endpoint(a_jwk()), Time()
    endpoint.open.clear()
    verifier = a_verifier(a_key_set(endpoint, clock))
    leaving = asyncio.create_task(code_of(verifier, a_token()))
    staying = asyncio.create_task(code_of(verifier, a_token()))
    await asyncio.sleep(0)
    leaving.cancel()
    endpoint.open.set()
    assert await staying == "ok"
    assert endpoint.fetches == 1


async def test_A26_a_cold_start_with_the_endpoint_down_is_unavailable_and_recovers() -> None:
    endpoint, clock = Endpoint(), Time()
    endpoint.fail()
    verifier = a_verifier(a_key_set(endpoint, clock))
    with pytest.raises(Refusal) as caught:
        await verifier.verify_or_fetch(a_token())
    assert caught.value.code == "unavailable"
    assert caught.value.retry_after_seconds in (30, 31)
    assert "route" not in caught.value.message
    endpoint.publish(a_jwk())
    clock.advance(29)
    assert await code_of(verifier, a_token()) == "unavailable"
    clock.advance(1)
    assert await code_of(verifier, a_token()) == "ok"
    assert endpoint.fetches == 2


async def test_it_recovers_by_itself_without_anybody_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.01)
    endpoint = Endpoint()
    endpoint.fail()
    key_set = KeySet("https://id.example/jwks.json", ALGORITHMS, fetch=endpoint)
    with pytest.raises(Refusal):
        await key_set.look_again()
    endpoint.publish(a_jwk())
    await until(lambda: key_set.is_known)
    assert key_set.find("k1", "RS256") is not None


async def test_the_last_good_keys_stand_for_an_hour_while_the_endpoint_is_away() -> None:
    endpoint, clock = Endpoint(a_jwk()), Time()
    verifier = a_verifier(a_key_set(endpoint, clock))
    assert await code_of(verifier, a_token()) == "ok"
    for bad in (b"<html>", b'{"keys":[]}', a_document(a_jwk(SHORT_JWK))):
        endpoint.answer = lambda bad=bad: bad  # type: ignore[misc]
        clock.advance(60)
        assert await code_of(verifier, a_token(kid="new")) == "unavailable"
        assert await code_of(verifier, a_token()) == "ok"
    clock.advance(3600 - 3 * 60 - 1)
    assert await code_of(verifier, a_token()) == "ok"
    clock.advance(1)
    assert await code_of(verifier, a_token()) == "unavailable"


async def test_its_health_is_that_of_the_last_fetch_and_of_the_keys_that_stand() -> None:
    endpoint, clock = Endpoint(), Time()
    endpoint.fail()
    key_set = a_key_set(endpoint, clock)
    assert [await key_set.health() for _ in range(3)] == ["unavailable"] * 3
    assert endpoint.fetches == 1
    endpoint.publish(a_jwk())
    clock.advance(30)
    assert await key_set.health() == "ok"
    endpoint.fail()
    clock.advance(30)
    assert (
        await key_set.health() == "ok"
    )  # nobody has noticed yet, and asking for health is no reason to fetch
    with pytest.raises(Refusal):
        await key_set.look_again()
    assert await key_set.health() == "degraded"
    clock.advance(3600 - 30)
    assert await key_set.health() == "unavailable"
    endpoint.publish(a_jwk())
    clock.advance(30)
    assert await key_set.health() == "ok"


async def test_A22_a_new_key_is_taken_and_a_withdrawn_one_refused() -> None:
    endpoint, clock = Endpoint(a_jwk()), Time()
    verifier = a_verifier(a_key_set(endpoint, clock))
    assert await code_of(verifier, a_token()) == "ok"
    endpoint.publish(a_jwk(OTHER_JWK, "k2"))
    clock.advance(30)
    assert await code_of(verifier, a_token(OTHER_KEY, "k2")) == "ok"
    assert await code_of(verifier, a_token()) == "unauthenticated"


async def test_the_keys_are_renewed_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
    endpoint = Endpoint(a_jwk())
    key_set = KeySet("https://id.example/jwks.json", ALGORITHMS, fetch=endpoint)
    await key_set.look_again()
    endpoint.publish(a_jwk(OTHER_JWK, "k2"))
    await until(lambda: key_set.find("k1", "RS256") is None)
    assert key_set.find("k2", "RS256") is not None


# What a bad endpoint can do to the fetch itself.

Answer = Callable[[asyncio.StreamWriter], Any]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP server of our own that answers every request so; the URL and what it was asked."""
    asked: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json", asked
    finally:
        server.close()


def says(head: str, body: bytes = b"") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def never_ends(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 209715200\r\n\r\n")
    for _ in range(3200):
        writer.write(b" " * 65536)
        await writer.drain()


async def test_the_document_is_fetched_whatever_proxy_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(says("200 OK", a_document(a_jwk()))) as (url, asked):
        assert json.loads(await fetched(url))["keys"][0]["kid"] == "k1"
    assert "authorization" not in asked[0].lower()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says("302 Found\r\nlocation: http://169.254.169.254/"), "status 302"),
        (says("500 Oops"), "status 500"),
        (says("204 None"), "status 204"),
        (never_ends, "larger than 262144 bytes"),
    ],
)
async def test_A21_what_is_no_document_ends_the_fetch(answer: Answer, reason: str) -> None:
    async with serving(answer) as (url, asked):
        with pytest.raises(KeySetFault, match=reason):
            await fetched(url)
    assert len(asked) == 1


async def test_A21_an_endpoint_that_drips_is_left_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_WITHIN_SECONDS", 0.2)
    async with serving(drips) as (url, _):
        started = time.monotonic()
        with pytest.raises(Refusal):
            await KeySet(url, ALGORITHMS).look_again()
        assert time.monotonic() - started < 15  # it would drip for 20
