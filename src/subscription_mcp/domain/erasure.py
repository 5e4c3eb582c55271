"""What becomes of a user's id when they are erased: an alias where only history stands, a hash where something about
them must go on to hold."""

import re
from collections.abc import Mapping, Set
from hashlib import blake2b
from typing import Any

from subscription_mcp.domain.identifiers import is_id

ALIAS_PREFIX = "erased-"
HASHED = "#"
"""Begins what is kept of an id instead of it; no id can begin so."""


def hashed_name(text: str) -> str:
    """What is kept of an id so that it is known again and not named: `#` and 32 hexadecimal digits."""
    return HASHED + blake2b(text.encode(), digest_size=16).hexdigest()


class Redaction:
    """Puts an alias in place of one user's id."""

    def __init__(self, user: str, alias: str) -> None:
        self._user = user
        self._alias = alias
        self._word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])")

    def is_in_sentence(self, text: str) -> bool:
        """Whether a text written by people names the user: the id between anything but letters and digits."""
        return self._word.search(text) is not None

    def sentence(self, text: str) -> str:
        return self._word.sub(self._alias, text)

    def is_in(self, value: Any, spared: Set[str] = frozenset()) -> bool:
        """Whether a value of JSON names the user anywhere but under the keys that are `spared`."""
        return bool(self.document(value, spared) != value)

    def document(self, value: Any, spared: Set[str] = frozenset()) -> Any:
        """The value with the alias in it. A text that is another id is another's: `ann.lee` is not `ann`."""
        match value:
            case str():
                if value == self._user:
                    return self._alias
                return value if is_id(value) else self.sentence(value)
            case Mapping():
                return {
                    key: inner if key in spared else self.document(inner, spared)
                    for key, inner in value.items()
                }
            case list() | tuple():
                return [self.document(inner, spared) for inner in value]
            case _:
                return value
