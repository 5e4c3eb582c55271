"""Plans: what there is, what an account has, and moving from one to another."""

import secrets
from dataclasses import dataclass
from typing import Literal

from subscription_mcp.domain.catalog import Catalog, FeatureValue, Plan
from subscription_mcp.domain.errors import Code, FieldProblem, Refusal, forbidden, not_found
from subscription_mcp.domain.windows import Interval
from subscription_mcp.ledger.commands import AccountView, ChangePlan, ChangeSubscription, PlanChanged
from subscription_mcp.ledger.machine.accounts import OPERATORS
from subscription_mcp.ledger.machine.subscriptions import origin_of_role
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Granted, Target
from subscription_mcp.operations.metering import digest_of

HANDLE_BYTES = 18


@dataclass(slots=True)
class FeatureAnswer:
    """Whether an account has a feature, and which plans do, with what value."""

    feature: str
    granted: bool
    value: FeatureValue
    plans: dict[str, FeatureValue]
    standstill: Code | None = None
    """Why nothing is included now, whatever the plan has."""


class Plans:
    """Reading plans and accounts, changing plans."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    @property
    def catalog(self) -> Catalog:
        return self._ledger.engine.catalog

    async def offered(self) -> list[Plan]:
        """The plans on offer, cheapest first, also those another process has just published. Raises Refusal."""
        await self._ledger.refresh()
        return list(self.catalog.plans_by_price)

    def plan(self, key: str) -> Plan:
        found = self.catalog.plans.get(key)
        if found is None:
            raise not_found("plan", "list_plans shows them all.")
        return found

    async def account(self, caller: Caller, target: Target, operation: str = "get_tier_info") -> AccountView:
        """An account as it stands. Raises Refusal."""
        granted = await self._access.grant(operation, caller, target)
        return await self._access.account_of(granted)

    async def feature(self, caller: Caller, target: Target, feature: str) -> FeatureAnswer:
        """Whether the account's plan has a feature. Raises Refusal."""
        view = await self.account(caller, target, "has_feature")
        known = self.catalog.features
        if feature not in known:
            rule = (
                f"must be one of {', '.join(known)}"
                if known
                else "names a feature, and this catalog has none"
            )
            raise Refusal(
                "invalid_request", f"Unknown feature: it {rule}.", fields=[FieldProblem("feature", rule)]
            )
        subscription = view.subscription
        standstill = subscription.standstill_at(view.as_of) if subscription is not None else None
        going = view.plan is not None and standstill is None
        value = view.plan.features.get(feature, False) if view.plan is not None and going else False
        plans = {plan.key: plan.features[feature] for plan in self.catalog.plans_with_feature(feature)}
        return FeatureAnswer(feature, bool(value), value, plans, standstill)

    async def change(
        self,
        caller: Caller,
        target: Target,
        plan: str,
        interval: Interval,
        *,
        seats: int | None = None,
        duration_days: int | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        confirmation: str | None = None,
    ) -> PlanChanged:
        """Preview, offer or apply a change of plan. Raises Refusal."""
        granted = await self._may_change("upgrade_tier", caller, target)
        if duration_days is not None and granted.role not in OPERATORS:
            raise forbidden()
        subject = granted.subject_or_refuse()
        command = ChangePlan(
            subject,
            granted.actor,
            plan,
            digest_of("upgrade_tier", plan, interval, seats, duration_days, *subject[:3]),
            interval,
            origin_of_role(granted.role),
            seats=seats,
            duration_days=duration_days,
            reason=reason,
        )
        return await self._confirmed(command, dry_run, confirmation)

    async def manage(
        self,
        caller: Caller,
        target: Target,
        action: Literal["cancel", "resume", "set_seats"],
        seats: int | None,
        *,
        reason: str | None = None,
        dry_run: bool = False,
        confirmation: str | None = None,
    ) -> PlanChanged:
        """Preview, offer or apply a cancellation, its taking back, or other seats. Raises Refusal."""
        granted = await self._may_change("manage_subscription", caller, target)
        subject = granted.subject_or_refuse()
        command = ChangeSubscription(
            subject,
            granted.actor,
            action,
            digest_of("manage_subscription", action, seats, *subject[:3]),
            seats,
            reason=reason,
        )
        return await self._confirmed(command, dry_run, confirmation)

    async def _may_change(self, operation: str, caller: Caller, target: Target) -> Granted:
        granted = await self._access.grant(operation, caller, target)
        if self._access.tier_decides:
            raise Refusal(
                "conflict",
                "Nothing was changed: plans are managed by your identity provider. Change the plan there; "
                "the next access token brings it.",
            )
        return granted

    async def _confirmed(
        self, command: ChangePlan | ChangeSubscription, dry_run: bool, confirmation: str | None
    ) -> PlanChanged:
        if not dry_run:
            command.confirmation = confirmation
            command.offer = secrets.token_urlsafe(HANDLE_BYTES) if confirmation is None else None
        return await self._ledger.do(command, PlanChanged, keep=not dry_run)
