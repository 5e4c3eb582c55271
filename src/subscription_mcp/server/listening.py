"""Live updates: who listens to a resource is told when it is another, and when its lists are.

What is announced is worked out per listener: after a commit that touches it (also another process's) its
numbers are read anew with its own rights, and compared with what it was told last. So nobody learns of
anybody else, and whose rights are gone hears nothing more. Listening ends with the access token: when it
expires, and when it is revoked.

Modern clients listen with `subscriptions/listen`, whose answer is the stream; legacy ones with
`resources/subscribe`, on the stream of their connection, which also tells them of their lists.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types import (
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.jsonrpc import INVALID_PARAMS
from pydantic import ValidationError

from subscription_mcp.auth.identity import Identify
from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import HTTP_STATUS, Refusal
from subscription_mcp.operations import AccountView
from subscription_mcp.operations.access import ME, Caller, Target
from subscription_mcp.server.faults import error_of, unknown_resource
from subscription_mcp.server.offers import listed
from subscription_mcp.server.prompts import PROMPTS
from subscription_mcp.server.resources import RESOURCES
from subscription_mcp.tools.toolbox import Toolbox

log = logging.getLogger(__name__)

URIS_MAX = 100
LISTENERS_MAX = 10_000
LISTENERS_OF_ONE_USER_MAX = 100
"""So that nobody can shut out all others."""
SEND_WITHIN_SECONDS = 10
SECONDS_BEFORE_WATCHING_AGAIN = 1
LISTS: dict[str, ServerEvent] = {
    "tools": ToolsListChanged(),
    "prompts": PromptsListChanged(),
    "resources": ResourcesListChanged(),
}
_STATE = __name__
"""Where a legacy connection keeps its `Line`."""
_MY_QUOTA = "quota://me"
_MY_PLAN = "subscription://me"
_MY_ALERTS = "alerts://me"
_QUOTA_OF_ACCOUNT = "quota://accounts/"


@dataclass(eq=False, slots=True)
class Listener:
    """One stream: who listens to what, what it knew last, and how it is told."""

    principal: Principal
    uris: set[str]
    account: str | None = None
    tell: Callable[[ServerEvent], None] | None = None
    seen: dict[str, Hashable] = field(default_factory=dict)
    scope: anyio.CancelScope | None = None
    """Of a modern stream, which is an answer that lasts."""
    expiry: asyncio.TimerHandle | None = None
    """Of a legacy one, which is only not told any more."""
    forget: Callable[[], None] | None = None
    """Takes back that it ends when its token is revoked."""
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def user(self) -> tuple[str, str]:
        return self.principal.tenant, self.principal.user

    def concerns(self, touched: frozenset[tuple[str, str]]) -> bool:
        tenant = self.principal.tenant
        ids = {self.principal.user, self.account, *(_account_of(uri) for uri in self.uris)}
        return any((tenant, one) in touched for one in ids if one is not None)


@dataclass(eq=False, slots=True)
class Line:
    """A legacy connection's listener, and whether the connection has ended."""

    listener: Listener | None = None
    is_closed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


_opening: ContextVar[Listener] = ContextVar("_opening")
"""The listener whose stream the SDK is about to open, in this task."""


