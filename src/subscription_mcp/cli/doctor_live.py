"""What `doctor` tries: a server of its own over stdio on an empty ledger, and a server that runs elsewhere.

Each check answers its name, how it went, what was seen, and what to do about it.
"""

import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import httpx2

from subscription_mcp.auth.tokens import TokenSource, TokenVerifier, inspect
from subscription_mcp.cli.common import json_object, lacks_key
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.settings import PREFIX, SQLITE, Settings

Seen = tuple[str, Literal["ok", "warn", "FAIL", "skip"], str, str | None]
ANSWER_WITHIN_SECONDS = 30
PROTOCOL_VERSION = "2025-11-25"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": {"name": "subscription-mcp doctor", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


# Over stdio


def start_stdio(settings: Settings) -> Seen:
    """Start `stdio` as a host would, on a ledger that is thrown away: initialize, list the tools, end."""
    with tempfile.TemporaryDirectory(prefix="subscription-mcp-doctor-") as folder:
        environment = {**os.environ, f"{PREFIX}DATABASE_URL": f"{SQLITE}{folder}/ledger.db"}
        if settings.config:
            environment[f"{PREFIX}CONFIG"] = settings.config
        if lacks_key(settings):
            # Otherwise the key would be made now, and this changes nothing.
            environment[f"{PREFIX}AUTH__SECRET"] = secrets.token_urlsafe(48)
        log = Path(folder) / "stderr.log"
        started = time.perf_counter()
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "subscription_mcp", "stdio"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
            ) as process,
        ):
            return _talk(process, started, log)


def _talk(process: "subprocess.Popen[str]", started: float, log: Path) -> Seen:
    assert process.stdin is not None and process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        _send(process.stdin, INITIALIZE)
        _answer_to(1, lines)
        _send(process.stdin, INITIALIZED, LIST_TOOLS)
        listed = _answer_to(2, lines)
        seconds = time.perf_counter() - started
        process.stdin.close()
        while (line := lines.get(timeout=ANSWER_WITHIN_SECONDS)) is not None:
            _message(line)
        code = process.wait(ANSWER_WITHIN_SECONDS)
    except _NotClean as fault:
        fix = "nothing may print to stdout: look at sitecustomize and .pth files of this Python"
        return "stdio", "FAIL", f"stdout carries something else than messages: {fault}", fix
    except (OSError, queue.Empty, subprocess.TimeoutExpired, KeyError, TypeError):
        return "stdio", "FAIL", f"no answer: {_last_line(log)}", "run subscription-mcp stdio yourself"
    finally:
        process.kill()
        reader.join()
    tools = listed["tools"]
    size = len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False).encode())
    seen = (
        f"started itself on an empty ledger, initialize and tools/list in {seconds:.2f} s, "
        f"stdout clean, {len(tools)} tools in {size:,} bytes"
    )
    if code != 0:
        return "stdio", "warn", f"{seen}, but ended with {code}", "run subscription-mcp stdio yourself"
    return "stdio", "ok", seen, None


class _NotClean(Exception):
    """A line on stdout that is no message; says its beginning."""


