"""NAT on the cells of NAS-Bench-201, with rewards from the table: `python -m benchmarks.nat_table --help`.

A policy learns on cells of the better half, of which 500 are held out: nothing of those is looked up while it
learns. Then each of them is rewritten, with at most ten scored rewritings. What the best of all rewritings
gains is known exactly. With --supernet the rewards are a supernet's accuracies instead, of a finished search
that scored every cell:

    weft search recipes/spos_nasbench201.yaml --set name=spos-all --set round=250 \
        --set 'searcher={kind: random, budget: 15625}' --set ranking=null --set data.path=FOLDER/...

The page is docs/nat_nasbench201.md; each line of it goes on where it was left.
"""

import csv
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.noted import outcomes, parser_of
from benchmarks.shrinking import DOCS
from cluster.run import Run
from networks.architecture import Shape
from networks.counters import counter_random
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, cell_genes
from networks.spaces.space import Genes
from searchers.rewriting import Rewriting
from searchers.transformer import PolicySettings, Transformer

SPACE = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), 10)
WORDS = SPACE.becomes(0, 0)  # and their options, the same for every link
REWRITING = Rewriting(SPACE, "nat", strict=True)
HELD_OUT, CANDIDATES = 500, 10
CELLS, DRAWS = 64, 8  # a step
FIRST, FIVE, TWENTY = "c10_test_200", range(5), range(20)
COLUMNS = {FIRST: "C10", "c100_test_200": "C100", "in16_test_200": "IN16"}
SUPERNET = "supernet"
COMMON: dict[str, Any] = {"baseline": "cell", "rate": 1e-3, "decay": 0.0, "floor": -3.0}
ANNEALED, CONSTANT = (0.3, 0.03), (0.01, 0.01)
POLICIES: dict[str, dict[str, Any]] = {
    "MLP": {"encoder": "mlp", "entropy": ANNEALED},
    "line GCN": {"encoder": "line", "entropy": (0.3, 0.1)},
    "LSTM": {"encoder": "lstm", "entropy": (0.3, 0.1)},
    "line GCN without skip": {"encoder": "line", "entropy": (0.3, 0.1), "skip": False},
    "line GCN, official adjacency": {
        "encoder": "line", "entropy": (0.3, 0.1), "skip": False, "adjacency": "official",
    },
    "MLP, entropy 0.01 throughout": {"encoder": "mlp", "entropy": CONSTANT},
    "line GCN, entropy 0.01 throughout": {"encoder": "line", "entropy": CONSTANT},
}  # fmt: skip
UNTRAINED = ("uniform moves", "greedy, link by link")
EVERYWHERE = ("MLP", "line GCN", "line GCN, official adjacency", *UNTRAINED)  # also on the other columns
MANY_SEEDS = ("MLP", "line GCN", "LSTM", *UNTRAINED)
SUPERNET_SAID = [
    "Rewards are recalibrated accuracies on 500 validation images, of one supernet (`spos_nasbench201`) that",
    f"scored all 15,625 cells. The last column is what the best of ten by the supernet gains in `{FIRST}`,",
    "the cell itself where none is better.", "",
]  # fmt: skip


@lru_cache(maxsize=2)
def cube(path: Path, column: str) -> np.ndarray:
    """Accuracies by genes, in percent: of the table at `path`, or of a supernet, from its search's folder."""
    found = np.full((5,) * 6, np.nan)
    if column == SUPERNET:
        for row in Run(path).ledger.rows():
            found[tuple(row.candidate.genes)] = 100 * row.metrics["accuracy"]
        assert not np.isnan(found).any(), f"{path} has not scored every cell"
        return found
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[cell_genes(row["arch"])] = float(row[column])
    return found


def becomes() -> list[list[str | None]]:
    """What each action makes of each option; None where it is not allowed."""
    words = sorted(WORDS, key=WORDS.__getitem__)
    return [REWRITING.actions.becomes(word) for word in words]


@lru_cache(maxsize=1)
def options() -> list[list[int]]:
    """What each option may become, itself among it."""
    return [[WORDS[word] for word in some if word] for some in becomes()]


def reachable(genes: Genes) -> list[Genes]:
    return list(itertools.product(*(options()[gene] for gene in genes)))


