"""What a search found: candidates ranked, settings compared, and where everything is."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cluster.ledger import Row
from cluster.recipe import AshaStopping, Recipe
from cluster.run import Run
from cluster.standing import rank_key
from cluster.tables import snapshots_markdown


class Group(NamedTuple):
    """The finished candidates of one setting: number, mean and sample deviation of the metric."""

    setting: str
    finished: int
    mean: float
    deviation: float


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each candidate, in ask order."""
    last = {row.candidate.ask_index: row for row in rows}
    return [last[ask] for ask in sorted(last)]


def rank(rows: Iterable[Row], metric: str) -> list[Row]:
    """The newest row of each candidate, best first (`rank_key`)."""
    return sorted(newest(rows), key=lambda row: rank_key(row, metric))


def groups(rows: Iterable[Row], metric: str) -> list[Group]:
    """Finished candidates by setting, best mean first."""
    values: dict[str, list[float]] = {}
    for row in newest(rows):
        if row.status == "ok":
            values.setdefault(str(row.names["setting"]), []).append(row.metrics[metric])
    found = [
        Group(setting, len(some), statistics.mean(some), statistics.stdev(some) if len(some) > 1 else 0.0)
        for setting, some in values.items()
    ]
    return sorted(found, key=lambda group: (-group.mean, group.setting))


def report(run: Run, recipe: Recipe, rows: Sequence[Row]) -> dict[str, Any]:
    """The whole report, JSON-ready."""
    ranked = rank(rows, recipe.metric)
    spent = sum(row.epoch for row in ranked)
    return {
        "run": run.name,
        "ledger_digest": run.ledger.digest(),
        "metric": recipe.metric,
        "candidates": len(ranked),
        "finished": sum(row.status == "ok" for row in ranked),
        "stopped": sum(row.status == "stopped" for row in ranked),
        "failed": sum(row.status == "failed" for row in ranked),
        "epochs_trained": spent,
        "epochs_of_full_grid": len(ranked) * recipe.training.epochs,
        "stopping_depends_on_timing": isinstance(recipe.stopping, AshaStopping),
        "ranking": [line(place, row, recipe.metric) for place, row in enumerate(ranked, 1)],
        "settings": [group._asdict() for group in groups(rows, recipe.metric)],
    }


def line(place: int, row: Row, metric: str) -> dict[str, Any]:
    """One row of the ranking."""
    return {
        "place": place,
        "candidate": row.candidate.ask_index,
        "id": row.candidate.id,
        "setting": row.names["setting"],
        "seed": row.names["seed"],
        "status": row.status,
        "epoch": row.epoch,
        metric: row.metrics.get(metric),
        "test_accuracy": row.metrics.get("test_accuracy"),
        "params": row.cost.params,
        "macs": row.cost.macs,
        "seconds": round(row.seconds, 3),
        "reason": row.reason,
    }


def markdown(found: dict[str, Any], pictures: Sequence[str]) -> str:
    """The report as a page."""
    metric = found["metric"]
    lines = [
        f"# {found['run']}",
        "",
        f"{found['candidates']} candidates: {found['finished']} trained to the end, {found['stopped']} "
        f"stopped early, {found['failed']} failed. {found['epochs_trained']} epochs were trained; the full "
        f"grid would have taken {found['epochs_of_full_grid']}.",
        "",
    ]
    if found["stopping_depends_on_timing"]:
        lines += [
            "Stopping was asynchronous (ASHA): which candidates stopped depends on timing. Metrics do not.",
            "",
        ]
    lines += [
        f"| place | candidate | setting | seed | status | epochs | {metric} | test_accuracy | params "
        "| MACs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["ranking"]:
        lines.append(
            f"| {row['place']} | {row['candidate']} | {row['setting']} | {row['seed']} | {row['status']} | "
            f"{row['epoch']} | {_percent(row[metric])} | {_percent(row['test_accuracy'])} | "
            f"{row['params']:,} | {row['macs']:,} |"
        )
    lines += ["", "| setting | finished | mean | deviation |", "|---|---|---|---|"]
    for group in found["settings"]:
        lines.append(
            f"| {group['setting']} | {group['finished']} | {_percent(group['mean'])} | "
            f"{_percent(group['deviation'])} |"
        )
    lines += snapshots_markdown(found.get("snapshots", []))
    failures = [row for row in found["ranking"] if row["status"] == "failed"]
    if failures:
        lines += ["", "Failed:", ""]
        lines += [f"- candidate {row['candidate']} ({row['setting']}): {row['reason']}" for row in failures]
    lines += ["", *(f"![{name}](pictures/{name})" for name in pictures), ""]
    lines += [f"Ledger digest: `{found['ledger_digest']}`", ""]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
