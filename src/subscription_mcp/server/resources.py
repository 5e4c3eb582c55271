"""Resources: plans, prices, quota and usage as JSON, for clients that read rather than call."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, get_args

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import Resource
from pydantic import Field

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.identifiers import is_id
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.operations import AccountView, Operations
from subscription_mcp.operations.access import ME, Caller, Target
from subscription_mcp.operations.reports import UsageRequest
from subscription_mcp.server.faults import error_of, unknown_resource
from subscription_mcp.server.offers import Offer
from subscription_mcp.tools import documents, wire

JSON = "application/json"
PERIODS: tuple[wire.NamedPeriod, ...] = get_args(wire.NamedPeriod)
Document = dict[str, Any]
Reader = Callable[[Caller, Target, dict[str, str]], Awaitable[Document]]

PLANS = Offer(
    "subscription://plans",
    "plans",
    "Plans on offer",
    "Prices, limits and features of every plan, cheapest first.",
    "catalog",
)
PLAN = Offer(
    "subscription://plans/{plan}",
    "plan",
    "One plan",
    "Price, limits and features of one plan.",
    "catalog",
)
PRICING = Offer(
    "pricing://models",
    "pricing",
    "Prices of models",
    "What calls of models and providers cost: for a million tokens, or for one search, page or image.",
    "catalog",
)
PRICE = Offer(
    "pricing://models/{+model}",
    "price",
    "Price of one model",
    "What calls of one model cost, also of one that is not listed, and where its price is from.",
    "catalog",
)
MY_SUBSCRIPTION = Offer(
    "subscription://me",
    "my-subscription",
    "My plan",
    "Your plan, its price, limits and features, and what is used.",
)
MY_QUOTA = Offer(
    "quota://me",
    "my-quota",
    "My quota",
    "What is used and left of every limit, and when it resets.",
)
MY_QUOTA_OF_METER = Offer(
    "quota://me/{meter}",
    "my-quota-of-meter",
    "My quota of one meter",
    "What is used and left of one meter's limits.",
)
MY_USAGE = Offer(
    "usage://me/{period}",
    "my-usage",
    "My usage",
    f"What you used in a period: {', '.join(PERIODS)}.",
)
MY_ALERTS = Offer(
    "alerts://me",
    "my-alerts",
    "My alerts",
    "Limits that came near or were reached, newest first, with what to do.",
)
QUOTA_OF_ACCOUNT = Offer(
    "quota://accounts/{account_id}",
    "quota-of-account",
    "Quota of an account",
    "What a whole account has used and left of every limit, and when it resets.",
    "account",
)
USAGE_OF_ACCOUNT = Offer(
    "usage://accounts/{account_id}/{period}",
    "usage-of-account",
    "Usage of an account",
    f"What a whole account used in a period: {', '.join(PERIODS)}.",
    "account",
)
RESOURCES = (
    PLANS,
    PLAN,
    PRICING,
    PRICE,
    MY_SUBSCRIPTION,
    MY_QUOTA,
    MY_QUOTA_OF_METER,
    MY_USAGE,
    MY_ALERTS,
    QUOTA_OF_ACCOUNT,
    USAGE_OF_ACCOUNT,
)


class DocumentResource(Resource):
    """A resource made anew at every read."""

    make: Callable[[], Awaitable[str]] = Field(exclude=True)

    async def read(self) -> str:
        return await self.make()


class Readings:
    """Each resource as its document, for who may read it."""

    def __init__(self, do: Operations, identify: Identify) -> None:
        self._do = do
        self._identify = identify
        self._readers: dict[Offer, Reader] = {
            PLANS: self._plans,
            PLAN: self._plan,
            PRICING: self._pricing,
            PRICE: self._price,
            MY_SUBSCRIPTION: self._subscription,
            MY_QUOTA: self._quota,
            MY_QUOTA_OF_METER: self._quota_of_meter,
            MY_USAGE: self._usage,
            MY_ALERTS: self._alerts,
            QUOTA_OF_ACCOUNT: self._quota,
            USAGE_OF_ACCOUNT: self._usage,
        }

    async def read(self, offer: Offer, variables: dict[str, str]) -> str:
        """The document as JSON. Raises MCPError: unknown where it is hidden or there is no such thing."""
        uri = offer.key.replace("{+", "{").format(**variables)  # {+model} may hold slashes
        access = self._do.access
        account = variables.get("account_id")
        try:
            caller = await access.caller(await self._identify(), may_make_known=offer.about == "me")
            if not offer.exists_for(caller, access) or (account is not None and not is_id(account)):
                raise unknown_resource(uri)
            withheld = offer.withheld_from(caller, access)
            if withheld is not None:
                raise withheld
            target = ME if account is None else Target(account_id=account)
            document = await self._readers[offer](caller, target, variables)
        except _NoSuchThing:
            raise unknown_resource(uri) from None
        except Refusal as refusal:
            # Whether an account beyond the caller's reach exists is not told.
            if offer.about == "account" and refusal.code in ("forbidden", "not_found"):
                raise unknown_resource(uri) from None
            raise error_of(refusal) from None
        return json.dumps(document, ensure_ascii=False)

    async def _plans(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        plans = self._do.plans
        return {"plans": [documents.plan(plan, plans.catalog) for plan in await plans.offered()]}

    async def _plan(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        catalog = self._do.plans.catalog
        if variables["plan"] not in catalog.plans:
            raise _NoSuchThing
        return documents.plan(catalog.plans[variables["plan"]], catalog)

    async def _pricing(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        return documents.pricing(self._do.plans.catalog)

    async def _price(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        known = self._do.metering.price_of(None, variables["model"])
        return documents.pricing_of_model(*known, self._do.plans.catalog)

    async def _subscription(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        return documents.tier_info(await self._view(caller, target), self._do.plans.catalog)

    async def _quota(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        view = await self._view(caller, target)
        return {"limits": documents.limits(view.limits), "as_of": format_instant(view.as_of)}

    async def _quota_of_meter(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        meter = variables["meter"]
        if meter not in self._do.plans.catalog.meters:
            raise _NoSuchThing
        view = await self._view(caller, target)
        of_meter = [limit for limit in view.limits if limit.meter == meter]
        return {"meter": meter, "limits": documents.limits(of_meter), "as_of": format_instant(view.as_of)}

    async def _usage(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        named = next((period for period in PERIODS if period == variables["period"]), None)
        if named is None:
            raise _NoSuchThing
        answer = await self._do.reports.usage(caller, target, UsageRequest(named))
        return documents.usage_report(answer, self._do.plans.catalog)

    async def _alerts(self, caller: Caller, target: Target, variables: dict[str, str]) -> Document:
        return documents.alerts(await self._do.alerts.listed(caller, target))

    async def _view(self, caller: Caller, target: Target) -> AccountView:
        return await self._do.plans.account(caller, target)


class _NoSuchThing(Exception):
    """A variable of a template names nothing there is."""


def add_resources(server: MCPServer[Any], do: Operations, identify: Identify) -> None:
    """Register every resource. Who sees which is decided at each read and each list."""
    readings = Readings(do, identify)

    def fixed(offer: Offer) -> None:
        server.add_resource(
            DocumentResource(
                uri=offer.key,
                name=offer.name,
                title=offer.title,
                description=offer.description,
                mime_type=JSON,
                make=lambda: readings.read(offer, {}),
            )
        )

    def template(offer: Offer, read: Callable[..., Awaitable[str]]) -> None:
        server.resource(
            offer.key, name=offer.name, title=offer.title, description=offer.description, mime_type=JSON
        )(read)

    # The SDK takes a template's variables from the parameters of a function.
    async def plan(plan: str) -> str:
        return await readings.read(PLAN, {"plan": plan})

    async def price(model: str) -> str:
        return await readings.read(PRICE, {"model": model})

    async def my_quota_of_meter(meter: str) -> str:
        return await readings.read(MY_QUOTA_OF_METER, {"meter": meter})

    async def my_usage(period: str) -> str:
        return await readings.read(MY_USAGE, {"period": period})

    async def quota_of_account(account_id: str) -> str:
        return await readings.read(QUOTA_OF_ACCOUNT, {"account_id": account_id})

    async def usage_of_account(account_id: str, period: str) -> str:
        return await readings.read(USAGE_OF_ACCOUNT, {"account_id": account_id, "period": period})

    fixed(PLANS)
    fixed(MY_SUBSCRIPTION)
    fixed(MY_QUOTA)
    fixed(MY_ALERTS)
    fixed(PRICING)
    template(PLAN, plan)
    template(PRICE, price)
    template(MY_QUOTA_OF_METER, my_quota_of_meter)
    template(MY_USAGE, my_usage)
    template(QUOTA_OF_ACCOUNT, quota_of_account)
    template(USAGE_OF_ACCOUNT, usage_of_account)
