"""Tokens that were verified a moment ago: the same token comes with every call, and its signature does not change.

Only what does change is judged again: the clock, and whether the key still stands. Revocations are asked about
apart from this, at every call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from subscription_mcp.auth.principal import Principal

KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Verified:
    """What was made of a token. Instants are seconds since the epoch, with the leeway in them."""

    principal: Principal
    valid_from: float
    valid_until: int
    header: Mapping[str, Any]
    key: Any

    def holds(self, now: float, key_of: Callable[[Mapping[str, Any]], Any]) -> bool:
        """Whether judging the token again would come to the same."""
        return self.valid_from <= now < self.valid_until and key_of(self.header) is self.key


class VerifiedTokens:
    """The last ones, by their digest: the token itself, which could be used, is not kept."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Verified] = {}

    def get(self, access_token: str) -> Verified | None:
        return self._kept.get(_digest(access_token)) if isinstance(access_token, str) else None

    def add(self, access_token: str, verified: Verified) -> None:
        if len(self._kept) >= KEPT_MAX:
            self._kept.pop(next(iter(self._kept)))
        self._kept[_digest(access_token)] = verified


def _digest(access_token: str) -> bytes:
    return sha256(access_token.encode()).digest()
