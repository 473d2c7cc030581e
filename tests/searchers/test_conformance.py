"""The conformance suite accepts the grid and catches searchers that are broken in one way each."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from networks.counters import counter_random
from networks.errors import UserError
from networks.generators import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from networks.randwire import RandWireTemplate
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import Genes
from searchers.grid import GridSearcher
from searchers.searcher import Candidate, Evaluation, Searcher
from searchers.testing import check_searcher

SPACE = RandWireSpace(
    RandWireTemplate(nodes=8, channels=8),
    [ErdosRenyi(p=0.4), BarabasiAlbert(m=2), WattsStrogatz(k=4, p=0.25), WattsStrogatz(k=4, p=0.75)],
    (1, 2, 3),
)


def score(genes: Genes) -> float:
    return genes[0] + genes[1] / 10 - genes[2] / 100


def evaluation(genes: Genes, ask: int, value: float) -> Evaluation:
    candidate = Candidate.of("test", SPACE.digest, genes, ask)
    return Evaluation(candidate=candidate, status="ok", metrics={"score": value})


class Climber:
    """A sound searcher that learns: 20 asks, each a neighbour of the best so far, drawn by counter."""

    total = 20

    def __init__(self) -> None:
        self.asked, self.best_score = 0, float("-inf")
        self.best: Genes = (0, 0, 0)

    def ask(self, n: int) -> list[Genes]:
        genes = [self.one(self.asked + i) for i in range(min(n, self.total - self.asked))]
        self.asked += len(genes)
        return genes

    def one(self, ask: int) -> Genes:
        rng = counter_random(0, "climber", ask)
        return SPACE.sample(rng) if rng.random() < 0.5 else (*self.best[:2], rng.randrange(3))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for one in evaluations:
            value = one.metrics.get("score", float("nan"))
            if one.status == "ok" and value > self.best_score:
                self.best, self.best_score = one.candidate.genes, value

    @property
    def finished(self) -> bool:
        return self.asked >= self.total

    def state_dict(self) -> dict[str, object]:
        return {"asked": self.asked, "best": list(self.best), "score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked, self.best, self.best_score = state["asked"], tuple(state["best"]), state["score"]


class AsksIllegalGenes(Climber):
    def one(self, ask: int) -> Genes:
        return (0, 0, 99) if ask == 11 else super().one(ask)


class AsksShortGenes(Climber):
    def one(self, ask: int) -> Genes:
        return super().one(ask)[:2]


class AsksTooMany(Climber):
    def ask(self, n: int) -> list[Genes]:
        return super().ask(n + 1)


class AsksNothing(Climber):
    total = 0


class LosesItsPlace(Climber):
    def load_state_dict(self, state: dict[str, object]) -> None:
        super().load_state_dict({**state, "asked": 0})


class ForgetsWhatItWasTold(Climber):
    def load_state_dict(self, state: dict[str, object]) -> None:
        super().load_state_dict({**state, "best": [0, 0, 0], "score": float("-inf")})


class DiffersBetweenRuns(Climber):
    runs = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(next(self.runs))

    def one(self, ask: int) -> Genes:
        return SPACE.sample(self.rng)


class Deadlocks(Climber):
    def ask(self, n: int) -> list[Genes]:
        return [] if self.asked > 7 else super().ask(n)


class NeedsGoodScores(Climber):
    """Waits for ever when the only scores are NaN."""

    def ask(self, n: int) -> list[Genes]:
        return [] if self.asked > 7 and self.best_score == float("-inf") else super().ask(n)


class NeedsEveryMetric(Climber):
    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        assert all("score" in one.metrics for one in evaluations), "no score"
        super().tell(evaluations)


class SavesWhatJsonChanges(Climber):
    """Saves a tuple, which comes back from JSON as a list, and goes on differently from a list."""

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.best = state["best"]

    def one(self, ask: int) -> Genes:
        return super().one(ask) if isinstance(self.best, tuple) else (0, 0, ask % 3)


def test_accepts_the_grid() -> None:
    check_searcher(lambda: GridSearcher(SPACE), SPACE, score)


def test_accepts_a_searcher_that_learns() -> None:
    check_searcher(Climber, SPACE, score)


def test_accepts_a_searcher_without_end() -> None:
    class Endless(Climber):
        total = 10**9

    check_searcher(Endless, SPACE, score, limit=40)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (AsksIllegalGenes, "genes.2"),
        (AsksShortGenes, "3 genes"),
        (AsksTooMany, "asked for 3, got 4"),
        (AsksNothing, "asked for nothing"),
        (LosesItsPlace, "goes on differently"),
        (ForgetsWhatItWasTold, "goes on differently"),
        (DiffersBetweenRuns, "two runs differ"),
        (Deadlocks, "deadlock"),
        (NeedsGoodScores, "deadlock"),
        (NeedsEveryMetric, "no score"),
        (SavesWhatJsonChanges, "goes on differently"),
    ],
)
def test_catches_broken_searchers(broken: Callable[[], Searcher], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_searcher(broken, SPACE, score)


# The grid -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 12, 100])
def test_the_grid_asks_the_whole_space_in_order(batch: int) -> None:
    grid, asked = GridSearcher(SPACE), []
    assert isinstance(grid, Searcher)
    while not grid.finished:
        asked += grid.ask(batch)
    assert asked == list(SPACE.enumerate())
    assert len(grid) == SPACE.size == 12
    assert grid.ask(batch) == []


def test_the_grid_goes_on_from_its_state_whatever_it_was_told() -> None:
    grid, other = GridSearcher(SPACE), GridSearcher(SPACE)
    first = grid.ask(5)
    grid.tell([evaluation(genes, ask, float("nan")) for ask, genes in enumerate(first)])
    other.load_state_dict(grid.state_dict())
    assert other.ask(100) == grid.ask(100) == list(SPACE.enumerate())[5:]


@pytest.mark.parametrize("state", [{}, {"asked": -1}, {"asked": 13}, {"asked": "3"}, {"asked": None}])
def test_the_grid_refuses_a_state_of_another_space(state: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        GridSearcher(SPACE).load_state_dict(state)
    assert caught.value.field == "asked"


# Candidates and evaluations -----------------------------------------------------------------------


def test_a_candidates_id_depends_on_all_that_makes_it() -> None:
    def identify(
        search: str = "s", space: str = "d", genes: Genes = (1, 2), ask: int = 3, phase: str = "search"
    ) -> str:
        return Candidate.of(search, space, genes, ask, phase).id

    others = [
        identify(search="t"), identify(space="e"), identify(genes=(1, 3)), identify(genes=(1, 2, 0)),
        identify(genes=(12,)), identify(ask=4), identify(phase="retrain"), identify(search="d", space="s"),
    ]  # fmt: skip
    assert identify() == "1fcc48dfa10fd518"
    assert len({identify(), *others}) == 1 + len(others)


def test_evaluations_go_through_json_unchanged() -> None:
    one = evaluation((1, 0, 2), 4, 0.5)
    assert Evaluation.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(ValidationError):
        Evaluation.model_validate({**one.model_dump(), "status": "lost"})
