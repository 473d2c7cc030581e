"""WS(4, P) at five P on CIFAR-10 images: search, then the figure and table in docs/.

    python -m benchmarks.ws_probability --data FOLDER/cifar10_lossless_5593.npz [--resume]

The search is the recipe ws_probability_cifar10: every candidate is trained to the end, nothing is chosen,
and what is reported is the validation accuracy after the last epoch, one point a seed.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from matplotlib.figure import Figure
from rich.console import Console

from cluster.experiment import Place, search
from cluster.ledger import Row
from cluster.pictures import save_figure
from cluster.recipe import load_recipe
from cluster.report import newest
from cluster.run import Run

DOCS = Path(__file__).parents[1] / "docs"
METRIC = "validation_accuracy"


def points(rows: list[Row]) -> dict[float, list[float]]:
    """Accuracy in percent of every finished seed, by P."""
    found: dict[float, list[float]] = {}
    for row in newest(rows):
        if row.status == "ok":
            found.setdefault(row.names["p"], []).append(100 * row.metrics[METRIC])
    return dict(sorted(found.items()))


def draw(found: dict[float, list[float]]) -> Figure:
    """Every seed as a dot, mean and sample deviation as a bar."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    means = [statistics.mean(some) for some in found.values()]
    spread = [statistics.stdev(some) for some in found.values()]
    axes.errorbar(
        list(found), means, spread, fmt="o-", color="#0b5394", capsize=5, label="mean and deviation"
    )
    for place, (p, some) in enumerate(found.items()):
        axes.plot([p] * len(some), some, "o", color="#999999", markersize=4, zorder=0,
                  label=None if place else "one seed")  # fmt: skip
    axes.set_xticks(list(found))
    axes.set_xlabel("P of WS(4, P): the share of ties that are rewired")
    axes.set_ylabel("validation accuracy after 12 epochs (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def page(found: dict[float, list[float]], run: Run, rows: list[Row], commit: str) -> str:
    """docs/ws_probability.md."""
    last = newest(rows)
    costs = {p: [row.cost for row in last if row.names["p"] == p] for p in found}
    table = [
        f"| {p:g} | {statistics.mean(some):.2f} | {statistics.stdev(some):.2f} | "
        f"{', '.join(f'{value:.1f}' for value in some)} | "
        f"{statistics.mean(cost.params for cost in costs[p]):,.0f} | "
        f"{statistics.mean(cost.macs for cost in costs[p]) / 1e6:.2f} |"
        for p, some in found.items()
    ]
    trained = sum(row.seconds for row in last) / 60
    return "\n".join(
        [
            "# Does rewiring help? WS(4, P) on CIFAR-10 images",
            "",
            "![validation accuracy against P](ws_probability.png)",
            "",
            "| P | mean % | deviation | seeds | mean params | mean MACs (M) |",
            "|---|---|---|---|---|---|",
            *table,
            "",
            "N = 16, C = 24, CIFAR stem, random stages at 16, 8 and 4 pixels, 12 epochs, 3 seeds a setting; "
            "4,593 training and 1,000 validation images of the exact CIFAR-10 pixels; crop and flip. Nothing "
            "was selected: the accuracy is that of the last epoch. One validation image is 0.1 point; the "
            "binomial error of one run is about 1.6 points.",
            "",
            _verdict(found),
            "",
            "    weft search ws_probability_cifar10 --local --set data.path=FOLDER/cifar10_lossless_5593.npz",
            "    python -m benchmarks.ws_probability --data FOLDER/cifar10_lossless_5593.npz  # + page",
            "",
            f"{time.strftime('%Y-%m-%d')}, commit {commit}, {platform.machine()} CPU, one thread, torch in "
            f"float32; {trained:.0f} minutes of training in all"
            + f". Ledger digest `{run.ledger.digest()}`.",
            "",
        ]
    )


def _verdict(found: dict[float, list[float]]) -> str:
    """What the figure shows, in the terms of the paper's claim."""
    still = statistics.mean(found[0.0])
    best = max(found, key=lambda p: statistics.mean(found[p]))
    gain = statistics.mean(found[best]) - still
    spread = statistics.mean([statistics.stdev(some) for some in found.values()])
    return (
        f"The best mean is at P = {best:g}, {gain:+.2f} points against the ring without rewiring (P = 0); "
        f"the deviation between seeds is {spread:.2f} points on average."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="cifar10_lossless_5593.npz")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--run", type=Path, help="only draw: the folder of a finished run")
    parser.add_argument("--commit", help="what an older run was made with; newer ones say it themselves")
    options = parser.parse_args()
    if options.run is not None:
        run = Run(options.run)
    else:
        changes = [f"data.path={options.data.resolve()}", f"storage={options.storage}"]
        recipe = load_recipe("ws_probability_cifar10", changes)
        run = search(recipe, Place(local=True), Console(), resume=options.resume).run
    rows = list(run.ledger.rows())
    found = points(rows)
    commit = run.about.get("commit", options.commit)
    if commit is None:
        parser.error(f"{run.name} does not say its commit: give --commit")
    save_figure(draw(found), DOCS / "ws_probability.png")
    (DOCS / "ws_probability.md").write_text(page(found, run, rows, commit))


if __name__ == "__main__":
    main()
