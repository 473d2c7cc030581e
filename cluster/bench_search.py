"""How good a searcher is on a table: its regret against evaluations, beside random search."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.pictures import FAINT, INK, SETTING_COLOURS, save_figure
from cluster.progress import PLAIN_EVERY, clock
from networks.counters import counter_seed
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.constraints import ANYTHING, Feasible
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings
from searchers.searcher import Candidate, Evaluation, Searcher
from trainers.table import Table

# Evaluations after which a report tells the regret.
MARKS = (10, 25, 50, 100, 200, 400, 1000)
RESAMPLES = 1000
REPORT, PICTURE = "bench_search.json", "bench_search.png"


class Settings(Protocol):
    """What a recipe's searcher section is (searchers/settings.py)."""

    @property
    def kind(self) -> str: ...

    def build(self, problem: Problem) -> Searcher: ...


def queries(
    searcher: Searcher, evaluate: Callable[[Genes], Evaluation], in_flight: int = 1
) -> Iterator[Genes]:
    """Drive a searcher to its end: its candidates in ask order, each before it is told.

    Ask i happens after exactly the tells up to i - in_flight (DESIGN 4.1), so that a table gives what a
    pool with as many candidates in flight gives.
    """
    flying: deque[Genes] = deque()
    while True:
        flying.extend(searcher.ask(in_flight - len(flying)))
        if not flying:
            return
        genes = flying.popleft()
        yield genes
        searcher.tell([evaluate(genes)])


class TableEvaluator:
    """Evaluations from a table. A candidate that it lacks, or one without the metrics needed, failed.

    An evaluation is made once and given again: its id does not count the asks.
    """

    def __init__(self, table: Table, needed: Sequence[str]) -> None:
        for name in needed:
            table.column(name)  # refuses a column that is not there
        self._table, self._needed = table, tuple(dict.fromkeys(needed))
        self._made: dict[Genes, Evaluation] = {}

    def __call__(self, genes: Genes) -> Evaluation:
        made = self._made.get(genes)
        if made is None:
            made = self._made[genes] = self._evaluate(genes)
        return made

    def _evaluate(self, genes: Genes) -> Evaluation:
        candidate = Candidate.of("table", self._table.space.digest, genes, 0)
        if genes not in self._table:
            return Evaluation(candidate=candidate, status="failed", reason="the table does not hold it")
        metrics = self._table.metrics(genes)
        lacking = [name for name in self._needed if name not in metrics]
        if lacking:
            reason = f"the table holds no {', '.join(lacking)} of it"
            return Evaluation(candidate=candidate, status="failed", reason=reason)
        return Evaluation(candidate=candidate, status="ok", metrics={n: metrics[n] for n in self._needed})


class Contest(NamedTuple):
    """What searchers are compared at. They choose by `objective`, and the regret of what they chose is told
    in `reported`, which may be another metric: chosen after 12 epochs, judged after 200."""

    table: Table
    objective: Objective
    reported: Objective
    feasible: Feasible = ANYTHING

    def evaluator(self) -> TableEvaluator:
        return TableEvaluator(self.table, (self.objective.metric, self.reported.metric))

    def extremes(self) -> tuple[float, float]:
        """The worst and the best reported value, higher being better, of what may be chosen."""
        evaluate = self.evaluator()
        allowed = (evaluate(genes) for genes in self.table.genes if self.feasible(genes))
        values = [self.reported.value(one) for one in allowed if one.status == "ok"]
        if not values:
            raise UserError("table", len(self.table), "a table with evaluated candidates that are feasible")
        return min(values), max(values)


def regret_curve(
    searcher: Searcher, contest: Contest, evaluate: TableEvaluator, *, budget: int, in_flight: int
) -> np.ndarray:
    """The reported value of the chosen candidate after 1, 2, ... evaluations: float64 (budget,), NaN before
    the first that did not fail. A searcher that ends earlier keeps what it has."""
    curve = np.full(budget, math.nan)
    best, chosen, count = -math.inf, math.nan, 0
    for genes in queries(searcher, evaluate, in_flight):
        one = evaluate(genes)
        value = contest.objective.value(one)
        if value > best:
            best, chosen = value, contest.reported.value(one)
        curve[count] = chosen
        count += 1
        if count == budget:
            break
    curve[count:] = chosen
    return curve


