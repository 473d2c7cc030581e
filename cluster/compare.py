"""`weft compare`: two runs side by side: how good after how much, at which cost, and what they differ in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from cluster.ledger import Row
from cluster.report import newest, rank
from cluster.run import Run
from cluster.standing import Standing, rank_key
from cluster.stopwatch import TIMES
from cluster.tables import plain_table, short
from networks.errors import UserError

BEST = 10  # candidates of each whose overlap is told
MARKS = 5  # counts of evaluations at which both are looked at
BASELINE = "random"  # the phase that a search is compared with: none of its own
LABELS = {"name", "version"}  # what a recipe says that decides nothing, beside its places


def compare(first: Run, second: Run) -> dict[str, Any]:
    """The whole comparison, JSON-ready; pairs are of `first` and `second`. Candidates of a baseline count
    nowhere. Raises `UserError` for runs of different metrics."""
    runs = (first, second)
    metric, other = (str(run.about["metric"]) for run in runs)
    if metric != other:
        raise UserError(
            "B", second.name, f"a run ranked by {metric}, as {first.name} is", f"It is by {other}."
        )
    rows = [[row for row in run.ledger.rows() if row.candidate.phase != BASELINE] for run in runs]
    names = [run.name for run in runs]
    return {
        "runs": names if len(set(names)) == 2 else [str(run.folder) for run in runs],
        "endings": [run.ending for run in runs],
        "metric": metric,
        "best_so_far": best_so_far(runs, rows, metric),
        "cost": [cost(run, some) for run, some in zip(runs, rows, strict=True)],
        "scores": score_pairs(runs),
        "overlap": overlap(runs, rows, metric),
        "differs": differs(first, second),
    }


def best_so_far(runs: Sequence[Run], rows: Sequence[Sequence[Row]], metric: str) -> list[dict[str, Any]]:
    """The best of both after as many evaluations (a candidate at a rung is one), and in the end."""
    points = [Standing(run.ledger, metric).update(0, some) for run, some in zip(runs, rows, strict=True)]
    common = min(map(len, rows))
    marks = dict.fromkeys(-(-common * mark // MARKS) for mark in range(1, MARKS + 1))
    counts = [[mark, mark] for mark in marks if mark] + [[len(some) for some in rows]]
    found = []
    for both in counts:
        values = [
            max((point.value for point in some if point.step <= count), default=None)
            for some, count in zip(points, both, strict=True)
        ]
        found.append({"evaluations": both, "best": values})
    return found


def cost(run: Run, rows: Sequence[Row]) -> dict[str, Any]:
    """`seconds`: of the candidates' own training or scoring, all told. `training_seconds`: of a supernet, in
    the process that ended the search; None where there is none."""
    last = newest(rows)
    times = json.loads((run.folder / TIMES).read_text()) if (run.folder / TIMES).exists() else {}
    return {
        "evaluations": len(rows),
        "candidates": len(last),
        "failed": sum(row.status == "failed" for row in last),
        "epochs": sum(row.epoch for row in last),
        "seconds": sum(row.seconds for row in last),
        "training_seconds": times.get("training"),
    }


def score_pairs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How well scores rank, where the reports of both say so: tau-b with its interval and the truth, by
    score. None for the one that has not ranked a score."""
    ranked: list[dict[str, Any]] = []
    for run in runs:
        path = run.folder / "report.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        ranked.append({one["score"]: {**one, "truth": said["truth"]} for one in said.get("scores", ())})
    if not all(ranked):
        return []
    wanted = ("tau", "low", "high", "candidates", "truth")
    return [
        {
            "score": name,
            "ranked": [{key: some[name][key] for key in wanted} if name in some else None for some in ranked],
        }
        for name in dict.fromkeys(name for some in ranked for name in some)
    ]


