"""The real server for tests: started as a process on a ledger in a folder, spoken to as anybody would.

place = Place(tmp_path, clock=TODAY)
with place.serving() as server:
    async with server.client(place.token("bella"), "legacy") as bella:
        answer = await bella.call("get_tier_info")
    async with server.api(place.token("app", role="service")) as app:
        response = await app.call("record_usage", user_id="bella", event="message")
"""

import json
import os
import queue
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
from mcp import Client
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, PromptReference, ResourceTemplateReference
from tests import forked

from subscription_mcp.auth.keys import VerificationKey, verification_key
from subscription_mcp.auth.tokens import mint
from subscription_mcp.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-for-tests-only-0123456789abcdef"
ERROR_KEY = "io.github.subscription-mcp/error"
TODAY = "2026-11-20T14:03:11.123456Z"
MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ERAS = {"modern": "auto", "legacy": "legacy"}
PLAIN = False
"""Our servers speak plain HTTP: a client needs none of the certificates that take it long to load."""
START_WITHIN_SECONDS = 120
STOP_WITHIN_SECONDS = 25
COMMAND = (sys.executable, "-m", "subscription_mcp")
FORBIDDEN_WORDS = ("traceback", "sqlite", str(ROOT), tempfile.gettempdir(), "site-packages", ".py")


