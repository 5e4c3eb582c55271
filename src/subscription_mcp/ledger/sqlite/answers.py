"""The answers that are kept for idempotency keys, and the index that finds them."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from pydantic_core import to_json

from subscription_mcp.ledger.commands import AnswerKey
from subscription_mcp.ledger.machine.facts import StoredAnswer
from subscription_mcp.ledger.sqlite.insert import Insert
from subscription_mcp.ledger.sqlite.tables import Tables

_ANSWERS = Insert("answer", "seq, tenant, source, key, digest, answer, at")
_KEYS = Insert("key_index", "hash, seq", " ON CONFLICT DO UPDATE SET seq = excluded.seq")


class Answers:
    """The answers of one connection; within a batch it remembers which keys were looked for in vain."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._free_places: dict[AnswerKey, int] = {}
        """Where an answer that was looked for in vain would stand."""

    def forget_places(self) -> None:
        """Forget where answers that were looked for in vain would stand: somebody else may take the place."""
        self._free_places.clear()

    def read(self, keys: Iterable[AnswerKey]) -> dict[AnswerKey, StoredAnswer | None]:
        places = {key: hash_of_key(key) for key in keys}
        taken = {
            place
            for (place,) in self._tables.database.execute(
                "SELECT k.hash FROM json_each(?) j CROSS JOIN key_index k ON k.hash = j.value",
                (to_json(list(places.values())).decode(),),
            )
        }
        found: dict[AnswerKey, StoredAnswer | None] = {}
        for key, place in places.items():
            answer = None
            if place in taken:
                place, answer, _ = self._find(key)
            if answer is None:
                self._free_places[key] = place
            found[key] = None if answer is None else StoredAnswer(*answer)
        return found

    def _find(self, key: AnswerKey) -> tuple[int, tuple[bytes, str, int] | None, int | None]:
        """Its place in the index, the answer if it is there, and the row's number."""
        tenant, source = self._tables.word(key[0]), self._tables.word(key[1])
        place = hash_of_key(key)
        while True:
            row = self._tables.database.execute(
                "SELECT a.tenant, a.source, a.key, a.digest, a.answer, a.at, a.seq"
                " FROM key_index k JOIN answer a ON a.seq = k.seq WHERE k.hash = ?",
                (place,),
            ).fetchone()
            if row is None:
                return place, None, None
            if row[:3] == (tenant, source, key[2]):
                return place, row[3:6], row[6]
            place += 1  # two keys of one hash stand side by side

    def save(self, answers: Sequence[tuple[AnswerKey, StoredAnswer]]) -> None:
        (last,) = self._tables.database.execute("SELECT coalesce(max(seq), 0) FROM answer").fetchone()
        places: dict[int, int] = {}
        rows: list[tuple[Any, ...]] = []
        words = self._tables.known_words.get
        for key, answer in answers:
            place = self._free_places.get(key)
            if place is None or place in places:
                # Not looked for in this batch, or two of them have one hash: one by one, those before it first.
                self._insert(rows, places)
                rows, places = [], {}
                place, _, old = self._find(key)
                if old is not None:
                    # Remembered too long ago to count: the key starts anew, behind all others.
                    self._tables.database.execute("DELETE FROM answer WHERE seq = ?", (old,))
            last += 1
            places[place] = last
            rows.append(
                (
                    last,
                    words(key[0]) or self._tables.word_made(key[0]),
                    words(key[1]) or self._tables.word_made(key[1]),
                    key[2],
                    answer.digest,
                    answer.answer,
                    answer.at,
                )
            )
        self._insert(rows, places)

    def _insert(self, rows: list[tuple[Any, ...]], places: Mapping[int, int]) -> None:
        _ANSWERS.all(self._tables.database, rows)
        # The one table that is written at random: in its own order, so that a page is visited once.
        _KEYS.all(self._tables.database, sorted(places.items()))


def hash_of_key(key: AnswerKey) -> int:
    """Where a key stands in the index, unless another of the same hash does."""
    digest = blake2b("\0".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
