"""Profiles: what each takes, refuses and maps. Every row changes one thing in a token that is good there."""

import time
from typing import Any

import jwt
import pytest

from subscription_mcp.auth.keys import VerificationKey
from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.profiles import PROFILES
from subscription_mcp.auth.tokens import TokenVerifier, mint
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.settings import ProfileName, load_settings

NOW = 1_795_183_200
SECRET = b"correct horse battery staple, twice over"
KEY = VerificationKey(SECRET, ("HS256",), "secret", may_mint=True)
ISSUER = "https://id.example"
AUDIENCES: dict[ProfileName, str] = {
    "generic": "subscription-mcp",
    "rfc9068": "subscription-mcp",
    "cognito": "client-1",
    "supabase": "authenticated",
}
GOOD: dict[ProfileName, dict[str, Any]] = {
    "generic": {},
    "rfc9068": {"client_id": "client-1", "iat": NOW, "jti": "t1"},
    "cognito": {"aud": ..., "client_id": "client-1", "token_use": "access"},
    "supabase": {"role": "authenticated", "app_metadata": {"provider": "email"}},
}


def a_token(profile: ProfileName, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCES[profile], "sub": "ann", "exp": NOW + 600}
    claims |= GOOD[profile] | changes
    given = {"typ": "at+jwt"} if header is None and profile == "rfc9068" else header
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not ...}, SECRET, headers=given
    )


def verified(profile: ProfileName, token: str) -> Principal:
    verifier = TokenVerifier(KEY, issuer=ISSUER, audiences=[AUDIENCES[profile]], profile=profile)
    return verifier.verify(token, NOW)


def refusal(profile: ProfileName, token: str) -> str:
    with pytest.raises(Refusal) as caught:
        verified(profile, token)
    assert caught.value.code == "unauthenticated"
    return caught.value.message


@pytest.mark.parametrize("profile", PROFILES)
def test_a_good_token_of_the_profile_is_a_member(profile: ProfileName) -> None:
    principal = verified(profile, a_token(profile))
    assert (principal.user, principal.tenant, principal.roles) == ("ann", "default", frozenset({"member"}))


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"])
def test_A11_rfc9068_takes_access_tokens_by_their_type(typ: str) -> None:
    assert verified("rfc9068", a_token("rfc9068", {"typ": typ})).token_id == "t1"


@pytest.mark.parametrize("typ", ["JWT", "logout+jwt", "dpop+jwt", "", None, 5, "at+jwt ", "xat+jwt"])
def test_A11_rfc9068_takes_no_other_type(typ: Any) -> None:
    assert (
        "typ" in (sentence := refusal("rfc9068", a_token("rfc9068", {"typ": typ})))
        or "another purpose" in sentence
    )


STRICT: list[Any] = [
    pytest.param({"client_id": ...}, "`client_id`", id="A13-client-id-missing"),
    pytest.param({"client_id": " "}, "`client_id`", id="A13-client-id-blank"),
    pytest.param({"client_id": 5}, "`client_id`", id="A13-client-id-number"),
    pytest.param({"jti": ...}, "`jti`", id="jti-missing"),
    pytest.param({"jti": ""}, "`jti`", id="jti-empty"),
    pytest.param({"iat": ...}, "`iat`", id="A07-iat-missing"),
    pytest.param({"iat": None}, "`iat`", id="A07-iat-null"),
    pytest.param({"iat": True}, "`iat`", id="A07-iat-true"),
    pytest.param(
        {"iat": NOW - 24 * 3600, "exp": NOW + 1}, "longer than 24 hours", id="A07-a-second-too-long"
    ),
    pytest.param({"exp": NOW + 10 * 365 * 86_400}, "longer than 24 hours", id="A07-ten-years"),
    pytest.param({"aud": ...}, "`aud`", id="A12-aud-missing"),
    pytest.param({"aud": "client-1"}, "another audience", id="A12-id-token"),
]


