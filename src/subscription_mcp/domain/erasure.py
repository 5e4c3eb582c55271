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


TELLING_LENGTH = 3
"""Shorter ids, and numbers, stand in texts that mean nobody."""
_SIGNS = r"._:@|+\-"


class Redaction:
    """Puts an alias in place of one user's id. In sentences the id stands alone: `ann` is neither in `ann.lee` nor in
    `for:ann`. What is not `theirs`, neither about the user nor by them, says of itself nothing of a user called `7`."""

    def __init__(self, user: str, alias: str, *, theirs: bool) -> None:
        self._user = user
        self._alias = alias
        self._is_telling = len(user) >= TELLING_LENGTH and not user.isdecimal()
        self._is_looked_for = theirs or self._is_telling
        id_ = re.escape(user)
        # Signs that ids may have are punctuation where no letter and no digit comes before or behind them.
        self._alone = re.compile(rf"(?<![A-Za-z0-9{_SIGNS}])([{_SIGNS}]*?){id_}(?![{_SIGNS}]*[A-Za-z0-9])")
        self._part = re.compile(rf"(?<![A-Za-z0-9]){id_}(?![A-Za-z0-9])")

    def sentence(self, text: str) -> str:
        """A text written by people, with the alias in it."""
        return self._alone.sub(rf"\g<1>{self._alias}", text) if self._is_looked_for else text

    def is_part_of(self, text: str) -> bool:
        """Whether an id that is no user's, as a token's, is made of this one: `ann:1`."""
        return text == self._user or (self._is_telling and self._part.search(text) is not None)

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
