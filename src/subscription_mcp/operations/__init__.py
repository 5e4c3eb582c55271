"""Use cases by noun: authorise, then a command or a question, then an answer."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import (
    AccountView,
    Alert,
    AuditEntry,
    LimitsChanged,
    MembersChanged,
    PlanChanged,
    SessionDecided,
    UsageEvent,
    UserErased,
)
from subscription_mcp.ledger.port import Touched
from subscription_mcp.ledger.queries import MemberRow, PlanRecord
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access
from subscription_mcp.operations.accounts import Accounts
from subscription_mcp.operations.alerts import Alerts
from subscription_mcp.operations.billing import Collection, Invoices
from subscription_mcp.operations.exports import Exports
from subscription_mcp.operations.limits import Limits
from subscription_mcp.operations.members import Members
from subscription_mcp.operations.metering import Metering
from subscription_mcp.operations.plan_editing import PlanEditing
from subscription_mcp.operations.plans import Plans
from subscription_mcp.operations.prices import Prices
from subscription_mcp.operations.reports import Reports
from subscription_mcp.operations.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Operations:
    """Every use case, as the surfaces are handed them."""

    access: Access
    metering: Metering
    prices: Prices
    plans: Plans
    plan_editing: PlanEditing
    limits: Limits
    members: Members
    reports: Reports
    exports: Exports
    sessions: Sessions
    accounts: Accounts
    invoices: Invoices
    collection: Collection
    alerts: Alerts
    ready: Callable[[], Awaitable[bool]]
    """Whether the ledger can be read and written right now."""
    changes: Callable[[], AsyncGenerator[Touched]]
    """What commits touched, as they happen, also those of other processes."""

    @classmethod
    def on(
        cls,
        ledger: Ledger,
        *,
        real_time: Callable[[], Instant],
        members_may_record: bool,
        tier_decides: bool = False,
    ) -> "Operations":
        """`real_time` is the machine's clock, by which access tokens are issued."""
        access = Access(ledger, members_may_record=members_may_record, tier_decides=tier_decides)
        prices = Prices(ledger.engine.catalog)
        return cls(
            access,
            Metering(ledger, access, prices),
            prices,
            Plans(ledger, access),
            PlanEditing(ledger, access),
            Limits(ledger, access),
            Members(ledger, access, real_time),
            Reports(ledger, access),
            Exports(ledger, access),
            Sessions(ledger, access),
            Accounts(ledger, access),
            Invoices(ledger, access),
            Collection(ledger),
            Alerts(ledger, access),
            ledger.ready,
            ledger.engine.changes,
        )


__all__ = [
    "AccountView",
    "Alert",
    "AuditEntry",
    "LimitsChanged",
    "MemberRow",
    "MembersChanged",
    "Operations",
    "PlanChanged",
    "PlanRecord",
    "SessionDecided",
    "UsageEvent",
    "UserErased",
]