@pytest.mark.parametrize(("changes", "sentence"), STRICT)
def test_rfc9068_is_strict(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal("rfc9068", a_token("rfc9068", **changes))


def test_A07_rfc9068_takes_exactly_24_hours() -> None:
    assert verified("rfc9068", a_token("rfc9068", iat=NOW, exp=NOW + 24 * 3600)).issued_at == NOW


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"token_use": "id"}, "`token_use`", id="A12-id-token"),
        pytest.param({"token_use": ...}, "`token_use`", id="token-use-missing"),
        pytest.param({"token_use": ["access"]}, "`token_use`", id="token-use-list"),
        pytest.param(
            {"token_use": "id", "aud": "client-1", "client_id": ...}, "`token_use`", id="A12-aud-is-client"
        ),
        pytest.param({"client_id": "another"}, "another audience", id="another-client"),
        pytest.param({"client_id": ...}, "`aud`", id="neither"),
        pytest.param({"client_id": 5}, "`aud`", id="client-id-number"),
        pytest.param({"aud": "another"}, "another audience", id="aud-before-client-id"),
    ],
)
def test_cognito_is_strict(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal("cognito", a_token("cognito", **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"aud": "anon"}, "another audience", id="aud"),
        pytest.param({"aud": ...}, "`aud`", id="aud-missing"),
        pytest.param({"sub": ...}, "`sub`", id="project-key"),
        pytest.param({"app_metadata": "admin"}, "`app_metadata`", id="metadata-text"),
        pytest.param({"app_metadata": ["admin"]}, "`app_metadata`", id="metadata-list"),
        pytest.param({"app_metadata": {"tenant_id": "a b"}}, "`tenant_id`", id="metadata-tenant"),
    ],
)
def test_supabase_is_strict(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal("supabase", a_token("supabase", **changes))


@pytest.mark.parametrize(
    ("profile", "claims", "expected"),
    [
        ("cognito", {"custom:tenant_id": "acme", "tenant_id": "other"}, ("acme", None, None, set())),
        (
            "cognito",
            {"custom:group_id": "team", "custom:subscription_tier": "pro"},
            ("default", "team", "pro", set()),
        ),
        (
            "cognito",
            {"cognito:groups": ["admin", "eu_pool"], "roles": "superadmin"},
            ("default", None, None, {"admin"}),
        ),
        (
            "supabase",
            {"app_metadata": {"tenant_id": "acme", "tier": "pro", "roles": ["service"]}},
            ("acme", None, "pro", {"service"}),
        ),
        ("supabase", {"app_metadata": {"role": "admin", "team_id": "t"}}, ("default", "t", None, {"admin"})),
        ("supabase", {"role": "superadmin"}, ("default", None, None, set())),
        ("supabase", {"role": "service_role", "app_metadata": None}, ("default", None, None, set())),
        (
            "supabase",
            {"user_metadata": {"tenant_id": "acme", "tier": "pro", "roles": ["superadmin"]}},
            ("default", None, None, set()),
        ),
        ("supabase", {"tier": "basic", "app_metadata": {"tier": "pro"}}, ("default", None, "pro", set())),
        ("generic", {"app_metadata": {"tenant_id": "acme"}}, ("default", None, None, set())),
    ],
)
def test_claims_are_mapped(profile: ProfileName, claims: dict[str, Any], expected: Any) -> None:
    principal = verified(profile, a_token(profile, **claims))
    tenant, group, tier, roles = expected
    assert (principal.tenant, principal.group, principal.tier) == (tenant, group, tier)
    assert principal.roles == {"member"} | roles


@pytest.mark.parametrize("profile", PROFILES)
def test_a_token_minted_for_a_profile_is_read_under_it(profile: ProfileName) -> None:
    token = mint(
        KEY,
        user="ann",
        tenant="acme",
        tier="pro",
        roles=["service"],
        ttl_seconds=3600,
        issuer=ISSUER,
        audience=AUDIENCES[profile],
        now_seconds=int(time.time()),
        token_id="t1",
        profile=profile,
    )
    verifier = TokenVerifier(KEY, issuer=ISSUER, audiences=[AUDIENCES[profile]], profile=profile)
    principal = verifier.verify(token)
    assert (principal.tenant, principal.tier, principal.roles) == (
        "acme",
        "pro",
        frozenset({"member", "service"}),
    )


def test_a_token_that_would_live_too_long_is_not_minted() -> None:
    with pytest.raises(Refusal, match="at most 24 hours"):
        mint(
            KEY,
            user="ann",
            ttl_seconds=24 * 3600 + 1,
            issuer=ISSUER,
            audience="a",
            now_seconds=NOW,
            token_id="t1",
            profile="rfc9068",
        )


def test_the_audience_of_supabase_is_known() -> None:
    environment = {"SUBSCRIPTION_MCP_AUTH__PROFILE": "supabase"}
    assert load_settings(environ=environment).audiences == ("authenticated",)
    environment["SUBSCRIPTION_MCP_AUTH__AUDIENCE"] = "mine"
    assert load_settings(environ=environment).audiences == ("mine",)
