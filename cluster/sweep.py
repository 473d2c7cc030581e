"""`weft sweep`: a recipe with several values of some of its fields. Every combination is a search of its own.

Their runs are like any other run of the recipe, known by what their recipes say: one that has finished is not
searched again, one that was interrupted is gone on with, and a value that is added later costs its own
searches alone. So the same command, given again, is how to go on.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from cluster.recipe import AnyRecipe, load_recipe
from cluster.recipe_yaml import read_yaml
from cluster.tables import plain_table, short, summary
from networks.errors import UserError

if TYPE_CHECKING:  # imports torch
    from cluster.run import Run

SEED = "seed"  # over which there are means


class Arm(NamedTuple):
    """One combination: the values of the fields that are swept, and the recipe that has them."""

    values: Mapping[str, Any]
    recipe: AnyRecipe

    @property
    def label(self) -> str:
        """``searcher.draws=4, seed=1``."""
        return ", ".join(f"{field}={json.dumps(value)}" for field, value in self.values.items())


def arms_of(recipe: str, changes: Sequence[str], over: Sequence[str]) -> list[Arm]:
    """Every combination, the last field varying fastest, each of them a valid recipe. Raises `UserError`."""
    values = dict(map(swept, over))
    if len(values) < len(over):
        raise UserError("--over", list(over), "each field once", "Give all of its values in one list.")
    arms = []
    for chosen in itertools.product(*values.values()):
        named = dict(zip(values, chosen, strict=True))
        own = [f"{field}={json.dumps(value)}" for field, value in named.items()]
        arms.append(Arm(named, load_recipe(recipe, [*changes, *own])))
    known: dict[str, Arm] = {}
    for arm in arms:
        if (other := known.setdefault(arm.recipe.digest, arm)) is not arm:
            fix = f"{arm.label} is the same search as {other.label}: leave one of them out."
            raise UserError("--over", list(over), "values that make searches differ", fix)
    return arms


def swept(text: str) -> tuple[str, list[Any]]:
    """``searcher.draws=[4, 8]``."""
    field, equals, listed = text.partition("=")
    try:
        values = read_yaml(listed.encode())
    except UserError:
        values = None
    if not equals or not field or not isinstance(values, list) or not values:
        raise UserError("--over", text, "FIELD=[VALUE, …], such as seed=[0, 1, 2]")
    return field, values


def sweep(
    arms: Sequence[Arm], finished: Callable[[AnyRecipe], "Run"], say: Callable[[str], None]
) -> dict[str, Any]:
    """What each came to, JSON-ready. `finished`: searches a recipe, or finds the run that has."""
    lines = []
    for number, arm in enumerate(arms, 1):
        say(f"{number} of {len(arms)}: {arm.label}")
        run = finished(arm.recipe)
        report = json.loads((run.folder / "report.json").read_text())
        lines.append({"values": dict(arm.values), "run": run.name, "folder": str(run.folder)} | told(report))
    return {
        "name": arms[0].recipe.name,
        "metric": arms[0].recipe.metric,
        "searches": lines,
        "groups": list(_groups(lines)),
    }


def told(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of one report: its candidates, its best value of the metric, and what rewriting gained on average over
    what was given; None where there is no such thing."""
    metric = report["metric"]
    values = [line.get("metrics", line).get(metric) for line in report["ranking"]]
    known = [value for value in values if value is not None]
    gains = [
        one["after"]["metrics"][metric] - one["before"]["metrics"][metric]
        for one in report.get("transformed", [])
        if all(metric in one[side]["metrics"] for side in ("before", "after"))
    ]
    return {
        "candidates": report["candidates"],
        "best": max(known, default=None),
        "gain": sum(gains) / len(gains) if gains else None,
    }


def _groups(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The searches that differ in their seeds alone, together, in the order in which they come."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        others = {field: value for field, value in line["values"].items() if field != SEED}
        alike.setdefault(json.dumps(others), []).append(line)
    for others_text, some in alike.items():
        group: dict[str, Any] = {"values": json.loads(others_text), "searches": len(some)}
        for name in ("candidates", "best", "gain"):
            values = [one[name] for one in some if one[name] is not None]
            group[name] = summary(values) if values else None
        yield group


def sweep_tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Every search; and the means over seeds, where there are several."""
    fields, gained = list(found["searches"][0]["values"]), found["searches"][0]["gain"] is not None
    ends = [f"best {found['metric']}", *(["gain"] if gained else [])]
    table = plain_table(*fields, "run", "candidates", *ends, left=[*fields, "run"])
    for one in found["searches"]:
        values = [json.dumps(value) for value in one["values"].values()]
        more = [short(one["gain"])] if gained else []
        table.add_row(*values, one["run"], str(one["candidates"]), short(one["best"]), *more)
    yield table
    others = [field for field in fields if field != SEED]
    if len(others) == len(fields) or not others:
        return
    table = plain_table(*others, "seeds", *ends, left=others)
    for one in found["groups"]:
        values = [json.dumps(one["values"][field]) for field in others]
        more = [_spread(one["gain"])] if gained else []
        table.add_row(*values, str(one["searches"]), _spread(one["best"]), *more)
    yield table


def _spread(some: Mapping[str, Any] | None) -> str:
    """``0.8120 ± 0.0031``."""
    if some is None:
        return ""
    return short(some["mean"]) + (f" ± {some['deviation']:.2g}" if some["deviation"] is not None else "")
