"""Access tokens: what is accepted, every attack that is not, and the sentence each refusal gets."""

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from subscription_mcp.auth.keys import VerificationKey, verification_key
from subscription_mcp.auth.principal import ROLES, Principal
from subscription_mcp.auth.tokens import MAXIMUM_BYTES, TokenSource, TokenVerifier, inspect, mint
from subscription_mcp.auth.verified import KEPT_MAX, Verified, VerifiedTokens
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.settings import ClaimNames, load_settings

NOW = 1_795_183_200  # 2026-11-20T14:00:00Z
SECRET = b"correct horse battery staple, twice over"
ISSUER, AUDIENCE = "https://id.example", "subscription-mcp"
SECRET_KEY = VerificationKey(SECRET, ("HS256",), "secret", may_mint=True)
SIGNERS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def a_verifier(**changes: Any) -> TokenVerifier:
    return TokenVerifier(**{"key": SECRET_KEY, "issuer": ISSUER, "audiences": [AUDIENCE], **changes})


def a_public_verifier(algorithm: str) -> TokenVerifier:
    key = SIGNERS[algorithm].public_key()
    return a_verifier(key=VerificationKey(key, (algorithm,), "public_key", may_mint=False))


def some_claims(**changes: Any) -> dict[str, Any]:
    """Claims that are accepted, with changes; a change to `...` takes the claim away."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 600} | changes
    return {name: value for name, value in claims.items() if value is not ...}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: str | bytes, header: str = '{"alg":"HS256","typ":"JWT"}', secret: bytes = SECRET) -> str:
    """A good signature over any text, which no JWT library would let us make."""
    data = payload if isinstance(payload, bytes) else payload.encode()
    text = f"{encoded(header.encode())}.{encoded(data)}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def a_token(**changes: Any) -> str:
    return signed(json.dumps(some_claims(**changes)))


def verified(access_token: str, now: float = NOW, **changes: Any) -> Principal:
    return a_verifier(**changes).verify(access_token, now)


def refusal(access_token: Any, now: float = NOW, verifier: TokenVerifier | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        (verifier or a_verifier()).verify(access_token, now)
    assert caught.value.code == "unauthenticated"
    assert caught.value.__cause__ is None
    return caught.value.message


def test_a_good_token_says_who_is_calling() -> None:
    token = a_token(tenant_id="acme", group_id="team-1", tier="basic", roles=["service"], jti="t1", iat=NOW)
    assert verified(token) == Principal(
        tenant="acme",
        user="ann",
        group="team-1",
        tier="basic",
        roles=frozenset({"member", "service"}),
        issuer=ISSUER,
        expires_at=NOW + 600,
        token_id="t1",
        issued_at=NOW,
    )


def test_a_token_with_nothing_but_the_required_claims_is_a_member_of_the_default_tenant() -> None:
    principal = verified(a_token())
    assert (principal.tenant, principal.group, principal.tier, principal.token_id) == (
        "default",
        None,
        None,
        None,
    )
    assert principal.roles == {"member"}
    assert not principal.is_operator


def test_the_real_clock_is_the_default() -> None:
    assert a_verifier().verify(a_token(exp=int(time.time()) + 5)).user == "ann"
    with pytest.raises(Refusal, match="expired"):
        a_verifier().verify(a_token(exp=int(time.time()) - 31))


def test_a_token_that_was_good_is_judged_again_by_the_clock() -> None:
    verifier = a_verifier()
    token = a_token(nbf=NOW - 60, exp=NOW + 600)
    assert verifier.verify(token, NOW) is verifier.verify(token, NOW + 629)
    assert "expired" in refusal(token, NOW + 630, verifier)
    assert "not valid yet" in refusal(token, NOW - 91, verifier)
    assert verifier.verify(token, NOW - 90).user == "ann"


def test_a_good_token_vouches_for_no_other() -> None:
    verifier = a_verifier()
    token = a_token()
    assert verifier.verify(token, NOW).user == "ann"
    head, payload, signature = token.split(".")
    forged = encoded(json.dumps(some_claims(sub="eve")).encode())
    for other in (f"{head}.{forged}.{signature}", f"{head}.{payload}.{signature[::-1]}", token + "A"):
        refusal(other, NOW, verifier)


def test_only_so_many_tokens_are_remembered() -> None:
    kept = VerifiedTokens()
    found = Verified(a_verifier().verify(a_token(), NOW), NOW, NOW + 1, {}, None)
    for number in range(KEPT_MAX + 1):
        kept.add(f"token-{number}", found)
    assert kept.get("token-0") is None
    assert kept.get("token-1") is kept.get(f"token-{KEPT_MAX}") is found


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_public_key_verifies_what_its_private_half_signed(algorithm: str) -> None:
    token = jwt.encode(some_claims(), SIGNERS[algorithm], algorithm=algorithm, headers={"kid": "k1"})
    assert a_public_verifier(algorithm).verify(token, NOW).user == "ann"
    head, body, signature = token.split(".")
    forged = f"{head}.{body}.{'A' * len(signature)}"
    assert "not signed with the key of this server" in refusal(forged, verifier=a_public_verifier(algorithm))
    assert "signed in another way" in refusal(token)


# What is no token at all, and what a person should do about it.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "There is no access token.", id="A01-empty"),
        pytest.param("  \n", "There is no access token.", id="A01-blank"),
        pytest.param(None, "There is no access token.", id="A01-none"),
        pytest.param(
            "${SUBSCRIPTION_TOKEN}", "your client did not expand the variable", id="unexpanded-braces"
        ),
        pytest.param("${env:TOKEN}", "your client did not expand the variable", id="unexpanded-env"),
        pytest.param("$TOKEN", "your client did not expand the variable", id="unexpanded-dollar"),
        pytest.param("%TOKEN%", "your client did not expand the variable", id="unexpanded-percent"),
        pytest.param("<your token>", "your client did not expand the variable", id="unexpanded-angles"),
        pytest.param(f"Bearer {a_token()}", "leave out that word", id="bearer"),
        pytest.param(f"bearer {a_token()}", "leave out that word", id="bearer-lower-case"),
        pytest.param(f'"{a_token()}"', "leave out the quotation marks", id="quoted"),
    ],
)
def test_what_is_no_token_gets_a_sentence_that_helps(text: Any, sentence: str) -> None:
    assert sentence in refusal(text)


def test_without_a_token_the_refusal_says_how_to_get_one() -> None:
    sentence = refusal("")
    assert "subscription-mcp token mint --user YOU" in sentence
    assert "SUBSCRIPTION_MCP_TOKEN" in sentence


# Attacks on the header and the signature.

HEADERS = [
    pytest.param('{"alg":"none"}', "is not signed", id="A02-none"),
    pytest.param('{"alg":"None"}', "is not signed", id="A02-None"),
    pytest.param('{"alg":"nOnE"}', "is not signed", id="A02-nOnE"),
    pytest.param('{"alg":""}', "is not signed", id="A02-empty"),
    pytest.param("{}", "is not signed", id="A02-absent"),
    pytest.param('{"alg":null}', "is not signed", id="A02-null"),
    pytest.param('{"alg":5}', "cannot be read", id="A02-number"),
    pytest.param('{"alg":["HS256"]}', "cannot be read", id="A02-list"),
    pytest.param('{"alg":"hs256"}', "signed in another way", id="A02-lower-case"),
    pytest.param('{"alg":"HS512"}', "signed in another way", id="A02-HS512"),
    pytest.param('{"alg":"RS256"}', "signed in another way", id="A03-RS256"),
    pytest.param('{"alg":"HS256","typ":"logout+jwt"}', "another purpose", id="A11-logout"),
    pytest.param('{"alg":"HS256","typ":"application/dpop+jwt"}', "another purpose", id="A11-dpop"),
    pytest.param('{"alg":"HS256","typ":5}', "another purpose", id="A11-number"),
    pytest.param('{"alg":"HS256","kid":5}', "cannot be read", id="A15-number"),
    pytest.param('{"alg":"HS256","kid":["a"]}', "cannot be read", id="A15-list"),
    pytest.param('{"alg":"HS256","kid":"' + "k" * 10_000 + '"}', "longer than 8192 bytes", id="A15-10kB"),
    pytest.param('{"alg":"HS256","crit":["exp"]}', "demands an extension", id="A17-crit-exp"),
    pytest.param('{"alg":"HS256","crit":[]}', "demands an extension", id="A17-crit-empty"),
    pytest.param('{"alg":"HS256","b64":false,"crit":["b64"]}', "demands an extension", id="A17-b64"),
    pytest.param('{"alg":"HS256","b64":true}', "demands an extension", id="A17-b64-true"),
    pytest.param('{"alg":"none","alg":"HS256"}', "names something twice", id="A30-twice"),
    pytest.param('{"alg":"HS256","x":{"a":1,"a":2}}', "names something twice", id="A30-twice-inside"),
    pytest.param('{"alg":"HS256","x":' + "[" * 16 + "]" * 16 + "}", "cannot be read", id="A31-nesting"),
    pytest.param('["HS256"]', "cannot be read", id="list"),
    pytest.param("{", "cannot be read", id="no-json"),
    pytest.param("\ufeff{}", "cannot be read", id="byte-order-mark"),
]


@pytest.mark.parametrize(("header", "sentence"), HEADERS)
def test_a_bad_header_is_refused_under_a_good_signature(header: str, sentence: str) -> None:
    assert sentence in refusal(signed(json.dumps(some_claims()), header))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param('{"alg":"HS256"}', id="A11-no-typ"),
        pytest.param('{"alg":"HS256","typ":"JWT"}', id="A11-JWT"),
        pytest.param('{"alg":"HS256","typ":"AT+JWT"}', id="A11-AT+JWT"),
        pytest.param('{"alg":"HS256","typ":"application/at+jwt"}', id="A11-application"),
        pytest.param('{"alg":"HS256","kid":"../../../../dev/null"}', id="A15-path"),
        pytest.param('{"alg":"HS256","kid":"x\' UNION SELECT \'k\'--"}', id="A15-sql"),
        pytest.param('{"alg":"HS256","jku":"http://127.0.0.1:9/","x5u":"http://127.0.0.1:9/"}', id="A16-jku"),
        pytest.param('{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}', id="A16-jwk"),
        pytest.param('{"alg":"HS256","x":' + "[" * 15 + "]" * 15 + "}", id="A31-nesting-just-allowed"),
    ],
)
def test_a_header_that_means_nothing_to_one_fixed_key_changes_nothing(header: str) -> None:
    assert verified(signed(json.dumps(some_claims()), header)).user == "ann"


def test_A02_an_unsigned_token_is_refused() -> None:
    head, body, _ = signed(json.dumps(some_claims()), '{"alg":"none"}').split(".")
    assert "is not signed" in refusal(f"{head}.{body}.")
    head, body, _ = a_token().split(".")
    assert "not signed with the key of this server" in refusal(f"{head}.{body}.")


@pytest.mark.parametrize("algorithm", SIGNERS)
@pytest.mark.parametrize("form", ["pem", "der", "body", "hex"])
def test_A03_a_public_key_is_never_the_secret_of_an_hmac(algorithm: str, form: str) -> None:
    key = SIGNERS[algorithm].public_key()
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = {"pem": text, "der": der, "body": b"".join(text.split(b"\n")[1:-2]), "hex": der.hex().encode()}[
        form
    ]
    verifier = a_public_verifier(algorithm)
    assert "signed in another way" in refusal(
        signed(json.dumps(some_claims()), secret=secret), verifier=verifier
    )
    confused = signed(json.dumps(some_claims()), f'{{"alg":"{algorithm}"}}', secret)
    assert "not signed with the key of this server" in refusal(confused, verifier=verifier)


def test_a_token_of_another_key_is_refused_before_its_claims_are_judged() -> None:
    foreign = signed(json.dumps(some_claims(exp=1)), secret=b"x" * 32)
    sentence = refusal(foreign)
    assert "not signed with the key of this server" in sentence
    assert "subscription-mcp token mint" in sentence


def test_a_changed_payload_is_refused() -> None:
    head, _, signature = a_token().split(".")
    changed = encoded(json.dumps(some_claims(roles=["superadmin"])).encode())
    assert "not signed with the key of this server" in refusal(f"{head}.{changed}.{signature}")


def test_a_short_secret_verifies_nothing() -> None:
    weak = a_verifier(key=VerificationKey(b"secret", ("HS256",), "secret", may_mint=True))
    assert "cannot be read" in refusal(signed(json.dumps(some_claims()), secret=b"secret"), verifier=weak)


@pytest.mark.parametrize("size", [8_193, 64 * 1024, 1024 * 1024])
def test_A18_an_oversized_token_is_refused_before_it_is_decoded(size: int) -> None:
    assert refusal("a" * size) == "The access token is longer than 8192 bytes."
    fitting = a_token(padding="x" * 5_000)
    assert len(fitting) < MAXIMUM_BYTES
    assert verified(fitting).user == "ann"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "..",
        "\ud800.\ud800.\ud800",
        "e30.e30.\x00",
        "ä.ö.ü",
        a_token() + "\n",
        a_token() + "=",
        " " + a_token(),
        a_token().replace(".", ". "),
    ],
)
def test_what_cannot_be_read_is_refused_and_never_raised(text: str) -> None:
    assert "cannot be read" in refusal(text) or "not signed" in refusal(text)


@pytest.mark.parametrize(
    "junk", [b"", b"\xff\xfe{\x00}\x00", b"[]", b"null", b"5", b'"a"', b"{", b"\xff", b"{}{}"]
)
def test_a_payload_that_is_no_json_object_in_utf8_is_refused(junk: bytes) -> None:
    assert "cannot be read" in refusal(signed(junk))


# Attacks on the claims.


def claims_text(more: str, **changes: Any) -> str:
    return json.dumps(some_claims(**changes))[:-1] + f",{more}}}"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        pytest.param('"sub":"root"', "names something twice", id="A30-sub-twice"),
        pytest.param('"exp":1', "names something twice", id="A30-exp-twice"),
        pytest.param('"a":{"b":1,"b":2}', "names something twice", id="A30-inside"),
        pytest.param('"a":' + "[" * 16 + "]" * 16, "cannot be read", id="A31-list-17"),
        pytest.param('"a":' + '{"a":' * 16 + "1" + "}" * 16, "cannot be read", id="A31-object-17"),
        pytest.param('"a":' + "[" * 2_000 + "]" * 2_000, "cannot be read", id="A31-list-2000"),
        pytest.param('"a":NaN', "cannot be read", id="NaN"),
        pytest.param('"a":-Infinity', "cannot be read", id="Infinity"),
        pytest.param('"a":' + "9" * 5_000, "cannot be read", id="5000-digits"),
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused(more: str, sentence: str) -> None:
    assert sentence in refusal(signed(claims_text(more)))


def test_A31_sixteen_levels_are_allowed() -> None:
    assert verified(signed(claims_text('"a":' + "[" * 15 + "]" * 15))).user == "ann"


BAD_CLAIMS = [
    pytest.param({"exp": ...}, "has no `exp`", id="A04-exp-missing"),
    pytest.param({"exp": None}, "has no `exp`", id="A04-exp-null"),
    *(
        pytest.param({"exp": value}, "`exp` of the access token must be a whole number", id=f"A05-exp-{name}")
        for name, value in {
            "zero": 0,
            "negative": -5,
            "true": True,
            "float": float(NOW + 60),
            "string": str(NOW + 60),
            "huge": 2**53 + 1,
            "4000-digits": 10**4000,
            "1e300": 1e300,
            "list": [NOW + 60],
        }.items()
    ),
    *(
        pytest.param({name: value}, sentence, id=f"A08-{name}-{case}")
        for name in ("nbf", "iat")
        for case, value, sentence in [
            ("ahead", NOW + 31, "not valid yet"),
            ("ahead-float", NOW + 30.5, "not valid yet"),
            ("far", 2**60, "not valid yet"),
            ("string", str(NOW), "must be a number of seconds"),
            ("true", True, "must be a number of seconds"),
            ("4000-digits", 10**4000, "cannot be read"),
        ]
    ),
    *(
        pytest.param(
            {"iss": value}, "from another issuer than this server's, https://id.example.", id=f"A10-{name}"
        )
        for name, value in {
            "slash": f"{ISSUER}/",
            "prefix": f"{ISSUER}.evil.com",
            "http": "http://id.example",
            "list": [ISSUER],
            "empty": "",
            "missing": ...,
            "case": ISSUER.upper(),
        }.items()
    ),
    pytest.param({"aud": "client-1"}, "for another audience than this server", id="A12-id-token"),
    pytest.param({"aud": ["client-1", "client-2"]}, "for another audience than this server", id="A12-list"),
    pytest.param({"aud": []}, "for another audience than this server", id="A12-empty-list"),
    pytest.param({"aud": ""}, "for another audience than this server", id="A12-empty"),
    pytest.param({"aud": ...}, "must be a string or a list of strings", id="A12-missing"),
    pytest.param({"aud": [AUDIENCE, 5]}, "must be a string or a list of strings", id="A12-number-in-list"),
    pytest.param({"aud": {AUDIENCE: 1}}, "must be a string or a list of strings", id="A12-object"),
    pytest.param({"sub": ...}, "has no `sub`", id="A13-missing"),
    *(
        pytest.param(
            {"sub": value}, "`sub` of the access token must be 1 to 128 characters", id=f"A13-{name}"
        )
        for name, value in {
            "null": None,
            "empty": "",
            "blank": " ",
            "number": 5,
            "long": "a" * 2_000,
            "129": "a" * 129,
            "nul": "a\u0000b",
            "line": "a\nb",
            "line-end": "a\n",
            "right-to-left": "\u202eadmin",
            "surrogate": "\ud800",
            "digits": "\u0661",
        }.items()
    ),
    pytest.param({"tenant_id": "a/b"}, "`tenant_id` of the access token must be", id="tenant-slash"),
    pytest.param({"tenant_id": 5}, "`tenant_id` of the access token must be", id="tenant-number"),
    pytest.param({"tenant_id": " "}, "`tenant_id` of the access token must be", id="tenant-blank"),
    pytest.param(
        {"tenant_id": "*", "org_id": "fine"}, "`tenant_id` of the access token must be", id="tenant-first"
    ),
    pytest.param({"team_id": "a b"}, "`team_id` of the access token must be", id="group-space"),
    pytest.param({"group_id": ["team"]}, "`group_id` of the access token must be", id="group-list"),
    pytest.param({"tier": 5}, "`tier` of the access token must be the name of a plan", id="tier-number"),
    pytest.param({"tier": ["pro"]}, "`tier` of the access token must be the name of a plan", id="tier-list"),
    pytest.param({"tier": False}, "`tier` of the access token must be the name of a plan", id="tier-false"),
    pytest.param({"tier": "pro\n"}, "`tier` of the access token must be the name of a plan", id="tier-line"),
    pytest.param(
        {"tier": "\ud800"}, "`tier` of the access token must be the name of a plan", id="tier-surrogate"
    ),
    pytest.param({"roles": {"admin": True}}, "`roles` of the access token must be a list", id="roles-object"),
    pytest.param({"roles": ["admin", 5]}, "`roles` of the access token must be a list", id="roles-number"),
    pytest.param({"jti": 5}, "`jti` of the access token must be a string", id="jti-number"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_CLAIMS)
def test_a_bad_claim_is_refused(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(a_token(**changes))


@pytest.mark.parametrize(
    ("claim", "seconds_from_now", "accepted"),
    [
        ("exp", 1, True),
        ("exp", 0, True),
        ("exp", -1, True),
        ("exp", -29, True),
        ("exp", -30, False),
        ("exp", -31, False),
        ("nbf", 30, True),
        ("nbf", 31, False),
        ("iat", 30, True),
        ("iat", 31, False),
    ],
)
def test_A06_the_leeway_is_thirty_seconds(claim: str, seconds_from_now: int, accepted: bool) -> None:
    token = a_token(**{claim: NOW + seconds_from_now})
    if accepted:
        assert verified(token).user == "ann"
    else:
        refusal(token)


def test_the_leeway_ends_at_the_instant_not_after_it() -> None:
    assert verified(a_token(exp=NOW), now=NOW + 29.999).user == "ann"
    assert "expired" in refusal(a_token(exp=NOW), now=NOW + 30)


def test_an_expired_token_says_when_and_how_to_get_a_new_one() -> None:
    sentence = refusal(a_token(exp=NOW - 3600))
    assert "expired at 2026-11-20T13:00:00Z" in sentence
    assert "subscription-mcp token mint --user YOU" in sentence
    assert "SUBSCRIPTION_MCP_TOKEN in the env block of your client, or send it over HTTP" in sentence
    foreign = jwt.encode(some_claims(exp=NOW - 3600), SIGNERS["ES256"], algorithm="ES256")
    sentence = refusal(foreign, verifier=a_public_verifier("ES256"))
    assert sentence.endswith(f"Sign in again with your identity provider, {ISSUER}, to get a new one.")


@pytest.mark.parametrize("exp", [NOW + 1, 2**53], ids=["soon", "last"])
def test_any_whole_second_up_to_the_last_is_an_expiry(exp: int) -> None:
    assert verified(a_token(exp=exp)).expires_at == exp


def test_an_audience_may_be_one_of_several_on_both_sides() -> None:
    assert verified(a_token(aud=["other", AUDIENCE])).user == "ann"
    assert verified(a_token(aud="b"), audiences=["a", "b"]).user == "ann"


TENANTS = [
    ({}, "default"),
    ({"org_id": "o"}, "o"),
    ({"custom:tenant_id": "c", "org_id": "o"}, "c"),
    ({"tenant_id": "t", "custom:tenant_id": "c", "org_id": "o"}, "t"),
    ({"tenant_id": "", "custom:tenant_id": None, "org_id": "o"}, "o"),
    ({"tenant_id": ""}, "default"),
]
GROUPS = [
    ({}, None),
    ({"team_id": "t"}, "t"),
    ({"account_id": "a", "team_id": "t"}, "a"),
    ({"custom:group_id": "c", "account_id": "a"}, "c"),
    ({"group_id": "g", "custom:group_id": "c"}, "g"),
    ({"group_id": None, "team_id": "t"}, "t"),
    ({"group_id": ""}, None),
]
TIERS = [
    ({}, None),
    ({"tier": "t"}, "t"),
    ({"subscription_tier": "s", "tier": "t"}, "s"),
    ({"custom:subscription_tier": "c", "subscription_tier": "s"}, "c"),
    ({"custom:subscription_tier": "", "tier": "t"}, "t"),
    ({"tier": "no such plan"}, "no such plan"),
]


@pytest.mark.parametrize(("claims", "tenant"), TENANTS)
def test_the_first_tenant_claim_present_wins(claims: dict[str, Any], tenant: str) -> None:
    assert verified(a_token(**claims)).tenant == tenant


@pytest.mark.parametrize(("claims", "group"), GROUPS)
def test_the_first_group_claim_present_wins(claims: dict[str, Any], group: str | None) -> None:
    assert verified(a_token(**claims)).group == group


@pytest.mark.parametrize(("claims", "tier"), TIERS)
def test_the_first_tier_claim_present_wins(claims: dict[str, Any], tier: str | None) -> None:
    assert verified(a_token(**claims)).tier == tier


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({}, set()),
        ({"roles": []}, set()),
        ({"roles": ["admin"]}, {"admin"}),
        ({"roles": ["admin", "service", "admin"]}, {"admin", "service"}),
        ({"roles": ["owner", "ADMIN", "tenant_admin"]}, {"tenant_admin"}),
        ({"roles": ["superadmin "]}, set()),
        ({"roles": "admin service"}, {"admin", "service"}),
        ({"roles": "admin,service, tenant_admin"}, {"admin", "service", "tenant_admin"}),
        ({"role": "superadmin"}, {"superadmin"}),
        ({"roles": "member", "role": "superadmin"}, set()),
        ({"roles": "", "role": "", "cognito:groups": ["admin", "us-east-1_pool"]}, {"admin"}),
    ],
)
def test_known_roles_add_up_and_unknown_words_are_ignored(claims: dict[str, Any], roles: set[str]) -> None:
    assert verified(a_token(**claims)).roles == {"member"} | roles


@pytest.mark.parametrize("role", sorted(ROLES))
def test_operator_roles_are_those_only_a_token_gives(role: str) -> None:
    assert verified(a_token(roles=role)).is_operator is (role in {"service", "tenant_admin", "superadmin"})


def test_configured_claim_names_replace_the_usual_ones() -> None:
    names = ClaimNames(tenant=("workspace",), roles=("https://id.example/roles",))
    claims = {
        "workspace": "w",
        "tenant_id": "t",
        "https://id.example/roles": ["admin"],
        "roles": ["superadmin"],
    }
    principal = verified(a_token(**claims), claims=names)
    assert (principal.tenant, principal.roles) == ("w", frozenset({"member", "admin"}))


@pytest.mark.parametrize("changes", [parameter.values[0] for parameter in BAD_CLAIMS])
def test_no_refusal_repeats_what_the_token_says(changes: Any) -> None:
    sentence = refusal(a_token(**({"sub": "s3cr3t-m4rk", "mark": "s3cr3t-m4rk"} | changes)))
    assert "s3cr3t" not in sentence
    for text in ("evil", "client-1", "Traceback", "Error"):
        assert text not in sentence


# Minting and inspecting.


def minted(key: VerificationKey = SECRET_KEY, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "user": "ann",
        "ttl_seconds": 3600,
        "issuer": ISSUER,
        "audience": (AUDIENCE,),
        "now_seconds": NOW,
        "token_id": "t1",
    }
    return mint(key, **(arguments | changes))


def test_a_minted_token_carries_the_usual_claims_and_is_accepted() -> None:
    token = minted(tenant="acme", group="team-1", tier="pro", roles=["admin", "service"])
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "tenant_id": "acme",
        "group_id": "team-1",
        "custom:subscription_tier": "pro",
        "roles": ["admin", "service"],
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": NOW,
        "exp": NOW + 3600,
        "sub": "ann",
        "jti": "t1",
    }
    assert verified(token).roles == {"member", "admin", "service"}


def test_a_minted_token_names_nothing_that_was_not_asked_for() -> None:
    claims = jwt.decode(minted(), options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "iat", "exp", "sub", "jti"}


def test_a_token_minted_for_other_claim_names_is_read_under_them() -> None:
    names = ClaimNames(tenant=("workspace",))
    assert verified(minted(tenant="acme", claims=names), claims=names).tenant == "acme"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"user": ""}, "The user must be 1 to 128"),
        ({"tenant": "a b"}, "The tenant must be 1 to 128"),
        ({"group": "a/b"}, "The group must be 1 to 128"),
        ({"tier": ""}, "The tier must be the name of a plan"),
        (
            {"roles": ["owner"]},
            "There is no such role; there are admin, member, service, superadmin, tenant_admin",
        ),
        ({"ttl_seconds": 0}, "The lifetime must be at least a second"),
    ],
)
def test_what_would_be_refused_is_not_minted(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal) as caught:
        minted(**changes)
    assert caught.value.code == "invalid_request"
    assert sentence in caught.value.message


def test_a_public_key_cannot_mint() -> None:
    key = VerificationKey(SIGNERS["RS256"].public_key(), ("RS256",), "public_key", may_mint=False)
    with pytest.raises(Refusal, match="cannot mint"):
        minted(key)


def test_the_local_key_mints_what_the_settings_accept(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path}, {})
    token = minted(
        verification_key(settings),
        issuer=settings.issuer,
        audience=settings.audiences,
        now_seconds=int(time.time()),
    )
    assert TokenVerifier.of(settings).verify(token).issuer == "subscription-mcp"


def test_inspecting_shows_what_a_token_says_without_its_signature() -> None:
    token = minted()
    shown = inspect(token, a_verifier(), NOW)
    assert shown == {
        "header": {"alg": "HS256", "typ": "JWT"},
        "claims": {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ann",
            "iat": "2026-11-20T14:00:00Z",
            "exp": "2026-11-20T15:00:00Z",
            "jti": "t1",
        },
        "valid": True,
        "verdict": "valid",
    }
    assert token.split(".")[2] not in json.dumps(shown)


def test_inspecting_a_refused_token_gives_the_sentence_of_the_refusal() -> None:
    shown = inspect(minted(), a_verifier(), NOW + 7200)
    assert shown["valid"] is False
    assert shown["verdict"].startswith("The access token expired at 2026-11-20T15:00:00Z.")
    assert shown["claims"]["sub"] == "ann"


@pytest.mark.parametrize("text", ["", "a.b.c", "x" * 9_000, "\ud800.\ud800.", signed('{"a":1,"a":2}')])
def test_inspecting_what_cannot_be_read_is_no_failure(text: str) -> None:
    shown = inspect(text, a_verifier(), NOW)
    assert shown["claims"] is None
    assert shown["valid"] is False


@pytest.mark.parametrize("exp", [-(10**12), 10**15, 2**80, True, "soon"])
def test_inspecting_shows_an_instant_that_is_none_as_it_is(exp: Any) -> None:
    assert inspect(a_token(exp=exp), a_verifier(), NOW)["claims"]["exp"] == exp


# Where stdio finds its token.


def test_the_token_of_the_environment_is_handed_on() -> None:
    assert TokenSource(token=" a.b.c\n").read() == "a.b.c"
    settings = load_settings(None, {"SUBSCRIPTION_MCP_TOKEN": "a.b.c"})
    assert TokenSource.of(settings).read() == "a.b.c"


def source_refusal(source: TokenSource) -> str:
    with pytest.raises(Refusal) as caught:
        source.read()
    assert caught.value.code == "unauthenticated"
    return caught.value.message


@pytest.mark.parametrize("token", [None, "", " "])
def test_without_a_token_the_source_says_how_to_get_one(token: str | None) -> None:
    sentence = source_refusal(TokenSource(token=token))
    assert "subscription-mcp token mint --user YOU" in sentence
    assert "SUBSCRIPTION_MCP_TOKEN in the env block of your client" in sentence


@pytest.mark.parametrize(
    ("setting", "value"),
    [("AUTH__JWKS_URL", "https://id.example/jwks.json"), ("AUTH__PUBLIC_KEY", "of-the-provider.pem")],
)
@pytest.mark.parametrize("file", [None, "no-such-file"])
def test_where_tokens_are_an_identity_providers_the_source_sends_you_there(
    setting: str, value: str, file: str | None
) -> None:
    given = {setting: value, "AUTH__ISSUER": "https://id.example", **({"TOKEN_FILE": file} if file else {})}
    settings = load_settings(None, {f"SUBSCRIPTION_MCP_{name}": value for name, value in given.items()})
    sentence = source_refusal(TokenSource.of(settings))
    assert "our identity provider, https://id.example, issues them" in sentence
    assert "mint" not in sentence


def test_without_a_token_a_public_key_sends_you_to_the_identity_provider() -> None:
    sentence = refusal("", verifier=a_public_verifier("ES256"))
    assert sentence.startswith(
        f"There is no access token. Your identity provider, {ISSUER}, issues them; set "
    )
    assert "mint" not in sentence


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a.b.c\n")
    source = TokenSource.of(load_settings(None, {"SUBSCRIPTION_MCP_TOKEN_FILE": str(file)}))
    assert source.read() == "a.b.c"
    file.write_text("d.e.f\n")
    os.utime(file, (NOW, NOW))
    assert source.read() == "d.e.f"
    replacement = tmp_path / "new"
    replacement.write_text("g.h.i-and-longer")
    replacement.replace(file)
    assert source.read() == "g.h.i-and-longer"


def test_a_token_file_that_comes_back_is_read(tmp_path: Path) -> None:
    source = TokenSource(token_file=tmp_path / "token")
    sentence = source_refusal(source)
    assert "SUBSCRIPTION_MCP_TOKEN_FILE names cannot be read" in sentence
    assert str(tmp_path) not in sentence
    (tmp_path / "token").write_text("a.b.c")
    assert source.read() == "a.b.c"
    (tmp_path / "token").unlink()
    assert "cannot be read" in source_refusal(source)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    assert "subscription-mcp token mint --user YOU" in source_refusal(
        TokenSource(token_file=tmp_path / "token")
    )
