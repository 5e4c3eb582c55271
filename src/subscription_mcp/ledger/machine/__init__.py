"""The state machine of the ledger: facts and a command in, an outcome and the changes out. No I/O, no clock.

`apply` first reads every fact it needs. A fact that is not loaded is noted in `facts.missing` and nothing
happens: the engine loads what is missing, for all commands that wait, and applies again. Only with every
fact at hand does it decide, write the changes into the facts (so that the next command of the batch sees
them) and note them for the engine to save.
"""

from collections.abc import Callable, Sequence

from subscription_mcp.domain.errors import Refusal
from subscription_mcp.ledger.commands import (
    KEYED,
    Arrive,
    ChangePlan,
    ChangeSubscription,
    CheckUsage,
    ClearRate,
    CloseInvoices,
    CloseSession,
    Command,
    CorrectUsage,
    EditPlan,
    EndGrant,
    EndSessions,
    EraseUser,
    GrantAllowance,
    LeaseDeliveries,
    ManageMember,
    MarkAlerts,
    MigratePlan,
    OpenSession,
    Outcome,
    PayInvoice,
    PublishPlans,
    QueueTestMessage,
    RecordUsage,
    RenewSession,
    ReportOutage,
    ResendDeliveries,
    Reserve,
    RevokeTokens,
    SetAlertThresholds,
    SetLimit,
    SetStatus,
    Settle,
    SettleDelivery,
)
from subscription_mcp.ledger.machine.accounts import arrive
from subscription_mcp.ledger.machine.alerts import mark_alerts, report_outage, set_alert_thresholds
from subscription_mcp.ledger.machine.corrections import correct
from subscription_mcp.ledger.machine.deliveries import (
    lease_deliveries,
    queue_test_message,
    resend_deliveries,
    settle_delivery,
)
from subscription_mcp.ledger.machine.erasure import erase_user
from subscription_mcp.ledger.machine.facts import Facts, Turn
from subscription_mcp.ledger.machine.grants import end_grant, grant
from subscription_mcp.ledger.machine.invoices import close_invoices, pay_invoice
from subscription_mcp.ledger.machine.limits import clear_rate, set_limit
from subscription_mcp.ledger.machine.members import manage_member
from subscription_mcp.ledger.machine.plans import edit_plan, migrate_plan, publish_plans
from subscription_mcp.ledger.machine.reservations import reserve, settle
from subscription_mcp.ledger.machine.revocations import revoke_tokens
from subscription_mcp.ledger.machine.sessions import close_session, end_sessions, open_session, renew_session
from subscription_mcp.ledger.machine.subscriptions import change_plan, change_subscription, set_status
from subscription_mcp.ledger.machine.usage import check, record

ABOUT_EVERYBODY = (
    PublishPlans,
    EditPlan,
    MigratePlan,
    CloseInvoices,
    PayInvoice,
    LeaseDeliveries,
    ResendDeliveries,
)
"""Commands that ask what all accounts together hold, all that was ever charged to one, or which messages wait."""

ROUNDS_MAX = 100
"""How often facts may be loaded for one command. A few rounds are enough; a loader that loses what it brought, or brings
nothing, would go on for ever, and everybody wait with it."""


def run(turn: Turn, commands: Sequence[Command], load: Callable[[Facts], None]) -> list[Outcome]:
    """Apply the commands in order. Where a fact is missing, `load` brings in one go what all that still
    wait are missing, round by round (the counters are only known once the subscription is)."""
    _load_answers(turn.facts, commands, load)
    outcomes: list[Outcome] = []
    for index, command in enumerate(commands):
        outcome = apply(turn, command)
        rounds = 0
        while outcome is None:
            _probe(turn, commands[index + 1 :])
            if not turn.facts.missing:
                raise AssertionError(f"{type(command).__name__} came to nothing with every fact loaded")
            rounds += 1
            if rounds > ROUNDS_MAX:
                missing = ", ".join(sorted(turn.facts.missing))
                raise AssertionError(
                    f"{type(command).__name__} still misses {missing} after {ROUNDS_MAX} loads"
                )
            load(turn.facts)
            outcome = apply(turn, command)
        outcomes.append(outcome)
        if isinstance(command, ABOUT_EVERYBODY):
            turn.facts.forget_asked()
    return outcomes


def _probe(turn: Turn, waiting: Sequence[Command]) -> None:
    """Find out what those that wait are missing too, each as deep as what is there goes."""
    facts = turn.facts
    missing = facts.missing
    turn.probing = True
    for command in waiting:
        if isinstance(command, ABOUT_EVERYBODY):
            continue  # what it asks must not be answered before those that come first have changed it
        facts.missing = {}
        apply(turn, command)
        for table, keys in facts.missing.items():
            if table == "counters":
                # One that is added up must not be before those that come first in the batch have counted.
                keys = {key for key in keys if facts.kept_since(key) is not None}
            missing.setdefault(table, set()).update(keys)
    turn.probing = False
    facts.missing = missing


def _load_answers(facts: Facts, commands: Sequence[Command], load: Callable[[Facts], None]) -> None:
    """What everybody's idempotency keys did before: hardly any is known yet, and it is what is asked first."""
    keys = {
        key
        for command in commands
        if isinstance(command, KEYED) and (key := command.answer_key) is not None and key not in facts.answers
    }
    if keys:
        facts.missing["answers"] = keys
        load(facts)


def apply(turn: Turn, command: Command) -> Outcome | None:
    """The outcome of one command, its changes already in the facts; None where facts are missing."""
    try:
        match command:
            case RecordUsage():
                return record(turn, command)
            case Reserve():
                return reserve(turn, command)
            case Settle():
                return settle(turn, command)
            case OpenSession():
                return open_session(turn, command)
            case RenewSession():
                return renew_session(turn, command)
            case CloseSession():
                return close_session(turn, command)
            case CheckUsage():
                return check(turn, command)
            case Arrive():
                return arrive(turn, command)
            case ChangePlan():
                return change_plan(turn, command)
            case ChangeSubscription():
                return change_subscription(turn, command)
            case SetStatus():
                return set_status(turn, command)
            case EndSessions():
                return end_sessions(turn, command)
            case EraseUser():
                return erase_user(turn, command)
            case SetLimit():
                return set_limit(turn, command)
            case ClearRate():
                return clear_rate(turn, command)
            case CorrectUsage():
                return correct(turn, command)
            case GrantAllowance():
                return grant(turn, command)
            case EndGrant():
                return end_grant(turn, command)
            case ManageMember():
                return manage_member(turn, command)
            case RevokeTokens():
                return revoke_tokens(turn, command)
            case PublishPlans():
                return publish_plans(turn, command)
            case EditPlan():
                return edit_plan(turn, command)
            case MigratePlan():
                return migrate_plan(turn, command)
            case CloseInvoices():
                return close_invoices(turn, command)
            case PayInvoice():
                return pay_invoice(turn, command)
            case MarkAlerts():
                return mark_alerts(turn, command)
            case SetAlertThresholds():
                return set_alert_thresholds(turn, command)
            case ReportOutage():
                return report_outage(turn, command)
            case LeaseDeliveries():
                return lease_deliveries(turn, command)
            case SettleDelivery():
                return settle_delivery(turn, command)
            case ResendDeliveries():
                return resend_deliveries(turn, command)
            case QueueTestMessage():
                return queue_test_message(turn, command)
    except Refusal as refusal:
        return None if turn.facts.missing else refusal