class Place:
    """A folder with a ledger, and the settings that lead there."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: str | None = None,
        command: tuple[str, ...] = COMMAND,
        **variables: str,
    ) -> None:
        self.folder = folder
        self.command = command
        self.database = folder / "ledger.db"
        self.variables = {
            "DATABASE_URL": f"sqlite:///{self.database}",
            "AUTH__SECRET": SECRET,
            **({"CLOCK": clock} if clock else {}),
            **variables,
        }

    def environment(self, **more: str | None) -> dict[str, str]:
        """Everything a process of ours is given; None takes a variable away."""
        given = {**self.variables, **more}
        environment = {
            f"SUBSCRIPTION_MCP_{name}": value for name, value in given.items() if value is not None
        }
        environment |= {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}
        for name in ("PYTHONPATH", "SYSTEMROOT"):
            if name in os.environ:
                environment[name] = os.environ[name]
        return environment

    def is_forked(self, before_exec: Callable[[], None] | None) -> bool:
        """Whether a process of ours need not begin from nothing."""
        return forked.IS_POSSIBLE and self.command[0] == sys.executable and before_exec is None

    def startable(self) -> tuple[str, ...]:
        """The command for those who start a process of ours themselves."""
        return (forked.python(), *self.command[1:]) if self.is_forked(None) else self.command

    def settings(self) -> Settings:
        environment = {name: value for name, value in self.environment().items() if "MCP_TOKEN" not in name}
        return load_settings(environ=environment)

    def token(
        self,
        user: str,
        *,
        tenant: str | None = "acme",
        role: str | None = None,
        ttl_seconds: int = 3600,
        issued_ago_seconds: int = 0,
        key: VerificationKey | None = None,
        **claims: Any,
    ) -> str:
        settings = self.settings()
        return mint(
            key or verification_key(settings),
            user=user,
            tenant=tenant,
            roles=(role,) if role else (),
            ttl_seconds=ttl_seconds,
            issuer=settings.issuer,
            audience=settings.audiences[0],
            now_seconds=int(time.time()) - issued_ago_seconds,
            token_id=str(uuid.uuid4()),
            **{"group": None, "tier": None, "profile": settings.auth.profile, **claims},
        )

    def run(
        self,
        *arguments: str,
        timeout_seconds: float = 120,
        standard_input: str | None = None,
        before_exec: Callable[[], None] | None = None,
        **variables: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """A command line to its end; none may show a traceback."""
        environment, given = self.environment(**variables), standard_input or ""
        if self.is_forked(before_exec):
            words = [*self.command[1:], *arguments]
            done = forked.run(words, environment, self.folder, given, timeout_seconds)
        else:
            done = subprocess.run(
                [*self.command, *arguments],
                env=environment,
                cwd=self.folder,
                input=given,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=timeout_seconds,
                preexec_fn=before_exec,
            )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    @contextmanager
    def serving(
        self, *, before_exec: Callable[[], None] | None = None, **variables: str | None
    ) -> Iterator["Server"]:
        """The HTTP server on a free port, ended by SIGTERM unless the test ended it."""
        server = Server(self, self.environment(**variables), before_exec)
        try:
            server.wait_until_ready()
            yield server
            if server.process.poll() is None:
                assert server.stop() == 0, server.log
                assert "Traceback" not in server.log, server.log
        finally:
            server.kill()

    @asynccontextmanager
    async def over_stdio(
        self,
        access_token: str | None,
        mode: str = "auto",
        person: ElicitationFnT | None = None,
        on_message: MessageHandlerFnT | None = None,
        **variables: str | None,
    ) -> AsyncIterator["Talk"]:
        """A client with a stdio server of its own. Open it inside the test."""
        environment = self.environment(TOKEN=access_token, **variables)
        program, *arguments = self.startable()
        parameters = StdioServerParameters(
            command=program, args=[*arguments, "stdio"], env=environment, cwd=self.folder
        )
        with (self.folder / "stdio.log").open("a") as log, first_failure():
            transport = stdio_client(parameters, errlog=log)
            async with Client(
                transport, mode=mode, elicitation_callback=person, message_handler=on_message
            ) as client:
                yield Talk(client, access_token)

    def rows(self) -> dict[str, int]:
        """How many rows every table of facts has, read independently of the product."""
        tables = (
            "event",
            "counter",
            "rollup",
            "answer",
            "subscription",
            "member",
            "limit_override",
            "reservation",
            "session",
            "audit",
        )
        with closing(sqlite3.connect(self.database)) as database:
            return {
                table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
            }

    def select(self, statement: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(statement, values).fetchall()


class Server:
    """A running `serve`."""

    def __init__(
        self, place: Place, environment: Mapping[str, str], before_exec: Callable[[], None] | None
    ) -> None:
        self.place = place
        self.base_url = ""
        self._lines: list[str] = []
        self._read: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        arguments = ("serve", "--port", "0")
        self.process: subprocess.Popen[str] | forked.Forked
        if place.is_forked(before_exec):
            self.process = forked.serve([*place.command[1:], *arguments], environment, place.folder)
        else:
            self.process = subprocess.Popen(
                [*place.command, *arguments],
                env=dict(environment),
                cwd=place.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                preexec_fn=before_exec,
            )
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)
            self._read.put(line)
        self._read.put(None)

    @property
    def log(self) -> str:
        """What it wrote on stderr so far."""
        return "".join(self._lines)

    def wait_until_ready(self) -> None:
        while True:
            line = self._read.get(timeout=START_WITHIN_SECONDS)
            assert line is not None, f"the server ended: {self.log}"
            found = re.match(r"MCP +(http://\S+)/mcp\n", line)
            if found:
                self.base_url = found[1]
                return

    def wait_for_log(self, text: str) -> None:
        while text not in self.log:
            assert self._read.get(timeout=START_WITHIN_SECONDS) is not None, self.log

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(STOP_WITHIN_SECONDS)
        self._reader.join()
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    @asynccontextmanager
    async def client(
        self,
        access_token: str,
        mode: str = "auto",
        person: ElicitationFnT | None = None,
        on_message: MessageHandlerFnT | None = None,
    ) -> AsyncIterator["Talk"]:
        """An MCP client over streamable HTTP. Open it inside the test."""
        headers = {"authorization": f"Bearer {access_token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30, verify=PLAIN) as http:
            transport = streamable_http_client(f"{self.base_url}/mcp", http_client=http)
            with first_failure():
                async with Client(
                    transport, mode=mode, elicitation_callback=person, message_handler=on_message
                ) as client:
                    yield Talk(client, access_token)

    async def modern(
        self,
        access_token: str,
        method: str,
        params: Mapping[str, Any],
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One message of the modern protocol and the answer to it, as they are on the wire."""
        headers = {
            "authorization": f"Bearer {access_token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": method,
        }
        for key in ("uri", "name"):
            if key in params:
                headers["mcp-name"] = params[key]
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": dict(capabilities or {}),
        }
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        async with httpx2.AsyncClient(timeout=30, verify=PLAIN) as http:
            response = await http.post(f"{self.base_url}/mcp", json=message, headers=headers)
        discreet(response.text, access_token)
        body = response.text
        if response.headers["content-type"].startswith("text/event-stream"):
            (body,) = [line[5:] for line in body.splitlines() if line.startswith("data:")]
        answer: dict[str, Any] = json.loads(body)
        return answer

    @asynccontextmanager
    async def api(self, access_token: str | None = None) -> AsyncIterator["Api"]:
        """The HTTP API. Open it inside the test."""
        headers = {"authorization": f"Bearer {access_token}"} if access_token is not None else {}
        limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx2.AsyncClient(
            base_url=self.base_url, headers=headers, timeout=30, limits=limits, verify=PLAIN
        ) as http:
            yield Api(http, access_token)


