"""What shrinking leaves of NAS-Bench-201's cells: `python -m benchmarks.shrinking --help`.

A small supernet on CIFAR-10 images loses one operator a rung, from 15,625 cells to at most 100, by the angle
with and without the parts that every path has. What is left is judged by the table's accuracies on CIFAR-100,
against droppings at random. Every search is a run in --storage and is gone on with when this is started
again; what it came to is a line of docs/shrinking.jsonl. The page is docs/shrinking.md.
"""

import argparse
import csv
import os
import random
import shutil
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

import numpy as np
from scipy import stats

from benchmarks.noted import of_runs, outcomes, parser_of
from cluster.run import Run
from cluster.shrinking import RUNGS, Rungs
from networks.architecture import Shape
from networks.spaces.choices import ChoiceSpace, Kept
from networks.spaces.narrowed import narrowed
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, cell_genes
from searchers.shrinking import ShrinkRule, choosable

DOCS = Path(__file__).parents[1] / "docs"
SEEDS = range(5)
DROPPINGS = 200
TRUTH = "c100_test_200"
SCORES = ("angle", "angle_searched")
RULE = {"drop": 1, "until": 100}
SETTINGS = NasBench201Settings(channels=8, cells=1)
CELLS = NasBench201Space(SETTINGS, Shape(3, 32, 32), 10)


def recipe_of(seed: int, score: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "version": 1,
        "name": f"shrinking-{score.replace('_', '-')}-{seed}",
        "seed": seed,
        "space": {"kind": "nasbench201", **SETTINGS.model_dump()},
        "data": {
            "name": "npz",
            "path": str(options.data / "cifar10_lossless_5593.npz"),
            "validation": 500,
            "augment": {"crop": 4, "flip": True},
        },
        "supernet": {
            "steps": options.steps, "paths_per_step": 2, "batch_size": 16, "lr": 0.2, "final_lr": 0.15,
            "rate_steps": 7000, "nesterov": True, "weight_decay": 5e-4,
        },
        "shrinking": {**RULE, "score": score, "steps": options.between},
        "searcher": {"kind": "random", "budget": 1},
        "score": {"kind": "computed", "names": [score], "batch_size": 125},
        "baseline": False,
        "round": 1,
        "storage": str(options.storage),
    }  # fmt: skip


def course(run: Run) -> list[Kept]:
    """What was left after each rung. One picture is put beside the page."""
    if run.recipe.name == "shrinking-angle-0":
        shutil.copy(str(run.folder / "pictures" / "shrinking.png"), DOCS / "shrinking.png")
    return [rung.kept for rung in Rungs(run.folder / RUNGS).read()]


class Truth:
    """The table's accuracies, by genes."""

    def __init__(self, path: Path) -> None:
        self._cube = np.zeros((5,) * 6)
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                self._cube[cell_genes(row["arch"])] = float(row[TRUTH])

    def left(self, kept: Kept) -> tuple[float, float]:
        """The best and the mean accuracy of the cells that have these options."""
        some = self._cube[np.ix_(*kept)]
        return float(some.max()), float(some.mean())


def at_random(truth: Truth) -> list[tuple[float, float]]:
    """Best and mean of what is left when operators are dropped at random."""
    rule, found = ShrinkRule.model_validate(RULE), []
    for number in range(DROPPINGS):
        rng = random.Random(number)
        space: ChoiceSpace = CELLS
        while not rule.over(space):
            space = narrowed(space, [rng.choice(choosable(space))])
        found.append(truth.left(space.kept))
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and its 95 % interval by Student's t."""
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def page(truth: Truth, courses: dict[tuple[str, int], list[Kept]]) -> list[str]:
    tops, means = zip(*at_random(truth), strict=True)
    whole = truth.left(CELLS.kept)
    lines = [
        "# What shrinking by the angle leaves of NAS-Bench-201", "",
        f"All 15,625 cells: best {whole[0]:.2f}, mean {whole[1]:.2f} (test accuracy on CIFAR-100, percent).",
        f"{DROPPINGS} droppings at random to at most 100 cells leave a best of {statistics.mean(tops):.1f}",
        f"and a mean of {statistics.mean(means):.1f} on average; 95th percentiles:",
        f"{np.quantile(tops, 0.95):.2f} and {np.quantile(means, 0.95):.2f}.", "",
        "| score | seed | cells left | best | mean |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for score in SCORES:
        ends = []
        for seed in SEEDS:
            kept = courses[score, seed][-1]
            ends.append(truth.left(kept))
            cells = int(np.prod([len(values) for values in kept]))
            lines.append(f"| {score} | {seed} | {cells} | {ends[-1][0]:.2f} | {ends[-1][1]:.2f} |")
        said = [
            f"{mean:.2f} ({low:.2f} to {high:.2f})"
            for mean, low, high in map(interval, zip(*ends, strict=True))
        ]
        lines.append(f"| {score} | all, 95 % interval | | {said[0]} | {said[1]} |")
    lines += [
        "", "Best / mean of what is left after each rung:", "",
        f"| rung | {' | '.join(f'{score} {seed}' for score, seed in courses)} |",
        "|---|" + "---|" * len(courses),
    ]  # fmt: skip
    for rung in range(max(map(len, courses.values()))):
        found = [truth.left(course[rung]) if rung < len(course) else None for course in courses.values()]
        cells_of = ("" if one is None else f"{one[0]:.1f} / {one[1]:.1f}" for one in found)
        lines.append(f"| {rung + 1} | {' | '.join(cells_of)} |")
    return lines


def main() -> None:
    parser = parser_of(__doc__, "cifar10_lossless_5593.npz, nasbench201.csv")
    parser.add_argument("--steps", type=int, default=4000, help="before the first rung")
    parser.add_argument("--between", type=int, default=150, help="from one rung to the next")
    options = parser.parse_args()
    which = [(score, seed) for seed in SEEDS for score in SCORES]
    recipes = [recipe_of(seed, score, options) for score, seed in which]
    found = outcomes(recipes, partial(of_runs, course), DOCS / "shrinking.jsonl", options.jobs)
    lines = page(Truth(options.data / "nasbench201.csv"), dict(sorted(zip(which, found, strict=True))))
    lines += [
        "", "![the space of the first seed by the angle, rung by rung](shrinking.png)", "",
        f"`python -m benchmarks.shrinking --data FOLDER --jobs {options.jobs}`: {options.steps} steps of",
        f"two paths before the first rung, {options.between} between two, {SETTINGS.channels} channels,",
        "5,093 images.",
        "Commits and hardware: shrinking.jsonl, a line for each search.", "",
    ]  # fmt: skip
    (DOCS / "shrinking.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
