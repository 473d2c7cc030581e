"""SPOS with and without shrinking, at one training budget: `python -m benchmarks.shrinking_spos --help`.

The small chain on CIFAR-10 images. What each search finds is trained alone, with three seeds, and judged by
its accuracy on test images. Every search is a run in --storage and is gone on with when this is started
again; what it came to is a line of docs/shrinking_spos.jsonl. The page is docs/shrinking_spos.md.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.noted import of_runs, outcomes, parser_of
from benchmarks.shrinking import DOCS, SEEDS, interval
from cluster.report import rank
from cluster.run import Run
from networks.spaces.space import Genes

SPACE = {"kind": "small_chain", "channels": 8}
TRAINED = (0, 1, 2)


def common(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "version": 1,
        "name": name,
        "seed": seed,
        "data": {
            "name": "jpeg_npz",
            "path": str(options.data / "cifar10_jpeg_train_1of2.npz"),
            "test_path": str(options.data / "cifar10_jpeg_test.npz"),
            "limit": 12_000,
            "validation": 2000,
            "augment": {"crop": 4, "flip": True},
        },
        "storage": str(options.storage),
    }


def recipe_of(seed: int, shrinks: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Eight parts of training in all. Where it shrinks, three operators go after the fifth, the sixth and the
    seventh: from 6,561 candidates any three such rungs, and no fewer, lead to at most 200."""
    part = options.part
    shrinking = {
        "score": options.score, "drop": 3, "until": 200, "steps": part, "then": part,
    }  # fmt: skip
    return {
        **common(f"chain-{'shrunk' if shrinks else 'whole'}-{seed}", seed, options),
        "space": SPACE,
        "supernet": {
            "steps": 5 * part if shrinks else 8 * part, "rate_steps": 8 * part, "paths_per_step": 2,
            "batch_size": 32, "lr": 0.1, "final_lr": 0.001, "nesterov": True,
        },
        **({"shrinking": shrinking} if shrinks else {}),
        "searcher": {
            "kind": "evolution", "population": 20, "generations": 6, "parents": 8, "mutants": 10,
            "crossovers": 10,
        },
        "score": {"kind": "computed", "names": ["accuracy"], "batch_size": 250},
        "baseline": False,
        "round": 10,
    }  # fmt: skip


def alone_recipe(genes: Genes, options: argparse.Namespace) -> dict[str, Any]:
    """One network, from scratch, with each seed."""
    name = f"chain-{'-'.join(map(str, genes))}"
    return {
        **common(name, 0, options),
        "space": {"kind": "listed", "space": SPACE, "genes": [list(genes)], "seeds": list(TRAINED)},
        "training": {"epochs": options.epochs, "batch_size": 64, "lr": 0.1},
        "stopping": {"kind": "none"},
    }


def best_of(run: Run) -> list[int]:
    return list(rank(run.ledger.rows(), "accuracy")[0].candidate.genes)


def tested(run: Run) -> list[float]:
    """Test accuracies of what was trained alone, in percent."""
    return [100 * row.metrics["test_accuracy"] for row in run.ledger.rows() if row.status == "ok"]


def said(genes: Genes, values: Sequence[float]) -> str:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{' '.join(map(str, genes))} | {mean:.2f} ± {deviation:.2f}"


def main() -> None:
    parser = parser_of(__doc__, "cifar10_jpeg_*.npz")
    parser.add_argument("--part", type=int, default=500, help="an eighth of the supernet's steps")
    parser.add_argument("--score", default="angle_searched", help="what ranks operators")
    parser.add_argument("--epochs", type=int, default=12, help="of training alone")
    options = parser.parse_args()
    file = DOCS / "shrinking_spos.jsonl"
    which = [(seed, shrinks) for seed in SEEDS for shrinks in (False, True)]
    recipes = [recipe_of(seed, shrinks, options) for seed, shrinks in which]
    best = map(tuple, outcomes(recipes, partial(of_runs, best_of), file, options.jobs))
    found: dict[tuple[int, bool], Genes] = dict(zip(which, best, strict=True))
    names = list(dict.fromkeys(found.values()))
    trained = outcomes(
        [alone_recipe(genes, options) for genes in names], partial(of_runs, tested), file, options.jobs
    )
    accuracies = dict(zip(names, trained, strict=True))
    lines = [
        "# SPOS with and without shrinking, on the small chain", "",
        "| seed | whole: found | test accuracy | shrunk: found | test accuracy | difference |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    gains = []
    for seed in SEEDS:
        whole, shrunk = found[seed, False], found[seed, True]
        gains.append(statistics.mean(accuracies[shrunk]) - statistics.mean(accuracies[whole]))
        pair = " | ".join(said(genes, accuracies[genes]) for genes in (whole, shrunk))
        lines.append(f"| {seed} | {pair} | {gains[-1]:+.2f} |")
    mean, low, high = interval(gains)
    lines += [
        "", f"Shrunk against whole: {mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, 5 seeds).",
        f"Test accuracy: mean and deviation of {len(TRAINED)} trainings of {options.epochs} epochs, percent.",
        "", f"`python -m benchmarks.shrinking_spos --data FOLDER --jobs {options.jobs}`: {8 * options.part}",
        f"steps of two paths in all, operators by {options.score}.",
        "Commits and hardware: shrinking_spos.jsonl.", "",
    ]  # fmt: skip
    (DOCS / "shrinking_spos.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