@asynccontextmanager
async def talking(
    place: Place,
    server: Server,
    transport: str,
    access_token: str,
    mode: str,
    person: ElicitationFnT | None = None,
    on_message: MessageHandlerFnT | None = None,
) -> AsyncIterator["Talk"]:
    """A client over either transport on the same ledger; `person` answers what it is asked."""
    opened = (
        place.over_stdio(access_token, mode, person, on_message)
        if transport == "stdio"
        else server.client(access_token, mode, person, on_message)
    )
    async with opened as talk:
        yield talk


@contextmanager
def first_failure() -> Iterator[None]:
    """What went wrong itself, out of the groups that the client's tasks wrap it in."""
    try:
        yield
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            failure = failure.exceptions[0]
        raise failure from None


def discreet(text: str, access_token: str | None = None) -> None:
    """No answer tells about our insides, or repeats a token."""
    told = [word for word in FORBIDDEN_WORDS if word.lower() in text.lower()]
    assert not told, f"{told} in {text}"
    assert not access_token or access_token not in text, text


class Talk:
    """An open MCP client whose every answer is looked at."""

    def __init__(self, client: Client, access_token: str | None) -> None:
        self.client = client
        self._access_token = access_token

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools(cache_mode="refresh")).tools]

    async def result(self, tool: str, arguments: Mapping[str, Any] | None = None) -> CallToolResult:
        answer = await self.client.call_tool(tool, dict(arguments or {}))
        assert isinstance(answer, CallToolResult)
        discreet(answer.model_dump_json(), self._access_token)
        return answer

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The data of an answer; the words stand beside it under `text`."""
        answer = await self.result(tool, arguments)
        assert not answer.is_error, answer
        assert answer.structured_content is not None
        return {**answer.structured_content, "text": text_of(answer)}

    async def refusal(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error object of a call that is refused, in its one shape."""
        return refusal_of(await self.result(tool, arguments))

    async def rpc_error(self, tool: str, **arguments: Any) -> tuple[int, str, Any]:
        """The JSON-RPC error of a call: code, message, data."""
        return await self.fault(self.client.call_tool(tool, arguments))

    async def fault(self, asked: Awaitable[Any]) -> tuple[int, str, Any]:
        """The JSON-RPC error of anything asked: code, message, data."""
        try:
            answer = await asked
        except MCPError as fault:
            discreet(f"{fault.error.message} {fault.error.data}", self._access_token)
            return fault.error.code, fault.error.message, fault.error.data
        raise AssertionError(f"answered: {answer}")

    async def buy(self, plan: str, **arguments: Any) -> dict[str, Any]:
        """What somebody who cannot be asked does: get a handle, confirm it."""
        offered = await self.call("upgrade_tier", plan=plan, **arguments)
        assert offered["status"] == "confirmation_required", offered
        return await self.call("upgrade_tier", plan=plan, **arguments, confirmation=offered["confirmation"])

    async def prompt(self, name: str, **arguments: str) -> str:
        """The words of a prompt."""
        (message,) = (await self.client.get_prompt(name, arguments)).messages
        text: str = message.content.text  # type: ignore[union-attr]
        assert message.role == "user"
        discreet(text, self._access_token)
        return text

    async def completions(self, ref: str, argument: str, typed: str = "") -> list[str]:
        """What completes an argument of a prompt, or a variable of a resource's template."""
        named = ResourceTemplateReference(uri=ref) if "://" in ref else PromptReference(name=ref)
        answer = await self.client.complete(named, {"name": argument, "value": typed})
        return answer.completion.values

    async def resource(self, uri: str) -> dict[str, Any]:
        (content,) = (await self.client.read_resource(uri)).contents
        text: str = content.text  # type: ignore[union-attr]
        discreet(text, self._access_token)
        document: dict[str, Any] = json.loads(text)
        return document


