"""`connect` on the real files of hosts: what it writes works, and nothing else in them is harmed."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from tests.harness import Place

OK, CONFIGURATION = 0, 2
LOCAL: dict[str, str | None] = {"AUTH__SECRET": None, "DATABASE_URL": None}
PROJECT_FILES = {"claude-code": ".mcp.json", "cursor": ".cursor/mcp.json", "vscode": ".vscode/mcp.json"}
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the paths of Linux")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def connected(place: Place, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    done = place.run("connect", *arguments, **{**LOCAL, **variables})
    assert (done.returncode, done.stdout) == (OK, ""), done.stderr
    return done


def entry_of(file: Path, wrapper: str = "mcpServers", name: str = "subscription") -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(file.read_text("utf-8"))[wrapper][name]
    return entry


def private_text(file: Path) -> str:
    """What a file holds that nobody else may read."""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file.read_text()


@pytest.mark.parametrize("host", PROJECT_FILES)
async def test_what_connect_writes_starts_a_server_that_knows_who_calls(place: Place, host: str) -> None:
    told = connected(place, host, "--user", "bella", "--tenant", "acme", "--tier", "advanced").stderr
    assert "valid for 365 days" in told
    entry = entry_of(place.folder / PROJECT_FILES[host], "servers" if host == "vscode" else "mcpServers")
    assert entry.pop("type") == "stdio"
    assert Path(entry["command"]).is_absolute()
    assert "cwd" not in entry
    token_file = Path(entry["env"]["SUBSCRIPTION_MCP_TOKEN_FILE"])
    assert private_text(token_file).strip() not in json.dumps(entry) + told
    # As a host would start it: from anywhere, with hardly an environment of its own.
    bare = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "click.py").write_text("raise SystemExit('imported from the folder of the project')\n")
    parameters = StdioServerParameters(
        command=entry["command"],
        args=entry["args"],
        env={"HOME": str(place.folder), **bare, **entry["env"]},
        cwd=elsewhere,
    )
    async with Client(stdio_client(parameters)) as client:
        answer = await client.call_tool("get_tier_info", {})
    assert answer.structured_content is not None
    assert answer.structured_content["user_id"] == "bella"
    assert answer.structured_content["tenant_id"] == "acme"
    assert answer.structured_content["plan"] == "advanced"


@needs_linux
def test_claude_desktops_file_is_where_the_platform_keeps_it(place: Place) -> None:
    connected(place, "claude-desktop")
    file = place.folder / ".config" / "Claude" / "claude_desktop_config.json"
    assert set(entry_of(file)) == {"command", "args", "env"}  # it knows no other kind than stdio
    environment = {**place.environment(**LOCAL), "XDG_CONFIG_HOME": str(place.folder / "xdg")}
    subprocess.run(
        [sys.executable, "-m", "subscription_mcp", "connect", "claude-desktop"],
        env=environment,
        check=True,
        capture_output=True,
        cwd=place.folder,
    )
    assert entry_of(place.folder / "xdg" / "Claude" / "claude_desktop_config.json")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("darwin", {}, "Library/Application Support/Claude/claude_desktop_config.json"),
        ("win32", {"APPDATA": "roaming"}, "roaming/Claude/claude_desktop_config.json"),
        ("win32", {}, "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("linux", {}, ".config/Claude/claude_desktop_config.json"),
    ],
)
def test_claude_desktops_file_on_every_platform(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    variables: dict[str, str],
    expected: str,
) -> None:
    from subscription_mcp.cli import hosts

    monkeypatch.setattr(hosts.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("APPDATA", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert hosts.place_of("claude-desktop", None).path == tmp_path / expected


def test_the_users_own_file_is_written_on_request(place: Place) -> None:
    connected(place, "claude-code", "--scope", "user")
    connected(place, "cursor", "--scope", "user")
    assert entry_of(place.folder / ".claude.json")
    assert entry_of(place.folder / ".cursor" / "mcp.json")
    assert not (place.folder / ".mcp.json").exists()
    none = place.run("connect", "claude-desktop", "--scope", "project", **LOCAL)
    assert none.returncode == CONFIGURATION


BEFORE = """{
    "$schema": "https://example.com/schema.json",
    "theme": "dünkel",
    "mcpServers": {
        "other": {"command": "other", "args": [1.5, null, true]}
    },
    "last": [1, 2]
}
"""


def test_everything_else_stays_and_a_backup_with_the_time_in_its_name_is_kept(place: Place) -> None:
    file = place.folder / ".mcp.json"
    file.write_text(BEFORE, "utf-8")
    file.chmod(0o640)
    connected(place, "claude-code")
    after = json.loads(file.read_text("utf-8"))
    assert after.pop("mcpServers").pop("other") == {"command": "other", "args": [1.5, None, True]}
    assert list(after) == ["$schema", "theme", "last"]
    assert '\n    "theme": "dünkel"' in file.read_text("utf-8")
    (backup,) = place.folder.glob(".mcp.json.*Z.bak")
    assert backup.read_text("utf-8") == BEFORE
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, backup)} == {0o640}
    assert not list(place.folder.glob("*.new")) + list(place.folder.glob(".*.new"))


def test_connecting_twice_changes_nothing_the_second_time(place: Place) -> None:
    connected(place, "claude-code", "--user", "bella")
    file = place.folder / ".mcp.json"
    before = (file.stat().st_mtime_ns, file.read_bytes())
    token_file = Path(entry_of(file)["env"]["SUBSCRIPTION_MCP_TOKEN_FILE"])
    token = token_file.read_text()
    again = connected(place, "claude-code", "--user", "bella")
    assert "nothing to do" in again.stderr
    assert (file.stat().st_mtime_ns, file.read_bytes(), token_file.read_text()) == (*before, token)
    assert not list(place.folder.glob("*.bak"))
    # Somebody else's token in its place: the entry stays, the token is another.
    connected(place, "claude-code", "--user", "adam")
    assert file.read_bytes() == before[1]
    assert token_file.read_text() != token


def test_remove_takes_out_only_our_entry_and_its_token(place: Place) -> None:
    file = place.folder / ".mcp.json"
    file.write_text(BEFORE, "utf-8")
    connected(place, "claude-code", "--name", "quota")
    token_file = Path(entry_of(file, name="quota")["env"]["SUBSCRIPTION_MCP_TOKEN_FILE"])
    connected(place, "claude-code", "--remove", "--name", "quota")
    assert json.loads(file.read_text("utf-8")) == json.loads(BEFORE)
    assert not token_file.exists()
    untouched = file.read_bytes()
    assert "nothing to do" in connected(place, "claude-code", "--remove").stderr
    assert file.read_bytes() == untouched


def test_another_server_of_the_same_name_is_left_alone(place: Place) -> None:
    file = place.folder / ".mcp.json"
    file.write_text(BEFORE, "utf-8")
    for arguments in (("--name", "other"), ("--remove", "--name", "other")):
        done = place.run("connect", "claude-code", *arguments, **LOCAL)
        assert done.returncode == CONFIGURATION
        assert "'other'" in done.stderr
    assert file.read_text("utf-8") == BEFORE


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"mcpServers": {}} // mine',
        "[]",
        '{"mcpServers": []}',
        '{"a": 1, "a": 2}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_is_not_understood_is_never_overwritten(place: Place, text: str | bytes) -> None:
    file = place.folder / ".mcp.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    for arguments in ((), ("--remove",)):
        done = place.run("connect", "claude-code", *arguments, **LOCAL)
        assert (done.returncode, done.stdout) == (CONFIGURATION, "")
        assert str(file) in done.stderr
        assert "It was not changed" in done.stderr
    assert file.read_bytes() == before
    assert not list(place.folder.glob("*.bak"))
    assert not list(place.folder.rglob("*.token"))


def test_an_empty_file_and_one_with_a_byte_order_mark_are_fine(place: Place) -> None:
    file = place.folder / ".mcp.json"
    file.write_bytes(b"")
    connected(place, "claude-code")
    file.write_bytes(b"\xef\xbb\xbf" + BEFORE.encode())
    connected(place, "claude-code")
    assert set(json.loads(file.read_text("utf-8"))["mcpServers"]) == {"other", "subscription"}


def test_a_file_behind_a_link_is_changed_where_it_is(place: Place) -> None:
    kept = place.folder / "dotfiles.json"
    kept.write_text(BEFORE, "utf-8")
    link = place.folder / ".mcp.json"
    link.symlink_to(kept)
    connected(place, "claude-code")
    assert link.is_symlink()
    assert entry_of(kept)


def test_print_shows_a_block_that_works_and_leaves_the_file_alone(place: Place) -> None:
    file = place.folder / ".mcp.json"
    file.write_text("{ broken", "utf-8")
    done = place.run("connect", "claude-code", "--print", **LOCAL)
    assert done.returncode == OK, done.stderr
    entry = json.loads(done.stdout)["mcpServers"]["subscription"]
    assert Path(entry["env"]["SUBSCRIPTION_MCP_TOKEN_FILE"]).is_file()
    assert file.read_text("utf-8") == "{ broken"


def test_the_settings_of_now_are_handed_on_without_secrets(place: Place) -> None:
    refused = place.run("connect", "claude-code")
    assert refused.returncode == CONFIGURATION
    assert "AUTH__SECRET" in refused.stderr
    assert not (place.folder / ".mcp.json").exists()
    (place.folder / "subscription.toml").write_text('catalog = "bedrock-chat"\n')
    variables = {"AUTH__SECRET": None, "DATABASE_URL": "sqlite:///data/x.db", "CONFIG": "subscription.toml"}
    connected(place, "claude-code", **variables)
    environment = entry_of(place.folder / ".mcp.json")["env"]
    assert environment["SUBSCRIPTION_MCP_DATABASE_URL"] == f"sqlite:///{place.folder}/data/x.db"
    assert environment["SUBSCRIPTION_MCP_CONFIG"] == str(place.folder / "subscription.toml")
    assert set(environment) == {
        f"SUBSCRIPTION_MCP_{name}" for name in ("CONFIG", "DATABASE_URL", "TOKEN_FILE")
    }


def test_a_remote_server_is_entered_as_a_bridge(place: Place) -> None:
    (place.folder / "token").write_text("a-token")
    connected(place, "claude-code", "--url", "https://quota.example.com", "--token-file", "token")
    entry = entry_of(place.folder / ".mcp.json")
    file = str(place.folder / "token")
    assert entry["args"][-4:] == ["bridge", "https://quota.example.com/mcp", "--token-file", file]
    assert "a-token" not in json.dumps(entry)
    assert "env" not in entry


@pytest.mark.parametrize(
    "arguments",
    [
        ("emacs",),
        ("cursor", "--name", "a b"),
        ("cursor", "--url", "https://quota.example.com"),
        ("cursor", "--url", "http://quota.example.com", "--token-file", "token"),
        ("cursor", "--url", "https://me:pw@quota.example.com", "--token-file", "token"),
        ("cursor", "--url", "https://quota.example.com?token=x", "--token-file", "token"),
        ("cursor", "--url", "nonsense", "--token-file", "token"),
        ("cursor", "--token-file", "missing"),
        ("cursor", "--token-file", "token", "--user", "bella"),
        ("cursor", "--user", "a b"),
        ("cursor", "--remove", "--print"),
    ],
)
def test_a_wrong_use_of_connect_is_2_and_writes_nothing(place: Place, arguments: tuple[str, ...]) -> None:
    (place.folder / "token").write_text("a-token")
    done = place.run("connect", *arguments, **LOCAL)
    assert (done.returncode, done.stdout) == (CONFIGURATION, "")
    assert "Error: " in done.stderr
    assert not (place.folder / ".cursor").exists()
    assert not list(place.folder.rglob("*.token"))
