"""A policy that rewrites the operations of cells, and learns from what became of them (NAT, 1910.14488; NAT
spec sections 3 and 4)."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from networks.cells import Links
from networks.counters import counter_generator
from networks.errors import UserError
from networks.liveness import WORST
from searchers.cell_encoders import (
    NODES,
    Adjacency,
    CellEncoder,
    GraphEncoder,
    LineEncoder,
    PerceptronEncoder,
    SequenceEncoder,
    UniformEncoder,
)
from searchers.policy_gradient import MovingBaseline, Policy, Recursion, beside, loss
from searchers.transitions import Actions

TRIES = 20  # for each wanted proposal
# How much the dearest action costs, in nats, in rounds that look for cheaper rewritings than the likeliest.
PRICED = tuple(4.0**power for power in range(8))
Words = tuple[str, ...]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
EncoderName = Literal["graph", "line", "mlp", "lstm", "uniform"]


class PolicySettings(BaseModel):
    """`encoder`: what sees a cell (searchers/cell_encoders.py). `entropy`: its weight at the first and at the
    last step, falling geometrically, in units of the reward; the release has 0.003 throughout, for accuracies
    between 0 and 1. `baseline`: what is expected of a cell, from the other draws from it (``cell``, of two or
    more) or from all rewards so far (``moving``). `floor`: no reward counts as less. `rate` and `decay` are
    Adam's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderName = "line"
    adjacency: Adjacency = "row"
    skip: bool = True
    entropy: tuple[Weight, Weight] = (0.003, 0.003)
    baseline: Literal["cell", "moving"] = "moving"
    recursion: Recursion = "correct"
    floor: float | None = None
    rate: float = Field(3e-4, gt=0)
    decay: float = Field(5e-4, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "PolicySettings":
        """What would do nothing is refused."""
        if (self.entropy[0] == 0) != (self.entropy[1] == 0):
            raise UserError(
                "entropy", list(self.entropy), "two numbers above 0, or twice 0: it falls by ratios"
            )
        for field, there in (
            ("adjacency", self.encoder in ("graph", "line")),
            ("skip", self.encoder == "line"),
            ("recursion", self.baseline == "moving"),
        ):
            if not there and getattr(self, field) != type(self).model_fields[field].default:
                by = f"encoder {self.encoder}" if field != "recursion" else f"baseline {self.baseline}"
                raise UserError(field, getattr(self, field), f"nothing with the {by}")
        return self

    def entropy_at(self, step: int, steps: int) -> float:
        """The weight at this of so many steps, from 0."""
        first, last = self.entropy
        if not first or steps < 2:
            return first
        return float(first * (last / first) ** (step / (steps - 1)))


def encoder_of(
    settings: PolicySettings,
    vocabulary: Sequence[str],
    actions: int,
    links: int,
    seed: int,
    nodes: int = NODES,
) -> CellEncoder:
    if settings.encoder == "graph":
        return GraphEncoder(vocabulary, actions, seed, settings.adjacency)
    if settings.encoder == "line":
        return LineEncoder(vocabulary, actions, seed, settings.adjacency, settings.skip, nodes)
    if settings.encoder == "mlp":
        return PerceptronEncoder(vocabulary, actions, seed, links=links)
    if settings.encoder == "lstm":
        return SequenceEncoder(vocabulary, actions, seed, nodes)
    return UniformEncoder(vocabulary, actions)


class Transformer:
    """The policy with its optimiser. `links` and `nodes`: how many a cell has. Everything it draws is a
    function of (`seed`, what it is drawn for)."""

    def __init__(
        self, settings: PolicySettings, actions: Actions, links: int, seed: int, nodes: int = NODES
    ) -> None:
        self.settings, self.actions, self.seed = settings, actions, seed
        self.encoder = encoder_of(settings, actions.vocabulary, len(actions.names), links, seed, nodes)
        weights = list(self.encoder.parameters())
        self._adam = (
            torch.optim.Adam(weights, settings.rate, betas=(0.5, 0.999), weight_decay=settings.decay)
            if weights
            else None
        )
        self._moving = MovingBaseline(recursion=settings.recursion)

    def policy(self, cells: Sequence[Links], legal: np.ndarray | None = None) -> Policy:
        """Of these cells. `legal`: bool (cells, links, actions), what else is asked of an action than that
        the rule has it."""
        allowed = np.stack([self.actions.allowed(cell.words) for cell in cells])
        if legal is not None:
            allowed &= legal
        return Policy.of(self.encoder(cells), torch.from_numpy(allowed))

    def draws(self, policy: Policy, number: int, *path: int | str) -> Tensor:
        """Actions, int64 (number, cells, links)."""
        return policy.draw(number, counter_generator(self.seed, "actions", *path))

    def learn(self, policy: Policy, actions: Tensor, rewards: Tensor, entropy_weight: float) -> None:
        """One step of the policy gradient. rewards: (number, candidates), where a candidate has one cell of
        `actions` or several, one after the other; not finite where nothing is known, of which nothing is
        learnt."""
        if self._adam is None:
            return
        known = rewards.isfinite()
        if self.settings.floor is not None:
            rewards = rewards.clamp_min(self.settings.floor)
        expected = beside if self.settings.baseline == "cell" else self._moving.advantages
        cells = actions.shape[1] // rewards.shape[1]  # of a candidate
        advantages = expected(rewards, known).repeat_interleave(cells, 1)
        self._adam.zero_grad()
        # Of a candidate the log probabilities and the entropies of its cells add up.
        (cells * loss(policy, actions, advantages, entropy_weight)).backward()
        self._adam.step()

    def proposals(
        self,
        cells: Sequence[Links],
        number: int,
        fits: Callable[[Words], bool],
        *path: int | str,
        legal: np.ndarray | None = None,
        prices: np.ndarray | None = None,
        drawn: bool = False,
    ) -> list[Words]:
        """At most so many rewritings of a candidate's cells that are `fits`, as the words of all links, no
        two alike and none the candidate as it is: the likeliest ones, or (`drawn`) the likeliest and then
        draws, as NAT does. A policy that has learnt draws the same again and again, so that the likeliest are
        more.

        Where few of those are fits, `prices`, (links, actions), say what is dear: the likeliest are looked
        for with more and more taken off for it.
        """
        with torch.no_grad():
            policy = self.policy(cells, legal)
        now, some = words_of(cells), likeliest(policy.log_probabilities.flatten(0, 1))
        if drawn:
            draws = self.draws(policy, TRIES * number, *path).flatten(1).tolist()
            some = chain([next(some)], map(tuple, draws))
        found: dict[Words, None] = {}

        def take(some: Iterable[tuple[int, ...]]) -> None:
            for actions in islice(some, TRIES * number):
                if len(found) == number:
                    return
                words = self.actions.after(now, actions)
                if words != now and words not in found and fits(words):
                    found.setdefault(words)

        take(some)
        if prices is not None:
            logs = policy.log_probabilities.flatten(0, 1)
            for weight in PRICED:
                take(likeliest(logs - weight * torch.from_numpy(prices).to(logs.dtype)))
        return list(found)


def likeliest(log_probabilities: Tensor) -> Iterator[tuple[int, ...]]:
    """Actions for all links, (links, actions), the most probable first; of equal ones those whose links come
    first in rank. What has probability 0 never comes."""
    values, ranked = log_probabilities.double().sort(stable=True, dim=1, descending=True)
    logs = [[value for value in row if value > -math.inf] for row in values.tolist()]
    order = ranked.tolist()
    first = (0,) * len(logs)
    heap, known = [(-sum(row[0] for row in logs), first)], {first}
    while heap:
        negative, ranks = heapq.heappop(heap)
        yield tuple(row[rank] for row, rank in zip(order, ranks, strict=True))
        for link, rank in enumerate(ranks):
            after = (*ranks[:link], rank + 1, *ranks[link + 1 :])
            if rank + 1 < len(logs[link]) and after not in known:
                known.add(after)
                heapq.heappush(heap, (negative + logs[link][rank] - logs[link][rank + 1], after))


def words_of(cells: Iterable[Links]) -> Words:
    """Of all their links, in order."""
    return tuple(word for cell in cells for word in cell.words)


def rewards_of(values: Sequence[Sequence[float]], before: Sequence[float]) -> Tensor:
    """What rewritings gained, float (draws, candidates); NaN where nothing is known.

    A rewriting through which nothing passes any more has no value that says how bad it is (`WORST`): it
    counts as much as the worst of the step that lost something. Of a candidate that is dead itself nothing is
    known.
    """
    gains = [
        [one - old if known(one) and known(old) else math.nan for one, old in zip(draw, before, strict=True)]
        for draw in values
    ]
    worst = min((gain for draw in gains for gain in draw if gain < 0), default=math.nan)
    return torch.tensor(
        [
            [
                worst if one == WORST and known(old) else gain
                for one, old, gain in zip(draw, before, row, strict=True)
            ]
            for draw, row in zip(values, gains, strict=True)
        ]
    )


def known(value: float) -> bool:
    """It is a measure, of a candidate that could be scored."""
    return math.isfinite(value) and abs(value) != -WORST
