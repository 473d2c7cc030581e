"""The ledger: the append-only record of a search, in segments that are written once.

A segment is a file `ledger/00000007.json` holding rows and their checksum. It appears whole or not at
all, and an existing one is never replaced. Rows stand in (rung, ask index) order, with ASHA in the order
in which candidates end. The ledger is what a search resumes from; MLflow is a view of it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cluster.files import AnyPath, make_folder, write_once
from networks.architecture import digest_of
from networks.complexity import Complexity
from networks.errors import UserError
from searchers.searcher import Candidate

RowStatus = Literal["ok", "stopped", "failed", "promoted"]


class Row(BaseModel):
    """One candidate at one rung. promoted: it goes on to the next rung; the other three are final.

    `curve` holds the metrics of each epoch since the candidate's last row, each with its ``epoch``.
    `seconds` (of its own work so far), `place`, `time` (Unix milliseconds) and `numerics` (what computed
    it) say how it came about and stand outside the digest. `parent`: the id of the candidate that it was made
    from by an `edit`, where a searcher says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Candidate
    names: dict[str, Any]
    architecture: str
    cost: Complexity
    rung: int
    epoch: int
    status: RowStatus
    reason: str = ""
    metrics: dict[str, float] = {}
    curve: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    place: str = ""
    time: int = 0
    numerics: str = ""
    parent: str = ""
    edit: str = ""

    @property
    def label(self) -> str:
        """``WS(4, 0.75) seed 1``, or ``candidate 17`` for spaces without settings and seeds."""
        if {"setting", "seed"} <= set(self.names):
            return f"{self.names['setting']} seed {self.names['seed']}"
        return f"candidate {self.candidate.ask_index}"

    @property
    def final(self) -> bool:
        return self.status != "promoted"

    @property
    def digest(self) -> str:
        outside = {"seconds", "place", "time", "numerics"}
        # A row that has no parent has the digest that it had before rows could have one.
        return digest_of(
            self.model_dump(mode="json", exclude=outside if self.parent else outside | {"parent", "edit"})
        )


class Segments:
    """Numbered files in one folder, each written once, with a checksum. One process appends; any may read."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder

    def segments(self) -> list[AnyPath]:
        """Files of the committed segments, in order. Raises `UserError` when one of them is missing."""
        listed = {int(path.stem) for path in self.folder.glob("[0-9]" * 8 + ".json")}
        found = [self._path(number) for number in range(max(listed, default=-1) + 1)]
        for number, path in enumerate(found):
            # A disk's listing may lack what was committed while it was made.
            if number not in listed and not path.is_file():
                raise UserError("ledger", str(path), "every segment up to the newest", "It is missing.")
        return found

    def since(self, start: int, *, whole: bool = False) -> Iterator[tuple[int, AnyPath]]:
        """The committed segments from this one on, with their numbers. `whole`: nothing is added any more, so
        that a missing one is an error, as in `segments`; else it reads no listing, which is long in the end.
        """
        if whole:
            yield from list(enumerate(self.segments()))[start:]
            return
        while (path := self._path(start)).is_file():
            yield start, path
            start += 1

    def append_at(self, number: int, rows: Sequence[BaseModel]) -> AnyPath:
        """Commit rows as this segment, the next one. Raises FileExistsError if another writer took its
        place."""
        make_folder(self.folder)
        body = [row.model_dump(mode="json") for row in rows]
        text = json.dumps({"segment": number, "sha256": digest_of(body), "rows": body})
        path = self._path(number)
        write_once(path, text.encode())
        return path

    def _path(self, number: int) -> AnyPath:
        return self.folder / f"{number:08d}.json"


class Ledger(Segments):
    """Segments of rows."""

    def rows(self, start: int = 0) -> Iterator[Row]:
        """All rows from segment `start` on. Raises `UserError` for an altered segment."""
        for path in self.segments()[start:]:
            yield from read_segment(path)

    def digest(self) -> str:
        """Of all rows in order, without seconds, places and times: equal for equal searches."""
        return digest_of([row.digest for row in self.rows()])


def read_segment(path: AnyPath) -> list[Row]:
    """The rows of one segment, its checksum verified."""
    return [Row.model_validate(row) for row in read_checked(path)]


def read_checked(path: AnyPath) -> list[Any]:
    """What one segment holds. Raises `UserError` for one that was altered."""
    try:
        segment = json.loads(path.read_text())
        body, checksum, number = segment["rows"], segment["sha256"], segment["segment"]
    except (ValueError, KeyError, TypeError):
        raise UserError("ledger", str(path), "a whole segment", "It is truncated or is no segment.") from None
    if number != int(path.stem):
        raise UserError("ledger", str(path), f"segment {int(path.stem)}", f"It is a copy of {number}.")
    if digest_of(body) != checksum:
        raise UserError(
            "ledger", str(path), f"rows with checksum {checksum}", "It was altered after its commit."
        )
    assert isinstance(body, list)
    return body
