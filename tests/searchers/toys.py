"""Small spaces and scores for tests of searchers."""

from collections.abc import Callable

from networks.architecture import Shape
from networks.counters import counter_random
from networks.generators import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from networks.randwire import RandWireTemplate
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import Genes, SearchSpace
from searchers.problem import Objective, Problem
from searchers.searcher import Candidate, Evaluation, Searcher

IMAGE = Shape(3, 32, 32)
CELLS = NasBench201Space(NasBench201Settings(channels=4, cells=1), IMAGE, classes=10)
CHAIN = SmallChainSpace(SmallChainSettings(), IMAGE, classes=10)
SHUFFLE = ShuffleNetSpace(ShuffleNetSettings(), Shape(3, 64, 64), classes=10)
# What the second gene chooses from depends on the first.
GRAPHS = RandWireSpace(
    RandWireTemplate(nodes=8, channels=8),
    [ErdosRenyi(p=0.4), BarabasiAlbert(m=2), *(WattsStrogatz(k=4, p=p / 100) for p in (0, 25, 50, 75))],
    tuple(range(1, 9)),
)
SCORE = (Objective(metric="score"),)


def separable(space: SearchSpace, seed: int) -> Callable[[Genes], float]:
    """A sum of one drawn number for each gene's value; spaces whose genes are independent."""
    rng = counter_random(seed, "toy")
    table = [[rng.random() for _ in space.choices((0,) * i)] for i in range(len(space.positions))]
    return lambda genes: sum(row[gene] for row, gene in zip(table, genes, strict=True))


def evaluation(genes: Genes, ask: int = 0, **metrics: float) -> Evaluation:
    candidate = Candidate(id="toy", genes=genes, phase="search", ask_index=ask)
    return Evaluation(candidate=candidate, status="ok", metrics=metrics)


def problem(space: SearchSpace, seed: int = 0) -> Problem:
    return Problem(space, SCORE, seed)


def drive(
    searcher: Searcher, score: Callable[[Genes], float], *, limit: int = 10**9, until: float = float("inf")
) -> list[Genes]:
    """Ask and tell one by one, until a score is reached or `limit` asks; all that was asked for."""
    asked: list[Genes] = []
    while not searcher.finished and len(asked) < limit:
        for genes in searcher.ask(1):
            asked.append(genes)
            value = score(genes)
            searcher.tell([evaluation(genes, len(asked), score=value)])
            if value >= until:
                return asked
    return asked
