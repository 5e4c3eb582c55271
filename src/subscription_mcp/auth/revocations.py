"""Which access tokens were revoked: one by its id, or all that a subject or a tenant had been issued.

The ledger keeps them; every process holds them in memory and asks for new ones twice a second, when somebody
calls or while a stream is open. So a revocation counts everywhere within a second, and a call costs no question
of its own.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from subscription_mcp.auth.principal import Principal
from subscription_mcp.domain.erasure import HASHED, hashed_name
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import SECOND, Instant

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.5
AFTER_A_FAULT_SECONDS = 5
"""Until what is open asks again where nobody could say: meanwhile it is told nothing, and the log stays readable."""


class Revoked(Protocol):
    """One revocation as the ledger keeps it. With a `token_id` it is that token; else everything issued up to
    `issued_before`: to a subject, in a tenant, or to a subject in a tenant. Of who was erased only hashes are kept."""

    @property
    def seq(self) -> int: ...
    @property
    def token_id(self) -> str | None: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def subject(self) -> str | None: ...
    @property
    def issued_before(self) -> Instant: ...


Since = Callable[[int], Awaitable[Iterable[Revoked]]]
"""The revocations after a position. Raises Refusal `unavailable`."""


class Revocations:
    """What was revoked, as far as is known here. All methods are called from one event loop."""

    def __init__(self, since: Since, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._since = since
        self._monotonic = monotonic
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()
        self._seen = 0
        self._token_ids: set[str] = set()
        self._whose: dict[tuple[str | None, str | None], Instant] = {}
        """By tenant and subject, None for any: the last instant up to which tokens are refused."""
        self._are_hashed = False
        """Whether any names its token or subject by a hash."""
        self._open: dict[object, tuple[Principal, Callable[[], None]]] = {}
        """What is open on behalf of whom, and how it is ended."""
        self._watching: asyncio.Task[None] | None = None

    async def hold(self, principal: Principal) -> bool:
        """Whether this caller's token was revoked. Raises Refusal `unavailable` where nobody can say."""
        if self._is_due():
            async with self._asking:
                if self._is_due():
                    await self._ask()
        return self.is_revoked(principal)

    async def hold_now(self, principal: Principal) -> bool:
        """The same by what the ledger says from here on, whoever asked it a moment ago."""
        async with self._asking:
            await self._ask()
        return self.is_revoked(principal)

    def is_revoked(self, principal: Principal) -> bool:
        """The same by what is known already."""
        if principal.token_id is not None and principal.token_id in self._token_ids:
            return True
        if self._are_hashed and self._is_revoked_by_hash(principal):
            return True
        return bool(self._whose) and self._is_among(principal, principal.user)

    def _is_revoked_by_hash(self, principal: Principal) -> bool:
        token_id = principal.token_id
        return (token_id is not None and hashed_name(token_id) in self._token_ids) or self._is_among(
            principal, hashed_name(principal.user)
        )

    def _is_among(self, principal: Principal, user: str) -> bool:
        """Whether it was issued before those of its tenant or of this name were revoked."""
        # A token that does not say when it was issued may be any age; one of the same second may be older.
        issued_at = (principal.issued_at or 0) * SECOND
        tenant = principal.tenant
        whose = ((None, user), (tenant, user), (tenant, None))
        return any(issued_at < self._whose.get(key, 0) for key in whose)

    def end_with(self, principal: Principal, end: Callable[[], None]) -> Callable[[], None]:
        """Have something that stays open ended once this caller's token is revoked: `end` is called once, within a
        second. Returns what takes that back."""
        if self.is_revoked(principal):
            end()
            return lambda: None
        one = object()
        self._open[one] = (principal, end)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="revocations")

        def forget() -> None:
            self._open.pop(one, None)
            if not self._open and self._watching is not None:
                self._watching.cancel()
                self._watching = None

        return forget

    async def _watch(self) -> None:
        wait: float = ASK_AGAIN_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait = ASK_AGAIN_SECONDS
            try:
                async with self._asking:
                    await self._ask()
            except Refusal:
                wait = AFTER_A_FAULT_SECONDS
            except Exception:
                log.exception("revocations could not be looked for")
                wait = AFTER_A_FAULT_SECONDS

    def _is_due(self) -> bool:
        return self._asked_at is None or self._monotonic() - self._asked_at >= ASK_AGAIN_SECONDS

    async def _ask(self) -> None:
        asked_at = self._monotonic()
        found = list(await self._since(self._seen))
        for revoked in found:
            self._seen = max(self._seen, revoked.seq)
            if revoked.token_id is not None:
                self._token_ids.add(revoked.token_id)
            else:
                key = (revoked.tenant, revoked.subject)
                self._whose[key] = max(self._whose.get(key, 0), revoked.issued_before)
            named = (revoked.token_id or "", revoked.subject or "")
            self._are_hashed |= any(name.startswith(HASHED) for name in named)
        self._asked_at = asked_at
        if found:
            self._end_what_is_revoked()

    def _end_what_is_revoked(self) -> None:
        for one, (principal, end) in list(self._open.items()):
            if self.is_revoked(principal):
                self._open.pop(one, None)
                end()
