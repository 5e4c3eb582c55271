"""Access tokens: verified, minted, inspected, and read from where stdio finds them.

The signature is PyJWT's work. Everything a claim may be is decided here, because PyJWT lets through what
this server must not: a missing `exp`, an `exp` that is text, a key that is there twice (the last wins), an
audience nobody asked about.
"""

import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from subscription_mcp.auth.jwks import KID_CHARS_MAX, KeySet, KeysHealth
from subscription_mcp.auth.keys import VerificationKey, verification_key
from subscription_mcp.auth.principal import ROLES, Principal, Role
from subscription_mcp.auth.profiles import PROFILES
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.auth.verified import Verified, VerifiedTokens
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.identifiers import ID_RULE, is_id
from subscription_mcp.domain.instants import SECOND, format_instant
from subscription_mcp.settings import PREFIX, ClaimNames, ProfileName, Settings

if TYPE_CHECKING:
    from jwt import PyJWS

LEEWAY_SECONDS = 30
MAXIMUM_BYTES = 8 * 1024
MAXIMUM_NESTING = 16
LATEST_SECONDS = 2**53
DEFAULT_TENANT = "default"

MADE_HERE = "`subscription-mcp token mint --user YOU` makes one"
_WHERE_TO_PUT_IT = f"set it as {PREFIX}TOKEN in the env block of your client, or send it over HTTP in the Authorization header."
_UNREADABLE = (
    "The access token cannot be read: it must be a signed JWT in its compact form, exactly as it was issued."
)
_UNEXPANDED = re.compile(r"\$\{.*|\$\w+|%\w+%|\{\{.*|<.*>", re.DOTALL)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_INSTANT_CLAIMS = ("exp", "iat", "nbf", "auth_time")


def who_makes_one(may_mint: bool, issuer: str) -> str:
    """Where access tokens come from: half a sentence."""
    return MADE_HERE if may_mint else f"your identity provider, {issuer}, issues them"


def _no_token(who: str) -> Refusal:
    return _unauthenticated(f"There is no access token. {who[0].upper()}{who[1:]}; {_WHERE_TO_PUT_IT}")


def _unauthenticated(sentence: str) -> Refusal:
    return Refusal("unauthenticated", sentence)


async def _none_revoked(_: int) -> tuple[()]:
    return ()


class KeyUnknown(Refusal):
    """The token names a key that is not among those of the provider's key set as last seen."""


