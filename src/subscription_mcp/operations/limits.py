"""Limits set by hand, grants, rates cleared, events taken back, and the history of it."""

from dataclasses import dataclass

from subscription_mcp.domain.catalog import Maximum
from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import (
    AccountView,
    AuditEntry,
    ClearRate,
    CorrectUsage,
    EndGrant,
    GrantAllowance,
    LimitsChanged,
    SetLimit,
)
from subscription_mcp.ledger.queries import AuditTrail
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target, whose_of

HISTORY_SIZE = 100
TOOL = "manage_limits"
CLEAR_RATE = f"{TOOL}.clear_rate"
CORRECT = f"{TOOL}.correct"
GRANT = f"{TOOL}.grant"


@dataclass(frozen=True, slots=True)
class LimitChange:
    """One override to set, or (`maximum` None) to clear."""

    meter: str
    window: str
    maximum: Maximum | None
    reason: str
    expires_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Extra:
    """Extra allowance of one limit, in effect from `starts_at` (now unless given) until `expires_at`."""

    meter: str
    window: str
    quantity: int
    reason: str
    starts_at: Instant | None = None
    expires_at: Instant | None = None


class Limits:
    """Listing, setting and clearing overrides, grants, clearing rates, and taking events back."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def listed(self, caller: Caller, target: Target) -> AccountView:
        """The limits as they stand. Raises Refusal."""
        granted = await self._access.grant(TOOL, caller, target)
        return await self._access.account_of(granted, anew=True)

    async def change(self, caller: Caller, target: Target, change: LimitChange) -> LimitsChanged:
        """Set or clear an override, with its entry in the audit trail. Raises Refusal."""
        granted = await self._access.grant(TOOL, caller, target)
        command = SetLimit(
            granted.subject_or_refuse(),
            granted.actor,
            change.meter,
            change.window,
            change.maximum,
            change.reason,
            within_plan=granted.role not in ("tenant_admin", "superadmin"),
            expires_at=change.expires_at,
        )
        return await self._ledger.do(command, LimitsChanged)

    async def clear_rate(
        self, caller: Caller, target: Target, meter: str | None, reason: str
    ) -> LimitsChanged:
        """Forget what was used in the sliding minutes, of a meter or of all; operators only. Raises Refusal."""
        granted = await self._access.grant(CLEAR_RATE, caller, target)
        command = ClearRate(granted.subject_or_refuse(), granted.actor, reason, meter)
        return await self._ledger.do(command, LimitsChanged)

    async def grant(self, caller: Caller, target: Target, extra: Extra) -> LimitsChanged:
        """Give a user or an account more of one limit; operators only. Raises Refusal."""
        granted = await self._access.grant(GRANT, caller, target)
        command = GrantAllowance(
            granted.subject_or_refuse(),
            granted.actor,
            extra.meter,
            extra.window,
            extra.quantity,
            extra.reason,
            extra.starts_at,
            extra.expires_at,
        )
        return await self._ledger.do(command, LimitsChanged)

    async def end_grant(self, caller: Caller, target: Target, grant_id: str, reason: str) -> LimitsChanged:
        """Have a grant end now; operators only. Raises Refusal."""
        granted = await self._access.grant(GRANT, caller, target)
        command = EndGrant(granted.subject_or_refuse(), granted.actor, grant_id, reason)
        return await self._ledger.do(command, LimitsChanged)

    async def correct(self, caller: Caller, target: Target, event_id: str, reason: str) -> LimitsChanged:
        """Take an event of a user or an account back; operators only. Raises Refusal."""
        granted = await self._access.grant(CORRECT, caller, target)
        whose = granted.subject_or_refuse()
        command = CorrectUsage(whose.tenant, event_id, granted.actor, reason, whose.user, whose.account)
        return await self._ledger.do(command, LimitsChanged)

    async def history(self, caller: Caller, target: Target) -> tuple[AccountView, list[AuditEntry]]:
        """The newest changes of the account's limits, with who made them and why. Raises Refusal."""
        view = await self.listed(caller, target)
        trail: list[AuditEntry] = await self._ledger.query(AuditTrail(whose_of(view), "limit.", HISTORY_SIZE))
        return view, trail
