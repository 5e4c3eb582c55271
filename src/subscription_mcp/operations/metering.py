"""Asking whether something may happen, and recording that it did."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from subscription_mcp.domain.catalog import QUANTITY, Attributes
from subscription_mcp.domain.decisions import Decision
from subscription_mcp.domain.errors import Refusal, not_found
from subscription_mcp.domain.estimation import Estimates, estimated
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.usage import event_type_of, is_plain_text
from subscription_mcp.ledger.commands import (
    CheckUsage,
    Decided,
    Outcome,
    RecordUsage,
    Reserve,
    Settle,
    Subject,
)
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import ME, Access, Caller, Target
from subscription_mcp.operations.prices import KnownPrice, Prices


@dataclass(slots=True)
class UsageReport:
    """One event as a caller reports it. Where a `quantity` is None it is 1, or what it is estimated to be.
    `estimate_from` is only looked at to estimate tokens nobody said, and kept nowhere."""

    event: str
    quantity: int | None = None
    attributes: Attributes = field(default_factory=dict)
    idempotency_key: str | None = None
    occurred_at: Instant | None = None
    enforce: bool = True
    target: Target = ME
    estimate_from: Estimates = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Call:
    """One event as the ledger is told of it: under the one name of its provider, priced, and with what of it had to be
    `estimated`."""

    event: str
    quantity: int
    attributes: Attributes
    price: UnitPrice | None
    estimated: tuple[str, ...]
    occurred_at: Instant | None
    enforce: bool

    def digest_for(self, subject: Subject) -> bytes:
        """What makes it the same request, for the same user, when its key comes again."""
        return digest_of(
            self.event,
            self.quantity,
            dict(self.attributes),
            self.occurred_at,
            self.enforce,
            [subject.tenant, subject.account, subject.user],
            *([list(self.estimated)] if self.estimated else []),
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """What really happened of what was reserved; `quantity` 0 is nothing."""

    reservation_id: str
    quantity: int | None = None
    attributes: Attributes | None = None

    @property
    def digest(self) -> bytes:
        attributes = None if self.attributes is None else dict(self.attributes)
        return digest_of("settle", self.reservation_id, self.quantity, attributes)


def digest_of(*parts: object) -> bytes:
    """What identifies a request: the same parts, the same bytes."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).digest()


class Metering:
    """Decisions on usage."""

    def __init__(self, ledger: Ledger, access: Access, prices: Prices) -> None:
        self._ledger = ledger
        self._access = access
        self._prices = prices

    async def check(self, caller: Caller, report: UsageReport) -> Decision:
        """Whether the event would be allowed now; changes nothing. Raises Refusal."""
        granted = await self._access.grant("check_quota", caller, report.target)
        call = self._call(report)
        command = CheckUsage(
            granted.subject_or_refuse(), call.event, call.quantity, call.attributes, call.price
        )
        return (await self._ledger.do(command, Decided, keep=False)).decision

    def price_of(self, provider: str | None, model: str | None) -> tuple[KnownPrice, UnitPrice]:
        """What calls of a model, or of a provider as a whole, cost now. Raises Refusal."""
        said = [text for text in (provider, model) if text is not None]
        found = None
        if said and all(map(is_plain_text, said)):
            found = self._prices.known(provider, model, self._ledger.now())
        if found is None:
            raise not_found(
                "price", "Calls of what has none add nothing to the cost and are counted as unpriced."
            )
        return found

    async def record(self, caller: Caller, report: UsageReport) -> Decision:
        """Decide and count in one step. Raises Refusal."""
        command = await self._command("record_usage", caller, report)
        return (await self._ledger.do(command, Decided)).decision

    async def record_batch(
        self, caller: Caller, reports: Sequence[UsageReport | Refusal]
    ) -> list[Decision | Refusal]:
        """Each event on its own, in one commit; a refusal that came in stays in its place."""
        results: list[Decision | Refusal | None] = []
        commands: list[RecordUsage] = []
        for report in reports:
            if isinstance(report, Refusal):
                results.append(report)
                continue
            try:
                commands.append(await self._command("record_usage_batch", caller, report))
            except Refusal as refusal:
                results.append(refusal)
            else:
                results.append(None)
        outcomes = iter(await self._ledger.submit(commands) if commands else ())
        return [_answer(next(outcomes)) if result is None else result for result in results]

    async def reserve(self, caller: Caller, report: UsageReport, ttl_seconds: int) -> Decision:
        """Decide, and hold instead of count. Raises Refusal."""
        granted = await self._access.grant("reserve_usage", caller, report.target)
        subject, call = granted.subject_or_refuse(), self._call(report)
        command = Reserve(
            subject,
            call.event,
            caller.principal.user,
            call.quantity,
            call.attributes,
            ttl_seconds,
            report.idempotency_key,
            digest_of("reserve", call.digest_for(subject).hex(), ttl_seconds),
            call.price,
            call.estimated,
        )
        return (await self._ledger.do(command, Decided)).decision

    async def settle(self, caller: Caller, settlement: Settlement) -> Decided:
        """Count what really happened in place of what was held. Raises Refusal."""
        tenant, user = self._access.whose_lease("settle_usage", caller)
        command = Settle(
            tenant,
            settlement.reservation_id,
            caller.principal.user,
            settlement.digest,
            user,
            settlement.quantity,
            None if settlement.attributes is None else self._prices.named(settlement.attributes),
        )
        if command.attributes is not None and not command.keeps_price:
            command.price = self._prices.of_event(None, command.attributes, self._ledger.now())
        return await self._ledger.do(command, Decided)

    async def _command(self, operation: str, caller: Caller, report: UsageReport) -> RecordUsage:
        granted = await self._access.grant(operation, caller, report.target)
        subject, call = granted.subject_or_refuse(), self._call(report)
        return RecordUsage(
            subject,
            call.event,
            caller.principal.user,
            call.quantity,
            call.attributes,
            report.idempotency_key,
            call.digest_for(subject) if report.idempotency_key is not None else b"",
            call.occurred_at,
            call.enforce,
            call.price,
            call.estimated,
        )

    def _call(self, report: UsageReport) -> Call:
        """The event with its price, and estimates for what was not said. Raises Refusal."""
        attributes, quantity = self._prices.named(report.attributes), report.quantity
        names: tuple[str, ...] = ()
        if report.estimate_from:
            said = attributes if quantity is None else {**attributes, QUANTITY: quantity}
            found = estimated(event_type_of(self._prices.catalog, report.event), report.estimate_from, said)
            names = tuple(found)
            quantity = found.pop(QUANTITY, quantity)
            attributes = {**attributes, **found}
        price = None
        if self._prices.catalog.cost_meters_of_event:
            at = self._ledger.now() if report.occurred_at is None else report.occurred_at
            price = self._prices.of_event(report.event, attributes, at)
        quantity = 1 if quantity is None else quantity
        return Call(report.event, quantity, attributes, price, names, report.occurred_at, report.enforce)


def _answer(outcome: Outcome) -> Decision | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    assert isinstance(outcome, Decided)
    return outcome.decision
