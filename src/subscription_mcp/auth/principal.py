"""Who is calling: what a verified token says, and nothing that it does not."""

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["member", "admin", "service", "tenant_admin", "superadmin"]
ROLES: frozenset[Role] = frozenset(get_args(Role))
OPERATOR_ROLES: frozenset[Role] = frozenset({"service", "tenant_admin", "superadmin"})
"""Roles only a token can give, which act for other people's accounts."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose token was verified. `group` and `tier` are claims: the ledger decides what they are worth."""

    tenant: str
    user: str
    group: str | None
    tier: str | None
    roles: frozenset[Role]
    """Always holds `member`."""
    issuer: str
    expires_at: int
    """Seconds since the epoch; the token is accepted until 30 seconds after."""
    token_id: str | None
    issued_at: int | None = None
    """Seconds since the epoch, rounded down; None where the token does not say."""

    @property
    def is_operator(self) -> bool:
        return not OPERATOR_ROLES.isdisjoint(self.roles)
