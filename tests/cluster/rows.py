"""Rows and reports made by hand."""

from collections.abc import Sequence

from cluster.ledger import Ledger, Row, RowStatus
from cluster.trial import Report
from networks.complexity import Complexity
from searchers.searcher import Candidate

METRIC = "validation_accuracy"


def candidate(ask: int) -> Candidate:
    return Candidate.of("test/0", "space", (0, 0, ask), ask)


def row(ask: int = 0, status: RowStatus = "ok", accuracy: float | None = 0.5, **changes: object) -> Row:
    values = {
        "candidate": candidate(ask),
        "names": {"generator": "WS", "setting": "WS(4, 0.75)", "k": 4, "p": 0.75, "seed": ask + 1},
        "architecture": f"{ask:064d}",
        "cost": Complexity(1000 + ask, 20_000 + ask, 300),
        "rung": 0,
        "epoch": 2,
        "status": status,
        "metrics": {} if accuracy is None else {METRIC: accuracy},
    }
    return Row.model_validate({**values, **changes})


def commit(ledger: Ledger, rows: Sequence[Row]) -> None:
    """As the next segment."""
    ledger.append_at(len(ledger.segments()), rows)


def report(
    ask: int, epoch: int, *, status: str = "running", accuracy: float = 0.5, **changes: object
) -> Report:
    """After `epoch` epochs, with a curve of all of them."""
    curve = [{"epoch": mark, METRIC: accuracy} for mark in range(1, epoch + 1)]
    return Report.model_validate(
        {"ask_index": ask, "epoch": epoch, "status": status, "curve": curve, **changes}
    )
