"""Who may do what: one table of operation, role and reach. What is not in it is allowed to nobody."""

from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache


class Reach(IntEnum):
    """How far an operation may look or act; each reach includes those before it."""

    NONE = 0
    SELF = 1
    """The caller as a user."""
    ACCOUNT = 2
    """Everybody in the caller's account."""
    TENANT = 3
    """Every account of the caller's tenant."""
    ALL = 4
    """Every tenant."""


_N, _S, _A, _T, _X = Reach

STANDING_ROLES = ("member", "holder", "admin", "service", "tenant_admin", "superadmin")
"""Roles as they stand at the moment of a call: `holder` holds the personal account that is meant, `admin` is
an admin of the group in the ledger, the last three come from the token."""

_READS = (_S, _A, _A, _T, _T, _X)
_CHANGES = (_N, _A, _A, _N, _T, _X)
_RECORDS = (_N, _N, _N, _T, _N, _N)
_SESSIONS = (_S, _S, _S, _T, _S, _S)

REACH: Mapping[str, Mapping[str, Reach]] = {
    operation: dict(zip(STANDING_ROLES, reaches, strict=True))
    for operation, reaches in {
        #                      member, holder, admin, service, tenant_admin, superadmin
        "get_tier_info": _READS,
        "upgrade_tier": _CHANGES,
        "manage_subscription": _CHANGES,
        "get_usage_analytics": _READS,
        "list_usage_events": _READS,
        "check_quota": _READS,
        "record_usage": _RECORDS,
        "record_usage_batch": _RECORDS,
        "reserve_usage": _RECORDS,
        "settle_usage": _RECORDS,
        "open_session": _SESSIONS,
        "renew_session": _SESSIONS,
        "close_session": _SESSIONS,
        "has_feature": _READS,
        "list_plans": _READS,
        "manage_limits": _CHANGES,
        "manage_plans": (_N, _N, _N, _N, _N, _X),
        "tenant_summary": (_N, _N, _N, _N, _T, _X),
    }.items()
}

_MEMBERS_MAY = frozenset({"record_usage", "record_usage_batch", "reserve_usage", "settle_usage"})
"""What `METERING__MEMBERS_MAY_RECORD` opens to members, for themselves."""


@lru_cache(maxsize=4096)
def reach(operation: str, standing_roles: frozenset[str], *, members_may_record: bool) -> Reach:
    """The farthest reach any of the roles gives; NONE for an unknown operation or role."""
    row = REACH.get(operation, {})
    farthest = max((row.get(role, Reach.NONE) for role in standing_roles), default=Reach.NONE)
    if members_may_record and operation in _MEMBERS_MAY and "member" in standing_roles:
        return max(farthest, Reach.SELF)
    return farthest
