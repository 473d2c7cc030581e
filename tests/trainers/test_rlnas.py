"""RLNAS from end to end: a supernet learns random labels, and evolution looks for the largest angle.

Checks R2 and R3 of the one-shot spec.
"""

import math
from itertools import pairwise
from statistics import mean

from networks.architecture import Shape
from networks.counters import counter_random
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from searchers.evolution import EvolutionSettings
from tests.searchers.toys import drive, problem
from tests.trainers.test_one_shot import made, trainer
from trainers.one_shot import OneShotTrainer
from trainers.scores.angle import AngleTable

CELLS = NasBench201Space(NasBench201Settings(channels=8, cells=1), Shape(3, 8, 8), 4)


def learner(steps: int) -> OneShotTrainer:
    data = made(train=32)
    return trainer(CELLS, data=data, labels="random", steps=steps, batch_size=16, paths_per_step=3, lr=0.15)


def test_r2_random_labels_are_learned_by_heart_and_weights_turn() -> None:
    """The loss falls below ln K; the mean angle of cells grows from one stretch of epochs to the next."""
    cells = [CELLS.sample(counter_random(0, "cell", number)) for number in range(200)]
    one = learner(60)
    losses, turned = [], [0.0]
    for _ in range(6):
        losses.append(one.train(10)["train_loss"])
        turned.append(mean(AngleTable.of(one.supernet, one.initial, "searched").angles(cells)))
    assert losses[0] > 1.2 and losses[-1] < 0.85 * math.log(4)
    assert all(before < after for before, after in pairwise(turned))


def test_r3_evolution_finds_the_largest_angles() -> None:
    """20 generations x 100, angle as fitness: the largest of all 15,625 in at least 9 of 10 seeds."""
    one = learner(30)
    one.train(30)
    every = list(CELLS.enumerate())
    angles = dict(zip(every, AngleTable.of(one.supernet, one.initial, "searched").angles(every), strict=True))
    best = max(angles.values())
    settings = EvolutionSettings(population=100, generations=20, parents=30, mutants=50, crossovers=50)
    reached = 0
    for seed in range(10):
        asked = drive(settings.build(problem(CELLS, seed)), angles.__getitem__, until=best)
        assert len(asked) <= 2000
        reached += max(map(angles.__getitem__, asked)) == best
    assert reached >= 9
