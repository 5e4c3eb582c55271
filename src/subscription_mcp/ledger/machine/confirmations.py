"""Changes that somebody pays for are offered first, and done when the same caller confirms exactly what was shown."""

import json
from dataclasses import astuple, replace
from hashlib import sha256

from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import Change, Line
from subscription_mcp.ledger.commands import ChangePlan, ChangeSubscription, refused
from subscription_mcp.ledger.machine.accounts import Located, must_be_fewer
from subscription_mcp.ledger.machine.facts import CONFIRMATION_LIFETIME, Offer, Turn

Confirmable = ChangePlan | ChangeSubscription


def handle_digest(actor: str, handle: str) -> bytes:
    """What is stored of a confirmation handle: enough to recognise it, not to use it. Those of one caller stand side
    by side."""
    return actor_digest(actor) + sha256(handle.encode()).digest()


def actor_digest(actor: str) -> bytes:
    """How what is stored of a caller's handles begins."""
    return sha256(actor.encode()).digest()[:8]


def look_up(turn: Turn, command: Confirmable) -> None:
    """Read what is known of the command's handle, or of those that wait for its caller."""
    tenant, actor = command.subject.tenant, command.actor.user
    if command.confirmation is not None:
        turn.facts.read("offers", (tenant, handle_digest(actor, command.confirmation)))
    elif command.offer is not None:
        turn.facts.read("pending_offers", (tenant, actor))


def offer(turn: Turn, command: Confirmable, located: Located, change: Change, to_version: int | None) -> None:
    """Keep what was shown under the command's new handle, if it has one. Raises Refusal where too many wait."""
    if command.offer is None:
        return
    facts, (tenant, actor) = turn.facts, (command.subject.tenant, command.actor.user)
    pending: dict[bytes, Instant] = facts.pending_offers[(tenant, actor)]
    most = facts.bounds.confirmations
    must_be_fewer(
        turn,
        pending.values(),
        most,
        f"{most:,} changes of plan wait for your confirmation, the most there may be at a time. Confirm one, or ask "
        "again when one has lapsed: each is good for 10 minutes.",
    )
    key = (tenant, handle_digest(actor, command.offer))
    expires_at = turn.now + CONFIRMATION_LIFETIME
    facts.offers[key] = turn.changes.offers[key] = Offer(
        actor, command.digest, _terms(located, change, to_version), expires_at
    )
    pending[key[1]] = expires_at


def agreed(
    turn: Turn, command: Confirmable, located: Located, change: Change, to_version: int | None
) -> Change:
    """The change as it was confirmed, its handle used up. Raises Refusal where the handle or the terms do not hold."""
    facts, now, (tenant, actor) = turn.facts, turn.now, (command.subject.tenant, command.actor.user)
    assert command.confirmation is not None
    key = (tenant, handle_digest(actor, command.confirmation))
    found = facts.offers[key]
    if (
        found is None
        or found.used_at is not None
        or now >= found.expires_at
        or found.actor != actor
        or found.digest != command.digest
    ):
        raise refused(
            "invalid_request",
            "This confirmation is not valid: it was used, is older than 10 minutes, or belongs to another request. "
            "Call again without it to get a new one.",
            FieldProblem("confirmation", "must be a handle given for exactly this request"),
        )
    *terms, shown = json.loads(found.terms)
    *current, _ = json.loads(_terms(located, change, to_version))
    if terms != current or not isinstance(shown, list):  # an earlier version kept the sum alone
        raise refused(
            "conflict",
            "The terms have changed since they were shown: the plan or its price is another now. "
            "Nothing was changed; call again without confirmation to see them.",
        )
    facts.offers[key] = turn.changes.offers[key] = replace(found, used_at=now)
    facts.pending_offers.get((tenant, actor), {}).pop(key[1], None)
    # What was shown is what is charged, also where a proration has moved on by some seconds.
    return change.at_price([Line(*line) for line in shown])


def _terms(located: Located, change: Change, to_version: int | None) -> str:
    """What somebody agrees to; what is charged now comes last, line by line."""
    held = located.subscription
    return json.dumps(
        [
            [held.plan, held.version, held.interval, held.seats] if held is not None else None,
            [change.to_plan, to_version],
            [change.price_next.micros, change.price_next.currency],
            change.effective_at if change.is_scheduled else None,
            # The rest of one billing period is not what is left of the next.
            change.period_start,
            [astuple(line) for line in change.lines],
        ]
    )
