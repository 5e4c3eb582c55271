"""The configuration files of MCP hosts: where they are, and changing one entry in them without harm.

Everything else in a file stays as it was, a file that is not understood is not touched, and a change is
there whole or not at all, with a backup beside it.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from subscription_mcp.settings import SettingsError

SCOPES = ("project", "user")
INDENT = 2


@dataclass(frozen=True, slots=True)
class Host:
    """One host: its files by scope, and how it writes an entry."""

    name: str
    title: str
    files: dict[str, Callable[[], Path]]
    wrapper: str = "mcpServers"
    names_type: bool = True
    next_step: str = "restart it, then ask: How much of my quota is left?"


def _config_folder() -> Path:
    """Where programs of the desktop keep their settings on this platform."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


HOSTS = {
    host.name: host
    for host in (
        Host(
            "claude-desktop",
            "Claude Desktop",
            {"user": lambda: _config_folder() / "Claude" / "claude_desktop_config.json"},
            names_type=False,
            next_step="quit Claude Desktop and start it again, then ask: How much of my quota is left?",
        ),
        Host(
            "claude-code",
            "Claude Code",
            {"project": lambda: Path.cwd() / ".mcp.json", "user": lambda: Path.home() / ".claude.json"},
            next_step="start claude here and approve the server, then ask: How much of my quota is left?",
        ),
        Host(
            "cursor",
            "Cursor",
            {
                "project": lambda: Path.cwd() / ".cursor" / "mcp.json",
                "user": lambda: Path.home() / ".cursor" / "mcp.json",
            },
        ),
        Host(
            "vscode",
            "VS Code",
            {
                "project": lambda: Path.cwd() / ".vscode" / "mcp.json",
                "user": lambda: _config_folder() / "Code" / "User" / "mcp.json",
            },
            wrapper="servers",
        ),
    )
}


def place_of(host: str, scope: str | None) -> "Place":
    """The file of a host: the project's where it has one, unless the user's is asked for. Raises SettingsError."""
    found = HOSTS[host]
    chosen = scope or next(name for name in SCOPES if name in found.files)
    if chosen not in found.files:
        raise SettingsError(f"{found.title} has no configuration of a {chosen}; leave out --scope.")
    return Place(found, found.files[chosen]())


@dataclass(frozen=True, slots=True)
class Place:
    """One configuration file of a host, which need not be there yet."""

    host: Host
    path: Path

    def document(self) -> dict[str, Any]:
        """What the file holds; nothing where it is missing or empty. Raises SettingsError where changing it
        would lose something."""
        text = self._text()
        if not text.strip():
            return {}
        try:
            document = json.loads(text, object_pairs_hook=_without_duplicates)
        except json.JSONDecodeError as fault:
            self._refuse(f"is not plain JSON (line {fault.lineno}: {fault.msg})")
        except (ValueError, RecursionError):
            self._refuse("holds the same key twice")
        if not isinstance(document, dict):
            self._refuse("holds no JSON object")
        self.servers(document)
        return document

    def servers(self, document: dict[str, Any]) -> dict[str, Any]:
        """The entries in a document, to be changed in it."""
        servers = document.get(self.host.wrapper, {})
        if not isinstance(servers, dict):
            self._refuse(f"has {self.host.wrapper!r}, which is no JSON object")
        return servers

    def write(self, document: dict[str, Any]) -> Path | None:
        """Put the document in the file's place; the backup of what was there. Raises SettingsError."""
        path = Path(os.path.realpath(self.path))  # through a link to the file it stands for
        before = self._text()
        text = json.dumps(document, indent=_indent_of(before), ensure_ascii=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_whole(path, text)
                return None
            mode = path.stat().st_mode & 0o7777
            backup = _free_name(path)
            backup_bytes = path.read_bytes()
            write_whole(backup, backup_bytes, mode=mode)
            write_whole(path, text, mode=mode)
            return backup
        except OSError as fault:
            raise SettingsError(f"{self.path} cannot be written ({fault.strerror}).") from None

    def _text(self) -> str:
        try:
            return self.path.read_text("utf-8-sig")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            self._refuse("is not UTF-8 text")
        except OSError as fault:
            raise SettingsError(f"{self.path} cannot be read ({fault.strerror}).") from None

    def _refuse(self, what: str) -> NoReturn:
        raise SettingsError(
            f"{self.path} {what}. It was not changed: mend it, or use --print and paste the block yourself."
        ) from None


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write a file whole or not at all; with this mode, else what the process gives to new files."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            aside.chmod(mode)
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def _free_name(path: Path) -> Path:
    """A name for a backup with the time in it that nothing has yet."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 1
    while True:
        name = path.with_name(f"{path.name}.{stamp}{'' if number == 1 else f'-{number}'}.bak")
        if not name.exists():
            return name
        number += 1


def _indent_of(text: str) -> int | str:
    """The indentation a file is written with: that of its first line that has one."""
    for line in text.splitlines()[1:]:
        margin = line[: len(line) - len(line.lstrip())]
        if margin and line.strip():
            return margin
    return INDENT


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("the same key twice")
    return made
