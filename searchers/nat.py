"""NAT as a searcher: a policy learns to rewrite cells into better ones that cost no more, and is then applied
to those that are given (1910.14488, 2102.10301; NAT spec section 4)."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.cells import Links
from networks.counters import counter_random
from networks.errors import UserError
from networks.liveness import is_dead
from networks.spaces.space import Genes, SearchSpace
from searchers.constraints import Constraint
from searchers.problem import Problem
from searchers.rewriting import Rewriting, check_bounds
from searchers.searcher import Evaluation, Part
from searchers.transformer import PolicySettings, Transformer, Words, rewards_of
from searchers.transitions import Rule


class Alternation(BaseModel):
    """After `every` so many steps of the policy gradient the supernet trains `steps` more, as in NAT, where
    weights and policy learn in turn. Without it the supernet is trained before the policy learns at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(10, ge=1)
    steps: int = Field(ge=1)

    def trained(self, learnt: int) -> int:
        """Steps of the supernet that belong to so many of the policy."""
        return self.steps * (learnt // self.every)


class NatSettings(BaseModel):
    """`transform`: the candidates to be rewritten, as genes or as the space writes them. `rule`: what an
    operation may become. `strict`: no operation may become one that costs more at its place, in parameters or
    multiply-adds. `no_costlier`: no proposal may cost more as a whole, so that, without `strict`, a link that
    costs a little can come where another goes.

    The policy learns for `steps` from `cells` random candidates each, with `draws` rewritings of each, scored
    on the same `reward_batches` of the validation images, others in every step (None: on all); at last
    `candidates` rewritings of everything to be transformed are scored, its `proposals`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nat"] = "nat"
    transform: tuple[Genes | str, ...] = Field(min_length=1)
    rule: Rule = "nat"
    strict: bool = True
    no_costlier: bool = True
    policy: PolicySettings = PolicySettings()
    steps: int = Field(1000, ge=0)
    cells: int = Field(1, ge=1)
    draws: int = Field(1, ge=1)
    alternate: Alternation | None = None
    reward_batches: int | None = Field(None, ge=1)
    candidates: int = Field(10, ge=1)
    proposals: Literal["likeliest", "drawn"] = "likeliest"

    @model_validator(mode="after")
    def _check(self) -> "NatSettings":
        if self.policy.baseline == "cell" and self.draws < 2:
            fix = "What is expected of a cell is what the other draws from it gained."
            raise UserError("draws", self.draws, "2 or more with policy.baseline: cell", fix)
        return self

    @property
    def draws_proposals(self) -> bool:
        """Whether they are drawn: a policy that prefers nothing has no likeliest."""
        return self.proposals == "drawn" or self.policy.encoder == "uniform"

    def trained_beside(self, learnt: int | None = None) -> int:
        """Steps of the supernet beside so many of the policy; None: beside all."""
        return (
            0 if self.alternate is None else self.alternate.trained(self.steps if learnt is None else learnt)
        )

    def most_asks(self, space: SearchSpace) -> int:
        return self.steps * self.cells * (1 + self.draws) + len(self.transform) * (1 + self.candidates)

    def given(self, space: SearchSpace, constraints: Sequence[Constraint] = ()) -> list[Genes]:
        """What is to be transformed. Raises `UserError` for what is no candidate, for a space that is none of
        cells, for a bound that nothing meets which it can be rewritten to, and for a policy that cannot see
        its cells."""
        rewriting, found = Rewriting(space, self.rule, strict=self.strict), []
        for position, one in enumerate(self.transform):
            try:
                genes = rewriting.space.parse(one) if isinstance(one, str) else one
                space.check(genes)
            except UserError as error:
                raise error.under(f"searcher.transform.{position}") from None
            found.append(genes)
        for position, genes in enumerate(found):
            check_bounds(rewriting, genes, constraints, f"searcher.transform.{position}")
        cells = rewriting.cells(found)
        if self.policy.encoder == "mlp" and not rewriting.wired_alike:
            allowed = "graph, line, lstm or uniform, where candidates are wired in different ways"
            raise UserError("searcher.policy.encoder", "mlp", allowed, "It looks at operations alone.")
        try:
            self.transformer(rewriting, cells[0], 0).policy(cells)
        except UserError as error:
            raise error.under("searcher.policy") from None
        return found

    def transformer(self, rewriting: Rewriting, cell: Links, seed: int) -> Transformer:
        """The untrained policy, for cells that are wired alike."""
        nodes = 1 + max(max(ends) for ends in cell.ends)
        return Transformer(self.policy, rewriting.actions, len(cell.ends), seed, nodes)

    def build(self, problem: Problem) -> "NatSearcher":
        return NatSearcher(problem, self)


class NatSearcher:
    """First `steps` of the policy gradient, each from new random cells and rewritings drawn for them, scored
    together; then the proposals for every candidate to be transformed, beside itself.

    Within a step nothing waits, and equal candidates are asked for once; between two all does. The policy is
    never stored: a saved search is one that is asked again and told the same values.
    """

    def __init__(self, problem: Problem, settings: NatSettings) -> None:
        self.problem, self.settings = problem, settings
        self._rewriting = Rewriting(problem.space, settings.rule, strict=settings.strict)
        self.given = settings.given(problem.space)
        cell = self._rewriting.cells(self.given)[0]
        self._transformer = settings.transformer(self._rewriting, cell, problem.seed)
        self._stages = self._staged()
        self._queue: deque[Genes] = deque()
        self._open: deque[Genes] = deque()
        self._values: dict[Genes, float] = {}  # of this stage
        self._parents: dict[Genes, Genes] = {}
        self._told: list[float] = []
        self._asked = self._learnt = 0
        self._over = False

    @property
    def finished(self) -> bool:
        self._fill()
        return self._over and not self._open

    @property
    def learnt(self) -> int:
        """Steps of the policy gradient that are done."""
        self._fill()
        return self._learnt

    def ask(self, n: int) -> list[Genes]:
        self._fill()
        found = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        self._open += found
        self._asked += len(found)
        return found

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for one in evaluations:
            if self._open and one.candidate.genes == self._open[0]:
                self._hear(self.problem.objectives[0].value(one))

    @property
    def learning(self) -> bool:
        """What is asked for now is what the policy learns from."""
        return self._learnt < self.settings.steps

    @property
    def part(self) -> Part | None:
        batches = self.settings.reward_batches
        return Part(self._learnt, batches) if batches is not None and self.learning else None

    def parent(self, genes: Genes) -> Genes | None:
        return self._parents.get(genes)

    def _hear(self, value: float) -> None:
        self._values[self._open.popleft()] = value
        self._told.append(value)

    def _fill(self) -> None:
        """Begin the next stage when all of this one is told."""
        while not (self._queue or self._open or self._over):
            try:
                self._queue += next(self._stages)
            except StopIteration:
                self._over = True

    def _staged(self) -> Iterator[Sequence[Genes]]:
        """What is asked for together; goes on when it is told."""
        for step in range(self.settings.steps):
            yield from self._learn(step)
            self._learnt = step + 1
        for genes in self.given:
            proposals = self.proposals(genes)
            self._parents = dict.fromkeys(proposals, genes)
            yield [genes, *proposals]

    def _learn(self, step: int) -> Iterator[Sequence[Genes]]:
        settings, seed = self.settings, self.problem.seed
        rng = counter_random(seed, "nat", "cells", step)
        cells = [self.problem.space.sample(rng) for _ in range(settings.cells)]
        policy = self._transformer.policy(self._rewriting.cells(cells), self._rewriting.legal(cells))
        actions = self._transformer.draws(policy, settings.draws, step)
        after = [
            [self._rewriting.after(genes, some) for genes, some in zip(cells, draw, strict=True)]
            for draw in actions.reshape(settings.draws, len(cells), -1).tolist()
        ]
        self._values, self._parents = {}, {}
        for draw in after:
            for genes, one in zip(cells, draw, strict=True):
                if one not in cells:
                    self._parents.setdefault(one, genes)
        yield list(dict.fromkeys([*cells, *chain.from_iterable(after)]))
        values = self._values
        rewards = rewards_of(
            [[values[one] for one in draw] for draw in after], [values[genes] for genes in cells]
        )
        weight = settings.policy.entropy_at(step, settings.steps)
        self._transformer.learn(policy, actions, rewards, weight)

    def proposals(self, genes: Genes) -> list[Genes]:
        """Rewritings of a candidate by the policy as it is now, none of which breaks a constraint."""
        rewriting = self._rewriting

        given = rewriting.space.cost(genes)

        def fits(words: Words) -> bool:
            after = rewriting.space.rewritten(genes, words)
            cost = rewriting.space.cost(after)
            dearer = cost.params > given.params or cost.macs > given.macs
            if (self.settings.no_costlier and dearer) or not self.problem.feasible(after):
                return False
            return not is_dead(rewriting.space.decode(after))

        found = self._transformer.proposals(
            rewriting.cells([genes]), self.settings.candidates, fits, "proposals", *genes,
            legal=rewriting.legal([genes]), prices=rewriting.prices(genes),
            drawn=self.settings.draws_proposals,
        )  # fmt: skip
        return [rewriting.space.rewritten(genes, words) for words in found]

    def state_dict(self) -> dict[str, object]:
        return {
            "asked": self._asked,
            "told": [value if math.isfinite(value) else None for value in self._told],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__(self.problem, self.settings)  # type: ignore[misc]
        for value in state["told"]:
            self.ask(0 if self._open else 1)
            self._hear(-math.inf if value is None else value)
        self.ask(state["asked"] - self._asked)