def _read(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _send(stream: IO[str], *messages: dict[str, Any]) -> None:
    stream.write("".join(json.dumps(message) + "\n" for message in messages))
    stream.flush()


def _answer_to(request: int, lines: "queue.SimpleQueue[str | None]") -> dict[str, Any]:
    until = time.monotonic() + ANSWER_WITHIN_SECONDS
    while True:
        line = lines.get(timeout=max(0.0, until - time.monotonic()))
        if line is None:
            raise queue.Empty
        message = _message(line)
        if message.get("id") == request:
            result: dict[str, Any] = message["result"]
            return result


def _message(line: str) -> dict[str, Any]:
    message = json_object(line)
    if message is None or message.get("jsonrpc") != "2.0":
        raise _NotClean(ascii(line.strip()[:60]))
    return message


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


# Over HTTP


def ask_server(url: str, settings: Settings) -> list[Seen]:
    """Ask a server that runs whether it is ready, and whether it takes the token that is configured."""
    base = url.rstrip("/").removesuffix("/mcp")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        return [("server", "FAIL", f"{url} is no URL", "give one like https://quota.example.com")]
    try:
        with httpx2.Client(base_url=base, timeout=ANSWER_WITHIN_SECONDS, follow_redirects=False) as http:
            ready = _readiness(http, base)
            return [ready] if ready[1] == "FAIL" else [ready, _acceptance(http, settings)]
    except (httpx2.HTTPError, httpx2.InvalidURL) as fault:
        reason = str(fault) or type(fault).__name__
        fix = "start it (subscription-mcp serve), or correct host, port and certificate"
        return [("server", "FAIL", f"{base} cannot be reached: {reason}", fix)]


def _readiness(http: httpx2.Client, base: str) -> Seen:
    started = time.perf_counter()
    response = http.get("/readyz")
    milliseconds = (time.perf_counter() - started) * 1000
    document = json_object(response.text) or {}
    status, message = document.get("status"), document.get("message", "")
    match response.status_code:
        case 200 if status == "ok":
            return "server", "ok", f"{base} is ready, answered in {milliseconds:.0f} ms", None
        case 200 if status == "degraded":
            fix = "is the jwks_uri of the identity provider reachable from where the server runs?"
            return "server", "warn", f"{base} is ready, but degraded. {message}", fix
        case 421:
            host = urlsplit(base).netloc
            seen = f"{base} answers 421: the server does not answer for the Host {host}"
            return "server", "FAIL", seen, f"start it with {PREFIX}PUBLIC_URL={base}"
        case 503 if status == "unavailable":
            fix = "run doctor where the server runs: it says what is wrong with its database or its key"
            return "server", "FAIL", f"{base} runs, but is not ready. {message}", fix
        case status_code:
            seen = f"{base}/readyz answers {status_code}, which is not this server's"
            return "server", "FAIL", seen, "correct the URL, or look at the proxy in front of the server"


def _acceptance(http: httpx2.Client, settings: Settings) -> Seen:
    try:
        access_token = TokenSource.of(settings).read()
    except Refusal:
        fix = f"set {PREFIX}TOKEN or {PREFIX}TOKEN_FILE to what clients send, and it is tried"
        return "access", "warn", "no token is configured, so every call would be answered 401", fix
    response = http.get("/api/mcp/tools", headers={"authorization": f"Bearer {access_token}"})
    document = json_object(response.text) or {}
    if response.status_code == 200 and isinstance(document.get("tools"), list):
        return "access", "ok", f"the token is accepted, {len(document['tools'])} tools", None
    if response.status_code == 401:
        said = document.get("detail") or "the server does not say why"
        return "access", "FAIL", f"the token is answered 401: {said}", _why_401(http, access_token, settings)
    seen = f"the token is answered {response.status_code}: {document.get('detail') or 'without a reason'}"
    return "access", "FAIL", seen, "look at the server's log"


def _why_401(http: httpx2.Client, access_token: str, settings: Settings) -> str:
    """What most likely is wrong with a token that another server refuses."""
    if lacks_key(settings):
        return "mint it where the server runs, with the server's settings"
    metadata = json_object(http.get("/.well-known/oauth-protected-resource/mcp").text) or {}
    shown = inspect(access_token, TokenVerifier.of(settings))
    claims = shown["claims"] or {}
    audience = claims.get("aud")
    resource = metadata.get("resource")
    if shown["valid"] and resource not in (audience if isinstance(audience, list) else [audience]):
        return (
            f"its settings differ from these: another key, issuer or audience. The token is for {audience!r}, "
            f"the server is {resource!r}; mint it with the server's settings"
        )
    if shown["valid"]:
        return "the server has another key or issuer than these settings; mint it with the server's settings"
    return f"get a new one from the server's issuer. Here it is judged so, too: {shown['verdict']}"
