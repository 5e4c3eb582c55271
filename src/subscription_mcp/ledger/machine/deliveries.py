"""Messages to the webhook: written with what they tell of, taken by one process at a time, tried until they arrive."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from subscription_mcp.domain.instants import SECOND
from subscription_mcp.domain.webhooks import ATTEMPTS_MAX, payload_of, retry_after
from subscription_mcp.ledger.commands import (
    Deliveries,
    Delivery,
    LeaseDeliveries,
    QueueTestMessage,
    ResendDeliveries,
    SettleDelivery,
    refused,
)
from subscription_mcp.ledger.machine.facts import Turn

INTERRUPTED = "interrupted"
"""The error of a message of whose last attempt nothing came back."""


def tell_webhook(turn: Turn, event: str, tenant: str, data: Mapping[str, Any]) -> Delivery:
    """Have a message sent once this is committed; `event` is one of `WEBHOOK_EVENTS`."""
    payload = to_json(payload_of(event, data, turn.now)).decode()
    delivery = Delivery(turn.new_id(), tenant, event, payload, turn.now, "pending", 0, turn.now)
    turn.changes.deliveries[delivery.id] = delivery
    return delivery


def queue_test_message(turn: Turn, command: QueueTestMessage) -> Deliveries | None:
    if not turn.may_write:
        return None
    return Deliveries([_taken(turn, tell_webhook(turn, "webhook.test", "", {}), command)])


def lease_deliveries(turn: Turn, command: LeaseDeliveries) -> Deliveries | None:
    due: list[Delivery] | None = turn.facts.read("deliveries_due", command.size)
    if due is None or not turn.may_write:
        return None
    taken = []
    for one in due:
        if one.attempts < ATTEMPTS_MAX:
            taken.append(_taken(turn, one, command))
        else:  # whoever made the last attempt died meanwhile
            error = one.last_error or INTERRUPTED
            _saved(turn, replace(one, state="dead", lease=None, last_error=error, ended_at=turn.now))
    return Deliveries(taken)


def settle_delivery(turn: Turn, command: SettleDelivery) -> Deliveries | None:
    one: Delivery | None = turn.facts.read("deliveries", command.delivery_id)
    if not turn.may_write:
        return None
    if one is None or one.lease != command.lease:
        return Deliveries([])
    if command.error is None:
        ended = replace(one, state="delivered", lease=None, last_error=None, ended_at=turn.now)
    elif one.attempts >= ATTEMPTS_MAX:
        ended = replace(one, state="dead", lease=None, last_error=command.error, ended_at=turn.now)
    else:
        at = turn.now + retry_after(one.attempts, command.dice_permille)
        ended = replace(one, lease=None, last_error=command.error, next_attempt_at=at)
    return Deliveries([_saved(turn, ended)])


def resend_deliveries(turn: Turn, command: ResendDeliveries) -> Deliveries | None:
    dead: list[Delivery] | None = turn.facts.read("deliveries_dead", command.delivery_ids)
    if dead is None or not turn.may_write:
        return None
    missing = set(command.delivery_ids or ()) - {one.id for one in dead}
    if missing:
        raise refused("not_found", f"No such message: {', '.join(sorted(missing))}. Nothing was changed.")
    begun = [replace(one, state="pending", attempts=0, ended_at=None) for one in dead]
    return Deliveries(
        [_taken(turn, one, command, place // command.at_once + 1) for place, one in enumerate(begun)]
    )


def _taken(
    turn: Turn, one: Delivery, by: LeaseDeliveries | ResendDeliveries | QueueTestMessage, turns: int = 1
) -> Delivery:
    """An attempt counts when it begins: a process that dies while it sends must not try for ever."""
    until = turn.now + turns * by.seconds * SECOND
    return _saved(turn, replace(one, attempts=one.attempts + 1, next_attempt_at=until, lease=by.lease))


def _saved(turn: Turn, delivery: Delivery) -> Delivery:
    turn.facts.deliveries[delivery.id] = turn.changes.deliveries[delivery.id] = delivery
    return delivery
