"""SPOS with and without shrinking, at one training budget: `python -m benchmarks.shrinking_spos --help`.

The small chain on CIFAR-10 images. What each search finds is trained alone, with three seeds, and judged by
its accuracy on test images. Every search is a run in --storage and is gone on with when this is started
again. The page is docs/shrinking_spos.md.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.randwire import processor
from benchmarks.shrinking import DOCS, SEEDS, all_finished, finished, interval
from cluster.report import rank
from cluster.run import Run
from cluster.version import code_version
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
            "batch_size": 32, "lr": 0.1, "nesterov": True,
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


def alone_recipe(genes: Sequence[Genes], options: argparse.Namespace) -> dict[str, Any]:
    return {
        **common("chain-alone", 0, options),
        "space": {"kind": "listed", "space": SPACE, "genes": list(map(list, genes)), "seeds": list(TRAINED)},
        "training": {"epochs": options.epochs, "batch_size": 64, "lr": 0.1},
        "stopping": {"kind": "none"},
    }


def best_of(run: Run) -> Genes:
    return rank(run.ledger.rows(), "accuracy")[0].candidate.genes


def said(genes: Genes, accuracies: Sequence[float]) -> str:
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    return f"{' '.join(map(str, genes))} | {mean:.2f} ± {deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10_jpeg_*.npz")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=1, help="searches at once")
    parser.add_argument("--part", type=int, default=1000, help="an eighth of the supernet's steps")
    parser.add_argument("--score", default="angle_searched", help="what ranks operators")
    parser.add_argument("--epochs", type=int, default=12, help="of training alone")
    options = parser.parse_args()
    options.data, options.storage = options.data.resolve(), options.storage.resolve()
    which = [(seed, shrinks) for seed in SEEDS for shrinks in (False, True)]
    runs = all_finished((recipe_of(seed, shrinks, options) for seed, shrinks in which), options.jobs)
    found = dict(zip(which, map(best_of, runs), strict=True))
    names = list(dict.fromkeys(found.values()))
    tested: dict[Genes, list[float]] = {}
    for row in finished(alone_recipe(names, options)).ledger.rows():
        if row.status == "ok":
            chosen = names[row.candidate.genes[0]]
            tested.setdefault(chosen, []).append(100 * row.metrics["test_accuracy"])
    lines = [
        "# SPOS with and without shrinking, on the small chain", "",
        "| seed | whole: found | test accuracy | shrunk: found | test accuracy | difference |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    gains = []
    for seed in SEEDS:
        whole, shrunk = found[seed, False], found[seed, True]
        gains.append(statistics.mean(tested[shrunk]) - statistics.mean(tested[whole]))
        pair = " | ".join(said(genes, tested[genes]) for genes in (whole, shrunk))
        lines.append(f"| {seed} | {pair} | {gains[-1]:+.2f} |")
    mean, low, high = interval(gains)
    lines += [
        "", f"Shrunk against whole: {mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, 5 seeds).",
        f"Test accuracy: mean and deviation of {len(TRAINED)} trainings of {options.epochs} epochs, percent.",
        "", f"`python -m benchmarks.shrinking_spos --data FOLDER --jobs {options.jobs}` at {code_version()}:",
        f"{8 * options.part} steps of two paths in all, operators by {options.score}; {processor()}.", "",
    ]  # fmt: skip
    (DOCS / "shrinking_spos.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
