"""Model-based search: a Gaussian process over genes says where the next candidate may be the best."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, Field

from networks.spaces.space import Genes, SearchSpace
from searchers.gaussian_process import GaussianProcess, Projections, predict_at
from searchers.kernels import Kernel, kernel_of
from searchers.problem import Problem
from searchers.searcher import Searcher
from searchers.visiting import VisitingSearcher, plain, score_of

# A start has the most MACs of this many draws.
TOURNAMENT = 10
# In a large space: neighbours of this many of the best, and this many random draws.
BEST, DRAWS = 5, 200


class ModelBasedSettings(BaseModel):
    """`budget`: candidates asked for, at most. `starts`: asked for before there is a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["model_based"] = "model_based"
    budget: int = Field(ge=1)
    starts: int = Field(5, ge=1)

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.budget, space.size)

    def build(self, problem: Problem) -> Searcher:
        return ModelBasedSearcher(problem, self)


class ModelBasedSearcher(VisitingSearcher):
    """Expected improvement under an exact Gaussian process over genes (searchers/kernels.py).

    The process sees the normal scores of the ranks of the first objective, so that its scale does not
    matter; a failed candidate ranks below all others. Spaces up to 50,000 candidates are looked through
    whole; in larger ones the neighbours of the best and random draws are compared. Candidates in flight
    count as evaluated with the value that the model expects ("kriging believer", Ginsbourger et al. 2010).
    The first candidates are random draws, each the one with the most MACs out of ten; known candidates
    that were told before count as such. Source of the method and its constants: search_quality.md.
    """

    def __init__(self, problem: Problem, settings: ModelBasedSettings) -> None:
        super().__init__(problem, settings.budget)
        self._starts = settings.starts
        self._known: dict[Genes, float] = {}  # in the order in which they were told

    def _next(self) -> Genes | None:
        few = len(self._visited) < self._starts or not self._known
        genes = self._start() if few else self._promising()
        if genes is None:
            self._exhausted = True
        return genes

    def _start(self) -> Genes | None:
        drawn: list[Genes] = []
        while len(drawn) < TOURNAMENT and (genes := self._draw(drawn)) is not None:
            drawn.append(genes)
        return drawn[int(np.argmax(self._kernel.macs(drawn)))] if drawn else None

    def _promising(self) -> Genes | None:
        """The new and feasible candidate with the largest expected improvement."""
        targets = normal_scores(list(self._known.values()))
        kept = self._process.condition([*self._known, *self._open])
        listed = self._kernel.listed
        if listed is not None:
            candidates: Sequence[Genes] = listed.candidates
            self._projections.update(kept)
            mean, variance = self._projections.predict(targets)
        else:
            candidates = self._pool()
            mean, variance = predict_at(self._process, self._kernel.encode(candidates), targets)
        gain = expected_improvement(mean, variance, float(targets.max()))
        if listed is not None:
            gain[[listed.place[genes] for genes in self._visited]] = -math.inf
        new = (candidates[place] for place in largest_first(gain) if self._is_new(candidates[place]))
        return next(new, None) or self._draw()

    def _pool(self) -> list[Genes]:
        """Candidates of a large space that are worth a look, each once, visited ones among them."""
        space, rng = self.problem.space, self._rng("pool")
        best = sorted(self._known, key=self._known.__getitem__, reverse=True)[:BEST]
        near = (other for genes in best for other in space.neighbours(genes))
        return list(dict.fromkeys([*near, *(space.sample(rng) for _ in range(DRAWS))]))

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        self._known[genes] = values[0]

    def _state(self) -> dict[str, object]:
        return {"known": [[list(genes), plain(value)] for genes, value in self._known.items()]}

    def _load(self, state: dict[str, Any]) -> None:
        self._known = {tuple(genes): score_of(value) for genes, value in state["known"]}

    @cached_property
    def _kernel(self) -> Kernel:
        return kernel_of(self.problem.space)

    @cached_property
    def _process(self) -> GaussianProcess:
        return GaussianProcess(self._kernel)

    @cached_property
    def _projections(self) -> Projections:
        assert self._kernel.listed is not None
        return Projections(self._process, self._kernel.listed.encoded)


def normal_scores(values: Sequence[float]) -> np.ndarray:
    """The normal quantiles of the values' ranks, (rank - 1/2) / n; equal values share their mean rank."""
    return scipy.special.ndtri((scipy.stats.rankdata(values) - 0.5) / len(values))


def expected_improvement(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    """E max(y - best, 0) of normal y. Where that underflows: by how many deviations `best` is missed, which
    is negative and orders candidates alike."""
    deviation = np.sqrt(np.maximum(variance, 1e-9))
    distance = (mean - best) / deviation
    gain = deviation * (
        distance * scipy.special.ndtr(distance) + np.exp(-0.5 * distance**2) / math.sqrt(2 * math.pi)
    )
    return np.where(gain > 0, gain, distance)


def largest_first(values: np.ndarray) -> Iterator[int]:
    """Positions by falling value. The first is mostly the one that is wanted, and sorting costs more."""
    first = int(np.argmax(values))
    yield first
    yield from (int(place) for place in np.argsort(-values, kind="stable") if place != first)
