"""How noisy NAT's rewards are on a few batches: `python -m benchmarks.nat_rewards RUN --data FILE`.

NAT's release scores a rewriting and what it was made from on one mini-batch. Here pairs are drawn as a policy
draws them before it has learnt anything, and scored batch by batch with the supernet of a finished search.
For k batches: Spearman's correlation of the reward with that on the other batches, and the share of its
variance that is not noise.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from cluster.checkpoints import CheckpointStore
from cluster.run import Run
from cluster.search_plan import SearchPlan, batch_size_of
from cluster.search_recipe import SearchRecipe
from networks.counters import counter_random
from networks.spaces.space import Genes
from networks.supernet import build_supernet
from searchers.nat import NatSettings
from searchers.rewriting import Rewriting
from trainers.one_shot import load_weights
from trainers.recalibration import recalibrated
from trainers.scores.accuracy import RECALIBRATION_BATCHES, validate
from trainers.scores.score import Bench

BATCHES, REPEATS = (1, 2, 4, 8), 200


def accuracies(bench: Bench, genes: Genes) -> list[float]:
    """Of each validation batch, on recalibrated statistics."""
    assert bench.supernet is not None
    images = (bench.batch(number)[0] for number in range(RECALIBRATION_BATCHES))
    with recalibrated(bench.supernet, images, genes) as forward:
        return [validate(forward, [batch]).accuracy for batch in bench.validation]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the images of the run's recipe")
    parser.add_argument("--pairs", type=int, default=60)
    options = parser.parse_args()
    run = Run(options.run)
    recipe = run.recipe
    assert isinstance(recipe, SearchRecipe) and isinstance(recipe.searcher, NatSettings)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": options.data})})
    plan = SearchPlan.of(recipe)
    assert plan.data is not None
    checkpoint = CheckpointStore(run.folder / "supernet").newest()
    assert checkpoint is not None
    supernet = build_supernet(plan.space, recipe.seed)
    load_weights(supernet, checkpoint.tensors)
    bench = Bench(plan.space, plan.data, recipe.seed, batch_size_of(recipe), supernet=supernet)
    rewriting = Rewriting(plan.space, recipe.searcher.rule, strict=recipe.searcher.strict)
    rewards = []
    for pair in range(options.pairs):
        rng = counter_random(recipe.seed, "rewards", pair)
        before = plan.space.sample(rng)
        legal = rewriting.legal([before]).reshape(-1, len(rewriting.actions.names))
        allowed = rewriting.actions.allowed(
            [word for cell in plan.space.cells(before) for word in cell.words]
        )
        actions = [rng.choice(row.nonzero()[0].tolist()) for row in legal & allowed]
        after = rewriting.after(before, actions)
        rewards.append(np.subtract(accuracies(bench, after), accuracies(bench, before)))
    table = np.array(rewards)[:, :-1]  # the last batch is smaller
    print(f"{run.name}: {len(table)} pairs, {table.shape[1]} batches of {batch_size_of(recipe)} images")
    print(
        f"a reward: mean {table.mean():.4f}, deviation over pairs {table.mean(1).std(ddof=1):.4f}, ", end=""
    )
    print(f"over batches {table.std(1, ddof=1).mean():.4f}")
    whole, noise = table.mean(1), float((table.var(1, ddof=1)).mean())
    signal = max(0.0, float(whole.var(ddof=1)) - noise / table.shape[1])
    for number in BATCHES:
        draws = np.random.default_rng(number)
        found = []
        for _ in range(REPEATS):
            some = draws.choice(table.shape[1], number, replace=False)
            rest = np.setdiff1d(np.arange(table.shape[1]), some)
            found.append(spearmanr(table[:, some].mean(1), table[:, rest].mean(1)).statistic)
        share = signal / (signal + noise / number)
        print(
            f"{number} batches: Spearman with the others {statistics.mean(found):.2f}, not noise {share:.2f}"
        )


if __name__ == "__main__":
    main()