def bench_search(
    contest: Contest,
    settings: Settings,
    *,
    seeds: int,
    budget: int,
    console: Console,
    folder: Path,
    in_flight: int = 1,
    first_seed: int = 0,
) -> dict[str, Any]:
    """Run a searcher and random search with every seed, write picture and report, return the report.

    The regret of a run that has found nothing yet counts as that of the worst candidate. Bands: 95 %
    bootstrap intervals of the mean over the seeds.
    """
    worst, top = contest.extremes()
    methods: dict[str, Settings] = {settings.kind: settings, "random": RandomSettings(budget=budget)}
    report: dict[str, Any] = {
        "space": contest.table.space.digest,
        "candidates": len(contest.table),
        "objective": contest.objective.metric,
        "reported": contest.reported.metric,
        "optimum": top if contest.reported.maximise else -top,
        "seeds": seeds,
        "first_seed": first_seed,
        "budget": budget,
        "in_flight": in_flight,
        "methods": {},
    }
    evaluate = contest.evaluator()
    with Ticker(console, len(methods) * seeds) as ticker:
        for name, method in methods.items():
            regrets = np.empty((seeds, budget))
            started = time.perf_counter()
            for number in range(seeds):
                seed = first_seed + number
                problem = Problem(contest.table.space, (contest.objective,), seed, contest.feasible)
                curve = regret_curve(
                    method.build(problem), contest, evaluate, budget=budget, in_flight=in_flight
                )
                regrets[number] = top - np.where(np.isnan(curve), worst, curve)
                ticker.ran(name, float(regrets[: number + 1, -1].mean()))
            milliseconds = 1000 * (time.perf_counter() - started) / (seeds * budget)
            report["methods"][name] = {**summary(regrets), "ms_per_evaluation": round(milliseconds, 3)}
    save_figure(draw_regret(report), folder / PICTURE)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report


def summary(regrets: np.ndarray) -> dict[str, Any]:
    """Regrets (seeds, budget) as curves of mean and band, and in figures; JSON-ready."""
    mean = regrets.mean(axis=0)
    low, high = bootstrap(regrets)
    budget = regrets.shape[1]
    found = (regrets <= 0).any(axis=1)
    first = np.argmax(regrets <= 0, axis=1)[found] + 1
    return {
        "mean": mean.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "at": {str(mark): float(mean[mark - 1]) for mark in (*MARKS, budget) if mark <= budget},
        "found": float(found.mean()),
        "evaluations_to_optimum": float(first.mean()) if found.all() else None,
    }


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile interval of the mean over rows: two arrays (columns,)."""
    rows = len(values)
    rng = np.random.default_rng(counter_seed(0, "bench_search", "bootstrap", rows))
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES) / rows
    low, high = np.quantile(weights @ values, (0.025, 0.975), axis=0)
    return low, high


def draw_regret(report: Mapping[str, Any]) -> Figure:
    """Mean regret against evaluations with its band, a colour a method; both axes logarithmic. A mean of 0
    lies on the lower edge."""
    figure = Figure(figsize=(7.2, 4.4), facecolor="white")
    axes = figure.add_subplot()
    curves = {name: {key: np.array(one[key]) for key in ("mean", "low", "high")}
              for name, one in report["methods"].items()}  # fmt: skip
    positive = np.concatenate([one["mean"][one["mean"] > 0] for one in curves.values()])
    floor = float(positive.min()) / 2 if len(positive) else 0.01
    for (name, one), colour in zip(curves.items(), SETTING_COLOURS, strict=False):
        count = np.arange(1, report["budget"] + 1)
        low, mean, high = (np.maximum(one[key], floor) for key in ("low", "mean", "high"))
        axes.fill_between(count, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(count, mean, color=colour, linewidth=1.8, label=name.replace("_", " "))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.set_xlim(1, report["budget"])
    axes.set_xlabel("evaluations", fontsize=9, color=INK)
    chosen = "" if report["reported"] == report["objective"] else f", chosen by {report['objective']}"
    axes.set_ylabel(f"regret in {report['reported']}{chosen}".replace("_", " "), fontsize=9, color=INK)
    axes.set_title(f"mean of {report['seeds']} seeds, 95 % band", fontsize=9, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.tight_layout()
    return figure


class Ticker:
    """Runs done and time left: a line that renews itself in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, runs: int) -> None:
        self._console, self._runs, self._done, self._last = console, runs, 0, ""
        self._started = self._said = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self.line)

    def __enter__(self) -> "Ticker":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._console.print(self.line())

    def ran(self, name: str, regret: float) -> None:
        self._done += 1
        self._last = f"{name}: mean regret {regret:.3f}"
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said >= PLAIN_EVERY:
            self._said = now
            self._console.print(self.line())

    def line(self) -> Text:
        taken = time.monotonic() - self._started
        parts = [f"{self._done}/{self._runs} runs", *filter(None, [self._last])]
        if self._done == self._runs:
            parts.append(f"{clock(taken)} taken")
        elif self._done:
            parts.append(f"{clock(taken / self._done * (self._runs - self._done))} left")
        return Text(" · ".join(parts), no_wrap=True, overflow="ellipsis")
