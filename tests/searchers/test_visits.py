"""The second conformance suite, `check_visits`, catches searchers that are broken in one way each."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from networks.spaces.space import Genes
from searchers.problem import Problem
from searchers.random_search import RandomSearcher, RandomSettings
from searchers.searcher import Evaluation, Searcher
from searchers.testing import check_searcher, check_visits
from tests.searchers.toys import CHAIN, SCORE


class Sound(RandomSearcher):
    def __init__(self) -> None:
        super().__init__(Problem(CHAIN, SCORE, 0), RandomSettings(budget=60))


class AsksAgain(Sound):
    """Once, after 30."""

    def _next(self) -> Genes | None:
        return (2,) * 8 if self.asked in (20, 30) else super()._next()


class ForgetsTheWarmStart(Sound):
    """Asks in the end for what it was told in the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Genes] = []

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        if self.asked == 0:
            self.told = [one.candidate.genes for one in evaluations]
        super().tell(evaluations)

    def _next(self) -> Genes | None:
        return self.told[0] if self.asked == 59 and self.told else super()._next()


class AsksTooHeavy(Sound):
    def _next(self) -> Genes | None:
        genes = super()._next()
        while genes is not None and sum(genes) > 10 and self.asked != 40:
            self._visited.add(genes)
            genes = super()._next()
        return (2,) * 8 if self.asked == 40 else genes


class WaitsForEver(Sound):
    """With many in flight it waits for more tells than there are asks."""

    def _next(self) -> Genes | None:
        return None if len(self._open) > 5 or self.stuck else super()._next()

    @property
    def stuck(self) -> bool:
        return self.asked > 20 and not self._open


class ResumesWithoutThoseInFlight(Sound):
    """Asks again for what was in flight when it was saved."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        flying = [tuple(genes) for genes in state["open"]]
        super().load_state_dict(state)
        self._visited -= set(flying)


def worth(genes: Genes) -> float:
    return float(genes[0])


def test_accepts_a_sound_searcher() -> None:
    check_visits(Sound, CHAIN, worth)
    check_searcher(Sound, CHAIN, worth)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (AsksAgain, "which it knows already"),
        (ForgetsTheWarmStart, "which it knows already"),
        (AsksTooHeavy, "which break a constraint"),
        (WaitsForEver, "deadlock"),
    ],
)
def test_catches(broken: Callable[[], Searcher], words: str) -> None:
    feasible = (lambda genes: sum(genes) <= 10) if broken is AsksTooHeavy else (lambda genes: True)
    with pytest.raises(AssertionError, match=words):
        check_visits(broken, CHAIN, worth, feasible)


def test_catches_a_state_without_those_in_flight() -> None:
    with pytest.raises(AssertionError, match="in flight a loaded searcher goes on differently"):
        check_searcher(ResumesWithoutThoseInFlight, CHAIN, worth)
