"""Access tokens taken back."""

from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import Revocation, RevokeTokens, TokensRevoked
from subscription_mcp.ledger.machine.accounts import audit
from subscription_mcp.ledger.machine.facts import Turn

REVOKED = "token.revoke"
"""The action of a revocation in the audit trail."""


def revoke_tokens(turn: Turn, command: RevokeTokens) -> TokensRevoked | None:
    if not turn.may_write:
        return None
    # Of no tenant or no subject in particular is '' in the trail, like a group as a whole.
    account = AccountKey(command.tenant or "", "personal", command.subject or "")
    after = {
        "token_id": command.token_id,
        "tenant_id": command.tenant,
        "subject": command.subject,
        "issued_before": format_instant(command.issued_before),
    }
    said = {name: value for name, value in after.items() if value is not None}
    entry = audit(turn, account, "", REVOKED, command.actor, command.reason, None, said)
    turn.changes.revocations.append(
        Revocation(
            entry.id, command.tenant, command.subject, command.token_id, command.issued_before, turn.now
        )
    )
    return TokensRevoked(entry)
