"""Profiles: what an identity provider's access tokens look like, beyond what every token must be.

A profile judges header and claims more strictly, says which claims name the audience, and maps its provider's
claims to the usual names. It never loosens a rule. `dressed` gives a token made here the same looks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from subscription_mcp.domain.errors import Refusal
from subscription_mcp.settings import ClaimNames, ProfileName

LIFETIME_SECONDS_MAX = 24 * 3600

Claims = Mapping[str, Any]


def _refuse(sentence: str) -> Refusal:
    return Refusal("unauthenticated", sentence)


def _keep(claims: Claims) -> Claims:
    return claims


def _nothing(header_or_claims: Claims) -> None:
    return None


def _plain(claims: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, claims


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider's rules. Functions raise Refusal `unauthenticated`."""

    judge_header: Callable[[Claims], None] = _nothing
    judge_claims: Callable[[Claims], None] = _nothing
    audience: Callable[[Claims], Any] = lambda claims: claims.get("aud")
    """What stands for `aud`, unjudged."""
    mapped: Callable[[Claims], Claims] = _keep
    """The claims under the names of `ClaimNames`."""
    names: Callable[[ClaimNames], ClaimNames] = lambda names: names
    dressed: Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]] = _plain
    """Header additions and claims of a token made here."""
    lifetime_seconds_max: int | None = None


# RFC 9068: access tokens that cannot be mistaken for anything else.


def _at_jwt(header: Claims) -> None:
    typ = header.get("typ")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != "at+jwt":
        raise _refuse("The header of the access token must say `typ`: `at+jwt`; an ID token is not accepted.")


def _complete(claims: Claims) -> None:
    for name in ("client_id", "jti"):
        value = claims.get(name)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise _refuse(f"The access token must have a `{name}` that is a string (RFC 9068).")
    issued_at, expires_at = claims.get("iat"), claims["exp"]
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        raise _refuse("The access token must have an `iat` (RFC 9068).")
    if expires_at - issued_at > LIFETIME_SECONDS_MAX:
        raise _refuse("The access token lives longer than 24 hours, which is not accepted.")


def _dressed_as_rfc9068(claims: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "at+jwt"}, {**claims, "client_id": claims["sub"]}


# Amazon Cognito: access tokens name the app client instead of an audience.


def _is_access(claims: Claims) -> None:
    if claims.get("token_use") != "access":
        raise _refuse("The `token_use` of the token must be `access`; an ID token is not accepted.")


def _client_or_audience(claims: Claims) -> Any:
    return claims.get("client_id") if claims.get("aud") is None else claims["aud"]


def _cognito_first(names: ClaimNames) -> ClaimNames:
    def ordered(wanted: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(wanted, key=lambda name: not name.startswith(("custom:", "cognito:"))))

    return ClaimNames(
        tenant=ordered(names.tenant),
        group=ordered(names.group),
        tier=ordered(names.tier),
        roles=ordered(names.roles),
    )


def _dressed_as_cognito(claims: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {**claims, "token_use": "access"}


# Supabase: what the project decides about a user stands in `app_metadata`; users write `user_metadata` themselves.


def _app_metadata(claims: Claims) -> Claims:
    metadata = claims.get("app_metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, Mapping):
        raise _refuse("The `app_metadata` of the access token must be an object.")
    # `role` is the role in the project's database, which says nothing about this server.
    return {name: value for name, value in claims.items() if name != "role"} | dict(metadata)


_ISSUED = frozenset({"iss", "aud", "sub", "iat", "exp", "jti"})


def _dressed_as_supabase(claims: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {name: value for name, value in claims.items() if name not in _ISSUED}
    issued = {name: value for name, value in claims.items() if name in _ISSUED}
    return {}, {**issued, "role": "authenticated", "app_metadata": own}


PROFILES: Mapping[ProfileName, Profile] = {
    "generic": Profile(),
    "rfc9068": Profile(
        judge_header=_at_jwt,
        judge_claims=_complete,
        dressed=_dressed_as_rfc9068,
        lifetime_seconds_max=LIFETIME_SECONDS_MAX,
    ),
    "cognito": Profile(
        judge_claims=_is_access,
        audience=_client_or_audience,
        names=_cognito_first,
        dressed=_dressed_as_cognito,
    ),
    "supabase": Profile(mapped=_app_metadata, dressed=_dressed_as_supabase),
}
