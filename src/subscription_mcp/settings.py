"""The settings: flag, else environment, else the TOML file that `CONFIG` names, else a default.

`load_settings` is the only way in. Every fault becomes one sentence of a `SettingsError` that names the
variable and never repeats a value that may be secret. A relative path is relative to where it was written:
the file's directory, or the working directory for flags and variables.
"""

import json
import os
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

import platformdirs
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from subscription_mcp.domain.instants import NOT_RFC_3339, Instant, parse_instant
from subscription_mcp.domain.usage import Bounds

PREFIX = "SUBSCRIPTION_MCP_"
TEST_PREFIX = f"{PREFIX}TEST_"
SQLITE = "sqlite:///"
DEFAULT_NAME = "subscription-mcp"
"""Issuer and audience of the tokens this server makes for itself."""

HMAC_ALGORITHMS = ("HS256",)
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")
MINIMUM_SECRET_BYTES = 32
WEBHOOK_SECRET_PREFIX = "whsec_"

KeyKind = Literal["local", "secret", "public_key", "jwks"]
ProfileName = Literal["generic", "rfc9068", "cognito", "supabase"]

_LATER = frozenset({"STRIPE__SECRET_KEY", "STRIPE__WEBHOOK_SECRET"})
_PATHS = frozenset({("catalog",), ("token_file",), ("auth", "public_key"), ("webhooks", "secret_file")})
_NOT_IN_THE_FILE = frozenset({("config",)})


class SettingsError(ValueError):
    """Settings this server will not start with; the message is one sentence per fault, for the operator."""


