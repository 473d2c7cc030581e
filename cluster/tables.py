"""Tables for a terminal, as wide as it is."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from networks.complexity import LATENCY

COLUMNS = ("#", "cand.", "setting", "seed", "status", "epochs", "val. %", "test %", "params", "MMACs")
REPORTED = ("validation_accuracy", "test_accuracy")  # of networks that are trained on their own
COSTS = ("params", "macs")  # have columns of their own
MOST_GENES, FIRST_GENES = 12, 7  # of a candidate; the report has all of them
LEAST_NEEDED = ("MMACs", "params", "epochs", "test %", "cand.", "seed", "#")  # the first to go when narrow


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Of one metric over several trainings; JSON-ready. `spread_text` shows it."""
    spread = stdev(values) if len(values) > 1 else None
    return {"mean": fmean(values), "deviation": spread, "values": list(values)}


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


def search_tables(found: dict[str, Any], limit: int) -> Iterator[Table]:
    """Leaders of a search over choices, its frontier where it has several objectives, and its scores."""
    if rungs := found.get("shrinking"):  # reports of earlier versions have none
        table = plain_table("rung", "step", "dropped", "operators left", "candidates left", left=("dropped",))
        for one in rungs:
            cells = str(one["rung"]), f"{one['step']:,}", str(len(one["dropped"])), str(one["operators"])
            table.add_row(*cells, approximate(one["candidates"]))
        yield table
    if retrained := found.get("retrained"):
        names = retrained_metrics(retrained)
        table = plain_table("retrained", "params", "MACs", *(name.replace("_", " ") for name in names))
        for one in retrained:
            costs = f"{one['params']:,}", f"{one['macs']:,}"
            spreads = [spread_text(one["metrics"].get(name)) for name in names]
            table.add_row(one["label"], *costs, *spreads)
        yield table
    if transformed := found.get("transformed"):
        yield from _transformed(transformed, found["metric"])
    yield _candidates("leaders", found["ranking"][:limit])
    if len(found["objectives"]) > 1:
        yield _candidates("frontier", found["frontier"][:limit])
    against = found["against_random"]
    if against is not None:
        table = plain_table(f"best {found['metric']}", f"of {against['evaluations']}")
        table.add_row("search", short(against["best_search"]))
        spread = f" ({short(against['random_low'])} to {short(against['random_high'])})"
        table.add_row("random search", short(against["best_random"]) + spread)
        yield table
    if found["scores"]:
        yield scores_table(found["scores"])


def scores_table(scores: Sequence[dict[str, Any]]) -> Table:
    """How well each score ranks."""
    table = plain_table("score", "tau-b", "95 % interval", "Spearman", "candidates")
    for one in scores:
        interval = "" if one["low"] is None else f"{short(one['low'])} to {short(one['high'])}"
        table.add_row(
            one["score"], short(one["tau"]), interval, short(one["spearman"]), str(one["candidates"])
        )
    return table


def regret_table(found: dict[str, Any]) -> Table:
    """Mean regret of each method after so many evaluations, with its 95 % band."""
    methods = found["methods"]
    table = plain_table("evaluations", *(f"regret of {name}".replace("_", " ") for name in methods))
    for mark in next(iter(methods.values()))["at"]:
        here = int(mark) - 1
        cells = (
            f"{one['at'][mark]:.3f} ({one['low'][here]:.3f} to {one['high'][here]:.3f})"
            for one in methods.values()
        )
        table.add_row(mark, *cells)
    table.add_row("found the best", *(f"{100 * one['found']:.0f} % of runs" for one in methods.values()))
    return table


def metric_columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Metrics that a report's rows have, and what their columns are called. A score of the name of a cost is
    not shown twice, unless it is another number: a table's own."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    own = [
        name
        for name in COSTS
        if any(row["metrics"].get(name, row[name]) not in (None, row[name]) for row in rows)
    ]
    return {
        name: f"{name} (score)" if name in COSTS else name
        for name in names
        if name not in COSTS or name in own
    }


def times_line(times: dict[str, float]) -> str:
    """Where the time went, for people."""
    wall = times["wall"]
    shares = [
        (times["training"], "training"),
        (times["scoring"], "scoring"),
        (times["overhead"] * wall, "weft"),
    ]
    parts = ", ".join(f"{100 * seconds / wall:.1f} % {what}" for seconds, what in shares)
    return (
        f"{wall:.0f} s from the first step to the last candidate: {parts}; {times['startup']:.0f} s to start."
    )


