"""The accounts of a tenant, for its operators: found, shown, suspended, counted, and users erased."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from subscription_mcp.domain.decisions import NEAR_PERMILLE, LimitState
from subscription_mcp.domain.erasure import ALIAS_PREFIX
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import DAY, Instant
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import AccountKey, Status
from subscription_mcp.ledger.commands import (
    AccountView,
    Arrive,
    AuditEntry,
    EndSessions,
    EraseUser,
    SessionsEnded,
    SetStatus,
    StatusChanged,
    Subject,
    UserErased,
)
from subscription_mcp.ledger.queries import (
    AccountCount,
    AccountPage,
    AuditTrail,
    FullestHolders,
    MemberPage,
    MemberRow,
    OpenSessions,
    PlanRecord,
    PlanRecords,
    TenantActivity,
    TenantSummary,
    Whose,
)
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Granted, Target
from subscription_mcp.operations.cursors import cursor_of, position_of

TOOL = "manage_accounts"
MEMBERS_SHOWN = 50
SESSIONS_SHOWN = 50
ENTRIES_SHOWN = 20
NEAR_SHOWN = 20
HOLDERS_LOOKED_AT = 100
BEGAN_WITHIN = 30 * DAY
ALIAS_BYTES = 8
ACCOUNTS_OF_A_KIND = 1 << 62  # more than there can be
StatusAction = Literal["suspend", "activate", "payment_failed", "payment_received"]


@dataclass(slots=True)
class AccountsFound:
    """One page of accounts as they stand."""

    views: list[AccountView]
    next_cursor: str | None


@dataclass(slots=True)
class AccountShown:
    """One account with who is in it, what is open and what was changed last; lists are cut."""

    view: AccountView
    members: list[MemberRow] | None
    sessions: list[Session]
    entries: list[AuditEntry]


@dataclass(slots=True)
class PlanPopularity:
    """One plan of a tenant: who holds it, and how many of those accounts began in the last 30 days."""

    plan: str
    accounts: int
    users: int
    began: int


@dataclass(slots=True)
class NearLimit:
    """The account, the user or the whole group (None) of it, and the limit that is nearest to its end."""

    view: AccountView
    state: LimitState


@dataclass(slots=True)
class TenantStatistics:
    """A tenant in numbers. Whose subscription has ended holds no plan and is `inactive`."""

    tenant: str
    plans: list[PlanPopularity]
    by_status: dict[Status, int]
    accounts: int
    users: int
    inactive: int
    trials_started: int
    trials_running: int
    trials_converted: int
    sessions_open: int
    near_limits: list[NearLimit]
    as_of: Instant

    @property
    def trials_expired(self) -> int:
        return self.trials_started - self.trials_running - self.trials_converted

    @property
    def conversion_permille(self) -> int | None:
        """Floored; None before the first trial."""
        return self.trials_converted * 1000 // self.trials_started if self.trials_started else None


class Accounts:
    """What operators do with accounts that are not theirs."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def search(
        self, caller: Caller, target: Target, query: str | None, cursor: str | None, page_size: int
    ) -> AccountsFound:
        """Accounts of a tenant page by page. Raises Refusal."""
        tenant = self._granted("search", caller, target).tenant
        page = _page(tenant, self._ledger.now(), query or "", page_size)
        if page.plan is not None:
            await self._must_be_known(page.plan)
        page = replace(page, after=_place_of(cursor, page))
        found, more = await self._ledger.query(page)
        views = [await self._look(_subject_of(account)) for _, account in found]
        return AccountsFound(views, _cursor_of(found[-1][0], page) if more else None)

    async def show(self, caller: Caller, target: Target) -> AccountShown:
        """One account. Raises Refusal."""
        subject = self._granted("show", caller, target).subject_or_refuse()
        return await self._shown(await self._look(subject))

    async def set_status(
        self, caller: Caller, target: Target, action: StatusAction, reason: str
    ) -> tuple[AccountShown, AuditEntry]:
        """Suspend an account or let it go on, or say that a payment failed or was received. Raises Refusal."""
        granted = self._granted(action, caller, target)
        command = SetStatus(granted.subject_or_refuse(), granted.actor, action, reason)
        changed = await self._ledger.do(command, StatusChanged)
        return await self._shown(changed.after), changed.audit

    async def end_sessions(
        self, caller: Caller, target: Target, reason: str
    ) -> tuple[int, AccountShown, AuditEntry]:
        """End every open session of a user or an account, and say how many. Raises Refusal."""
        granted = self._granted("end_sessions", caller, target)
        command = EndSessions(granted.subject_or_refuse(), granted.actor, reason)
        ended = await self._ledger.do(command, SessionsEnded)
        return ended.closed, await self._shown(ended.after), ended.audit

    async def erase(self, caller: Caller, target: Target, reason: str) -> UserErased:
        """Take a user's id out of a tenant. Raises Refusal."""
        granted = self._granted("erase", caller, target)
        assert target.user_id is not None
        alias = ALIAS_PREFIX + secrets.token_hex(ALIAS_BYTES)
        command = EraseUser(granted.tenant, target.user_id, alias, granted.actor, reason)
        return await self._ledger.do(command, UserErased)

    async def statistics(self, caller: Caller, target: Target) -> TenantStatistics:
        """A tenant in numbers. Raises Refusal."""
        tenant = self._granted("statistics", caller, target).tenant
        now = self._ledger.now()
        counts: list[AccountCount] = await self._ledger.query(TenantSummary(tenant, now, now - BEGAN_WITHIN))
        started, running, converted, sessions = await self._ledger.query(TenantActivity(tenant, now))
        plans: dict[str, PlanPopularity] = {}
        by_status = dict.fromkeys(get_args(Status), 0)
        for count in counts:
            by_status[count.status] += count.accounts
            if not count.is_inactive:
                plan = plans.setdefault(count.plan, PlanPopularity(count.plan, 0, 0, 0))
                plan.accounts += count.accounts
                plan.users += count.users
                plan.began += count.began
        popular = sorted(plans.values(), key=lambda plan: (-plan.accounts, plan.plan))
        return TenantStatistics(
            tenant,
            popular,
            by_status,
            sum(plan.accounts for plan in popular),
            sum(plan.users for plan in popular),
            sum(count.accounts for count in counts if count.is_inactive),
            started,
            running,
            converted,
            sessions,
            await self._near_limits(tenant, now),
            now,
        )

    async def _near_limits(self, tenant: str, now: Instant) -> list[NearLimit]:
        """The accounts that have used 80 % of a limit or more, the fullest first. The ledger names candidates; how
        full a limit is, the machine says."""
        question = FullestHolders(tenant, now, NEAR_PERMILLE, HOLDERS_LOOKED_AT)
        nearest: dict[AccountKey, NearLimit] = {}
        for account, user in await self._ledger.query(question):
            try:
                view = await self._look(_subject_of(account, user))
            except Refusal as refusal:
                if refusal.code not in ("invalid_request", "not_found"):
                    raise
                continue  # not in the group any more
            # A limit of nothing is none that somebody comes near to.
            limits = [state for state in view.limits if state.maximum != 0]
            fullest = max(limits, key=_permille_of, default=None)
            known = nearest.get(account)
            least = NEAR_PERMILLE if known is None else _permille_of(known.state) + 1
            if fullest is not None and _permille_of(fullest) >= least:
                nearest[account] = NearLimit(view, fullest)
        order = sorted(nearest, key=lambda account: (-_permille_of(nearest[account].state), account))
        return [nearest[account] for account in order[:NEAR_SHOWN]]

    async def _must_be_known(self, plan: str) -> None:
        """Also plans that are no longer on offer: somebody may hold them. Raises Refusal."""
        records: list[PlanRecord] = await self._ledger.query(PlanRecords(self._ledger.now()))
        _one_of([record.plan.key for record in records], "plan", plan)

    def _granted(self, action: str, caller: Caller, target: Target) -> Granted:
        return self._access.grant_to_operator(f"{TOOL}.{action}", caller, target)

    async def _look(self, subject: Subject) -> AccountView:
        return await self._ledger.look(Arrive(subject), may_make_known=False)

    async def _shown(self, view: AccountView) -> AccountShown:
        standing = view.standing
        whole = Whose(standing.tenant, standing.account_kind, standing.account)
        members = None
        if standing.account_kind == "group":
            members, _ = await self._ledger.query(
                MemberPage(standing.tenant, standing.account, MEMBERS_SHOWN)
            )
        sessions = await self._ledger.query(OpenSessions(whole, self._ledger.now(), SESSIONS_SHOWN))
        entries = await self._ledger.query(AuditTrail(whole, "", ENTRIES_SHOWN))
        return AccountShown(view, members, sessions, entries)


