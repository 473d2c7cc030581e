"""What a search over choices found: leaders, frontier, against random search, and how scores rank."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cluster.ledger import Ledger, Row
from cluster.report import rank
from cluster.retraining import retrained
from cluster.run import Run
from cluster.search_loop import value_of
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.shrinking import PICTURE, RUNGS, Rung, Rungs
from cluster.stopwatch import TIMES
from cluster.tables import approximate, metric_columns, retrained_markdown, times_line
from cluster.transformations import (
    scored_on_all,
    transformations,
    transformed_markdown,
    with_latencies,
)
from networks.counters import counter_random
from networks.liveness import WORST
from networks.spaces.space import Genes
from searchers.pareto import frontier
from searchers.problem import Objective
from searchers.shrinking import mean_ranks
from trainers.ranking import Ranking, kendall_tau_b
from trainers.table import Table

LEADERS = 50
NOTHING: Mapping[Genes, str] = MappingProxyType({})
FAILURES = 3  # reasons, of each score
RESAMPLES = 1000


def search_report(
    run: Run,
    recipe: SearchRecipe,
    rows: Sequence[Row],
    ranked: Sequence[Row] = (),
    truth: Table | None = None,
    given: Mapping[Genes, str] = NOTHING,
    alone: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The whole report, JSON-ready. `ranked`: rows of the ranking; `truth`: the table they are held to;
    `given`: the candidates that were to be rewritten, and what they are called; `alone`: what was trained
    on its own."""
    goals = recipe.goals
    whole = scored_on_all(rows, recipe, list(given))
    leaders = rank(whole, recipe.metric)
    best = frontier_of(whole, goals)
    return {
        "run": run.name,
        "ledger_digest": run.ledger.digest(),
        "metric": recipe.metric,
        "objectives": [goal.model_dump() for goal in goals],
        "candidates": len(rows),
        "finished": sum(row.status == "ok" for row in rows),
        "failed": sum(row.status == "failed" for row in rows),
        "failures": Counter(row.reason for row in rows if row.status == "failed").most_common(),
        "ranking": [search_line(place, row, recipe) for place, row in enumerate(leaders[:LEADERS], 1)],
        "frontier": [search_line(place, row, recipe) for place, row in enumerate(best, 1)],
        "against_random": against_random(rows, recipe.metric, recipe.seed),
        "transformed": transformations(rows, list(given), recipe, given),
        "retrained": list(alone),
        "scores": [] if recipe.ranking is None else score_rankings(ranked, recipe, truth),
        "truth": None if recipe.ranking is None else recipe.ranking.truth,
        "shrinking": [
            rung_line(number, rung) for number, rung in enumerate(Rungs(run.folder / RUNGS).read())
        ],
        "times": json.loads((run.folder / TIMES).read_text()) if (run.folder / TIMES).exists() else None,
    }


def rung_line(number: int, rung: Rung) -> dict[str, Any]:
    """One rung of the report; what it dropped, lowest first."""
    dropped = [one for one in rung.operators if one.dropped]
    ranks = mean_ranks([{one.operator: _low(one.scores[voter]) for one in rung.operators}
                        for voter in range(len(rung.operators[0].scores))])  # fmt: skip
    return {
        "rung": number,
        "step": rung.step,
        "dropped": [one.name for one in sorted(dropped, key=lambda one: (ranks[one.operator], one.operator))],
        "operators": sum(map(len, rung.kept)),
        "candidates": rung.size,
    }


def _low(score: float | None) -> float:
    return -math.inf if score is None else score


def frontier_of(rows: Sequence[Row], goals: Sequence[Objective]) -> list[Row]:
    """The rows that nothing dominates, in their order; those that lack an objective are none of them."""
    usable = [row for row in rows if all(value_of(row, g.metric, g.maximise) > -math.inf for g in goals)]
    values = [[value_of(row, goal.metric, goal.maximise) for goal in goals] for row in usable]
    return [usable[position] for position in frontier(values)]


def search_line(place: int, row: Row, recipe: SearchRecipe) -> dict[str, Any]:
    """One candidate of the report."""
    return {
        "place": place,
        "candidate": row.candidate.ask_index,
        "id": row.candidate.id,
        "phase": row.candidate.phase,
        "genes": list(row.candidate.genes),
        "names": row.names,
        "status": row.status,
        "reason": row.reason,
        "metrics": row.metrics,
        "params": row.cost.params,
        "macs": row.cost.macs,
        "seconds": round(row.seconds, 3),
    }


def against_random(rows: Sequence[Row], metric: str, seed: int) -> dict[str, Any] | None:
    """Best of the search against the best of as many random candidates, with the spread of the latter:
    percentiles of the best of that many, over resamples of the random ones. None without a baseline."""
    found = [value_of(row, metric) for row in rows if row.candidate.phase == "search"]
    random = [value_of(row, metric) for row in rows if row.candidate.phase == "random"]
    if not found or not random:
        return None
    evaluations = min(len(found), len(random))
    draws = counter_random(seed, "against random")
    bests = sorted(max(draws.choices(random, k=evaluations)) for _ in range(RESAMPLES))
    best = max(random[:evaluations])
    return {
        "evaluations": evaluations,
        "best_search": _finite(max(found[:evaluations])),
        "best_random": _finite(best),
        "random_low": _finite(bests[round(0.025 * RESAMPLES)]),
        "random_high": _finite(bests[round(0.975 * RESAMPLES) - 1]),
    }


