"""Alerts: read, marked as read, and at which thresholds an account has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from subscription_mcp.auth.permissions import Reach
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    Alert,
    AlertsMarked,
    MarkAlerts,
    SetAlertThresholds,
    ThresholdsSet,
)
from subscription_mcp.ledger.queries import AlertPage, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target, whose_of
from subscription_mcp.operations.cursors import cursor_of, position_of

TOOL = "list_alerts"
MARK_READ = f"{TOOL}.mark_read"
THRESHOLDS = f"{TOOL}.thresholds"
ALERTS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class AlertsAnswer:
    """The newest alerts first, and at which percents the account has them; None of a whole tenant. `next_cursor`
    is there where there are older ones, `is_of_many` says that they may be of several users."""

    alerts: list[Alert]
    thresholds: tuple[int, ...] | None
    next_cursor: str | None
    is_of_many: bool
    marked: int | None = None


class Alerts:
    """Listing alerts, marking them as read, choosing thresholds."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def listed(
        self,
        caller: Caller,
        target: Target,
        cursor: str | None = None,
        *,
        unread_only: bool = False,
        marked: int | None = None,
    ) -> AlertsAnswer:
        """One page: the alerts of a user with those of their account as a whole, of an account, or of a tenant with those of the
        service. Raises Refusal."""
        granted = await self._access.grant(TOOL, caller, target)
        view = await self._access.view_of(granted, anew=True)
        whose = Whose(granted.tenant) if view is None else whose_of(view)
        of_list = (
            TOOL,
            whose.tenant,
            whose.account_kind,
            whose.account,
            whose.user,
            "unread" if unread_only else None,
        )
        before = position_of(cursor, *of_list)
        page = AlertPage(whose, ALERTS_SHOWN + 1, unread_only, with_service=view is None, before=before)
        found: list[tuple[int, Alert]] = await self._ledger.query(page)
        shown = found[:ALERTS_SHOWN]
        return AlertsAnswer(
            [alert for _, alert in shown],
            None if view is None else view.alert_thresholds,
            cursor_of(shown[-1][0], *of_list) if len(found) > len(shown) else None,
            is_of_many=whose.user is None,
            marked=marked,
        )

    async def mark_read(self, caller: Caller, target: Target, ids: Sequence[str]) -> int:
        """Mark alerts of the target as read, for everybody who reads them; how many were not. Those of a group as a whole
        are its admins' to mark, those of the service the superadmin's. Raises Refusal."""
        granted = await self._access.grant(MARK_READ, caller, target)
        view = await self._access.view_of(granted, anew=True)
        account = user = None
        if view is not None:
            standing = view.standing
            account = AccountKey(standing.tenant, standing.account_kind, standing.account)
            user = standing.user
        reached = self._access.reach_of(MARK_READ, caller)
        with_service, with_whole = view is None and reached >= Reach.ALL, reached >= Reach.ACCOUNT
        command = MarkAlerts(granted.tenant, account, user, with_service, tuple(ids), with_whole)
        return (await self._ledger.do(command, AlertsMarked)).marked

    async def set_thresholds(
        self, caller: Caller, target: Target, thresholds: tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """Alert the whole account at these percents, or (None) at its plan's again. Raises Refusal."""
        granted = await self._access.grant(THRESHOLDS, caller, target)
        command = SetAlertThresholds(granted.subject_or_refuse(), granted.actor, thresholds)
        return (await self._ledger.do(command, ThresholdsSet)).thresholds
