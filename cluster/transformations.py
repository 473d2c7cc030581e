"""What a search that rewrites candidates made of those that it was given."""

from collections.abc import Sequence
from typing import Any

from cluster.ledger import Row
from cluster.search_loop import value_of
from networks.spaces.space import Genes


def transformations(rows: Sequence[Row], given: Sequence[Genes], metric: str) -> list[dict[str, Any]]:
    """For each of the given, JSON-ready: how it did, and the best of what it was rewritten to, or itself
    where none is better. A given candidate that is not scored yet is left out."""
    found = []
    for genes in given:
        own = [row for row in rows if row.candidate.genes == genes and not row.parent]
        if not own:
            continue
        before = own[-1]  # the same genes may have been drawn while the policy learnt
        after = [row for row in rows if row.parent == before.candidate.id]
        best = max([before, *after], key=lambda row: value_of(row, metric))
        found.append(
            {
                "genes": list(genes),
                "rewritings": len(after),
                "edit": best.edit,
                "before": _line(before),
                "after": _line(best),
            }
        )
    return found


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
    lines = [
        "## Transformed", "",
        f"| given | rewritings scored | {metric} | then | params | then | MACs | then | what changed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in found:
        before, after = one["before"], one["after"]
        cells = [" ".join(map(str, one["genes"])), str(one["rewritings"])]
        cells += [f"{some['metrics'].get(metric, float('nan')):.4g}" for some in (before, after)]
        for cost in ("params", "macs"):
            cells += [f"{some[cost]:,}" for some in (before, after)]
        lines.append(f"| {' | '.join(cells)} | {one['edit'] or 'nothing: none is better'} |")
    return [*lines, ""]
