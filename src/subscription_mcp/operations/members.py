"""Who is in a group: listing, adding, removing, roles."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from subscription_mcp.domain.catalog import Maximum
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey, MemberRole, seats_max
from subscription_mcp.ledger.commands import AccountView, AuditEntry, ManageMember, MembersChanged
from subscription_mcp.ledger.queries import AuditTrail, MemberPage, MemberRow, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Granted, Target
from subscription_mcp.operations.cursors import cursor_of, position_of

PAGE_SIZE = 50
HISTORY_SIZE = 100
TOOL = "manage_members"


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What becomes of one user of a group."""

    action: Literal["add", "remove", "set_role"]
    user: str
    role: MemberRole
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One user of an account. The holder of a personal account that has no subscription yet never joined it."""

    user: str
    role: MemberRole
    joined_at: Instant | None


@dataclass(slots=True)
class MembersAnswer:
    """An account's users, page by page, and its seats; after a change with what was done."""

    account: str
    account_kind: AccountKind
    members: list[Member]
    next_cursor: str | None
    seats_used: int
    seats_max: Maximum | None
    change: MemberChange | None = None
    changed: MembersChanged | None = None
    history: list[AuditEntry] | None = None
    """Who changed what in it, newest first."""


class Members:
    """Listing and changing the users of an account."""

    def __init__(self, ledger: Ledger, access: Access, real_time: Callable[[], Instant]) -> None:
        self._ledger = ledger
        self._access = access
        self._real_time = real_time
        """By which access tokens are issued; the ledger's own clock may be another."""

    async def listed(
        self, caller: Caller, target: Target, cursor: str | None = None, page_size: int = PAGE_SIZE
    ) -> MembersAnswer:
        """The users of the account that is meant, one page. Raises Refusal."""
        granted = await self._granted(caller, target)
        view = await self._access.account_of(granted, anew=True)
        standing, plan, subscription = view.standing, view.plan, view.subscription
        most = seats_max(plan, subscription) if plan is not None and subscription is not None else None
        if standing.account_kind == "personal":
            position_of(cursor, TOOL, standing.tenant, standing.account)
            return MembersAnswer(standing.account, "personal", [_holder(view)], None, 1, most)
        account = AccountKey(standing.tenant, "group", standing.account)
        members, more = await self._page(account, cursor, page_size)
        return MembersAnswer(account.account, "group", members, more, view.seats_used or 0, most)

    async def history(self, caller: Caller, target: Target) -> MembersAnswer:
        """The first page of users, with who changed what in the account, and why. Raises Refusal."""
        answer = await self.listed(caller, target)
        tenant = target.tenant_id or caller.principal.tenant
        whose = Whose(tenant, answer.account_kind, answer.account)
        answer.history = await self._ledger.query(AuditTrail(whose, "", HISTORY_SIZE))
        return answer

    async def change(self, caller: Caller, target: Target, change: MemberChange) -> MembersAnswer:
        """Add a user, remove one, or give one another role, with its entry in the audit trail. Raises Refusal."""
        granted = await self._granted(caller, target)
        command = ManageMember(
            granted.subject_or_refuse(),
            granted.actor,
            change.action,
            change.user,
            change.role,
            self._real_time(),
            change.reason,
        )
        changed = await self._ledger.do(command, MembersChanged)
        members, more = await self._page(changed.account, None, PAGE_SIZE)
        return MembersAnswer(
            changed.account.account,
            "group",
            members,
            more,
            changed.seats_used,
            changed.seats_max,
            change,
            changed,
        )

    async def _granted(self, caller: Caller, target: Target) -> Granted:
        """Which account is meant as a whole: the caller's own unless one is named."""
        is_unnamed = target.account_id is None and target.tenant_id is None
        if is_unnamed:
            target = target._replace(account_id=caller.own_account)
        granted = await self._access.grant(TOOL, caller, target)
        if is_unnamed and granted.is_self and granted.subject is not None:
            # The account they are in by then: of two members added at once, the first founds a group.
            return replace(granted, subject=granted.subject._replace(account=None))
        if granted.subject is None:
            raise Refusal(
                "invalid_request",
                "Whose members? Name the group in account_id.",
                fields=[FieldProblem("account_id", "is required beside tenant_id")],
            )
        return granted

    async def _page(
        self, account: AccountKey, cursor: str | None, size: int
    ) -> tuple[list[Member], str | None]:
        whose = (TOOL, account.tenant, account.account)
        after = position_of(cursor, *whose) or 0
        rows: list[MemberRow]
        rows, more = await self._ledger.query(MemberPage(account.tenant, account.account, size, after))
        members = [Member(row.user, row.role, row.joined_at) for row in rows]
        return members, cursor_of(rows[-1].place, *whose) if more else None


def _holder(view: AccountView) -> Member:
    subscription = view.subscription
    joined_at = subscription.created_at if subscription is not None else None
    return Member(view.standing.account, "admin", joined_at)