def overlap(runs: Sequence[Run], rows: Sequence[Sequence[Row]], metric: str) -> dict[str, Any]:
    """How many of the best of one are among the best of the other. Genes say what is the same in one space,
    architectures in two; `shared` is None where neither can."""
    same_space = len({run.about["space_digest"] for run in runs}) == 1
    best = [[row for row in rank(some, metric) if not rank_key(row, metric)[0]][:BEST] for some in rows]
    if not same_space and not all(row.architecture for some in best for row in some):
        return {"best": [len(some) for some in best], "shared": None, "candidates": []}
    places = [
        {row.candidate.genes if same_space else row.architecture: place for place, row in enumerate(some)}
        for some in best
    ]
    both = [(places[0][key], places[1][key]) for key in places[0] if key in places[1]]
    return {
        "best": [len(some) for some in best],
        "shared": len(both),
        "candidates": [
            {
                "places": [first + 1, second + 1],
                "candidates": [best[0][first].candidate.ask_index, best[1][second].candidate.ask_index],
                "genes": list(best[0][first].candidate.genes),
            }
            for first, second in both
        ],
    }


def differs(first: Run, second: Run) -> dict[str, Any]:
    """Whether spaces and data differ, and the fields of the recipes that do; not what decides no result."""
    about = [run.about for run in (first, second)]
    said = []
    for run in (first, second):
        recipe = run.recipe
        said.append(recipe.model_dump(mode="json", exclude={**recipe.PLACES, **dict.fromkeys(LABELS, True)}))
    fields = _differing(said[0], said[1])
    return {
        "space": about[0]["space_digest"] != about[1]["space_digest"],
        "data": about[0]["data_digest"] != about[1]["data_digest"],
        "recipe": [{"field": field, "values": values} for field, values in fields],
    }


def _differing(first: object, second: object, field: str = "") -> Iterator[tuple[str, list[object]]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys((*first, *second)):
            yield from _differing(first.get(key), second.get(key), f"{field}.{key}".lstrip("."))
    elif first != second:
        yield field, [first, second]


def comparison_tables(found: dict[str, Any]) -> Iterator[Table | str]:
    """The same for a terminal."""
    runs = found["runs"]
    table = plain_table(f"best {found['metric']} after", *runs)
    *marks, end = found["best_so_far"]
    for mark in marks:
        table.add_row(f"{mark['evaluations'][0]:,} evaluations", *map(short, mark["best"]))
    table.add_row("all", *map(short, end["best"]))
    yield table
    table = plain_table("cost", *runs)
    for name in found["cost"][0]:
        values = [one[name] for one in found["cost"]]
        if any(values) or name == "failed":
            table.add_row(name.replace("_", " "), *("" if one is None else f"{one:,.0f}" for one in values))
    yield table
    if found["scores"]:
        table = plain_table("tau-b of", *runs)
        for one in found["scores"]:
            table.add_row(one["score"], *map(_tau, one["ranked"]))
        yield table
    yield _overlap_text(found["overlap"])
    said = found["differs"]
    other = [name for name in ("space", "data") if said[name]]
    yield f"they differ in {' and '.join(other)}" if other else "space and data are the same"
    if not said["recipe"]:
        yield "the recipes say the same"
        return
    table = plain_table("recipe", *runs, left=("recipe", *runs))
    for one in said["recipe"]:
        table.add_row(one["field"], *("" if value is None else json.dumps(value) for value in one["values"]))
    yield table


def _tau(one: dict[str, Any] | None) -> str:
    if one is None or one["tau"] is None:
        return ""
    interval = "" if one["low"] is None else f" ({short(one['low'])} to {short(one['high'])})"
    return f"{short(one['tau'])}{interval}, {one['truth']}"


def _overlap_text(found: dict[str, Any]) -> str:
    if found["shared"] is None:
        return "their candidates cannot be told to be the same: the spaces differ"
    first, second = found["best"]
    size = f"the best {first}" if first == second else f"the best {first} and {second}"
    return f"of {size}, {found['shared']} are in both"