def score_rankings(ranked: Sequence[Row], recipe: SearchRecipe, truth: Table | None) -> list[dict[str, Any]]:
    """Each score's rank correlation with the truth, over all candidates of the ranking."""
    assert recipe.ranking is not None
    if truth is None or not ranked:
        return []
    column = np.array([truth.metrics(row.candidate.genes)[recipe.ranking.truth] for row in ranked])
    names = recipe.ranking.scores
    found = []
    for name in names:
        # A candidate that could not be scored is one that the score would put last.
        scores = np.array([row.metrics.get(name, WORST) for row in ranked])
        ranking: Ranking = kendall_tau_b(scores, column, recipe.seed)
        failed = Counter(row.reason for row in ranked if name not in row.metrics).most_common()
        found.append({"score": name, **ranking.model_dump(), "failed": [list(one) for one in failed]})
    return found


def search_markdown(found: dict[str, Any]) -> str:
    """The report as a page."""
    metric = found["metric"]
    lines = [
        f"# {found['run']}",
        "",
        f"{found['candidates']} candidates, {found['failed']} of them failed.",
        "",
    ]
    if found["times"]:
        lines += [times_line(found["times"]), ""]
    against = found["against_random"]
    if against is not None:
        lines += [
            f"Best {metric} of {against['evaluations']} evaluations: {number(against['best_search'])}; of as "
            f"many random candidates: {number(against['best_random'])} (95 % of resamples: "
            f"{number(against['random_low'])} to {number(against['random_high'])}).",
            "",
        ]
    # Reports of earlier versions have neither.
    lines += retrained_markdown(found.get("retrained", []))
    lines += transformed_markdown(found.get("transformed", []), metric)
    if rungs := found.get("shrinking"):
        lines += [
            "## Rungs",
            "",
            "| rung | step | dropped | operators left | candidates left |",
            "|---|---|---|---|---|",
        ]
        for one in rungs:
            gone, size = ", ".join(one["dropped"]) or "nothing", approximate(one["candidates"])
            lines.append(f"| {one['rung']} | {one['step']:,} | {gone} | {one['operators']} | {size} |")
        lines += ["", f"![the space after each rung](pictures/{PICTURE})", ""]
    if found["scores"]:
        lines += [
            f"How well scores rank, against {found['truth']}:",
            "",
            "| score | candidates | Kendall's tau-b | 95 % interval | Spearman | tied pairs |",
            "|---|---|---|---|---|---|",
        ]
        for one in found["scores"]:
            interval = "" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}"
            lines.append(
                f"| {one['score']} | {one['candidates']} | {number(one['tau'])} | {interval} | "
                f"{number(one['spearman'])} | {one['tied_scores']:,} |"
            )
        for one in found["scores"]:
            # A report that was written before has no such list.
            for reason, count in one.get("failed", [])[:FAILURES]:
                lines += ["", f"{one['score']} failed {count} times: {reason}"]
        lines.append("")
    for title, rows in (("Leaders", found["ranking"]), ("Frontier", found["frontier"])):
        if title == "Frontier" and len(found["objectives"]) < 2:
            lines += ["With one objective the frontier is the best candidate.", ""]
            continue
        names = metric_columns(rows)
        lines += [
            f"## {title}",
            "",
            f"| place | candidate | phase | genes | {' | '.join(names.values())} | params | MACs |",
        ]
        lines.append("|---" * (6 + len(names)) + "|")
        for row in rows:
            cells = " | ".join(number(row["metrics"].get(name)) for name in names)
            lines.append(
                f"| {row['place']} | {row['candidate']} | {row['phase']} | {genes_text(row)} | {cells} | "
                f"{row['params']:,} | {row['macs']:,} |"
            )
        lines.append("")
    if found["failures"]:
        lines += ["Failed:", "", *(f"- {count} times: {reason}" for reason, count in found["failures"]), ""]
    return "\n".join([*lines, f"Ledger digest: `{found['ledger_digest']}`", ""])


def genes_text(row: dict[str, Any]) -> str:
    """``3 3 1 2``: short enough for a table."""
    return " ".join(map(str, row["genes"]))


def number(value: float | None) -> str:
    """Four significant digits; nothing for nothing; ``worst`` for a score that could not be computed."""
    if value is None:
        return ""
    return "worst" if value <= WORST else f"{value:.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def shown_report(run: Run, recipe: SearchRecipe) -> dict[str, Any]:
    """The report as the ledger stands. How scores rank, and what was made of given candidates, is taken from
    the report that is written already: it takes the table, or the space."""
    found = search_report(run, recipe, list(run.ledger.rows()))
    written = run.folder / "report.json"
    if not written.exists():
        return found
    kept = json.loads(written.read_text())
    return {**found, **{name: kept[name] for name in ("scores", "transformed", "retrained") if name in kept}}


def write_search_report(run: Run, plan: SearchPlan) -> dict[str, Any]:
    """report.json, report.md and, of a search that shrinks, a picture of that; the report itself."""
    rows, ranked = (list(Ledger(run.folder / name).rows()) for name in ("ledger", "ranking"))
    found = search_report(run, plan.recipe, rows, ranked, plan.truth, plan.labels, retrained(plan, run))
    with_latencies(found["transformed"], plan)
    run.write_json("report.json", found)
    run.write_text("report.md", search_markdown(found))
    from cluster.search_pictures import draw_search  # matplotlib takes its time to load

    draw_search(run, plan, found)
    return found