def _words(value: Any) -> Any:
    """A list out of `a, b`, `a b` or a JSON list; anything else is left to be judged."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("looks like a JSON list and is none") from None
    return [word for word in re.split(r"[\s,]+", value) if word]


Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_words)]
NamedWords = Annotated[Words, Field(min_length=1)]


def _judged_url(url: str, example: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if not host or any(not mark.isprintable() or mark.isspace() for mark in url):
        raise ValueError(f"is not a URL with a host, like {example}")
    if parts.username or parts.password or parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must be scheme, host and path only")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        raise ValueError("must begin with https:// (http:// only for localhost)")
    return url


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ClaimNames(_Group):
    """Which claims of a token are read, in this order; the first one present wins."""

    tenant: NamedWords = ("tenant_id", "custom:tenant_id", "org_id")
    group: NamedWords = ("group_id", "custom:group_id", "account_id", "team_id")
    tier: NamedWords = ("custom:subscription_tier", "subscription_tier", "tier")
    roles: NamedWords = ("roles", "role", "cognito:groups")


class AuthSettings(_Group):
    secret: SecretStr | None = None
    public_key: str | None = Field(default=None, repr=False)
    """PEM text, or the path of a PEM file."""
    jwks_url: str | None = None
    algorithms: Words = ()
    """Empty: by the kind of key."""
    profile: ProfileName = "generic"
    tier: Literal["ledger", "token"] = "ledger"
    """Who decides about plans: the ledger, or the issuer through the tier claim."""
    issuer: Annotated[str, Field(min_length=1)] | None = None
    audience: Words = ()
    """Empty: `Settings.audiences` has the default."""
    scopes: Words = ()
    """What a client should ask the identity provider for; none is required of a token: roles decide."""
    claims: ClaimNames = ClaimNames()

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None:
            return None
        text = secret.get_secret_value()
        if "-----BEGIN" in text:
            raise ValueError(f"holds a PEM key; put the public key into {PREFIX}AUTH__PUBLIC_KEY instead")
        if len(text.encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(
                f"is shorter than {MINIMUM_SECRET_BYTES} bytes; make one with `openssl rand -base64 48`"
            )
        return secret

    @field_validator("public_key")
    @classmethod
    def _public_only(cls, key: str | None) -> str | None:
        if key is None:
            return None
        if "PRIVATE KEY" in key:
            raise ValueError("holds a private key; this server needs only the public half")
        # An env block of a client cannot hold a line break, so `\n` is written out there.
        return key.replace("\\n", "\n") if "-----BEGIN" in key else key

    @field_validator("jwks_url")
    @classmethod
    def _fetchable(cls, url: str | None) -> str | None:
        return None if url is None else _judged_url(url, "https://id.example.com/.well-known/jwks.json")

    @field_validator("scopes")
    @classmethod
    def _scope_tokens(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope) for scope in scopes):
            raise ValueError("holds something that is no OAuth scope")
        return scopes

    @field_validator("algorithms")
    @classmethod
    def _one_family(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        known = HMAC_ALGORITHMS + PUBLIC_KEY_ALGORITHMS
        for algorithm in algorithms:
            if algorithm not in known:
                nearest = _nearest(algorithm, known)
                raise ValueError(
                    f"knows no {algorithm[:20]!r}; the nearest is {nearest}, all are {', '.join(known)}"
                )
        if len({algorithm in HMAC_ALGORITHMS for algorithm in algorithms}) > 1:
            # Otherwise a public key, which anyone may have, could be used as the secret of an HMAC.
            raise ValueError(
                "mixes HS256, for a shared secret, with algorithms for public keys; list one sort only"
            )
        return tuple(dict.fromkeys(algorithms))


class MeteringSettings(_Group):
    members_may_record: bool = False
    users_max: Annotated[int, Field(ge=1)] = Bounds().users
    """Of one tenant: what keeps a service that mints users from filling the disk."""
    dimensions_max: Annotated[int, Field(ge=1)] = Bounds().dimensions
    """Of one tenant: different combinations of provider, model, tool and client its usage is told apart by."""
    open_max: Annotated[int, Field(ge=1)] = Bounds().open
    """Of one user: sessions; of one user, and of one group as a whole: reservations. Each decision looks at all."""


class WebhookSettings(_Group):
    url: str | None = None
    """Where messages of what happened are sent; None is nowhere."""
    secret: SecretStr | None = None
    """What they are signed with: `whsec_…`; several, separated by commas, while one takes another's place."""
    secret_file: str | None = None
    """A file with it."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10

    @field_validator("url")
    @classmethod
    def _sendable(cls, url: str | None) -> str | None:
        return None if url is None else _judged_url(url, "https://app.example.com/webhooks")

    @field_validator("secret")
    @classmethod
    def _signing(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _judge_webhook_secrets(secret.get_secret_value())
        return secret

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret, read from its file where it is in one. Raises SettingsError."""
        if self.secret is not None:
            return tuple(_words(self.secret.get_secret_value()))
        if self.secret_file is None:
            return ()
        name = f"{PREFIX}WEBHOOKS__SECRET_FILE"
        try:
            text = Path(self.secret_file).read_text("utf-8")
            _judge_webhook_secrets(text)
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"The file that {name} names cannot be read.") from None
        except ValueError as error:
            raise SettingsError(f"The file that {name} names {error}.") from None
        return tuple(_words(text))


def _judge_webhook_secrets(text: str) -> None:
    """Raises ValueError where it is no list of secrets as Standard Webhooks has them."""
    secrets = [word for word in re.split(r"[\s,]+", text) if word]
    for secret in secrets or [""]:
        try:
            key = b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
        except ValueError:
            key = b""
        if not secret.startswith(WEBHOOK_SECRET_PREFIX) or not 24 <= len(key) <= 64:
            raise ValueError(
                f"must be {WEBHOOK_SECRET_PREFIX} and 24 to 64 bytes in base64; make one with "
                f'`echo "{WEBHOOK_SECRET_PREFIX}$(openssl rand -base64 32)"`'
            )


