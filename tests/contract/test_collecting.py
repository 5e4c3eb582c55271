"""The loop that closes invoices and has them paid, on a provider that pays, one that declines and one that breaks."""

from pathlib import Path
from typing import Any

from tests.builders import (
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_status,
    a_subject,
    buy,
    manage,
    view_of,
)

from subscription_mcp.billing.collecting import ASK_AGAIN_AFTER_SECONDS, Collector
from subscription_mcp.billing.port import Declined, Paid, Provider
from subscription_mcp.billing.simulated import SimulatedProvider
from subscription_mcp.domain.invoices import Invoice, statement_of
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import Arrive
from subscription_mcp.ledger.queries import AuditTrail, BillingOf, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.billing import Collection

BOB = AccountKey("acme", "personal", "bob")
SHOP = a_catalog(a_plan(), a_plan(key="pro", monthly="29.00"))


class EmptyCard(SimulatedProvider):
    """Declines, until there is money on it."""

    name = "empty card"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has_money = False

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        self.asked.append(invoice.number)
        return await super().pay(customer, invoice) if self.has_money else Declined("no money on it")


class Broken(SimulatedProvider):
    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        raise TimeoutError("no answer")


class BrokenForOne(SimulatedProvider):
    def __init__(self, customer: str) -> None:
        self.customer_it_breaks_on, self.broke = customer, 0

    async def pay(self, customer: str, invoice: Invoice) -> Paid | Declined:
        if customer == self.customer_it_breaks_on:
            self.broke += 1
            raise ConnectionError("no such customer")
        return await super().pay(customer, invoice)


def collector(ledger: Ledger, provider: Provider | None = None) -> Collector:
    return Collector(Collection(ledger), provider or SimulatedProvider())


async def invoices(ledger: Ledger) -> list[Invoice]:
    billing, plans = await ledger.query(BillingOf(BOB))
    return statement_of(billing, plans, ledger.now()).invoices


async def status(ledger: Ledger) -> Any:
    view = view_of(await ledger.rehearse(Arrive(a_subject("bob"))))
    assert view.subscription is not None
    return view.subscription.status_at(view.as_of)


async def test_what_is_due_is_closed_and_paid_and_then_nothing_is_left_to_do(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=SHOP, clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(days=70)
        await collector(ledger).turn()
        found = await invoices(ledger)
        assert [(one.status, one.reference) for one in found] == [
            ("paid", f"sim_pay_{one.number}") for one in found
        ]
        assert len(found) == 3
        assert await Collection(ledger).due(10) == []


async def test_a_declined_payment_makes_the_account_past_due_and_is_asked_for_again_when_received(
    tmp_path: Path,
) -> None:
    clock, card = Clock(), EmptyCard()
    async with a_ledger(tmp_path, catalog=SHOP, clock=clock) as ledger:
        await buy(ledger, "pro")
        for _ in range(3):
            await collector(ledger, card).turn()
        assert (await status(ledger), len(card.asked)) == ("past_due", 1)
        (entry,) = await ledger.query(AuditTrail(Whose(*BOB), "subscription.payment_failed", 5))
        assert (entry.actor.user, entry.actor.role) == ("empty card", "billing")
        assert entry.reason == f"invoice {card.asked[0]}: no money on it"
        card.has_money = True
        await ledger.submit_one(a_status("payment_received"))
        await collector(ledger, card).turn()
        assert [one.status for one in await invoices(ledger)] == ["paid"]
        assert await status(ledger) == "active"
        assert (await ledger.engine.verify()).differences == ()


async def test_a_provider_that_breaks_leaves_everything_to_a_later_turn(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=SHOP) as ledger:
        await buy(ledger, "pro")
        await collector(ledger, Broken()).turn()
        assert [one.status for one in await invoices(ledger)] == ["closed"]
        await collector(ledger).turn()
        assert [one.status for one in await invoices(ledger)] == ["paid"]


async def test_an_account_the_provider_breaks_on_does_not_keep_the_others_from_paying(tmp_path: Path) -> None:
    ann = AccountKey("acme", "personal", "ann")
    seconds = [0.0]
    async with a_ledger(tmp_path, catalog=SHOP) as ledger:
        for user in ("ann", "bob"):
            await buy(ledger, "pro", user, actor=user)
        provider = BrokenForOne(await SimulatedProvider().customer(ann))
        loop = Collector(Collection(ledger), provider, lambda: seconds[0])
        for _ in range(3):
            await loop.turn()
        assert [one.status for one in await invoices(ledger)] == ["paid"]
        assert await Collection(ledger).due(10) == [ann]
        assert provider.broke == 1  # not every two seconds
        seconds[0] = ASK_AGAIN_AFTER_SECONDS
        await loop.turn()
        assert provider.broke == 2


async def test_who_has_ended_and_cannot_pay_is_not_asked_with_every_turn(tmp_path: Path) -> None:
    clock, card, seconds = Clock(), EmptyCard(), [0.0]
    shop = a_catalog(
        a_plan(a_limit(1, window="month", overage="0.01"), key="pro", monthly="29.00"), default_plan=None
    )
    async with a_ledger(tmp_path, catalog=shop, clock=clock) as ledger:
        await buy(ledger, "pro")
        await ledger.submit_one(a_record(quantity=100))
        await collector(ledger).turn()
        await manage(ledger, "cancel")
        clock.advance(days=40)
        loop = Collector(Collection(ledger), card, lambda: seconds[0])
        for _ in range(3):
            await loop.turn()
        assert len(card.asked) == 1
        seconds[0], card.has_money = ASK_AGAIN_AFTER_SECONDS, True
        await loop.turn()
        assert [one.status for one in await invoices(ledger)] == ["paid", "paid"]


async def test_the_simulated_provider_does_the_same_however_often_it_is_asked() -> None:
    provider = SimulatedProvider()
    customer = await provider.customer(BOB)
    assert customer == await provider.customer(BOB) != await provider.customer(BOB._replace(account="ann"))