class TokenVerifier:
    """Judges access tokens by one key or key set, one issuer and some audiences, always by the real clock."""

    def __init__(
        self,
        key: VerificationKey,
        *,
        issuer: str,
        audiences: Sequence[str],
        claims: ClaimNames | None = None,
        profile: ProfileName = "generic",
        revocations: Revocations | None = None,
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audiences = frozenset(audiences)
        self._profile = PROFILES[profile]
        self._claims = self._profile.names(claims or ClaimNames())
        self.revocations = revocations or Revocations(_none_revoked)
        self._jws: PyJWS | None = None
        self._verified = VerifiedTokens()

    @classmethod
    def of(cls, settings: Settings, revocations: Revocations | None = None) -> "TokenVerifier":
        """The verifier the settings describe. Raises SettingsError where the key is at fault."""
        return cls(
            verification_key(settings),
            issuer=settings.issuer,
            audiences=settings.audiences,
            claims=settings.auth.claims,
            profile=settings.auth.profile,
            revocations=revocations,
        )

    async def admit(self, access_token: str) -> Principal:
        """Who is calling, with a key fetched where the token names a new one, and unless the token was revoked.
        Raises Refusal `unauthenticated`, or `unavailable` where that cannot be told now."""
        principal = await self.verify_or_fetch(access_token)
        if await self.revocations.hold(principal):
            raise _unauthenticated(f"The access token was revoked. {self._how_to_get_another()}")
        return principal

    async def keys_health(self) -> KeysHealth:
        """Whether there are keys to judge by; a provider's may have to be fetched for that."""
        return await self._key.key.health() if isinstance(self._key.key, KeySet) else "ok"

    async def verify_or_fetch(self, access_token: str, now_seconds: float | None = None) -> Principal:
        """As `verify`, but a key that is not known is looked for first. Raises Refusal `unavailable` where the
        provider's keys cannot be had."""
        try:
            return self.verify(access_token, now_seconds)
        except KeyUnknown:
            assert isinstance(self._key.key, KeySet)
            await self._key.key.look_again()
        return self.verify(access_token, now_seconds)

    def verify(self, access_token: str, now_seconds: float | None = None) -> Principal:
        """Who the token says is calling, by the keys known now. Raises Refusal `unauthenticated`, and nothing
        else."""
        now = time.time() if now_seconds is None else now_seconds
        try:
            verified = self._verified.get(access_token)
            if verified is None or not verified.holds(now, self._known_key):
                self._refuse_what_is_no_token(access_token)
                verified = self._judged(access_token, now)
                self._verified.add(access_token, verified)
            return verified.principal
        except Refusal:
            raise
        except Exception:
            raise _unauthenticated(_UNREADABLE) from None

    def _refuse_what_is_no_token(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise _no_token(who_makes_one(self._key.may_mint, self._issuer))
        if len(text) > MAXIMUM_BYTES:
            raise _unauthenticated(f"The access token is longer than {MAXIMUM_BYTES} bytes.")
        if _UNEXPANDED.fullmatch(text):
            raise _unauthenticated(
                "The access token is a placeholder: your client did not expand the variable. "
                "Write the token itself where the placeholder is."
            )
        if text[:7].lower() == "bearer ":
            raise _unauthenticated(
                "The access token begins with the word Bearer: leave out that word and the space."
            )
        if text[0] in "\"'":
            raise _unauthenticated(
                "The access token begins with a quotation mark: leave out the quotation marks."
            )

    def _judged(self, access_token: str, now: float) -> Verified:
        payload, header, key = self._signed(access_token)
        return Verified(
            self._principal(payload, now),
            valid_from=max(_instant_claim(payload, name) for name in ("nbf", "iat")) - LEEWAY_SECONDS,
            valid_until=payload["exp"] + LEEWAY_SECONDS,
            header=header,
            key=key,
        )

    def _signed(self, access_token: str) -> tuple[Mapping[str, Any], Mapping[str, Any], Any]:
        """The payload, once its signature is good, with the header and the key it was made with."""
        segments = access_token.split(".")
        if len(segments) != 3 or not all(map(_BASE64URL.fullmatch, segments)):
            raise _unauthenticated(_UNREADABLE)
        header = _json_object(_base64url(segments[0]))
        algorithm = header.get("alg")
        if not isinstance(algorithm, str | None):
            raise _unauthenticated(_UNREADABLE)
        if not algorithm or algorithm.lower() == "none":
            raise _unauthenticated("The access token is not signed.")
        if algorithm not in self._key.algorithms:
            accepted = ", ".join(self._key.algorithms)
            raise _unauthenticated(
                f"The access token is signed in another way than this server accepts ({accepted})."
            )
        if "crit" in header or "b64" in header:
            raise _unauthenticated("The access token demands an extension this server does not have.")
        if _is_for_something_else(header.get("typ")):
            raise _unauthenticated("This token was issued for another purpose than access.")
        if not isinstance(header.get("kid", ""), str):
            raise _unauthenticated(_UNREADABLE)
        self._profile.judge_header(header)
        key = self._key_of(header, algorithm)

        from jwt import InvalidSignatureError

        try:
            signed = self._verifier().decode_complete(access_token, key, algorithms=[algorithm])
        except InvalidSignatureError:
            raise _unauthenticated(
                f"The access token was not signed with the key of this server. {self._how_to_get_another()}"
            ) from None
        return _json_object(signed["payload"]), header, key

    def _known_key(self, header: Mapping[str, Any]) -> Any:
        """The key for a header that was judged before; None where it was withdrawn since."""
        if isinstance(self._key.key, KeySet):
            return self._key.key.find(header["kid"], header["alg"])
        return self._key.key

    def _key_of(self, header: Mapping[str, Any], algorithm: str) -> Any:
        if not isinstance(self._key.key, KeySet):
            return self._key.key
        kid = header.get("kid")
        if not kid:
            raise _unauthenticated("The access token does not name its key: its header must have a `kid`.")
        if len(kid) > KID_CHARS_MAX:
            raise _unauthenticated(_UNREADABLE)
        key = self._key.key.find(kid, algorithm)
        if key is None:
            raise KeyUnknown(
                "unauthenticated",
                "The access token was signed with a key that is not among those of the identity provider. "
                + self._how_to_get_another(),
            )
        return key

    def _verifier(self) -> "PyJWS":
        if self._jws is None:
            from jwt import PyJWS

            self._jws = PyJWS(algorithms=self._key.algorithms, options={"enforce_minimum_key_length": True})
        return self._jws

    def _principal(self, payload: Mapping[str, Any], now: float) -> Principal:
        expires_at = self._expiry(payload, now)
        for name in ("nbf", "iat"):
            if _instant_claim(payload, name) > now + LEEWAY_SECONDS:
                raise _unauthenticated(
                    "The access token is not valid yet: check the clocks of issuer and server."
                )
        self._judge_issuer_and_audience(payload)
        self._profile.judge_claims(payload)
        if "sub" not in payload:
            raise _unauthenticated("The access token has no `sub`: it does not say who is calling.")
        claims = self._profile.mapped(payload)
        return Principal(
            tenant=_optional_id(claims, self._claims.tenant) or DEFAULT_TENANT,
            user=_id("sub", payload["sub"]),
            group=_optional_id(claims, self._claims.group),
            tier=_tier(claims, self._claims.tier),
            roles=_roles(claims, self._claims.roles),
            issuer=self._issuer,
            expires_at=expires_at,
            token_id=_token_id(payload),
            issued_at=int(_instant_claim(payload, "iat")) or None,
        )

    def _expiry(self, payload: Mapping[str, Any], now: float) -> int:
        if payload.get("exp") is None:
            raise _unauthenticated("The access token has no `exp`: one that never expires is not accepted.")
        expires_at = payload["exp"]
        if type(expires_at) is not int or not 1 <= expires_at <= LATEST_SECONDS:
            raise _unauthenticated(
                "The `exp` of the access token must be a whole number of seconds since 1970."
            )
        if expires_at <= now - LEEWAY_SECONDS:
            raise _unauthenticated(
                f"The access token expired at {_rfc_3339(expires_at)}. {self._how_to_get_another()}"
            )
        return expires_at

    def _judge_issuer_and_audience(self, payload: Mapping[str, Any]) -> None:
        issuer = payload.get("iss")
        if not isinstance(issuer, str) or issuer != self._issuer:
            raise _unauthenticated(
                f"The access token is from another issuer than this server's, {self._issuer}."
            )
        audience = self._profile.audience(payload)
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or not all(isinstance(name, str) for name in audiences):
            raise _unauthenticated("The `aud` of the access token must be a string or a list of strings.")
        if self._audiences.isdisjoint(audiences):
            wanted = " or ".join(sorted(self._audiences))
            raise _unauthenticated(f"The access token is for another audience than this server, {wanted}.")

    def _how_to_get_another(self) -> str:
        if self._key.may_mint:
            return f"Get a new one: {MADE_HERE}; {_WHERE_TO_PUT_IT}"
        return f"Sign in again with your identity provider, {self._issuer}, to get a new one."


def mint(
    settings_key: VerificationKey,
    *,
    user: str,
    tenant: str | None = None,
    group: str | None = None,
    tier: str | None = None,
    roles: Iterable[str] = (),
    ttl_seconds: int,
    issuer: str,
    audience: str | Sequence[str],
    now_seconds: int,
    token_id: str,
    claims: ClaimNames | None = None,
    profile: ProfileName = "generic",
) -> str:
    """A token for this user, signed with a key that is both ours and secret. Raises Refusal `invalid_request`.

    Where the settings name the claims differently or have a profile, `claims` and `profile` make the token one
    this server reads.
    """
    if not settings_key.may_mint:
        raise Refusal(
            "invalid_request",
            "This server verifies with a public key and cannot mint: get tokens from your identity provider.",
        )
    for what, text in (("user", user), ("tenant", tenant), ("group", group), ("token id", token_id)):
        if text is not None and not is_id(text):
            raise Refusal("invalid_request", f"The {what} must be {ID_RULE}.")
    if tier is not None and not (tier and tier.isprintable()):
        raise Refusal("invalid_request", "The tier must be the name of a plan.")
    wanted = tuple(dict.fromkeys(roles))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown:
        raise Refusal("invalid_request", f"There is no such role; there are {', '.join(sorted(ROLES))}.")
    if ttl_seconds < 1 or now_seconds + ttl_seconds > LATEST_SECONDS:
        raise Refusal("invalid_request", "The lifetime must be at least a second.")

    looks = PROFILES[profile]
    if looks.lifetime_seconds_max is not None and ttl_seconds > looks.lifetime_seconds_max:
        hours = looks.lifetime_seconds_max // 3600
        raise Refusal("invalid_request", f"Under the profile {profile} a token lives at most {hours} hours.")

    import jwt

    names = looks.names(claims or ClaimNames())
    optional = {
        names.tenant[0]: tenant,
        names.group[0]: group,
        names.tier[0]: tier,
        names.roles[0]: list(wanted),
    }
    payload = {name: value for name, value in optional.items() if value} | {
        "iss": issuer,
        "aud": audience if isinstance(audience, str) or len(audience) > 1 else audience[0],
        "sub": user,
        "iat": now_seconds,
        "exp": now_seconds + ttl_seconds,
        "jti": token_id,
    }
    header, payload = looks.dressed(payload)
    return jwt.encode(payload, settings_key.key, algorithm=settings_key.algorithms[0], headers=header or None)


def inspect(access_token: str, verifier: TokenVerifier, now_seconds: float | None = None) -> dict[str, Any]:
    """What a token says and what this server makes of it, for the one who holds it: `header` and `claims` (null
    where they cannot be read, instants as RFC 3339), `valid`, and `verdict` ("valid" or the refusal's sentence).
    The signature is left out, so the answer cannot be used as the token."""
    try:
        verifier.verify(access_token, now_seconds)
    except Refusal as refusal:
        return _inspected(access_token, refusal)
    return _inspected(access_token, None)


async def inspect_admission(access_token: str, verifier: TokenVerifier) -> dict[str, Any]:
    """The same with what a server would ask besides: the provider's keys, and whether it was revoked."""
    try:
        await verifier.admit(access_token)
    except Refusal as refusal:
        return _inspected(access_token, refusal)
    return _inspected(access_token, None)


def _inspected(access_token: str, refusal: Refusal | None) -> dict[str, Any]:
    header = claims = None
    if isinstance(access_token, str) and len(access_token) <= MAXIMUM_BYTES:
        segments = access_token.split(".")
        if len(segments) == 3:
            header, claims = _readable(segments[0]), _readable(segments[1])
    verdict = "valid" if refusal is None else refusal.message
    return {"header": header, "claims": claims, "valid": refusal is None, "verdict": verdict}


class TokenSource:
    """Where stdio finds its access token: a value, or a file that is read again when it changes."""

    def __init__(
        self, token: str | None = None, token_file: Path | None = None, who_makes_one: str = MADE_HERE
    ) -> None:
        self._token = token
        self._file = token_file
        self._who = who_makes_one
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, settings: Settings) -> "TokenSource":
        return cls(
            settings.token.get_secret_value() if settings.token else None,
            Path(settings.token_file) if settings.token_file else None,
            who_makes_one(settings.may_mint, settings.issuer),
        )

    def read(self) -> str:
        """The token as it is now, unverified. Raises Refusal `unauthenticated` with what to do."""
        if self._file is not None:
            try:
                self._read_again(self._file)
            except (OSError, ValueError):
                self._seen = self._token = None
                raise _unauthenticated(
                    f"The file that {PREFIX}TOKEN_FILE names cannot be read. Put a token there: {self._who}."
                ) from None
        if not self._token or not self._token.strip():
            raise _no_token(self._who)
        return self._token.strip()

    def _read_again(self, path: Path) -> None:
        status = path.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen != self._seen:
            with path.open("rb") as file:
                self._token = file.read(2 * MAXIMUM_BYTES).decode()
            self._seen = seen


def _is_for_something_else(typ: Any) -> bool:
    """Whether the header's `typ` names a JWT of another trade: a logout token, a proof of possession."""
    if typ is None:
        return False
    if not isinstance(typ, str):
        return True
    name = typ.lower().removeprefix("application/")
    return name.endswith("+jwt") and name != "at+jwt"


def _base64url(segment: str) -> bytes:
    return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _json_object(text: bytes) -> Mapping[str, Any]:
    value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict) or _is_nested_beyond(value, MAXIMUM_NESTING):
        raise _unauthenticated(_UNREADABLE)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    once = dict(pairs)
    if len(once) != len(pairs):
        raise _unauthenticated("The access token names something twice, so it could be read in two ways.")
    return once


