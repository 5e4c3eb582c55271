"""Identifiers: the ids callers may use, and the ids we mint."""

import re
from collections.abc import Callable
from typing import Literal
from uuid import UUID

from subscription_mcp.domain.instants import Instant

AccountKind = Literal["personal", "group"]

ID_PATTERN = r"^[A-Za-z0-9._:@|+-]{1,128}$"
_ID = re.compile(r"[A-Za-z0-9._:@|+-]{1,128}", re.ASCII)
ID_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ | + -"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
NAME_RULE = "a lower-case letter, then up to 63 of a-z 0-9 _ -"

_LOW_62_BITS = (1 << 62) - 1
RandomBits = Callable[[int], int]
"""`random.getrandbits` or a seeded one: so many random bits as an integer."""


def is_id(text: str) -> bool:
    """Whether the text may name a tenant, account, user, session or key (case counts)."""
    return _ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether the text may name a plan, meter, event, attribute or feature of a catalog."""
    return _NAME.fullmatch(text) is not None


def uuid7s(now: Instant, random_bits: RandomBits) -> Callable[[], str]:
    """Makes version 7 UUIDs (RFC 9562) of one instant, as text: 48 bits of milliseconds, then 74 random bits."""
    time = f"{now // 1000 & (1 << 48) - 1:012x}"
    head = f"{time[:8]}-{time[8:]}-7"

    def make() -> str:
        random = random_bits(74)
        tail = f"{0b10 << 62 | random & _LOW_62_BITS:016x}"
        return f"{head}{random >> 62:03x}-{tail[:4]}-{tail[4:]}"

    return make


def uuid7_instant(id_: bytes) -> Instant:
    """The beginning of the millisecond an id was made in."""
    return int.from_bytes(id_[:6], "big") * 1000


def uuid7_after(at: Instant) -> bytes:
    """The least id of a later millisecond than an instant's: ids begin with their time."""
    return (at // 1000 + 1 << 80).to_bytes(16, "big")


def uuid_bytes(text: str) -> bytes | None:
    """What a caller's id is stored as; None where it cannot be one of ours. Only as we write it: another
    spelling of the same id would be a second name for one row."""
    try:
        known = UUID(text)
    except ValueError:
        return None
    return known.bytes if str(known) == text else None