class Listening:
    """All who listen, and the one task that watches the ledger for them, while there are any."""

    def __init__(self, toolbox: Toolbox, identify: Identify, revocations: Revocations) -> None:
        self._toolbox = toolbox
        self._do = toolbox.operations
        self._identify = identify
        self._revocations = revocations
        self._listeners: set[Listener] = set()
        self._count_by_user: Counter[tuple[str, str]] = Counter()
        self._watching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._server: MCPServer[Any] | None = None

    def serve(self, server: MCPServer[Any]) -> None:
        """Answer `resources/subscribe` of legacy clients, which the SDK leaves to the server."""
        self._server = server
        add = server._lowlevel_server.add_request_handler
        add("resources/subscribe", SubscribeRequestParams, self._subscribe)
        add("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        # Legacy clients are told what will be announced when they connect.
        lists = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        options = partial(server._lowlevel_server.create_initialization_options, lists)
        server._lowlevel_server.create_initialization_options = options  # type: ignore[method-assign]

    def close(self) -> None:
        """End every stream in good order: the server stops."""
        for listener in list(self._listeners):
            self._end(listener)

    # The SDK's bus: each stream is told by its own listener, so nothing is ever published to all.

    async def publish(self, event: ServerEvent) -> None:
        """Nothing: an event without a listener concerns nobody."""

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        opening = _opening.get()
        opening.tell = listener
        self._soon(self._look(opening))  # what happened while the stream was being opened
        return lambda: None

    # Modern

    async def listen(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """`subscriptions/listen`, within the caller's rights and as long as its token is good."""
        try:
            asked = SubscriptionsListenRequestParams.model_validate(ctx.params or {}, by_name=False)
        except ValidationError:
            raise MCPError(INVALID_PARAMS, "Invalid request parameters") from None
        principal = await self._principal()
        uris = list(asked.notifications.resource_subscriptions or ())
        if len(uris) > URIS_MAX:
            raise _too_many()
        for uri in uris:
            await self._must_be_readable(uri)
        listener = await self._added(principal, frozenset(uris))
        opening = _opening.set(listener)
        try:
            with anyio.move_on_after(_seconds_left(principal)) as listener.scope:
                self._end_with_token(listener)
                return await call_next(ctx)
            return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID_META_KEY: ctx.request_id}}
        finally:
            _opening.reset(opening)
            self._remove(listener)

    # Legacy

    async def connected(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """`notifications/initialized`: from now on the connection is told when its lists change."""
        connection = ctx.session._connection
        line = self._line_of(connection)
        result = await call_next(ctx)
        with suppress(MCPError):  # without a token there is nobody to tell
            self._soon(self._connect(connection, line, await self._principal()))
        return result

    async def _connect(self, connection: Any, line: Line, principal: Principal) -> None:
        try:
            async with line.lock:
                if line.listener is None:
                    await self._follow(connection, line, principal, frozenset())
        except MCPError as error:
            log.info("a connection is not told of changes: %s", error.error.message)

    async def _subscribe(
        self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams
    ) -> EmptyResult:
        connection, uri = ctx.session._connection, str(params.uri)
        line = self._line_of(connection)
        await self._must_be_readable(uri)
        async with line.lock:
            uris = {uri, *(line.listener.uris if line.listener is not None else ())}
            if len(uris) > URIS_MAX:
                raise _too_many()
            await self._follow(connection, line, await self._principal(), frozenset(uris))
        return EmptyResult()

    async def _unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        listener = self._line_of(ctx.session._connection).listener
        if listener is not None:
            listener.uris.discard(str(params.uri))
        return EmptyResult()

    def _line_of(self, connection: Any) -> Line:
        """To be asked before anything is awaited: a connection that has ended tells nobody of it any more."""
        line: Line | None = connection.state.get(_STATE)
        if line is None:
            line = connection.state[_STATE] = Line()
            connection.exit_stack.callback(self._close, line)
        return line

    def _close(self, line: Line) -> None:
        line.is_closed = True
        if line.listener is not None:
            self._remove(line.listener)

    async def _follow(self, connection: Any, line: Line, principal: Principal, uris: frozenset[str]) -> None:
        """Make a connection's listener anew, so that it lasts as long as its newest token."""
        before = line.listener
        listener = await self._added(principal, uris, instead_of=before)
        if line.is_closed:
            self._remove(listener)
            return

        def tell(event: ServerEvent) -> None:
            self._soon(_send(connection, event))

        listener.tell = tell
        listener.expiry = asyncio.get_running_loop().call_later(_seconds_left(principal), self._end, listener)
        line.listener = listener
        if before is not None:
            # What only the old one had noticed is told now.
            listener.seen |= {key: state for key, state in before.seen.items() if key in listener.seen}
            self._remove(before)
        self._end_with_token(listener)
        await self._look(listener)

    # Who listens

    async def _principal(self) -> Principal:
        try:
            return await self._identify()
        except Refusal as refusal:
            raise error_of(refusal) from None

    async def _added(
        self, principal: Principal, uris: frozenset[str], instead_of: Listener | None = None
    ) -> Listener:
        """A listener that knows how things stand. The one it comes instead of is not counted, and stays for
        the caller to remove. Raises MCPError."""
        listener = Listener(principal, set(uris))
        leaving = instead_of if instead_of in self._listeners else None
        if len(self._listeners) - (leaving is not None) >= LISTENERS_MAX:
            raise _too_many()
        of_user = self._count_by_user[listener.user]
        if leaving is not None and leaving.user == listener.user:
            of_user -= 1
        if of_user >= LISTENERS_OF_ONE_USER_MAX:
            raise _too_many(" by one user")
        self._listeners.add(listener)
        self._count_by_user[listener.user] += 1
        try:
            if self._watching is None:
                self._ready = asyncio.Event()
                self._watching = asyncio.create_task(self._watch(self._ready), name="live updates")
            await self._ready.wait()  # from here on no commit goes unnoticed
            listener.seen = await self._states(listener)
        except Refusal as refusal:
            self._remove(listener)
            raise error_of(refusal) from None
        except BaseException:
            self._remove(listener)
            raise
        return listener

    async def _must_be_readable(self, uri: str) -> None:
        assert self._server is not None
        try:
            await self._server.read_resource(uri)
        except ResourceNotFoundError:
            raise unknown_resource(uri) from None

    def _remove(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            self._count_by_user[listener.user] -= 1
            if not self._count_by_user[listener.user]:
                del self._count_by_user[listener.user]
        listener.tell = None
        if listener.expiry is not None:
            listener.expiry.cancel()
        if listener.forget is not None:
            listener.forget()
        if not self._listeners and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _end(self, listener: Listener) -> None:
        """Tell a listener nothing from now on, and end its stream where it has one of its own."""
        self._remove(listener)
        if listener.scope is not None:
            listener.scope.cancel()

    def _end_with_token(self, listener: Listener) -> None:
        listener.forget = self._revocations.end_with(listener.principal, partial(self._end, listener))

    # What they are told

    async def _watch(self, ready: asyncio.Event) -> None:
        while True:
            try:
                async with aclosing(self._do.changes()) as changes:
                    async for touched in changes:
                        ready.set()
                        for listener in list(self._listeners):
                            if touched is None or listener.concerns(touched):
                                await self._look(listener)
            except Exception:
                log.exception("live updates stopped; they start again")
                await asyncio.sleep(SECONDS_BEFORE_WATCHING_AGAIN)

    async def _look(self, listener: Listener) -> None:
        """Tell a listener what has become another since it was told last."""
        async with listener.looking:
            if listener.tell is None:
                return
            seen = listener.seen
            try:
                states = await self._states(listener)
                news = [key for key, state in states.items() if key in seen and seen[key] != state]
                # Asked last and anew: whoever was revoked before this learns nothing of what was read.
                if news and await self._revocations.hold_now(listener.principal):
                    return
            except Refusal as refusal:
                log.info("nothing to tell a listener: %s", refusal.code)
                return
            except Exception:
                log.exception("a listener could not be told")
                return
            listener.seen = states
            if (tell := listener.tell) is not None:
                for key in news:
                    tell(LISTS[key] if key in LISTS else ResourceUpdated(uri=key))

    async def _states(self, listener: Listener) -> dict[str, Hashable]:
        """Everything a listener can be told of, as it stands, with its own rights. Raises Refusal."""
        access = self._do.access
        caller = await access.caller(listener.principal)
        listener.account = caller.own_account
        states: dict[str, Hashable] = {
            "tools": tuple(tool.name for tool in self._toolbox.visible_to(caller)),
            "prompts": listed(PROMPTS, caller, access),
            "resources": listed(RESOURCES, caller, access),
        }
        for uri in listener.uris:
            state = await self._state_of(uri, caller)
            if state is not None:
                states[uri] = state
        return states

    async def _state_of(self, uri: str, caller: Caller) -> Hashable:
        account = _account_of(uri)
        try:
            if account is not None:
                return _state(await self._do.plans.account(caller, Target(account_id=account)), None)
            if uri in (_MY_QUOTA, _MY_PLAN):
                return _state(await self._do.plans.account(caller, ME), None)
            if uri.startswith(f"{_MY_QUOTA}/"):
                view = await self._do.plans.account(caller, ME)
                return _state(view, uri.removeprefix(f"{_MY_QUOTA}/"))
            if uri == _MY_ALERTS:
                answer = await self._do.alerts.listed(caller, ME)
                return answer.thresholds, tuple((alert.id, alert.read_at) for alert in answer.alerts)
        except Refusal as refusal:
            if refusal.code == "unavailable":
                raise
        return None

    def _soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


def _state(view: AccountView, meter: str | None) -> Hashable:
    """What a listener is told about: which account it is and of how many, the plan, each maximum, and how near it is."""
    subscription = view.subscription
    return (
        (view.standing.account_kind, view.standing.account, view.seats_used),
        (view.plan.key, view.plan.version) if view.plan is not None else None,
        (subscription.status_at(view.as_of), subscription.scheduled, subscription.seats)
        if subscription
        else None,
        tuple(
            sorted(
                (
                    limit.meter,
                    limit.window,
                    limit.scope,
                    str(limit.maximum),
                    _level(limit, view.alert_thresholds),
                )
                for limit in view.limits
                if meter in (None, limit.meter)
            )
        ),
    )


def _level(limit: LimitState, thresholds: Sequence[int]) -> int:
    """How many of the thresholds are reached; what is held counts."""
    return sum((limit.permille or 0) >= 10 * threshold for threshold in thresholds)


def _account_of(uri: str) -> str | None:
    return unquote(uri.removeprefix(_QUOTA_OF_ACCOUNT)) if uri.startswith(_QUOTA_OF_ACCOUNT) else None


def _too_many(by: str = "") -> MCPError:
    message = f"Too much is listened to at once{by}. End some of it first."
    return MCPError(HTTP_STATUS["rate_limited"], message)


def _seconds_left(principal: Principal) -> float:
    # Tokens are judged by the machine's clock, whatever the ledger's says.
    return max(principal.expires_at - time.time(), 0)


async def _send(connection: Any, event: ServerEvent) -> None:
    """Tell a legacy client; one that does not read is left alone."""
    with anyio.move_on_after(SEND_WITHIN_SECONDS):
        match event:
            case ResourceUpdated(uri=uri):
                await connection.send_resource_updated(uri)
            case ToolsListChanged():
                await connection.send_tool_list_changed()
            case PromptsListChanged():
                await connection.send_prompt_list_changed()
            case ResourcesListChanged():
                await connection.send_resource_list_changed()
