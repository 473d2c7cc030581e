"""From reports to committed rows: the one place that writes a search's ledger."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cluster.ledger import Ledger, Row, RowStatus
from cluster.logs import CANDIDATE
from cluster.trial import Report
from networks.complexity import Complexity
from networks.errors import UserError
from searchers.searcher import Candidate

log = logging.getLogger(__name__)


class Entrant(NamedTuple):
    """A candidate of a grid, with what is known before it is trained. `parent` and `edit`: as of a `Row`."""

    candidate: Candidate
    names: dict[str, Any]
    architecture: str
    cost: Complexity
    parent: str = ""
    edit: str = ""


class Recorder:
    """Commits rows and tells listeners of them, in order. Rows of one call are one segment. `entrants`:
    of a grid, whose reports become rows here."""

    def __init__(self, ledger: Ledger, entrants: Sequence[Entrant] = ()) -> None:
        self._ledger = ledger
        self._entrants = {entrant.candidate.ask_index: entrant for entrant in entrants}
        self._recorded: dict[int, int] = {}  # ask index -> last epoch in the ledger
        self._segments = len(ledger.segments())
        self.listeners: list[Callable[[list[Row]], None]] = []

    def replay(self) -> list[Row]:
        """The rows that are committed already; later ones will continue them."""
        rows = list(self._ledger.rows())
        for row in rows:
            self._recorded[row.candidate.ask_index] = row.epoch
        return rows

    def commit(self, rung: int, outcomes: Sequence[tuple[Report, RowStatus]]) -> list[Row]:
        return self.write([self._row(rung, report, status) for report, status in outcomes])

    def write(self, rows: list[Row]) -> list[Row]:
        """Commit these rows as the next segment. Raises `UserError` when another process took its place."""
        try:
            self._ledger.append_at(self._segments, rows)
        except FileExistsError as error:
            fix = "Another process is driving this run: let it end, or end it."
            folder = str(self._ledger.folder)
            raise UserError("ledger", folder, "a ledger that one process writes", fix) from error
        self._segments += 1
        log.info("segment %d is committed, of %d rows", self._segments - 1, len(rows))
        for row in rows:
            if row.status == "failed":
                log.info("%s has failed: %s", row.label, row.reason, extra={CANDIDATE: row.candidate.id})
            self._recorded[row.candidate.ask_index] = row.epoch
        for listener in self.listeners:
            listener(rows)
        return rows

    def _row(self, rung: int, report: Report, status: RowStatus) -> Row:
        entrant = self._entrants[report.ask_index]
        since = self._recorded.get(report.ask_index, 0)
        return Row(
            candidate=entrant.candidate,
            names=entrant.names,
            architecture=entrant.architecture,
            cost=entrant.cost,
            rung=rung,
            epoch=report.epoch,
            status=status,
            reason=report.reason,
            metrics={} if status == "failed" else report.metrics,
            curve=tuple(point for point in report.curve if point["epoch"] > since),
            seconds=report.seconds,
            place=report.place,
            time=report.time,
            numerics=report.numerics,
            parent=entrant.parent,
            edit=entrant.edit,
        )
