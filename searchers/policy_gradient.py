"""Policy gradient over the links of a cell: what is drawn, how likely it was, and what to learn from it.

A policy gives each link a distribution over the actions that are allowed there; links are independent given
the cell. What is maximised is E[R] + lambda H, with R the gain of what was drawn over what it was drawn from
(NAT spec 4.1): by REINFORCE, d/d theta of (R - b) log pi + lambda H, for any b that does not depend on the
draw.
"""

import math
import random
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from networks.errors import UserError

Recursion = Literal["correct", "compat"]


class Policy(NamedTuple):
    """Log probabilities, float (links, actions): -inf for what is not allowed, and there the probability is
    exactly 0."""

    log_probabilities: Tensor

    @classmethod
    def of(cls, logits: Tensor, allowed: Tensor | None = None) -> "Policy":
        """A softmax of each row over its allowed actions. Raises ValueError where a row allows none."""
        if allowed is not None:
            if not bool(allowed.any(1).all()):
                raise ValueError("a link has no action that is allowed")
            logits = logits.masked_fill(~allowed, -math.inf)
        return cls(logits.log_softmax(1))

    def draw(self, rng: random.Random) -> list[int]:
        """An action for each link."""
        rows = self.log_probabilities.detach().double().exp().tolist()
        return [rng.choices(range(len(row)), row)[0] for row in rows]

    @property
    def likeliest(self) -> list[int]:
        """Of each link the most probable action, the first of equal ones."""
        return [int(action) for action in self.log_probabilities.detach().argmax(1)]

    def log_probability(self, actions: list[int]) -> Tensor:
        """Of drawing these: a scalar."""
        chosen = torch.tensor(actions)[:, None]
        return self.log_probabilities.gather(1, chosen).sum()

    @property
    def entropy(self) -> Tensor:
        """The sum over links, in nats: a scalar."""
        # 0 log 0 is 0, and must not be 0 times infinity on the way back either.
        logs = self.log_probabilities.masked_fill(self.log_probabilities == -math.inf, 0.0)
        present = (self.log_probabilities != -math.inf).to(logs.dtype)
        return -(logs.exp() * logs * present).sum()


def loss(policy: Policy, actions: list[int], advantage: float, entropy_weight: float) -> Tensor:
    """What a step of gradient descent shall make smaller; `advantage` is R - b."""
    return -policy.log_probability(actions) * advantage - entropy_weight * policy.entropy


class MovingBaseline:
    """A moving average of rewards: b <- decay b + (1 - decay) R, from 0. ``compat`` feeds it what is left of
    R after b, as the release does, so that it settles at half of the mean reward (NAT spec 4.3)."""

    def __init__(self, decay: float = 0.99, recursion: Recursion = "correct") -> None:
        if not 0 <= decay < 1:
            raise UserError("baseline.decay", decay, "0 or more, below 1")
        if recursion not in get_args(Recursion):
            raise UserError("baseline.recursion", recursion, " or ".join(get_args(Recursion)))
        self.decay, self.recursion, self.value = decay, recursion, 0.0

    def advantage(self, reward: float) -> float:
        """The reward less what was expected; and expect more of the like."""
        centred = reward - self.value
        fed = reward if self.recursion == "correct" else centred
        self.value = self.decay * self.value + (1 - self.decay) * fed
        return centred
