"""The key tokens are verified with: one made here, a shared secret, a public key, or the key set of a provider.
Never two kinds at once."""

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subscription_mcp.auth.jwks import KeySet
from subscription_mcp.settings import (
    HMAC_ALGORITHMS,
    MINIMUM_SECRET_BYTES,
    PREFIX,
    PUBLIC_KEY_ALGORITHMS,
    KeyKind,
    Settings,
    SettingsError,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

LOCAL_KEY = "local-key"
MINIMUM_RSA_BITS = 2048
_MAXIMUM_FILE_BYTES = 64 * 1024
_WINDOWS = os.name == "nt"  # its files have no mode for others; the profile directory is private by itself


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key with the algorithms it may be used with, which never come from a token."""

    key: Any = field(repr=False)
    """Bytes for an HMAC, a public key object of `cryptography`, or the `KeySet` of a JWKS URL."""
    algorithms: tuple[str, ...]
    kind: KeyKind
    may_mint: bool


def verification_key(settings: Settings) -> VerificationKey:
    """The key the settings name; the local one is made on first use. Raises SettingsError."""
    auth = settings.auth
    if auth.jwks_url is not None:
        algorithms = auth.algorithms or PUBLIC_KEY_ALGORITHMS
        return VerificationKey(KeySet(auth.jwks_url, algorithms), algorithms, "jwks", may_mint=False)
    if auth.public_key is not None:
        key, algorithm = _load_public_key(auth.public_key)
        if not set(auth.algorithms) <= {algorithm}:
            raise SettingsError(
                f"{PREFIX}AUTH__ALGORITHMS does not fit the public key: it takes {algorithm}."
            )
        return VerificationKey(key, (algorithm,), "public_key", may_mint=False)
    if auth.secret is not None:
        secret = auth.secret.get_secret_value().encode()
        if len(secret) < MINIMUM_SECRET_BYTES:
            raise SettingsError(f"{PREFIX}AUTH__SECRET is shorter than {MINIMUM_SECRET_BYTES} bytes.")
        return VerificationKey(secret, HMAC_ALGORITHMS, "secret", may_mint=True)
    return VerificationKey(local_key(settings.data_dir), HMAC_ALGORITHMS, "local", may_mint=True)


def local_key(directory: Path) -> bytes:
    """The 32 bytes of the key in this directory, made if there is none. Processes that start at once agree."""
    path = directory / LOCAL_KEY
    try:
        try:
            return _read_local_key(path)
        except FileNotFoundError:
            _make_local_key(path)
            return _read_local_key(path)
    except OSError as fault:
        raise SettingsError(f"The local key {path} cannot be read or made ({fault.strerror}).") from None


def _read_local_key(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SettingsError(f"The local key {path} is no regular file; remove it to have one made.")
        if mode & 0o077 and not _WINDOWS:
            raise SettingsError(
                f"The local key {path} can be read by others. Remove it to have a new one made, "
                "or `chmod 600` it if you know nobody has."
            )
        text = file.read(_MAXIMUM_FILE_BYTES)
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != MINIMUM_SECRET_BYTES:
        raise SettingsError(
            f"The local key {path} is damaged. Remove it to have a new one made; tokens minted before stop working."
        )
    return key


def _make_local_key(path: Path) -> None:
    """Puts a new key there whole, or leaves the one another process was faster with."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = path.parent.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX and not _WINDOWS:
        raise SettingsError(
            f"Others can write to {path.parent}, which is to hold the local key: `chmod 700` it."
        )
    text = secrets.token_hex(MINIMUM_SECRET_BYTES).encode() + b"\n"
    draft = path.with_name(f".{LOCAL_KEY}.{os.getpid()}.{secrets.token_hex(4)}")
    _write_new(draft, text)
    try:
        # A link never replaces what is there, and shows the file only when it is complete.
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: still only one process can create the name
        with suppress(FileExistsError):
            _write_new(path, text)
    finally:
        draft.unlink(missing_ok=True)


def _write_new(path: Path, text: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _load_public_key(setting: str) -> "tuple[PublicKeyTypes, str]":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    name = f"{PREFIX}AUTH__PUBLIC_KEY"
    pem = setting.encode() if "-----BEGIN" in setting else _read_pem(Path(setting), name)
    if b"PRIVATE KEY" in pem:
        raise SettingsError(f"{name} holds a private key; this server needs only the public half.")
    if b"BEGIN CERTIFICATE" in pem:
        raise SettingsError(
            f"{name} holds a certificate; take the key out with `openssl x509 -pubkey -noout`."
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{name} is not a public key in PEM form.") from None
    match key:
        case rsa.RSAPublicKey():
            if key.key_size < MINIMUM_RSA_BITS:
                raise SettingsError(
                    f"{name} is an RSA key of {key.key_size} bits; {MINIMUM_RSA_BITS} are the least."
                )
            return key, "RS256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return key, "ES256"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return key, "EdDSA"
    raise SettingsError(f"{name} must be an RSA, P-256 or Ed25519 key.")


def _read_pem(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAXIMUM_FILE_BYTES)
    except OSError as fault:
        raise SettingsError(f"{name} names {path}, which cannot be read ({fault.strerror}).") from None
