"""Sessions: opening, renewing and closing them."""

from subscription_mcp.ledger.commands import (
    CloseSession,
    OpenSession,
    RenewSession,
    SessionClosed,
    SessionDecided,
)
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target
from subscription_mcp.operations.metering import digest_of


class Sessions:
    """Leases of users, within their plan's number and duration."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def open(
        self, caller: Caller, target: Target, ttl_seconds: int | None, idempotency_key: str | None
    ) -> SessionDecided:
        """Open a session, or say why not. Raises Refusal."""
        granted = await self._access.grant("open_session", caller, target)
        subject = granted.subject_or_refuse()
        names = [subject.tenant, subject.account, subject.user]
        command = OpenSession(
            subject,
            caller.principal.user,
            ttl_seconds,
            idempotency_key,
            digest_of("open_session", names, ttl_seconds),
        )
        return await self._ledger.do(command, SessionDecided)

    async def renew(self, caller: Caller, session_id: str, ttl_seconds: int | None) -> SessionDecided:
        """Keep a session open. Raises Refusal `not_found` where it is over."""
        tenant, user = self._access.whose_lease("renew_session", caller)
        return await self._ledger.do(RenewSession(tenant, session_id, user, ttl_seconds), SessionDecided)

    async def close(self, caller: Caller, session_id: str) -> SessionClosed:
        """End a session; again changes nothing. Raises Refusal."""
        tenant, user = self._access.whose_lease("close_session", caller)
        return await self._ledger.do(CloseSession(tenant, session_id, user), SessionClosed)
