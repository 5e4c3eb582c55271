"""What a caller is offered besides tools: a resource or prompt shows what an operation tells, so whoever may not
use the operation does not have it, and whose plan does not include it is told so."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from subscription_mcp.auth.permissions import PROMPTS, RESOURCES
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.operations.access import Access, Caller


@dataclass(frozen=True, slots=True)
class Offer:
    """`key` is a prompt's name or a resource's URI or template; `about` says whose numbers it shows."""

    key: str
    name: str
    title: str
    description: str
    about: Literal["catalog", "me", "account"] = "me"

    @property
    def operation(self) -> str:
        """The row of the permission table that decides."""
        return RESOURCES[self.key] if "://" in self.key else PROMPTS[self.key]

    def exists_for(self, caller: Caller, access: Access) -> bool:
        """Whether it is there at all. A service acts for others and has nothing of its own to show; whole
        accounts are for those who answer for them."""
        if self.about == "account":
            return access.sees_whole_accounts(self.operation, caller)
        if self.about == "me" and caller.view is None:
            return False
        return access.is_visible(self.operation, caller)

    def withheld_from(self, caller: Caller, access: Access) -> Refusal | None:
        """The refusal where the caller's plan does not include it."""
        return access.withheld(self.operation, caller)


OfferT = TypeVar("OfferT", bound=Offer)


def listed(offers: Iterable[OfferT], caller: Caller | None, access: Access) -> frozenset[str]:
    """The keys a caller sees listed; without a caller, those a newcomer would."""
    if caller is None:
        return frozenset(
            offer.key
            for offer in offers
            if offer.about != "account" and access.is_for_newcomers(offer.operation)
        )
    return frozenset(
        offer.key
        for offer in offers
        if offer.exists_for(caller, access) and offer.withheld_from(caller, access) is None
    )