class Settings(BaseSettings):
    """All settings, checked and frozen. Make one with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path(DEFAULT_NAME, appauthor=False))
    """Where the local key and, by default, the ledger live. Set by the program only, never by a variable."""

    config: str | None = None
    database_url: str = ""
    catalog: Annotated[str, Field(min_length=1)] = "bedrock-chat"
    """A shipped name, or the absolute path of a TOML file."""
    token: SecretStr | None = None
    token_file: str | None = None
    auth: AuthSettings = AuthSettings()
    metering: MeteringSettings = MeteringSettings()
    webhooks: WebhookSettings = WebhookSettings()
    public_url: str | None = None
    """Without a slash at the end."""
    billing: Literal["simulated"] = "simulated"
    clock: Instant | None = None
    """The instant the ledger's clock is frozen at; tokens are always judged by the real one."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load_settings` reads the sources itself, so that it can name them in faults."""
        return (init_settings,)

    @field_validator("database_url")
    @classmethod
    def _sqlite_file(cls, url: str) -> str:
        if not url:
            return url
        if url.startswith(("postgresql", "postgres:")):
            raise ValueError(f"names PostgreSQL, which is not in this version; use {SQLITE} and a file")
        if not url.startswith(SQLITE):
            raise ValueError(
                f"must start with {SQLITE} (three slashes, then the path; four for an absolute path)"
            )
        path = url.removeprefix(SQLITE)
        if "?" in path or "#" in path or "\0" in path:
            raise ValueError(f"must be {SQLITE} and a path only, without options or fragment")
        if not path.rpartition("/")[2] or path.endswith(":memory:"):
            raise ValueError("must name a file; the ledger is never kept in memory")
        return url

    @field_validator("public_url")
    @classmethod
    def _reachable(cls, url: str | None) -> str | None:
        return None if url is None else _judged_url(url, "https://usage.example.com").rstrip("/")

    @field_validator("clock", mode="before")
    @classmethod
    def _instant(cls, clock: Any) -> Any:
        # TOML has instants of its own; a local one has no offset and is refused like any other such text.
        text = clock.isoformat() if isinstance(clock, datetime) else clock
        if text is None:
            return None
        if not isinstance(text, str):
            raise ValueError(NOT_RFC_3339)
        return parse_instant(text)

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        auth = self.auth
        keys = {"SECRET": auth.secret, "PUBLIC_KEY": auth.public_key, "JWKS_URL": auth.jwks_url}
        given = [f"{PREFIX}AUTH__{name}" for name, key in keys.items() if key is not None]
        if len(given) > 1:
            both = "both" if len(given) == 2 else "all"
            raise ValueError(f"{' and '.join(given)} are {both} set: keep the one kind of key you use.")
        is_public = not self.may_mint
        family = PUBLIC_KEY_ALGORITHMS if is_public else HMAC_ALGORITHMS
        if not set(auth.algorithms) <= set(family):
            key = {"public_key": "a public key", "jwks": "a JWKS URL"}.get(self.key_kind, "a shared secret")
            raise ValueError(f"{PREFIX}AUTH__ALGORITHMS does not fit {key}: it takes {', '.join(family)}.")
        if is_public and auth.issuer is None:
            raise ValueError(f"{PREFIX}AUTH__ISSUER is required with {given[0]}: whose tokens are these?")
        if self.token is not None and self.token_file is not None:
            raise ValueError(f"{PREFIX}TOKEN and {PREFIX}TOKEN_FILE are both set: keep one.")
        hooks = self.webhooks
        if hooks.secret is not None and hooks.secret_file is not None:
            raise ValueError(
                f"{PREFIX}WEBHOOKS__SECRET and {PREFIX}WEBHOOKS__SECRET_FILE are both set: keep one."
            )
        if hooks.url is not None and hooks.secret is None and hooks.secret_file is None:
            raise ValueError(
                f"{PREFIX}WEBHOOKS__SECRET is required with {PREFIX}WEBHOOKS__URL: messages are always signed."
            )
        if self.clock is not None and self.public_url is not None:
            raise ValueError(
                f"{PREFIX}CLOCK freezes time for tests; it is refused together with {PREFIX}PUBLIC_URL."
            )
        return self

    @property
    def database_path(self) -> Path:
        """The ledger's file, absolute."""
        if not self.database_url:
            return self.data_dir / "ledger.db"
        return Path(self.database_url.removeprefix(SQLITE))

    @property
    def catalog_path(self) -> Path | None:
        """The catalog's file, absolute; None where `catalog` is a shipped name."""
        return Path(self.catalog) if _is_path(self.catalog) else None

    @property
    def key_kind(self) -> KeyKind:
        if self.auth.public_key is not None:
            return "public_key"
        if self.auth.jwks_url is not None:
            return "jwks"
        return "local" if self.auth.secret is None else "secret"

    @property
    def may_mint(self) -> bool:
        """Whether tokens can be made here: the public half of an identity provider's key only judges them."""
        return self.key_kind in ("local", "secret")

    @property
    def issuer(self) -> str:
        """The one issuer whose tokens are accepted."""
        return self.auth.issuer or DEFAULT_NAME

    @property
    def audiences(self) -> tuple[str, ...]:
        """The audiences of which a token must name at least one."""
        if self.auth.audience:
            return self.auth.audience
        if self.auth.profile == "supabase":
            return ("authenticated",)
        return (DEFAULT_NAME if self.public_url is None else f"{self.public_url}/mcp",)


