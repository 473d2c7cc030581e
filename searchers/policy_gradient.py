"""Policy gradient over the links of a cell: what is drawn, how likely it was, and what to learn from it.

A policy gives each link a distribution over the actions that are allowed there; links are independent given
the cell. What is maximised is E[R] + lambda H, with R the gain of what was drawn over what it was drawn from
(NAT spec 4.1): by REINFORCE, d/d theta of (R - b) log pi + lambda H, for any b that does not depend on the
draw.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from networks.errors import UserError

Recursion = Literal["correct", "compat"]


class Policy(NamedTuple):
    """Log probabilities, float (…, links, actions): -inf for what is not allowed, and there the probability
    is exactly 0."""

    log_probabilities: Tensor

    @classmethod
    def of(cls, logits: Tensor, allowed: Tensor | None = None) -> "Policy":
        """A softmax of each link over its allowed actions. Raises ValueError where a link allows none."""
        if allowed is not None:
            if not bool(allowed.any(-1).all()):
                raise ValueError("a link has no action that is allowed")
            logits = logits.masked_fill(~allowed, -math.inf)
        return cls(logits.log_softmax(-1))

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """So many times an action for each link: int64 (number, …, links)."""
        reached = self.log_probabilities.detach().double().exp().cumsum(-1)
        total = reached[..., -1:]
        drawn = torch.rand((number, *reached.shape[:-1], 1), generator=generator, dtype=torch.float64)
        below = torch.minimum(drawn * total, torch.nextafter(total, torch.zeros_like(total)))
        return (below >= reached).sum(-1)

    @property
    def likeliest(self) -> Tensor:
        """Of each link the most probable action, the first of equal ones: int64 (…, links)."""
        return self.log_probabilities.detach().argmax(-1)

    def log_probability(self, actions: Tensor) -> Tensor:
        """Of drawing these, (number, …, links): float (number, …)."""
        logs = self.log_probabilities.expand(*actions.shape, -1)
        return logs.gather(-1, actions[..., None])[..., 0].sum(-1)

    @property
    def entropy(self) -> Tensor:
        """The sum over links, in nats: float (…)."""
        # 0 log 0 is 0, and must not be 0 times infinity on the way back either.
        logs = self.log_probabilities.masked_fill(self.log_probabilities == -math.inf, 0.0)
        present = (self.log_probabilities != -math.inf).to(logs.dtype)
        return -(logs.exp() * logs * present).sum((-1, -2))


def loss(policy: Policy, actions: Tensor, advantages: Tensor, entropy_weight: float) -> Tensor:
    """What a step of gradient descent shall make smaller; `advantages`: R - b of each draw."""
    gain = (policy.log_probability(actions) * advantages).mean()
    return -gain - entropy_weight * policy.entropy.mean()


def beside(rewards: Tensor, known: Tensor) -> Tensor:
    """R - b with b the mean reward of the other draws from the same cell: float (draws, cells). 0 where the
    reward is not known, or no other one of the cell is."""
    rewards, number = rewards.where(known, 0.0), known.sum(0)
    others = (rewards.sum(0) - rewards) / (number - 1).clamp_min(1)
    return (rewards - others).where(known & (number > 1), 0.0)


class MovingBaseline:
    """A moving average of rewards: b <- decay b + (1 - decay) R, from 0. ``compat`` feeds it what is left of
    R after b, as the release does, so that it settles at half of the mean reward (NAT spec 4.3)."""

    def __init__(self, decay: float = 0.99, recursion: Recursion = "correct") -> None:
        if not 0 <= decay < 1:
            raise UserError("baseline.decay", decay, "0 or more, below 1")
        if recursion not in get_args(Recursion):
            raise UserError("baseline.recursion", recursion, " or ".join(get_args(Recursion)))
        self.decay, self.recursion, self.value = decay, recursion, 0.0

    def advantages(self, rewards: Tensor, known: Tensor) -> Tensor:
        """One after the other, a cell's together; 0 for what is not known."""
        found = torch.zeros_like(rewards)
        for cell, draw in known.T.nonzero().tolist():
            found[draw, cell] = self.advantage(float(rewards[draw, cell]))
        return found

    def advantage(self, reward: float) -> float:
        """The reward less what was expected; and expect more of the like."""
        centred = reward - self.value
        fed = reward if self.recursion == "correct" else centred
        self.value = self.decay * self.value + (1 - self.decay) * fed
        return centred
