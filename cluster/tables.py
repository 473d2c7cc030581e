"""Tables for a terminal, as wide as it is."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

COLUMNS = ("#", "cand.", "setting", "seed", "status", "epochs", "val. %", "test %", "params", "MMACs")
LEAST_NEEDED = ("MMACs", "params", "epochs", "test %", "cand.", "seed", "#")  # the first to go when narrow


def ranking_table(found: dict[str, Any], limit: int, console: Console) -> Table:
    """The ranking of a report, with as many columns as fit the console; what is shown is shown whole."""
    unlimited = console.options.update(max_width=10_000)
    columns = list(COLUMNS)
    for spare in (None, *LEAST_NEEDED):
        columns = [name for name in columns if name != spare]
        table = plain_table(*columns, left=("setting", "status"))
        for row in found["ranking"][:limit]:
            cells = _ranking_cells(row, found["metric"])
            table.add_row(*(cells[name] for name in columns))
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    if len(found["ranking"]) > limit:
        table.caption = f"{len(found['ranking']) - limit} more"
    return table


def _ranking_cells(row: dict[str, Any], metric: str) -> dict[str, str]:
    values = (
        str(row["place"]), str(row["candidate"]), row["setting"], str(row["seed"]), row["status"],
        str(row["epoch"]), _percent(row[metric]), _percent(row["test_accuracy"]), f"{row['params']:,}",
        f"{row['macs'] / 1e6:,.2f}",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def plain_table(*headers: str, left: Sequence[str] | None = None) -> Table:
    """A table without frames whose cells are never cut. Columns in `left` (else the first) hold words."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        start = header in (headers[:1] if left is None else left)
        table.add_column(header, justify="left" if start else "right", no_wrap=True, overflow="fold")
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
