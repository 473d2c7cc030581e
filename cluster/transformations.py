"""What a search that rewrites candidates made of those that it was given."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from cluster.ledger import Row
from cluster.search_loop import value_of
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.tables import what_changed
from networks.complexity import LATENCY
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.nat import NatSettings


def made_of(
    rows: Sequence[Row], given: Sequence[Genes], recipe: SearchRecipe
) -> Iterator[tuple[Row, list[Row], Row]]:
    """Of each of the given: its row, those of its rewritings, and the best of them all that meets the
    constraints: itself where none is better, of equal ones the cheapest. A given candidate that is not scored
    yet is left out."""
    for genes in given:
        own = [row for row in rows if row.candidate.genes == genes and not row.parent]
        if own:
            before = own[-1]  # the same genes may have been drawn while the policy learnt
            after = [row for row in rows if row.parent == before.candidate.id]
            fit = [row for row in (before, *after) if meets(row, recipe)]
            yield before, after, max(fit, key=partial(_standing, recipe.metric), default=before)


def _standing(metric: str, row: Row) -> tuple[float, int, int]:
    return value_of(row, metric), -row.cost.macs, -row.cost.params


def meets(row: Row, recipe: SearchRecipe) -> bool:
    """Whether a candidate meets the constraints, as far as its costs are known."""
    costs = {**row.cost._asdict(), **row.metrics}
    return all(one.met(costs) for one in recipe.constraints if one.cost in costs)


def scored_on_all(rows: Sequence[Row], recipe: SearchRecipe, given: Sequence[Genes]) -> list[Row]:
    """The rows that can be compared: where a policy learnt from scores on some images, those of what was
    given and of what was made of it."""
    settings = recipe.searcher
    if not isinstance(settings, NatSettings) or settings.reward_batches is None:
        return list(rows)
    found = [(before, *after) for before, after, _ in made_of(rows, given, recipe)]
    return [row for some in found for row in some]


def transformations(
    rows: Sequence[Row], given: Sequence[Genes], recipe: SearchRecipe, labels: Mapping[Genes, str]
) -> list[dict[str, Any]]:
    """What each of the given became, JSON-ready."""
    return [
        {
            "label": labels[before.candidate.genes],
            "genes": list(before.candidate.genes),
            "rewritings": len(after),
            "edit": best.edit,
            "fits": meets(best, recipe),
            "before": _line(before),
            "after": _line(best),
        }
        for before, after, best in made_of(rows, given, recipe)
    ]


def with_latencies(found: Sequence[dict[str, Any]], plan: SearchPlan) -> None:
    """Add how long each network takes, before and after, measured here one after the other. Nothing is added
    where a table stands for networks, or where this machine has not the GPU that candidates have."""
    if plan.table is not None:
        return
    with suppress(UserError):
        for one in found:
            for side in (one["before"], one["after"]):
                side[LATENCY] = plan.latency(tuple(side["genes"]))


def _line(row: Row) -> dict[str, Any]:
    return {
        "candidate": row.candidate.ask_index,
        "id": row.candidate.id,
        "genes": list(row.candidate.genes),
        "names": row.names,
        "metrics": row.metrics,
        "params": row.cost.params,
        "macs": row.cost.macs,
    }


def transformed_markdown(found: Sequence[dict[str, Any]], metric: str) -> list[str]:
    """A section of the report; nothing where nothing was rewritten."""
    if not found:
        return []
    timed = all(LATENCY in one[side] for one in found for side in ("before", "after"))
    lines = [
        "## Transformed", "",
        f"| given | rewritings scored | {metric} | then | params | then | MACs | then |"
        + " ms an image | then |" * timed
        + " what changed |",
        "|---|---|---|---|---|---|---|---|---|" + "---|---|" * timed,
    ]  # fmt: skip
    for one in found:
        before, after = one["before"], one["after"]
        cells = [one["label"], str(one["rewritings"])]
        cells += [f"{some['metrics'].get(metric, float('nan')):.4g}" for some in (before, after)]
        for cost in ("params", "macs"):
            cells += [f"{some[cost]:,}" for some in (before, after)]
        if timed:
            cells += [f"{some[LATENCY]:.3g}" for some in (before, after)]
        lines.append(f"| {' | '.join(cells)} | {what_changed(one)} |")
    pictures = (f"![{n}](pictures/{transformed_picture(n)})" for n in range(1, len(found) + 1))
    return [*lines, "", *(line for picture in pictures for line in (picture, ""))]


def transformed_picture(number: int) -> str:
    """The file of the one that was given as this number."""
    return f"transformed-{number}.png"
