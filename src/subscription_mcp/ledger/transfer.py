"""The form in which a whole ledger travels from one engine to another: JSON lines, UTF-8, one row a line.

    {"format":"subscription-mcp ledger","version":2,"rows":{"plan_version":3,"event":2,...}}
    {"event":{"id":"0193...","tenant":"acme","account_kind":"personal","account":"bob",...}}
    {"end":{"rows":5,"sha256":"..."}}

The first line says how many rows of each table follow, in the order in which they follow: what a row needs
stands before it. A row names whom and what it concerns by text. Instants are microseconds since 1970 UTC,
digests and handles are hexadecimal. Events, answers, audit entries and revocations come in the order they were
made, all others in the order of their keys, so that two ledgers with the same rows have the same export. The
last line holds the number of rows and the SHA-256 of every line before it: a file that was cut short or changed
is noticed before anything of it counts.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any, BinaryIO

from subscription_mcp.ledger.port import TransferRefused

FORMAT = "subscription-mcp ledger"
VERSION = 2
LINE_BYTES_MAX = 16 * 2**20

Row = dict[str, Any]
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class ExportWriter:
    """Writes the lines of an export; `write` takes bytes."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = sha256()
        self._rows = 0

    def begin(self, rows: Mapping[str, int]) -> None:
        self._line({"format": FORMAT, "version": VERSION, "rows": dict(rows)})

    def row(self, table: str, row: Row) -> None:
        self._rows += 1
        self._line({table: row})

    def end(self) -> None:
        self._line({"end": {"rows": self._rows, "sha256": self._digest.hexdigest()}})

    def _line(self, document: Mapping[str, Any]) -> None:
        line = encode(document).encode() + b"\n"
        self._digest.update(line)
        self._write(line)


class ExportReader:
    """Reads an export line by line and notices whatever is not as it was written. Raises TransferRefused;
    only when `rows` has come to its end is the file known to be whole."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self.line = 0
        header = self._read()
        if header.get("format") != FORMAT:
            raise TransferRefused("The file is no export of a ledger.")
        if header.get("version") != VERSION:
            raise TransferRefused(
                f"The file has format version {header.get('version')}, this version reads {VERSION}. "
                "Import it with the version that wrote it, or export it again with this one."
            )
        counts = header.get("rows")
        if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
            raise self.damaged()
        self.counts: Mapping[str, int] = counts

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with the name of its table."""
        for table, count in self.counts.items():
            for _ in range(count):
                row = self._read().get(table)
                if not isinstance(row, dict):
                    raise self.damaged()
                yield table, row
        whole = {"rows": sum(self.counts.values()), "sha256": self._digest.hexdigest()}
        if self._read() != {"end": whole} or self._stream.read(1):
            raise self.damaged()

    def damaged(self) -> TransferRefused:
        """What to raise where the line last read is not as it was written."""
        return TransferRefused(
            f"The file is damaged or cut short at line {self.line}. Nothing was imported; export the ledger again."
        )

    def _read(self) -> Row:
        self.line += 1
        line = self._stream.readline(LINE_BYTES_MAX)
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            raise self.damaged() from None
        if not isinstance(document, dict) or not line.endswith(b"\n"):
            raise self.damaged()
        if "end" not in document:
            self._digest.update(line)
        return document