def _permille_of(state: LimitState) -> int:
    return state.permille or 0


def _subject_of(account: AccountKey, user: str = "") -> Subject:
    whom = user if account.account_kind == "group" and user else None
    return Subject(account.tenant, whom, account.account, account.account_kind)


def _page(tenant: str, now: Instant, query: str, size: int) -> AccountPage:
    """What a query asks for: parts of ids, narrowed by `plan:KEY`, `status:WORD` and `kind:group`. Raises Refusal."""
    page, parts = AccountPage(tenant, now, size), []
    for word in query.split():
        name, colon, value = word.partition(":")
        match name if colon else "":
            case "plan":
                page = replace(page, plan=value)
            case "status":
                page = replace(page, status=_one_of(get_args(Status), "status", value))
            case "kind":
                kind: AccountKind = _one_of(get_args(AccountKind), "kind", value)
                page = replace(page, account_kind=kind)
            case _:
                parts.append(word)
    return replace(page, parts=tuple(parts))


def _one_of(known: Sequence[str], name: str, value: str) -> Any:
    if value not in known:
        rule = f"{name}: must be followed by one of {', '.join(known)}"
        raise Refusal("invalid_request", f"{rule}.", fields=[FieldProblem("query", rule)])
    return value


def _cursor_of(place: tuple[int, int], page: AccountPage) -> str:
    kind, account = place
    return cursor_of(kind * ACCOUNTS_OF_A_KIND + account, *_list_of(page))


def _place_of(cursor: str | None, page: AccountPage) -> tuple[int, int] | None:
    position = position_of(cursor, *_list_of(page))
    return None if position is None else divmod(position, ACCOUNTS_OF_A_KIND)


def _list_of(page: AccountPage) -> tuple[str | None, ...]:
    """Which list it is; parts have no space in them."""
    return page.tenant, " ".join(page.parts), page.plan, page.status, page.account_kind
