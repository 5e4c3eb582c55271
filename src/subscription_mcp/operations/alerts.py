"""Alerts: read, marked as read, and at which thresholds an account has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from subscription_mcp.auth.permissions import Reach
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    AccountView,
    Alert,
    AlertsMarked,
    Arrive,
    MarkAlerts,
    SetAlertThresholds,
    ThresholdsSet,
)
from subscription_mcp.ledger.queries import AlertPage, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Granted, Target, whose_of

TOOL = "list_alerts"
MARK_READ = f"{TOOL}.mark_read"
THRESHOLDS = f"{TOOL}.thresholds"
ALERTS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class AlertsAnswer:
    """The newest alerts first, and at which percents the account has them; None of a whole tenant. `truncated` says that
    there are older ones, `is_of_many` that they may be of several users."""

    alerts: list[Alert]
    thresholds: tuple[int, ...] | None
    truncated: bool
    is_of_many: bool
    marked: int | None = None


class Alerts:
    """Listing alerts, marking them as read, choosing thresholds."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def listed(
        self, caller: Caller, target: Target, *, unread_only: bool = False, marked: int | None = None
    ) -> AlertsAnswer:
        """The alerts of a user with those of their account as a whole, of an account, or of a tenant with those of the
        service. Raises Refusal."""
        granted = await self._access.grant(TOOL, caller, target)
        view = await self._view(granted)
        whose = Whose(granted.tenant) if view is None else whose_of(view)
        page = AlertPage(whose, ALERTS_SHOWN + 1, unread_only, with_service=view is None)
        found: list[Alert] = await self._ledger.query(page)
        return AlertsAnswer(
            found[:ALERTS_SHOWN],
            None if view is None else view.alert_thresholds,
            truncated=len(found) > ALERTS_SHOWN,
            is_of_many=whose.user is None,
            marked=marked,
        )

    async def mark_read(self, caller: Caller, target: Target, ids: Sequence[str]) -> int:
        """Mark alerts of the target as read, for everybody who reads them; how many were not. Those of the service are
        the superadmin's to mark. Raises Refusal."""
        granted = await self._access.grant(MARK_READ, caller, target)
        view = await self._view(granted)
        account = user = None
        if view is not None:
            standing = view.standing
            account = AccountKey(standing.tenant, standing.account_kind, standing.account)
            user = standing.user
        with_service = view is None and self._access.reach_of(MARK_READ, caller) >= Reach.ALL
        outcome = await self._ledger.submit_one(
            MarkAlerts(granted.tenant, account, user, with_service, tuple(ids))
        )
        if isinstance(outcome, Refusal):
            raise outcome
        assert isinstance(outcome, AlertsMarked)
        return outcome.marked

    async def set_thresholds(
        self, caller: Caller, target: Target, thresholds: tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """Alert the whole account at these percents, or (None) at its plan's again. Raises Refusal."""
        granted = await self._access.grant(THRESHOLDS, caller, target)
        command = SetAlertThresholds(granted.subject_or_refuse(), granted.actor, thresholds)
        outcome = await self._ledger.submit_one(command)
        if isinstance(outcome, Refusal):
            raise outcome
        assert isinstance(outcome, ThresholdsSet)
        return outcome.thresholds

    async def _view(self, granted: Granted) -> AccountView | None:
        if granted.subject is None:
            return None
        return await self._ledger.look(Arrive(granted.subject), may_make_known=False)
