"""The key set of an identity provider, fetched from its JWKS URL and kept.

A token never makes a request wait whose key is known, and never causes more than one fetch in thirty seconds,
whatever the endpoint does: the cooldown begins with a fetch, not with its success. The last good keys stand
for an hour while the endpoint is away. What a key set may hold is decided here, because a library would take
whatever it says: secrets, short keys, keys for encryption.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from subscription_mcp.domain.errors import Refusal

log = logging.getLogger(__name__)

FETCH_WITHIN_SECONDS = 5.0
BYTES_MAX = 256 * 1024
KEYS_MAX = 100
KID_CHARS_MAX = 256
REFRESH_SECONDS = 270.0
"""With the time a fetch may take, a key that was withdrawn is gone within 300 seconds."""
COOLDOWN_SECONDS = 30.0
KEPT_SECONDS = 3600.0
"""How long the last good keys stand while the endpoint is away."""
RSA_BITS = range(2048, 8193)

Fetch = Callable[[str], Awaitable[bytes]]
KeysHealth = Literal["ok", "degraded", "unavailable"]
"""`degraded`: the last good keys stand while no newer ones can be had. `unavailable`: there are none to judge by."""
KeySetKeys = Mapping[tuple[str, str], Any]
"""Public keys of `cryptography` by `kid` and the one algorithm each is for."""


class KeySetFault(Exception):
    """The endpoint gave no key set. The message is for the log."""


class KeySet:
    """The provider's keys as last seen. All methods are called from one event loop."""

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._fetch = fetch or fetched
        self._monotonic = monotonic
        self._keys: KeySetKeys = {}
        self._good_at: float | None = None
        self._began_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None
        self._next: asyncio.TimerHandle | None = None

    def find(self, kid: Any, algorithm: str) -> Any | None:
        """The key of this id for this algorithm, of those that are known and not too old."""
        if not isinstance(kid, str) or not self.is_known:
            return None
        return self._keys.get((kid, algorithm))

    @property
    def is_known(self) -> bool:
        """Whether there are keys young enough to judge by."""
        return self._good_at is not None and self._monotonic() - self._good_at < KEPT_SECONDS

    async def health(self) -> KeysHealth:
        """How things stand. Where there are no keys yet it waits for a fetch as an unknown key would, so that a
        server knows before its first caller."""
        if not self.is_known:
            with suppress(Refusal):
                await self.look_again()
        if not self.is_known:
            return "unavailable"
        return "degraded" if self._failed else "ok"

    async def look_again(self) -> None:
        """Wait for a fetch, begun now unless one is under way or was a moment ago. Raises Refusal `unavailable`
        where nothing can be said about a key that is still not known."""
        fetching = self._fetching
        if fetching is None and self._cooldown_left() <= 0:
            fetching = self._begin()
        if fetching is not None:
            # The fetch is everybody's: a caller that goes away does not take it along.
            await asyncio.shield(fetching)
        if self._failed or not self.is_known:
            raise Refusal(
                "unavailable",
                "The keys of the identity provider cannot be had right now, so this token cannot be judged. "
                "Try again shortly.",
                retry_after_seconds=max(1, int(self._cooldown_left() + 1)),
            )

    def _cooldown_left(self) -> float:
        if self._began_at is None:
            return 0
        return self._began_at + COOLDOWN_SECONDS - self._monotonic()

    def _begin(self) -> "asyncio.Task[None]":
        self._began_at = self._monotonic()
        if self._next is not None:
            self._next.cancel()
        self._fetching = asyncio.create_task(self._renew(), name="key set")
        return self._fetching

    def _refresh(self) -> None:
        if self._fetching is None:
            self._begin()

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(FETCH_WITHIN_SECONDS):
                text = await self._fetch(self._url)
            self._keys = keys_of(text, self._algorithms)
        except Exception as fault:
            self._failed = True
            kept = "the last good keys are kept" if self.is_known else "no token can be judged until it does"
            reason = str(fault) if isinstance(fault, KeySetFault) else type(fault).__name__
            log.warning("the JWKS URL gave no keys (%s); %s", reason, kept)
        else:
            self._good_at, self._failed = self._monotonic(), False
        finally:
            self._fetching = None
            # By itself, so that an idle server does not take a token of a key long withdrawn.
            wait = COOLDOWN_SECONDS if self._failed else REFRESH_SECONDS
            self._next = asyncio.get_running_loop().call_later(wait, self._refresh)


def keys_of(text: bytes, algorithms: frozenset[str]) -> KeySetKeys:
    """The keys of a JWKS document that may verify tokens; others are passed over. Raises KeySetFault where none
    is left, so that an empty or foreign document replaces nothing."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise KeySetFault("not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeySetFault("not a JWKS document")
    found: dict[tuple[str, str], Any] = {}
    for jwk in listed[:KEYS_MAX]:
        judged = _verification_key(jwk) if isinstance(jwk, dict) else None
        if judged is not None and judged[1] in algorithms:
            kid, algorithm, key = judged
            found.setdefault((kid, algorithm), key)
    if not found:
        raise KeySetFault("no key in it can be used")
    return found


def _verification_key(jwk: Mapping[str, Any]) -> tuple[str, str, Any] | None:
    """Id, algorithm and key; None for what is no public key for signatures of ours."""
    kid, use, operations = jwk.get("kid"), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_CHARS_MAX or use != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations or "d" in jwk:
        return None
    try:
        algorithm, key = _public_key(jwk)
    except Exception:  # whatever the parser makes of a stranger's numbers
        return None
    named = {"Ed25519": "EdDSA"}.get(str(jwk.get("alg")), jwk.get("alg", algorithm))
    return (kid, algorithm, key) if key is not None and named == algorithm else None


def _public_key(jwk: Mapping[str, Any]) -> tuple[str, Any]:
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", None:
            key: Any = RSAAlgorithm.from_jwk(dict(jwk))
            return "RS256", key if key.key_size in RSA_BITS else None
        case "EC", "P-256":
            return "ES256", ECAlgorithm.from_jwk(dict(jwk))
        case "OKP", "Ed25519":
            return "EdDSA", OKPAlgorithm.from_jwk(dict(jwk))
    return "", None


async def fetched(url: str) -> bytes:
    """The document at the URL: at most `BYTES_MAX`, no redirect followed, no proxy or credentials taken from
    the environment. The caller bounds the time. Raises KeySetFault and whatever the network does."""
    client = await asyncio.to_thread(_client)  # reading the certificates takes its time
    async with (
        client,
        client.stream(
            "GET", url, headers={"accept": "application/json", "accept-encoding": "identity"}
        ) as response,
    ):
        if response.status_code != 200:
            raise KeySetFault(f"status {response.status_code}")
        text = b""
        async for piece in response.aiter_raw():
            text += piece
            if len(text) > BYTES_MAX:
                raise KeySetFault(f"larger than {BYTES_MAX} bytes")
    return text


def _client() -> Any:
    import httpx2

    return httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=FETCH_WITHIN_SECONDS)
