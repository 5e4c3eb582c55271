"""What reports want to know beside usage: what was refused and why, how long things took and whether they failed."""

from subscription_mcp.domain.decisions import Decision
from subscription_mcp.domain.histogram import cell_of
from subscription_mcp.domain.instants import HOUR
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.usage import has_failed
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.machine.accounts import Located
from subscription_mcp.ledger.machine.facts import NO_CELL, HolderKey, TenantSize, Turn


def whole_tenant(tenant: str) -> HolderKey:
    """The holder that stands for a tenant as a whole."""
    return AccountKey(tenant, "personal", ""), ""


def read_tenant(turn: Turn, located: Located, decision: Decision) -> None:
    """Have at hand what noting a refusal needs."""
    if not decision.allowed:
        turn.facts.read("tenants", located.account.tenant)


def note_denial(turn: Turn, located: Located, decision: Decision) -> None:
    """Count a refusal; of whom nothing is known yet it leaves nothing behind."""
    if decision.allowed:
        return
    account, size = located.account, turn.facts.tenants.get(located.account.tenant) or TenantSize()
    holder: HolderKey = (account, located.user)
    if located.joins:
        holder = (account, "")
    if located.stored is None and not located.seats_used:
        holder = whole_tenant(account.tenant)
        if size == TenantSize():
            return
    meter = next((state.meter for state in decision.limits if state.refused), "")
    key = (holder, turn.now - turn.now % HOUR, decision.code, meter)
    denials = turn.changes.denials
    denials[key] = denials.get(key, 0) + 1


def note_response(turn: Turn, event: UsageEvent) -> None:
    """Count how long something took and whether it failed, where the event says so. What it says is declared, or it would
    have been refused; so the events alone tell these counts."""
    took, status = event.attributes.get("response_ms"), event.attributes.get("status")
    if not isinstance(took, int) and status is None:
        return
    cell = cell_of(took) if isinstance(took, int) else NO_CELL
    account = AccountKey(event.tenant, event.account_kind, event.account)
    hour, responses = event.occurred_at - event.occurred_at % HOUR, turn.changes.responses
    for holder in ((account, event.user), whole_tenant(event.tenant)):
        key = (holder, hour, event.event, has_failed(status), cell)
        responses[key] = responses.get(key, 0) + 1
