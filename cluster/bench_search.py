"""How good a searcher is on a table: its regret against evaluations, beside random search."""

import json
import math
import time
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
from cluster.search_loop import Rounds
from networks.counters import counter_seed
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.constraints import ANYTHING, STATIC, Feasible
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
    searcher: Searcher, evaluate: Callable[[Genes], Evaluation], in_flight: int = 1, round_size: int = 1
) -> Iterator[Genes]:
    """Drive a searcher to its end: its candidates in ask order, each before it is told. Asks and tells
    alternate as in a search with this `round` and `in_flight` (cluster/search_loop.py)."""
    rounds = Rounds(searcher, round_size, in_flight // round_size)
    rounds.fill()
    while rounds.open:
        genes = rounds.open.popleft()
        yield from genes
        searcher.tell([evaluate(one) for one in genes])
        rounds.fill()


class TableEvaluator:
    """Evaluations from a table, with static costs. A candidate that it lacks, or one without the metrics
    needed, failed.

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
        space = self._table.space
        candidate = Candidate.of("table", space.digest, genes, 0)
        found = self._table.find(genes, self._needed)
        if found.reason:
            return Evaluation(candidate=candidate, status="failed", reason=found.reason)
        metrics = {**space.cost(genes)._asdict(), **found.metrics}
        return Evaluation(candidate=candidate, status="ok", metrics=metrics)


class Contest(NamedTuple):
    """What searchers are compared at. They choose by `objective`, and the regret of what they chose is told
    in `reported`, which may be another metric: chosen after 12 epochs, judged after 200. `others`: what a
    searcher with several objectives has beside the first. `known`: what it is told before it is asked."""

    table: Table
    objective: Objective
    reported: Objective
    feasible: Feasible = ANYTHING
    others: tuple[Objective, ...] = ()
    known: Sequence[Evaluation] = ()

    def evaluator(self) -> TableEvaluator:
        others = [one.metric for one in self.others]
        columns = [name for name in others if name in self.table.names or name not in STATIC]
        return TableEvaluator(self.table, (self.objective.metric, self.reported.metric, *columns))

    def problem(self, seed: int) -> Problem:
        return Problem(self.table.space, (self.objective, *self.others), seed, self.feasible)

    def extremes(self) -> tuple[float, float]:
        """The worst and the best reported value, higher being better, of what may be chosen."""
        evaluate = self.evaluator()
        allowed = (evaluate(genes) for genes in self.table.genes if self.feasible(genes))
        values = [self.reported.value(one) for one in allowed if one.status == "ok"]
        if not values:
            raise UserError("table", len(self.table), "a table with evaluated candidates that are feasible")
        return min(values), max(values)


def regret_curve(
    searcher: Searcher,
    contest: Contest,
    evaluate: TableEvaluator,
    *,
    budget: int,
    in_flight: int,
    round_size: int = 1,
) -> np.ndarray:
    """The reported value of the chosen candidate after 1, 2, ... evaluations: float64 (budget,), NaN before
    the first that did not fail. A searcher that ends earlier keeps what it has."""
    curve = np.full(budget, math.nan)
    best, chosen, count = -math.inf, math.nan, 0
    for genes in queries(searcher, evaluate, in_flight, round_size):
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
    round_size: int = 1,
    first_seed: int = 0,
) -> dict[str, Any]:
    """Run a searcher and random search with every seed, write picture and report, return the report.
    `in_flight` and `round_size` are the recipe's, and the searcher alone is told what is known.

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
        "round": round_size,
        "methods": {},
    }
    evaluate = contest.evaluator()
    with Ticker(console, len(methods) * seeds) as ticker:
        for name, method in methods.items():
            regrets = np.empty((seeds, budget))
            started = time.perf_counter()
            for number in range(seeds):
                searcher = method.build(contest.problem(first_seed + number))
                if contest.known and method is settings:
                    searcher.tell(contest.known)
                curve = regret_curve(
                    searcher, contest, evaluate, budget=budget, in_flight=in_flight, round_size=round_size
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