def split(table: np.ndarray, seed: int) -> tuple[list[Genes], list[Genes]]:
    """What is held out, and what a policy learns on."""
    median = float(np.median(table))
    better = [genes for genes in np.ndindex(*table.shape) if table[genes] >= median]
    held_out = counter_random(seed, "held out").sample(better, HELD_OUT)
    known = set(held_out)
    return held_out, [genes for genes in better if genes not in known]


def trained(
    table: np.ndarray, asked: dict[str, Any], held_out: Sequence[Genes], cells: Sequence[Genes]
) -> Transformer:
    """The policy that has learnt."""
    settings = PolicySettings.model_validate({**COMMON, **POLICIES[asked["name"]]})
    seed, steps = asked["seed"], asked["steps"]
    policy = Transformer(settings, REWRITING.actions, 6, seed)
    hidden = table.copy()
    hidden[tuple(np.array(held_out).T)] = np.nan  # as if it had failed
    after = np.array([[WORDS.get(word or "", -1) for word in some] for some in becomes()])
    for step in range(steps):
        rng = counter_random(seed, "cells", step)
        some = [cells[rng.randrange(len(cells))] for _ in range(CELLS)]
        drawn_from = policy.policy([SPACE.cells(genes)[0] for genes in some], REWRITING.legal(some))
        actions = policy.draws(drawn_from, DRAWS, step)
        before = np.array(some)
        rewritten = after[before[None], actions.numpy()]
        rewards = hidden[tuple(np.moveaxis(rewritten, -1, 0))] - hidden[tuple(before.T)][None]
        policy.learn(drawn_from, actions, torch.from_numpy(rewards).float(), settings.entropy_at(step, steps))
    return policy


def greedy(genes: Genes, table: np.ndarray, seed: int) -> list[Genes]:
    """One link after the other, in a drawn order: everything that it may become, and the best stays. What was
    scored."""
    rng = counter_random(seed, "greedy", *genes)
    order, now = rng.sample(range(6), 6), genes
    scored: list[Genes] = []
    best = table[genes]
    for link in order:
        start = now
        for option in options()[genes[link]]:
            one = (*start[:link], option, *start[link + 1 :])
            if one == start or len(scored) == CANDIDATES:
                continue
            scored.append(one)
            if table[one] > best:
                best, now = table[one], one
    return scored


def uniform(genes: Genes, table: np.ndarray, seed: int) -> list[Genes]:
    rng = counter_random(seed, "uniform", *genes)
    return [tuple(rng.choice(options()[gene]) for gene in genes) for _ in range(CANDIDATES)]


def measured(path: Path, supernet: Path | None, asked: dict[str, Any]) -> dict[str, float]:
    """Mean gains over what is held out, in points: of the best of ten, of the first of them, of ten draws,
    and of the best of all rewritings; a cell that does not get better stays as it is but in `raw`. `true`: of
    the best of ten by the rewards, in the table."""
    torch.set_num_threads(1)
    seed, name, column = asked["seed"], asked["name"], asked["column"]
    truth = cube(path, FIRST if column == SUPERNET else column)
    table = truth if supernet is None or column != SUPERNET else cube(supernet, SUPERNET)
    held_out, cells = split(table, seed)
    began = time.monotonic()
    policy = trained(table, asked, held_out, cells) if name in POLICIES else None
    seconds = time.monotonic() - began
    gains: dict[str, list[float]] = {key: [] for key in ("raw", "kept", "first", "drawn", "all", "true")}
    for genes in held_out:
        before = float(table[genes])
        gains["all"].append(max(float(table[one]) for one in reachable(genes)) - before)
        if policy is None:
            chosen = others = (greedy if name == UNTRAINED[1] else uniform)(genes, table, seed)
        else:
            chosen, others = (
                [
                    SPACE.rewritten(genes, one)
                    for one in policy.proposals(
                        SPACE.cells(genes), CANDIDATES, lambda words: True, "held out", *genes,
                        legal=REWRITING.legal([genes]), drawn=way,
                    )
                ]
                for way in (False, True)
            )  # fmt: skip
        scored, drawn = ([float(table[one]) for one in some] for some in (chosen, others))
        gains["raw"].append(max(scored) - before)
        gains["kept"].append(max(0.0, max(scored) - before))
        gains["first"].append(scored[0] - before)
        gains["drawn"].append(max([before, *drawn]) - before)
        best = max([genes, *chosen], key=lambda one: table[one])  # the first of equals: the cell itself
        gains["true"].append(float(truth[best] - truth[genes]))
    lookups = asked["steps"] * CELLS * (1 + DRAWS) if policy is not None else 0
    means = {key: statistics.mean(some) for key, some in gains.items()}
    return {**means, "lookups": lookups, "seconds": seconds}