def _no_constant(_: str) -> NoReturn:
    raise _unauthenticated(_UNREADABLE)


def _is_nested_beyond(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, list):
        inner = value
    else:
        return False
    return levels == 0 or any(_is_nested_beyond(item, levels - 1) for item in inner)


def _first_present(payload: Mapping[str, Any], names: Iterable[str]) -> tuple[str, Any] | None:
    """The first of these claims that says something: null and empty are the same as absent."""
    for name in names:
        value = payload.get(name)
        if value is not None and value != "" and value != []:
            return name, value
    return None


def _id(name: str, value: Any) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise _unauthenticated(f"The `{name}` of the access token must be {ID_RULE}.")
    return value


def _optional_id(payload: Mapping[str, Any], names: Iterable[str]) -> str | None:
    present = _first_present(payload, names)
    return None if present is None else _id(*present)


def _tier(payload: Mapping[str, Any], names: Iterable[str]) -> str | None:
    present = _first_present(payload, names)
    if present is None:
        return None
    name, tier = present
    if not isinstance(tier, str) or not tier.isprintable():
        raise _unauthenticated(f"The `{name}` of the access token must be the name of a plan.")
    return tier


def _roles(payload: Mapping[str, Any], names: Iterable[str]) -> frozenset[Role]:
    present = _first_present(payload, names)
    if present is None:
        return frozenset({"member"})
    name, value = present
    words = re.split(r"[\s,]+", value) if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _unauthenticated(f"The `{name}` of the access token must be a list of strings, or one string.")
    return frozenset(role for role in ROLES if role == "member" or role in words)


def _token_id(payload: Mapping[str, Any]) -> str | None:
    token_id = payload.get("jti")
    if token_id is None or token_id == "":
        return None
    if not isinstance(token_id, str) or not token_id.isprintable():
        raise _unauthenticated("The `jti` of the access token must be a string.")
    return token_id


def _instant_claim(payload: Mapping[str, Any], name: str) -> float:
    """Seconds since 1970; 0 where the claim is absent."""
    value = payload.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _unauthenticated(f"The `{name}` of the access token must be a number of seconds since 1970.")
    return value


def _rfc_3339(seconds: int) -> str:
    return format_instant(seconds * SECOND)


def _readable(segment: str) -> dict[str, Any] | None:
    try:
        read = dict(_json_object(_base64url(segment)))
    except Exception:
        return None
    for name in _INSTANT_CLAIMS:
        value = read.get(name)
        if type(value) is int and 0 <= value < 10**11:
            read[name] = _rfc_3339(value)
    return read
