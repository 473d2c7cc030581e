"""How many evaluations searchers need on real accuracies: `python -m benchmarks.search_quality --help`.

The table is nasbench201.csv: all 15,625 cells of NAS-Bench-201 on three data sets. A query is the first
evaluation of a distinct cell. Two settings, as in search_quality.md, whose figures stand beside ours:

optimum  queries until the cell with the best mean test accuracy after 200 epochs was evaluated, when the
         searcher is told that accuracy
regret   cells are chosen by validation accuracy after 12 epochs; what the chosen one's test accuracy after
         200 epochs lies below the best of the table, in points

A run that did not find the optimum within its budget counts as the whole budget, and the share of runs that
found it says so.
"""

import argparse
import datetime
import functools
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cluster.bench_search import Contest, Settings, queries, regret_curve
from cluster.version import code_version
from networks.architecture import Shape
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from searchers.evolution import EvolutionSettings
from searchers.local_search import LocalSettings
from searchers.model_based import ModelBasedSettings
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings
from trainers.table import Table

RESULTS = Path(__file__).parent / "RESULTS.md"
DATASETS = ("c10", "c100", "in16")
CELLS = 15_625
MARKS = (10, 25, 50, 100, 200, 400)


class Method(NamedTuple):
    """`settings` by budget; `budget` of a run to the optimum; `published`: search_quality.md's mean queries
    to the optimum on the three data sets."""

    settings: Callable[[int], Settings]
    budget: int
    published: tuple[str, str, str]
    in_flight: int = 1


def drawn(budget: int) -> Settings:
    return RandomSettings(budget=budget)


def evolved(population: int, sample: int) -> Callable[[int], Settings]:
    return lambda budget: RegularisedEvolutionSettings(budget=budget, population=population, sample=sample)


def climbed(improvement: str, starts: int) -> Callable[[int], Settings]:
    chosen = {"improvement": improvement, "starts": starts}
    return lambda budget: LocalSettings.model_validate({"budget": budget, **chosen})


def bred(budget: int) -> Settings:
    """SPOS's figures: population 50, of which the top 10 are parents."""
    return EvolutionSettings(population=50, generations=math.ceil(budget / 50), parents=10)


def modelled(budget: int) -> Settings:
    return ModelBasedSettings(budget=budget)


METHODS = {
    "random": Method(drawn, CELLS, ("5272±163", "7818±210", "7999±198")),
    "local_best": Method(climbed("best", 1), CELLS, ("128±3", "126±3", "424±15")),
    "local_first": Method(climbed("first", 1), CELLS, ("64±2", "67±2", "321±12")),
    "local_first_10": Method(climbed("first", 10), CELLS, ("62±2", "66±2", "334±12")),
    "regularised_10_3": Method(evolved(10, 3), CELLS, ("260±9", "375±14", "743±25")),
    "regularised_50_10": Method(evolved(50, 10), CELLS, ("143±3", "152±2", "229±5")),
    "evolution": Method(bred, CELLS, ("171±2", "187±2", "250±4")),
    "model_based": Method(modelled, 1000, ("22.5±1.0", "27.0±1.6", "42.3±2.1")),
    "model_based_8": Method(modelled, 1000, ("", "35", "56"), in_flight=8),
}
# Mean regrets on CIFAR-10 after MARKS (search_quality.md, b).
REGRETS = {
    "random": ("1.77", "1.27", "0.87", "0.66", "0.49", "0.40"),
    "local_first_10": ("1.84", "0.85", "0.39", "0.17", "0.04", "0.00"),
    "regularised_50_10": ("1.84", "1.21", "0.88", "0.32", "0.09", "0.06"),
    "model_based": ("0.88", "0.59", "0.10", "0.00", "0.00", ""),
}


@functools.cache
def table(path: Path) -> Table:
    space = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), classes=10)
    columns = [f"{data}_{what}" for data in DATASETS for what in ("valid_12", "test_200")]
    return Table.read(path, space, columns)


@functools.cache
def contest(path: Path, chosen: str, reported: str) -> Contest:
    return Contest(table(path), Objective(metric=chosen), Objective(metric=reported))


def queries_to_optimum(path: Path, name: str, data: str, seeds: range) -> list[tuple[int, bool, float]]:
    """For each seed: queries, whether it was found, seconds."""
    method, here = METHODS[name], contest(path, f"{data}_test_200", f"{data}_test_200")
    evaluate, (_, best) = evaluator(here), here.extremes()
    found = []
    for seed in seeds:
        started, count, hit = time.perf_counter(), 0, False
        searcher = method.settings(method.budget).build(Problem(here.table.space, (here.objective,), seed))
        for genes in queries(searcher, evaluate, method.in_flight):
            count += 1
            hit = here.objective.value(evaluate(genes)) >= best
            if hit or count == method.budget:
                break
        found.append((count if hit else method.budget, hit, time.perf_counter() - started))
    return found