def _transformed(found: Sequence[dict[str, Any]], metric: str) -> Iterator[Table]:
    """What was given and what became of it, one below the other; then, what that changed."""
    timed = all(LATENCY in one[side] for one in found for side in ("before", "after"))
    columns = ("transformed", "genes", metric, "params", "MMACs", *(("ms",) if timed else ()))
    table = plain_table(*columns, left=columns[:2])
    changes = plain_table("given", "what changed", left=("given", "what changed"))
    for one in found:
        for title, row in ((one["label"], one["before"]), ("became", one["after"])):
            table.add_row(
                title, genes_text(row["genes"]), short(row["metrics"].get(metric)), f"{row['params']:,}",
                f"{row['macs'] / 1e6:,.2f}", *((short(row[LATENCY]),) if timed else ()),
            )  # fmt: skip
        edits = what_changed(one).split("; ")
        for title, edit in zip([one["label"], *([""] * len(edits))], edits, strict=False):
            changes.add_row(title, edit)
    yield from (table, changes)


def _candidates(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    names = metric_columns(rows)
    table = plain_table(title, "cand.", "genes", *names.values(), "params", "MMACs", left=("genes",))
    for row in rows:
        values = (short(row["metrics"].get(name)) for name in names)
        table.add_row(
            str(row["place"]), str(row["candidate"]), genes_text(row["genes"]), *values, f"{row['params']:,}",
            f"{row['macs'] / 1e6:,.2f}",
        )  # fmt: skip
    return table


def genes_text(genes: Sequence[int]) -> str:
    """``3 3 1 2``; of many the first ones."""
    shown = genes if len(genes) <= MOST_GENES else [*genes[:FIRST_GENES], "…"]
    return " ".join(map(str, shown))


def short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def approximate(count: int) -> str:
    """Of candidates: the size of a space may have twenty digits."""
    return f"{count:,}" if count < 10_000_000 else f"{count:.1e}"


def plain_table(*headers: str, left: Sequence[str] | None = None) -> Table:
    """A table without frames whose cells are never cut. Columns in `left` (else the first) hold words."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        start = header in (headers[:1] if left is None else left)
        table.add_column(header, justify="left" if start else "right", no_wrap=True, overflow="fold")
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def what_changed(one: Mapping[str, Any]) -> str:
    """In words, of a line of the report; earlier ones do not say whether constraints are met."""
    if not one.get("fits", True):
        return "nothing: no rewriting that was scored meets the constraints, nor does the given one"
    return str(one["edit"]) or "nothing: none is better"


def retrained_markdown(found: Sequence[dict[str, Any]]) -> list[str]:
    """A section of the report; nothing where nothing was retrained."""
    if not found:
        return []
    names = retrained_metrics(found)
    heads = ["network", "genes", "params", "MACs", "trainings", *(name.replace("_", " ") for name in names)]
    lines = ["## Retrained", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in found:
        cells = [one["label"], " ".join(map(str, one["genes"]))]
        cells += [f"{one['params']:,}", f"{one['macs']:,}", str(one["trainings"])]
        cells += [spread_text(one["metrics"].get(name)) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "Trained on their own; mean and standard deviation over the seeds.", ""]


def snapshots_markdown(found: Sequence[dict[str, Any]]) -> list[str]:
    """A section of the report; nothing where no topologies were trained again."""
    if not found:
        return []
    names = retrained_metrics(found)
    heads = ["topology", "edges gone", "edges left", "trainings", *(name.replace("_", " ") for name in names)]
    lines = ["", "## Topologies along their optimisation", "", f"| {' | '.join(heads)} |"]
    lines.append("|---" * len(heads) + "|")
    for one in found:
        cells = [one["label"], f"{100 * one['sparsity']:.1f} %", str(one["edges"]), str(one["trainings"])]
        lines.append(
            f"| {' | '.join([*cells, *(spread_text(one['metrics'].get(name)) for name in names)])} |"
        )
    said = "Edges fixed as after that epoch, all else trained from scratch; mean and standard deviation."
    return [*lines, "", said]


def retrained_metrics(found: Sequence[dict[str, Any]]) -> list[str]:
    """What is known of any of them."""
    return [name for name in REPORTED if any(name in one["metrics"] for one in found)]


def spread_text(some: dict[str, Any] | None) -> str:
    """``93.21 ± 0.12 %``."""
    if some is None:
        return ""
    spread = "" if some["deviation"] is None else f" ± {100 * some['deviation']:.2f}"
    return f"{100 * some['mean']:.2f}{spread} %"