def text_of(answer: CallToolResult) -> str:
    text: str = answer.content[0].text  # type: ignore[union-attr]
    return text


def refusal_of(answer: CallToolResult) -> dict[str, Any]:
    assert answer.is_error, answer
    assert answer.structured_content is None
    assert answer.meta is not None
    error: dict[str, Any] = answer.meta[ERROR_KEY]
    sentence, document = answer.content
    assert sentence.text == error["message"]  # type: ignore[union-attr]
    assert json.loads(document.text) == error  # type: ignore[union-attr]
    return error


class Api:
    """The HTTP API, every answer looked at."""

    def __init__(self, http: httpx2.AsyncClient, access_token: str | None) -> None:
        self.http = http
        self._access_token = access_token

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return self._seen(await self.http.get(path, **options))

    async def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self._seen(await self.http.request(method, path, **options))

    async def call(self, tool: str, **arguments: Any) -> httpx2.Response:
        return await self.send("POST", f"/api/mcp/tools/{tool}", json={"arguments": arguments})

    async def raw(self, tool: str, body: str | bytes, kind: str = "application/json") -> httpx2.Response:
        return await self.send("POST", f"/api/mcp/tools/{tool}", content=body, headers={"content-type": kind})

    def _seen(self, response: httpx2.Response) -> httpx2.Response:
        discreet(f"{response.headers} {response.text}", self._access_token)
        return response


class LegacySession:
    """A connection of the legacy protocol, message by message."""

    headers: Mapping[str, str] = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": LEGACY,
    }

    def __init__(self, api: Api, session_id: str) -> None:
        self.api = api
        self.headers = {**self.headers, "mcp-session-id": session_id}

    @classmethod
    async def begun(cls, api: Api) -> Self:
        greeting = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": greeting}
        answer = await api.send("POST", "/mcp", json=hello, headers=cls.headers)
        return cls(api, answer.headers["mcp-session-id"])

    async def post(self, method: str, **message: Any) -> str:
        body = {"jsonrpc": "2.0", "method": method, **message}
        return (await self.api.send("POST", "/mcp", json=body, headers=self.headers)).text

    async def end(self) -> None:
        assert (await self.api.send("DELETE", "/mcp", headers=self.headers)).status_code == 200


def problem_of(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refused request, in its one shape."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["code"] == code, document
    assert document["detail"] == document["message"]
    assert document["title"]
    return document


def audit(place: Place) -> int:
    """Hold events, rollups and counters of the file against each other; how many events there are. For
    ledgers whose clock stood still: every window then holds every event."""
    gained: dict[tuple[int, str], int] = {}
    events = place.select("SELECT holder, gains FROM event")
    for holder, gains in events:
        for meter, gain in json.loads(gains).items():
            gained[(holder, meter)] = gained.get((holder, meter), 0) + gain
    rolled = place.select(
        "SELECT r.holder, w.text, sum(r.quantity) FROM rollup r JOIN word w ON w.id = r.meter GROUP BY 1, 2"
    )
    assert {(holder, meter): quantity for holder, meter, quantity in rolled} == gained
    counted = place.select(
        "SELECT c.holder, w.text, c.used FROM counter c JOIN word w ON w.id = c.meter"
        " JOIN holder h ON h.id = c.holder JOIN word u ON u.id = h.user WHERE u.text <> ''"
    )
    for holder, meter, used in counted:
        assert used == gained.get((holder, meter), 0)
    assert place.select("PRAGMA integrity_check") == [("ok",)]
    return len(events)