def names_of(column: str) -> tuple[str, ...]:
    """What is compared there."""
    if column == SUPERNET:
        return MANY_SEEDS
    return (*POLICIES, *UNTRAINED) if column == FIRST else EVERYWHERE


def said(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def page(found: dict[tuple[str, str, int], dict[str, float]], steps: int) -> list[str]:
    lines = [
        "# NAT on NAS-Bench-201: what a learnt policy gains on cells that it never saw", "",
        f"{HELD_OUT} cells of the better half are held out for each seed, and nothing of them is looked up",
        f"while a policy learns: {steps} steps of {CELLS} other cells of that half with {DRAWS} rewritings",
        f"each, {steps * CELLS * (1 + DRAWS):,} look-ups. Then at most {CANDIDATES} rewritings of each are",
        "scored, the likeliest ones; every one of them costs no more than the cell. Gains in points of test",
        "accuracy, mean and deviation over seeds; in brackets the share of what the best of all gains.", "",
    ]  # fmt: skip
    for column, title in {**COLUMNS, SUPERNET: "A supernet instead of a table"}.items():
        every = [one["all"] for (where, _, _), one in found.items() if where == column]
        if not every:
            continue
        lines += [
            f"## {title} (`{column}`): the best of all rewritings gains {statistics.mean(every):.3f}", "",
        ]  # fmt: skip
        if column == SUPERNET:
            lines += SUPERNET_SAID
        lines += [
            "| policy | seeds | best of ten | or the cell itself | ten draws instead | the likeliest alone |"
            + " in the table |" * (column == SUPERNET),
            "|---|---|---|---|---|---|" + "---|" * (column == SUPERNET),
        ]
        for name in (*POLICIES, *UNTRAINED):
            some = [one for (where, which, _), one in found.items() if (where, which) == (column, name)]
            if not some:
                continue
            share = statistics.mean(one["raw"] for one in some) / statistics.mean(one["all"] for one in some)
            keys = ("raw", "kept", "drawn", "first", *(("true",) if column == SUPERNET else ()))
            cells = [said([one[key] for one in some]) for key in keys]
            lines.append(f"| {name} | {len(some)} | {cells[0]} ({share:.2f}) | {' | '.join(cells[1:])} |")
        lines.append("")
    return lines


def main() -> None:
    parser = parser_of(__doc__, "nasbench201.csv")
    parser.add_argument("--steps", type=int, default=2000, help="of the policy gradient")
    parser.add_argument("--supernet", type=Path, help="folder of the run whose rewards are learnt from too")
    given = parser.parse_args()
    asked = [
        {"name": name, "column": column, "seed": seed, "steps": given.steps if name in POLICIES else 0}
        for column in (*COLUMNS, *((SUPERNET,) if given.supernet else ()))
        for name in names_of(column)
        for seed in (TWENTY if name in MANY_SEEDS and column in (FIRST, SUPERNET) else FIVE)
    ]
    act = partial(measured, given.data / "nasbench201.csv", given.supernet)
    results = outcomes(asked, act, DOCS / "nat_nasbench201.jsonl", given.jobs)
    which = [(str(one["column"]), str(one["name"]), int(one["seed"])) for one in asked]
    lines = page(dict(zip(which, results, strict=True)), given.steps)
    lines += [
        f"`python -m benchmarks.nat_table --data FOLDER --jobs {given.jobs}`. Commits, hardware and seconds:",
        "nat_nasbench201.jsonl, a line for each policy and seed.", "",
    ]  # fmt: skip
    (DOCS / "nat_nasbench201.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