def regrets(path: Path, name: str, data: str, seeds: range) -> list[list[float]]:
    """For each seed: the regret after MARKS."""
    method, here = METHODS[name], contest(path, f"{data}_valid_12", f"{data}_test_200")
    evaluate, (_, best) = evaluator(here), here.extremes()
    found = []
    for seed in seeds:
        searcher = method.settings(MARKS[-1]).build(Problem(here.table.space, (here.objective,), seed))
        curve = regret_curve(searcher, here, evaluate, budget=MARKS[-1], in_flight=method.in_flight)
        found.append([best - float(curve[mark - 1]) for mark in MARKS])
    return found


@functools.cache
def evaluator(here: Contest) -> Any:
    return here.evaluator()


def spread(
    run: Callable[..., list[Any]], options: argparse.Namespace, names: list[str]
) -> Iterator[tuple[str, str, list[Any]]]:
    """Name, data set and the results of all seeds, in parts over the processes, as soon as they are there."""
    part = 25
    parts = [range(first, min(first + part, options.seeds)) for first in range(0, options.seeds, part)]
    # Fresh processes: numpy reads the number of threads when it is imported.
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        asked = {
            (name, data): [pool.submit(run, options.table, name, data, some) for some in parts]
            for name in names
            for data in options.datasets
        }
        for (name, data), futures in asked.items():
            yield name, data, [one for future in futures for one in future.result()]


def optimum_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, data, runs in spread(queries_to_optimum, options, options.methods):
        counts = [count for count, _, _ in runs]
        error = statistics.stdev(counts) / math.sqrt(len(counts)) if len(counts) > 1 else math.nan
        yield {
            "method": name,
            "data": data,
            "mean": statistics.fmean(counts),
            "error": error,
            "median": statistics.median(counts),
            "p90": float(np.percentile(counts, 90)),
            "found": statistics.fmean(hit for _, hit, _ in runs),
            "ms_per_query": 1000 * sum(seconds for _, _, seconds in runs) / sum(counts),
            "published": METHODS[name].published[DATASETS.index(data)],
        }


def regret_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names = [name for name in options.methods if name in REGRETS]
    for name, data, runs in spread(regrets, options, names):
        means = np.mean(runs, axis=0)
        errors = np.std(runs, axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else means * math.nan
        published = REGRETS[name] if data == "c10" else ("",) * len(MARKS)
        yield {
            "method": name,
            "data": data,
            "mean": means.tolist(),
            "error": errors.tolist(),
            "published": published,
        }


def optimum_line(row: dict[str, Any]) -> str:
    cells = (
        row["method"],
        row["data"],
        f"{row['mean']:.1f}±{row['error']:.1f}",
        row["published"],
        f"{row['median']:g}",
        f"{row['p90']:.0f}",
        f"{100 * row['found']:.1f} %",
        f"{row['ms_per_query']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def regret_line(row: dict[str, Any]) -> str:
    pairs = zip(row["mean"], row["published"], strict=True)
    cells = [f"{mean:.2f} ({there})" if there else f"{mean:.2f}" for mean, there in pairs]
    return f"| {' | '.join([row['method'], row['data'], *cells])} |"


def heading(*names: object) -> str:
    return f"| {' | '.join(map(str, names))} |\n|{'---|' * len(names)}"


HEADINGS = {
    "optimum": heading(
        "method", "data", "mean queries", "spec", "median", "90th percentile", "found it", "ms a query"
    ),
    "regret": heading("method", "data", *(f"after {mark} (spec)" for mark in MARKS)),
}


def floor_line(options: argparse.Namespace) -> str:
    """The regret of the best cell by 12 epochs: nobody who chooses by it ends lower, but by luck."""
    found = []
    for data in options.datasets:
        here = table(options.table)
        genes, _ = here.best(f"{data}_valid_12")
        lost = here.best(f"{data}_test_200").value - here.metrics(genes)[f"{data}_test_200"]
        found.append(f"{data} {lost:.3f}")
    return f"Regret of the best cell by 12 epochs: {', '.join(found)}."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, help="nasbench201.csv; usual: in the folder WEFT_DATA")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--what", nargs="+", choices=list(HEADINGS), default=list(HEADINGS))
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    options = parser.parse_args()
    if options.table is None:
        if not os.environ.get("WEFT_DATA"):
            parser.error("give --table, or set WEFT_DATA to the folder that holds nasbench201.csv")
        options.table = Path(os.environ["WEFT_DATA"]) / "nasbench201.csv"
    return options


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments()
    rows: list[dict[str, Any]] = []
    text: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        text.append(line)

    for what in options.what:
        say(HEADINGS[what])
        for row in (optimum_rows if what == "optimum" else regret_rows)(options):
            say((optimum_line if what == "optimum" else regret_line)(row))
            rows.append({"what": what, "seeds": options.seeds, **row})
        say("\n" + floor_line(options) if what == "regret" else "")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.record:
        record(text, options)


def record(text: list[str], options: argparse.Namespace) -> None:
    when = datetime.datetime.now(datetime.UTC).date()
    where = f"{platform.processor() or platform.machine()}, {options.processes} processes of one thread"
    entry = [
        f"\n## {when}: search quality on NAS-Bench-201, {options.seeds} seeds",
        f"\n{where}, numpy {np.__version__}, Python {platform.python_version()}; commit {code_version()}\n",
        *text,
    ]
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


if __name__ == "__main__":
    main()