def load_settings(
    overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings out of flags (`overrides`: field names, groups as mappings, None where the flag was not
    given), environment and file. Raises SettingsError, one sentence per fault."""
    environment = os.environ if environ is None else environ
    _refuse_unknown_variables(environment)
    flags = InitSettingsSource(Settings, _given(overrides or {}))()
    variables = _Environment(Settings, environment)()
    config = flags.get("config") or variables.get("config")
    file = _read_file(config) if config else {}
    here = Path.cwd()
    values = _over(
        _anchored(variables, here), _anchored(file, Path(config).expanduser().parent) if config else {}
    )
    values = _over(_anchored(flags, here), values)
    try:
        return Settings(**values)
    except ValidationError as fault:
        names = _Names(flags, variables, file, Path(config).name if config else "")
        raise SettingsError("\n".join(_sentences(fault, names))) from None


class _Environment(EnvSettingsSource):
    """The environment it is given, read by its exact names."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {
            name.lower(): value for name, value in self._environ.items() if name.startswith(PREFIX) and value
        }


def _leaves(model: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """The path of every setting a person can set."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, (*path, name))
        elif name != "data_dir":
            yield (*path, name)


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {_variable(path).removeprefix(PREFIX) for path in _leaves()}
    faults = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest == name or name.startswith(TEST_PREFIX) or rest in known:
            continue
        if rest in _LATER:
            faults.append(f"{name} is not in this version; remove it.")
        else:
            faults.append(f"{name} is no setting; the nearest is {PREFIX}{_nearest(rest.upper(), known)}.")
    if faults:
        raise SettingsError("\n".join(faults))


def _read_file(config: str) -> dict[str, Any]:
    path = Path(config).expanduser()

    def refuse(what: str) -> NoReturn:
        raise SettingsError(f"{PREFIX}CONFIG (or --config) names {path}, {what}.") from None

    if not path.is_file():
        refuse("which is no file")
    try:
        values = dict(TomlConfigSettingsSource(Settings, toml_file=path).toml_data)
    except OSError as fault:
        refuse(f"which cannot be read ({fault.strerror})")
    except UnicodeDecodeError:
        refuse("which is not UTF-8 text")
    except ValueError as fault:  # its text may quote the line, and so a secret: only the position is kept
        position = re.search(r"\(at line \d+, column \d+\)|\(at end of document\)", str(fault))
        refuse(f"which is not valid TOML {position.group() if position else ''}".rstrip())
    faults = list(_unknown_keys(values, path.name))
    if faults:
        raise SettingsError("\n".join(faults))
    return values


def _unknown_keys(values: Mapping[str, Any], file: str, above: tuple[str, ...] = ()) -> Iterable[str]:
    known = {path for path in _leaves() if path not in _NOT_IN_THE_FILE}
    groups = {path[:length] for path in known for length in range(1, len(path))}
    for key, value in values.items():
        path = (*above, key)
        if path in known:
            continue
        if path in groups:
            if isinstance(value, dict):
                yield from _unknown_keys(value, file, path)
            else:
                yield f"`{'.'.join(path)}` in {file} must be a table."
        elif "__".join(path).upper() in _LATER:
            yield f"`{'.'.join(path)}` in {file} is not in this version; remove it."
        else:
            name = ".".join(path)
            nearest = _nearest(name, (".".join(path) for path in sorted(known)))
            yield f"`{ascii(name)[1:-1]}` in {file} is no setting; the nearest is `{nearest}`."


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the flags that were not given."""
    nested = {name: _given(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None and value != {}}


def _over(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for name, value in upper.items():
        below = merged.get(name)
        merged[name] = _over(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _is_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.endswith(".toml")


def _anchored(values: Mapping[str, Any], base: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The same values with every relative path made absolute from `base`."""
    anchored: dict[str, Any] = {}
    for name, value in values.items():
        path = (*above, name)
        if isinstance(value, dict):
            value = _anchored(value, base, path)
        elif path in _PATHS and isinstance(value, os.PathLike):
            value = str(_absolute(os.fspath(value), base))
        elif path in _PATHS and isinstance(value, str) and value and "-----BEGIN" not in value:
            if path != ("catalog",) or _is_path(value):
                value = str(_absolute(value, base))
        elif path == ("database_url",) and isinstance(value, str) and value.startswith(SQLITE):
            file = value.removeprefix(SQLITE)
            if file and file != ":memory:":
                value = SQLITE + _absolute(file, base).as_posix() + ("/" if file.endswith("/") else "")
        anchored[name] = value
    return anchored


def _absolute(text: str, base: Path) -> Path:
    path = Path(text)
    with suppress(RuntimeError):  # no such home: the path stays as written, and opening it says so
        path = path.expanduser()
    return Path.cwd() / base / path


class _Names:
    """How the person who set a value wrote its name."""

    def __init__(
        self, flags: Mapping[str, Any], variables: Mapping[str, Any], file: Mapping[str, Any], file_name: str
    ) -> None:
        self._flags, self._variables, self._file, self._file_name = flags, variables, file, file_name

    def of(self, path: tuple[str, ...]) -> str:
        if _has(self._flags, path):
            return "--" + "-".join(path).replace("_", "-")
        if not _has(self._variables, path) and _has(self._file, path):
            return f"`{'.'.join(path)}` in {self._file_name}"
        return _variable(path)


def _has(values: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def _sentences(fault: ValidationError, names: _Names) -> Iterable[str]:
    for error in fault.errors(include_url=False, include_input=False):
        path = tuple(part for part in error["loc"] if isinstance(part, str))
        own = error.get("ctx", {}).get("error")
        if not path:
            yield str(own)
        elif isinstance(own, ValueError):
            yield f"{names.of(path)} {own}."
        elif error["type"] == "extra_forbidden":
            yield f"{names.of(path)} is no setting."
        elif error["type"] == "literal_error":
            yield f"{names.of(path)} must be {error['ctx']['expected']} in this version."
        elif error["type"].startswith("bool_"):
            yield f"{names.of(path)} must be true or false."
        elif error["type"] in ("too_short", "string_too_short"):
            yield f"{names.of(path)} must not be empty."
        elif error["type"].startswith("string_"):
            yield f"{names.of(path)} must be text."
        else:
            yield f"{names.of(path)}: {error['msg'].replace('Input should be', 'must be')}."
