"""Who is asking about whom: a verified token and the target it names become a subject, or a refusal.

The permission table decides how far each role reaches; here that reach meets the people in the ledger.
Whatever lies beyond it is `forbidden`, the same whether or not it exists.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from subscription_mcp.auth.permissions import Reach, reach, rows_of_tool
from subscription_mcp.auth.principal import Principal, Role
from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.errors import FieldProblem, Refusal, forbidden
from subscription_mcp.domain.identifiers import is_id
from subscription_mcp.ledger.commands import AccountView, Actor, Arrive, Subject
from subscription_mcp.ledger.queries import AccountIds, Whose
from subscription_mcp.ledger.writer import Ledger

log = logging.getLogger(__name__)

OPERATOR_ROLES = ("superadmin", "tenant_admin", "service")


class Target(NamedTuple):
    """Whom a call is about, as named: nothing means me, an account alone the whole account, a tenant alone
    the whole tenant."""

    tenant_id: str | None = None
    account_id: str | None = None
    user_id: str | None = None


ME = Target()


@dataclass(slots=True)
class Caller:
    """A verified caller and, once looked up, the account it stands in."""

    principal: Principal
    view: AccountView | None = None

    @property
    def roles(self) -> frozenset[str]:
        """The roles that count at this moment: those only a token gives, and what the ledger says."""
        return _roles(self.principal.roles, self.view.standing.role if self.view is not None else None)

    @property
    def own_account(self) -> str | None:
        return self.view.standing.account if self.view is not None else None


@dataclass(slots=True)
class Granted:
    """A call that may go on. `subject` is None where the whole tenant is meant."""

    caller: Caller
    tenant: str
    subject: Subject | None
    is_self: bool
    role: str

    @property
    def actor(self) -> Actor:
        return Actor(self.caller.principal.user, self.role)

    def subject_or_refuse(self) -> Subject:
        """The user or account meant, where a whole tenant makes no sense."""
        if self.subject is None:
            raise Refusal(
                "invalid_request",
                "This needs a user or an account: add user_id or account_id to tenant_id.",
                fields=[FieldProblem("user_id", "or account_id is required beside tenant_id")],
            )
        return self.subject


class Access:
    """Resolves callers and targets against the permission table and the ledger."""

    def __init__(self, ledger: Ledger, *, members_may_record: bool, tier_decides: bool = False) -> None:
        self._ledger = ledger
        self.tier_decides = tier_decides
        """Whether plans are the issuer's: the tier claim of a user's own token is their plan."""
        self._members_may_record = members_may_record
        self._unknown_tiers_seen: set[str] = set()

    @property
    def catalog(self) -> Catalog:
        return self._ledger.engine.catalog

    async def caller(self, principal: Principal, *, may_make_known: bool = False) -> Caller:
        """The caller with its own account. A service stands in no account of its own."""
        caller = Caller(principal)
        if "service" not in principal.roles:
            self._warn_of_unknown_tier(principal)
            command = Arrive(self.subject_of(principal))
            caller.view = await self._ledger.look(command, may_make_known=may_make_known)
        return caller

    def reach_of(self, operation: str, caller: Caller) -> Reach:
        return reach(operation, caller.roles, members_may_record=self._members_may_record)

    def reach_of_role(self, operation: str, role: str) -> Reach:
        return reach(operation, frozenset({role}), members_may_record=self._members_may_record)

    def is_visible(self, operation: str, caller: Caller) -> bool:
        """Whether the operation exists at all for the caller."""
        return self.reach_of(operation, caller) > Reach.NONE

    def has_tool(self, tool: str, caller: Caller) -> bool:
        """Whether the tool, or any action of it, exists for the caller."""
        return any(self.is_visible(row, caller) for row in rows_of_tool(tool))

    def sees_whole_accounts(self, operation: str, caller: Caller) -> bool:
        """Whether the caller may ask about an account as a whole; a service only ever asks about users."""
        reached = self.reach_of(operation, caller)
        return reached >= Reach.ACCOUNT and _acting_role(operation, caller.roles, reached) != "service"

    async def accounts_within_reach(
        self, operation: str, caller: Caller, prefix: str, size: int
    ) -> list[str]:
        """Accounts of the caller's tenant it may ask about as a whole, whose id begins so. Raises Refusal."""
        if not self.sees_whole_accounts(operation, caller) or not (prefix == "" or is_id(prefix)):
            return []
        if self.reach_of(operation, caller) >= Reach.TENANT:
            found: list[str] = await self._ledger.query(AccountIds(caller.principal.tenant, prefix, size))
            return found
        own = caller.own_account
        return [own] if own is not None and own.startswith(prefix) else []

    def is_for_newcomers(self, operation: str) -> bool:
        """Whether somebody on the default plan, in an account of their own, has the operation."""
        roles = frozenset({"member", "holder"})
        default = self.catalog.plans.get(self.catalog.default_plan or "")
        feature = self.catalog.feature_of_tool(operation)
        has_it = feature is None or (default is not None and bool(default.features.get(feature)))
        return has_it and any(
            reach(row, roles, members_may_record=self._members_may_record) > Reach.NONE
            for row in rows_of_tool(operation)
        )

    def withheld(self, operation: str, caller: Caller) -> Refusal | None:
        """The refusal of an operation the caller's plan does not include. Looks at the caller's own plan and
        never at services and operators, who act for others."""
        if caller.principal.is_operator:
            return None
        feature = self.catalog.feature_of_tool(operation)
        if feature is None:
            return None
        plan = caller.view.plan if caller.view is not None else None
        if plan is not None and plan.features.get(feature):
            return None
        offers = [plan for plan in self.catalog.plans_to_buy if plan.features.get(feature)]
        title = self.catalog.features.get(feature, feature)
        own = f"the {plan.title} plan" if plan is not None else "an account without a plan"
        with_it = " or ".join(offer.title for offer in offers)
        help_text = f" It comes with {with_it}; upgrade_tier changes the plan." if offers else ""
        return Refusal(
            "feature_not_in_plan",
            f"{operation} is not part of {own} ({title}).{help_text}",
            unlocks=[{"action": "upgrade_tier", "plan": offers[0].key}] if offers else [],
        )

    async def grant(self, operation: str, caller: Caller, target: Target) -> Granted:
        """The subject of a call, within the caller's reach. Raises Refusal `forbidden` beyond it."""
        principal = caller.principal
        reached = self.reach_of(operation, caller)
        # What everybody may do for themselves is nothing a service may: it stands in no account.
        if reached is Reach.NONE or (reached is Reach.SELF and "service" in principal.roles):
            raise forbidden()
        tenant = target.tenant_id or principal.tenant
        if tenant != principal.tenant and reached < Reach.ALL:
            raise forbidden()
        own_tenant = tenant == principal.tenant
        if self._is_self(caller, target, own_tenant):
            if caller.view is None:
                raise _user_id_required()
            subject = self.subject_of(principal)._replace(account=target.account_id)
            own: str = caller.view.standing.role or "member"
            if self.reach_of_role(operation, own) is Reach.NONE:  # it is as an operator that one may
                own = _acting_role(operation, caller.roles, reached)
            return Granted(caller, tenant, subject, True, own)
        role = _acting_role(operation, caller.roles, reached)
        if role == "service" and target.user_id is None:
            raise _user_id_required()
        if target.account_id is None and target.user_id is None:
            if reached < Reach.TENANT:
                raise forbidden()
            return Granted(caller, tenant, None, False, role)
        subject = Subject(tenant, target.user_id, target.account_id)
        if reached < Reach.TENANT:
            if (
                not own_tenant
                or reached < Reach.ACCOUNT
                or target.account_id not in (None, caller.own_account)
            ):
                raise forbidden()
            subject = await self._narrowed_to_own_account(caller, subject)
        return Granted(caller, tenant, subject, False, role)

    async def view_of(self, granted: Granted, *, anew: bool = False) -> AccountView | None:
        """The account a granted call is about, as it was looked up for its caller or, where it may have changed since,
        `anew`; None for a whole tenant. Raises Refusal."""
        if granted.subject is None:
            return None
        if granted.is_self and granted.caller.view is not None and not anew:
            return granted.caller.view
        return await self._ledger.look(Arrive(granted.subject), may_make_known=False)

    async def account_of(self, granted: Granted, *, anew: bool = False) -> AccountView:
        """The same where a whole tenant makes no sense. Raises Refusal."""
        granted.subject_or_refuse()
        view = await self.view_of(granted, anew=anew)
        assert view is not None
        return view

    def grant_to_operator(self, operation: str, caller: Caller, target: Target) -> Granted:
        """The same for who acts from outside, also on an account of their own. Raises Refusal `forbidden`."""
        reached = self.reach_of(operation, caller)
        tenant = target.tenant_id or caller.principal.tenant
        if reached < Reach.TENANT or (tenant != caller.principal.tenant and reached < Reach.ALL):
            raise forbidden()
        subject = None
        if target.account_id is not None or target.user_id is not None:
            subject = Subject(tenant, target.user_id, target.account_id)
        return Granted(caller, tenant, subject, False, _acting_role(operation, caller.roles, reached))

    def actor_everywhere(self, operation: str, caller: Caller) -> Actor:
        """The caller as who does what concerns every tenant. Raises Refusal `forbidden`."""
        reached = self.reach_of(operation, caller)
        if reached < Reach.ALL:
            raise forbidden()
        return Actor(caller.principal.user, _acting_role(operation, caller.roles, reached))

    def whose_lease(self, operation: str, caller: Caller) -> tuple[str, str | None]:
        """The tenant, and the user unless the caller acts for all of it, whose reservations and sessions the
        caller may end. Raises Refusal `forbidden`."""
        reached = self.reach_of(operation, caller)
        if reached is Reach.NONE:
            raise forbidden()
        principal = caller.principal
        return principal.tenant, None if reached >= Reach.TENANT else principal.user

    def subject_of(self, principal: Principal) -> Subject:
        """The caller as a user, with what its own token claims."""
        return Subject(
            principal.tenant,
            principal.user,
            group=principal.group,
            tier=principal.tier,
            group_admin="admin" in principal.roles,
            tier_decides=self.tier_decides,
            claimed_at=principal.issued_at,
        )

    def _is_self(self, caller: Caller, target: Target, own_tenant: bool) -> bool:
        if not own_tenant or "service" in caller.principal.roles:
            return target == ME
        if target.user_id == caller.principal.user:
            return target.account_id in (None, caller.own_account)
        standing = caller.view.standing if caller.view is not None else None
        personal = standing is not None and standing.account_kind == "personal"
        # The whole of a personal account is its one user.
        return target == ME or (
            personal and target.user_id is None and target.account_id == caller.own_account
        )

    async def _narrowed_to_own_account(self, caller: Caller, subject: Subject) -> Subject:
        """An admin reaches the members of its own group and nobody else, whatever ids they share."""
        if caller.view is None or caller.view.standing.account_kind != "group":
            raise forbidden()
        subject = subject._replace(account=caller.own_account, account_kind="group")
        try:
            view = await self._ledger.look(Arrive(subject), may_make_known=False)
        except Refusal as refusal:
            raise forbidden() if refusal.code in ("invalid_request", "not_found") else refusal from None
        if (view.standing.account_kind, view.standing.account) != ("group", caller.own_account):
            raise forbidden()
        return subject

    def _warn_of_unknown_tier(self, principal: Principal) -> None:
        tier = principal.tier
        if tier is not None and tier not in self.catalog.plans and tier not in self._unknown_tiers_seen:
            if len(self._unknown_tiers_seen) < 1000:
                self._unknown_tiers_seen.add(tier)
            log.warning(
                "a token of tenant %r names the unknown tier %r; %s",
                principal.tenant,
                tier,
                "the plan stays as it is" if self.tier_decides else "the default plan applies",
            )


@lru_cache(maxsize=1024)
def _roles(in_token: frozenset[Role], in_ledger: str | None) -> frozenset[str]:
    roles: set[str] = {"member", *(role for role in OPERATOR_ROLES if role in in_token)}
    if in_ledger is not None:
        roles.add(in_ledger)
    return frozenset(roles)


@lru_cache(maxsize=4096)
def _acting_role(operation: str, roles: frozenset[str], reached: Reach) -> str:
    """The role that gives the reach, for the audit trail."""
    for role in (*OPERATOR_ROLES, "admin", "holder"):
        if role in roles and reach(operation, frozenset({role}), members_may_record=False) == reached:
            return role
    return "member"


def whose_of(view: AccountView) -> Whose:
    """Whose usage an account view stands for."""
    standing = view.standing
    return Whose(standing.tenant, standing.account_kind, standing.account, standing.user)


def _user_id_required() -> Refusal:
    return Refusal(
        "invalid_request",
        "A service acts for somebody: name the user in user_id.",
        fields=[FieldProblem("user_id", "is required for a service")],
    )
