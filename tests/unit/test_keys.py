"""Keys: the one made here, and what is refused as a key."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from subscription_mcp.auth.keys import VerificationKey, local_key, verification_key
from subscription_mcp.settings import Settings, SettingsError, load_settings

SECRET = "correct horse battery staple, twice over"
RSA_KEY = rsa.generate_private_key(65537, 2048)
posix_only = pytest.mark.skipif(os.name == "nt", reason="files have no mode for others there")


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey,
) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def settings(folder: Path, **variables: str) -> Settings:
    environ = {f"SUBSCRIPTION_MCP_AUTH__{name}": value for name, value in variables.items()}
    return load_settings({"data_dir": folder}, environ)


def public(folder: Path, key: str, **variables: str) -> VerificationKey:
    return verification_key(settings(folder, PUBLIC_KEY=key, ISSUER="https://id.example", **variables))


def fault(folder: Path, key: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        public(folder, key, **variables)
    return str(caught.value)


def test_the_local_key_is_made_once_and_kept(tmp_path: Path) -> None:
    first = verification_key(settings(tmp_path / "data"))
    assert first == verification_key(settings(tmp_path / "data"))
    assert len(first.key) == 32
    assert (first.algorithms, first.kind, first.may_mint) == (("HS256",), "local", True)
    assert first != verification_key(settings(tmp_path / "elsewhere"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["local-key"]


@posix_only
def test_the_local_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        local_key(tmp_path / "data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "local-key").stat().st_mode) == 0o600


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_local_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    local_key(tmp_path)
    (tmp_path / "local-key").chmod(mode)
    with pytest.raises(SettingsError, match="can be read by others"):
        local_key(tmp_path)


@posix_only
def test_a_directory_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    with pytest.raises(SettingsError, match="Others can write"):
        local_key(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@posix_only
def test_a_local_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    local_key(tmp_path / "data")
    (tmp_path / "local-key").symlink_to(tmp_path / "data" / "local-key")
    with pytest.raises(SettingsError, match="cannot be read or made"):
        local_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_local_key_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    local_key(tmp_path)
    (tmp_path / "local-key").write_bytes(content)
    with pytest.raises(SettingsError, match="is damaged"):
        local_key(tmp_path)
    assert (tmp_path / "local-key").read_bytes() == content


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    # Each waits for its standard input to close, so that all reach the same line together.
    program = (
        "import sys; from pathlib import Path; from subscription_mcp.auth.keys import local_key;"
        "print('ready', flush=True); sys.stdin.read(); print(local_key(Path(sys.argv[1])).hex())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    keys = {process.communicate(timeout=120)[0].strip() for process in running}
    assert keys == {local_key(tmp_path / "data").hex().encode()}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["local-key"]


def test_a_key_made_meanwhile_by_another_process_is_kept(tmp_path: Path) -> None:
    from subscription_mcp.auth.keys import _make_local_key

    kept = local_key(tmp_path)
    _make_local_key(tmp_path / "local-key")
    assert local_key(tmp_path) == kept


def test_a_secret_is_used_as_it_is_written(tmp_path: Path) -> None:
    key = verification_key(settings(tmp_path, SECRET=SECRET))
    assert key == VerificationKey(SECRET.encode(), ("HS256",), "secret", may_mint=True)
    assert list(tmp_path.iterdir()) == []


def test_no_key_is_in_its_text(tmp_path: Path) -> None:
    assert SECRET not in repr(verification_key(settings(tmp_path, SECRET=SECRET)))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA_KEY, "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=["RS256", "ES256", "EdDSA"],
)
def test_a_public_key_decides_its_algorithm(
    tmp_path: Path,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    algorithm: str,
) -> None:
    (tmp_path / "issuer.pem").write_text(pem(key))
    for setting in (pem(key), str(tmp_path / "issuer.pem")):
        verifying = public(tmp_path, setting, ALGORITHMS=algorithm)
        assert (verifying.algorithms, verifying.kind, verifying.may_mint) == (
            (algorithm,),
            "public_key",
            False,
        )
        assert not isinstance(verifying.key, bytes | str)


def test_an_algorithm_of_another_public_key_refuses_to_start(tmp_path: Path) -> None:
    assert "does not fit the public key: it takes RS256" in fault(tmp_path, pem(RSA_KEY), ALGORITHMS="ES256")
    assert "it takes RS256" in fault(tmp_path, pem(RSA_KEY), ALGORITHMS="RS256,ES256")


def test_an_rsa_key_below_2048_bits_is_refused(tmp_path: Path) -> None:
    # A 1024-bit key, kept here because the library will not make one that short.
    short = (
        "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVx\n"
        "wTCpvKe4eCZ0FPqri0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFnc\n"
        "CzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ51s1SPrCBkedbNf0T\n"
        "p0GbMJDyR4e9T04ZZwIDAQAB\n-----END PUBLIC KEY-----\n"
    )
    assert "is an RSA key of 1024 bits; 2048 are the least" in fault(tmp_path, short)


def test_other_keys_are_refused(tmp_path: Path) -> None:
    assert "must be an RSA, P-256 or Ed25519 key" in fault(
        tmp_path, pem(ec.generate_private_key(ec.SECP384R1()))
    )
    assert "is not a public key in PEM form" in fault(
        tmp_path, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    )
    assert "holds a certificate" in fault(
        tmp_path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )


def test_a_file_with_a_private_key_is_refused(tmp_path: Path) -> None:
    private = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "issuer.pem").write_bytes(private)
    assert "holds a private key" in fault(tmp_path, str(tmp_path / "issuer.pem"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "missing.pem, which cannot be read" in fault(tmp_path, str(tmp_path / "missing.pem"))
