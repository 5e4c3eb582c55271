"""Settings: where a value comes from, what it defaults to, and the sentence a fault gets."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from subscription_mcp.domain.instants import parse_instant
from subscription_mcp.settings import Settings, SettingsError, load_settings

SECRET = "correct horse battery staple, twice over"
PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"


def loaded(overrides: dict[str, Any] | None = None, /, **variables: str) -> Settings:
    return load_settings(overrides, {f"SUBSCRIPTION_MCP_{name}": value for name, value in variables.items()})


def fault(overrides: dict[str, Any] | None = None, /, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(overrides, **variables)
    return str(caught.value)


def a_file(folder: Path, text: str, name: str = "subscription.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_anything_the_defaults_hold() -> None:
    settings = loaded()
    assert settings.database_path == settings.data_dir / "ledger.db"
    assert settings.database_path.is_absolute()
    assert settings.data_dir.name == "subscription-mcp"
    assert (settings.catalog, settings.catalog_path) == ("bedrock-chat", None)
    assert (settings.token, settings.token_file, settings.public_url, settings.clock) == (
        None,
        None,
        None,
        None,
    )
    assert (settings.key_kind, settings.issuer, settings.audiences) == (
        "local",
        "subscription-mcp",
        ("subscription-mcp",),
    )
    assert (settings.auth.profile, settings.auth.tier, settings.billing) == ("generic", "ledger", "simulated")
    assert settings.metering.members_may_record is False


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    config = a_file(tmp_path, 'catalog = "file"\n[auth]\nissuer = "file"\naudience = ["file"]\n')
    everything = loaded(
        {"catalog": "flag", "auth": {"issuer": None}},
        CONFIG=config,
        CATALOG="environment",
        AUTH__ISSUER="environment",
    )
    assert everything.catalog == "flag"
    assert everything.issuer == "environment"
    assert everything.audiences == ("file",)


def test_a_file_is_read_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = a_file(tmp_path, 'catalog = "from-the-file"\n')
    monkeypatch.chdir(tmp_path)
    assert loaded().catalog == "bedrock-chat"
    assert loaded({"config": config}).catalog == "from-the-file"


def test_the_process_environment_is_read_when_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBSCRIPTION_MCP_CATALOG", "api-calls")
    assert load_settings().catalog == "api-calls"
    assert Settings().catalog == "bedrock-chat"


def test_an_empty_variable_is_the_same_as_none() -> None:
    assert loaded(TOKEN="", AUTH__SECRET="").key_kind == "local"


def test_paths_in_the_file_start_at_the_file(tmp_path: Path) -> None:
    config = a_file(
        tmp_path,
        'database_url = "sqlite:///data/ledger.db"\ncatalog = "mine.toml"\ntoken_file = "token"\n'
        '[auth]\npublic_key = "keys/issuer.pem"\nissuer = "https://id.example"\n',
    )
    settings = loaded(CONFIG=config)
    assert settings.database_path == tmp_path / "data/ledger.db"
    assert settings.catalog_path == tmp_path / "mine.toml"
    assert settings.token_file == str(tmp_path / "token")
    assert settings.auth.public_key == str(tmp_path / "keys/issuer.pem")


def test_paths_in_the_environment_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = loaded(DATABASE_URL="sqlite:///here.db", CATALOG="./mine.toml", TOKEN_FILE="token")
    assert settings.database_path == tmp_path / "here.db"
    assert settings.catalog_path == tmp_path / "mine.toml"
    assert settings.token_file == str(tmp_path / "token")


@pytest.mark.skipif(os.name == "nt", reason="absolute paths begin with a drive there")
def test_four_slashes_name_an_absolute_path() -> None:
    assert loaded(DATABASE_URL="sqlite:////var/lib/ledger.db").database_path == Path("/var/lib/ledger.db")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("AUTH_SECRET", "AUTH__SECRET"),
        ("AUTH", "AUTH__TIER"),
        ("DATABASE", "DATABASE_URL"),
        ("catalog", "CATALOG"),
        ("TOKENFILE", "TOKEN_FILE"),
        ("METERING__MEMBERS_MAY_RECORDS", "METERING__MEMBERS_MAY_RECORD"),
    ],
)
def test_an_unknown_variable_stops_with_its_name_and_the_nearest(variable: str, nearest: str) -> None:
    sentence = f"SUBSCRIPTION_MCP_{variable} is no setting; the nearest is SUBSCRIPTION_MCP_{nearest}."
    assert fault(None, **{variable: "value"}) == sentence


def test_the_data_directory_is_no_variable() -> None:
    assert "SUBSCRIPTION_MCP_DATA_DIR is no setting" in fault(DATA_DIR="/tmp")


def test_variables_for_tests_and_of_others_are_ignored() -> None:
    assert loaded(TEST_ANYTHING="1").catalog == "bedrock-chat"
    assert load_settings(None, {"PATH": "/bin", "SUBSCRIPTION": "x"}).catalog == "bedrock-chat"


@pytest.mark.parametrize("variable", ["STRIPE__SECRET_KEY", "STRIPE__WEBHOOK_SECRET"])
def test_what_is_not_in_this_version_says_so(variable: str) -> None:
    assert fault(None, **{variable: "x"}) == f"SUBSCRIPTION_MCP_{variable} is not in this version; remove it."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("catalogue = 'x'", "`catalogue` in subscription.toml is no setting; the nearest is `catalog`."),
        (
            "[auth]\nsecrets = 'x'",
            "`auth.secrets` in subscription.toml is no setting; the nearest is `auth.secret`.",
        ),
        ("[auth]\njwks_url = 'x'", "`auth.jwks_url` in subscription.toml is not a URL with a host"),
        ("auth = 5", "`auth` in subscription.toml must be a table."),
        ("config = 'other.toml'", "`config` in subscription.toml is no setting; the nearest is"),
        ("catalog = 5", "`catalog` in subscription.toml must be text."),
        ("billing = 'stripe'", "`billing` in subscription.toml must be 'simulated' in this version."),
        ("[auth]\nsecret = 'short'", "`auth.secret` in subscription.toml is shorter than 32 bytes"),
    ],
)
def test_a_fault_in_the_file_names_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    assert fault(CONFIG=a_file(tmp_path, text)).startswith(sentence)


def test_a_file_that_is_none_or_no_toml_is_named(tmp_path: Path) -> None:
    assert "which is no file" in fault(CONFIG=str(tmp_path / "missing.toml"))
    broken = fault(CONFIG=a_file(tmp_path, 'token = "tok-secret-value\n'))
    assert "which is not valid TOML (at line 1" in broken
    assert "tok-secret" not in broken
    (tmp_path / "latin.toml").write_bytes(b'catalog = "\xe9"')
    assert "which is not UTF-8 text" in fault(CONFIG=str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("DATABASE_URL", "postgresql://me:hunter2@host/db", "names PostgreSQL, which is not in this version"),
        ("DATABASE_URL", "postgres://me:hunter2@host/db", "names PostgreSQL, which is not in this version"),
        ("DATABASE_URL", "mysql://hunter2", "must start with sqlite:///"),
        ("DATABASE_URL", "sqlite://ledger.db", "must start with sqlite:///"),
        ("DATABASE_URL", "sqlite:///", "must name a file"),
        ("DATABASE_URL", "sqlite:///folder/", "must name a file"),
        ("DATABASE_URL", "sqlite:///:memory:", "must name a file"),
        ("DATABASE_URL", "sqlite:///ledger.db?mode=ro", "without options"),
        ("AUTH__SECRET", "hunter2", "is shorter than 32 bytes"),
        ("AUTH__SECRET", PEM, "holds a PEM key"),
        ("AUTH__PUBLIC_KEY", PEM.replace("PUBLIC", "PRIVATE"), "holds a private key"),
        ("AUTH__PROFILE", "okta", "must be 'generic', 'rfc9068', 'cognito' or 'supabase'"),
        ("AUTH__TIER", "claim", "must be 'ledger' or 'token'"),
        ("AUTH__JWKS_URL", "http://id.example/jwks.json", "must begin with https://"),
        ("AUTH__JWKS_URL", "file:///etc/passwd", "is not a URL with a host"),
        ("AUTH__JWKS_URL", "https://user:hunter2@id.example/jwks.json", "must be scheme, host and path only"),
        ("AUTH__SCOPES", 'usage:read say"hello"', "is no OAuth scope"),
        ("AUTH__ALGORITHMS", "HS265", "the nearest is HS256"),
        ("AUTH__ALGORITHMS", "none", "knows no 'none'"),
        ("AUTH__ALGORITHMS", "RS256, HS256", "mixes HS256"),
        ("AUTH__ALGORITHMS", "[", "looks like a JSON list"),
        ("AUTH__CLAIMS__TENANT", ",", "must not be empty"),
        ("METERING__MEMBERS_MAY_RECORD", "perhaps", "must be true or false"),
        ("BILLING", "stripe", "must be 'simulated' in this version"),
        ("PUBLIC_URL", "http://usage.example.com", "must begin with https://"),
        ("PUBLIC_URL", "http://localhost.evil.com", "must begin with https://"),
        ("PUBLIC_URL", "usage.example.com", "is not a URL with a host"),
        ("PUBLIC_URL", "https://me:hunter2@host", "must be scheme, host and path only"),
        ("PUBLIC_URL", "https://host/?a=b", "must be scheme, host and path only"),
        ("PUBLIC_URL", "https://host:port", "is not a URL"),
        ("CLOCK", "2026-11-20 14:00", "must be an RFC 3339 instant"),
        ("CLOCK", "2026-02-30T00:00:00Z", "names a date or time that does not exist"),
    ],
)
def test_a_bad_value_stops_with_the_variable_and_the_reason(variable: str, value: str, sentence: str) -> None:
    text = fault(None, **{variable: value})
    assert text.startswith(f"SUBSCRIPTION_MCP_{variable} ")
    assert sentence in text
    assert "hunter2" not in text


def test_every_fault_is_named_at_once() -> None:
    assert len(fault(BILLING="cash", CLOCK="noon").splitlines()) == 2


def test_a_fault_of_a_flag_names_the_flag() -> None:
    assert fault({"database_url": "mysql://x"}, DATABASE_URL="sqlite:///fine.db").startswith(
        "--database-url must"
    )


def test_two_kinds_of_key_refuse_to_start() -> None:
    text = fault(AUTH__SECRET=SECRET, AUTH__PUBLIC_KEY=PEM, AUTH__ISSUER="https://id.example")
    assert "AUTH__SECRET and SUBSCRIPTION_MCP_AUTH__PUBLIC_KEY are both set" in text
    assert SECRET not in text


@pytest.mark.parametrize("other", ["AUTH__SECRET", "AUTH__PUBLIC_KEY"])
def test_a_key_set_beside_another_kind_of_key_refuses_to_start(other: str) -> None:
    key = SECRET if other == "AUTH__SECRET" else PEM
    text = fault(AUTH__JWKS_URL="https://id.example/jwks", AUTH__ISSUER="https://id.example", **{other: key})
    assert f"{other} and SUBSCRIPTION_MCP_AUTH__JWKS_URL are both set" in text


def test_a_key_set_requires_an_issuer_and_takes_public_keys_only() -> None:
    url = "http://localhost:9000/jwks.json"
    assert "AUTH__ISSUER is required with SUBSCRIPTION_MCP_AUTH__JWKS_URL" in fault(AUTH__JWKS_URL=url)
    settings = loaded(AUTH__JWKS_URL=url, AUTH__ISSUER="https://id.example")
    assert (settings.key_kind, settings.auth.jwks_url) == ("jwks", url)
    assert "does not fit a JWKS URL" in fault(AUTH__JWKS_URL=url, AUTH__ISSUER="i", AUTH__ALGORITHMS="HS256")


def test_two_tokens_refuse_to_start() -> None:
    assert "TOKEN_FILE are both set" in fault(TOKEN="a.b.c", TOKEN_FILE="token")


def test_algorithms_must_fit_the_kind_of_key() -> None:
    assert "does not fit a shared secret: it takes HS256." in fault(
        AUTH__SECRET=SECRET, AUTH__ALGORITHMS="RS256"
    )
    assert "does not fit a public key" in fault(
        AUTH__PUBLIC_KEY=PEM, AUTH__ISSUER="i", AUTH__ALGORITHMS="HS256"
    )
    assert loaded(AUTH__SECRET=SECRET, AUTH__ALGORITHMS="HS256 HS256").auth.algorithms == ("HS256",)


def test_a_public_key_requires_an_issuer() -> None:
    assert "AUTH__ISSUER is required with SUBSCRIPTION_MCP_AUTH__PUBLIC_KEY" in fault(AUTH__PUBLIC_KEY=PEM)
    settings = loaded(AUTH__PUBLIC_KEY=PEM, AUTH__ISSUER="https://id.example")
    assert (settings.key_kind, settings.issuer) == ("public_key", "https://id.example")
    assert settings.audiences == ("subscription-mcp",)


def test_line_breaks_written_out_in_a_pem_are_line_breaks() -> None:
    settings = loaded(AUTH__PUBLIC_KEY=PEM.replace("\n", "\\n"), AUTH__ISSUER="i")
    assert settings.auth.public_key == PEM


def test_the_audience_follows_the_public_url_unless_it_is_set() -> None:
    assert loaded(PUBLIC_URL="https://usage.example.com/").audiences == ("https://usage.example.com/mcp",)
    assert loaded(PUBLIC_URL="https://usage.example.com", AUTH__AUDIENCE="a").audiences == ("a",)


@pytest.mark.parametrize("written", ["a,b", "a b", " a , b ", '["a", "b"]'])
def test_a_list_is_written_with_commas_spaces_or_as_json(written: str) -> None:
    assert loaded(AUTH__AUDIENCE=written).audiences == ("a", "b")


@pytest.mark.parametrize("url", ["http://localhost:8765", "http://127.0.0.1:8765", "http://[::1]:8765"])
def test_plain_http_is_for_this_machine_only(url: str) -> None:
    assert loaded(PUBLIC_URL=url).public_url == url


def test_claim_names_are_settings() -> None:
    claims = loaded(AUTH__CLAIMS__TENANT="workspace, custom:workspace").auth.claims
    assert claims.tenant == ("workspace", "custom:workspace")
    assert claims.roles == ("roles", "role", "cognito:groups")


def test_the_clock_is_an_instant_and_refused_with_a_public_url(tmp_path: Path) -> None:
    noon = parse_instant("2026-11-20T12:00:00Z")
    assert loaded(CLOCK="2026-11-20T12:00:00Z").clock == noon
    assert loaded(CONFIG=a_file(tmp_path, "clock = 2026-11-20T13:00:00+01:00")).clock == noon
    assert "refused together with SUBSCRIPTION_MCP_PUBLIC_URL" in fault(
        CLOCK="2026-11-20T12:00:00Z", PUBLIC_URL="https://usage.example.com"
    )


def test_secrets_are_in_no_text_of_the_settings() -> None:
    settings = loaded(TOKEN="tok-en-va-lue", AUTH__SECRET=SECRET)
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in text
        assert "tok-en-va-lue" not in text


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        loaded().catalog = "other"


def test_loading_settings_imports_no_protocol_and_no_cryptography() -> None:
    program = (
        "import sys; from subscription_mcp.settings import load_settings; load_settings({}, {});"
        "print([name for name in ('mcp', 'click', 'cryptography', 'jwt') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
