"""Policy gradients on one link, where everything is known (NAT spec, checks 7, 12, 13 and 14)."""

import math
import random

import pytest
import torch
from torch import Tensor

from networks.errors import UserError
from searchers.policy_gradient import MovingBaseline, Policy, Recursion, loss

REWARDS = (0.0, 0.02, -0.01)


def objective(logits: Tensor, weight: float) -> Tensor:
    """E[R] + weight H, exactly."""
    policy = Policy.of(logits)
    rewards = torch.tensor(REWARDS, dtype=logits.dtype)
    return (policy.log_probabilities.exp() @ rewards).sum() + weight * policy.entropy


def exact_gradient(logits: Tensor, weight: float) -> Tensor:
    """p_i (R_i - E[R]) - weight p_i (ln p_i + H)."""
    p = logits.softmax(1)[0]
    rewards = torch.tensor(REWARDS, dtype=logits.dtype)
    entropy = -(p * p.log()).sum()
    return p * (rewards - (p * rewards).sum()) - weight * p * (p.log() + entropy)


def test_the_exact_gradient() -> None:
    """Check 12, first figure; with the entropy's, which is 0 where all are alike."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    for weight in (0.0, 0.01):
        (found,) = torch.autograd.grad(objective(logits, weight), logits)
        expected = torch.tensor([[-0.0011111, 0.0055556, -0.0044444]], dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.003, 0.1])
def test_gradients_are_those_of_the_formula_and_of_differences(weight: float) -> None:
    logits = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(objective(logits, weight), logits)
    torch.testing.assert_close(found[0], exact_gradient(logits, weight), atol=1e-12, rtol=0)
    step = 1e-5
    for i in range(3):
        moved = torch.zeros(1, 3, dtype=torch.float64)
        moved[0, i] = step
        difference = (objective(logits + moved, weight) - objective(logits - moved, weight)) / (2 * step)
        assert abs(float(difference.detach() - found[0, i])) <= 1e-6


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_samples_average_to_the_gradient(baseline: float) -> None:
    """Check 12: 200,000 draws, with any constant baseline. Each action's gradient is that of `loss`."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    of_action = [
        -torch.autograd.grad(loss(Policy.of(logits), [action], REWARDS[action] - baseline, 0.0), logits)[0][0]
        for action in range(3)
    ]
    rng, policy = random.Random(0), Policy.of(logits)
    draws = [policy.draw(rng)[0] for _ in range(200_000)]
    samples = torch.stack(of_action)[torch.tensor(draws)]
    error = samples.std(0) / math.sqrt(len(draws))
    assert bool(((samples.mean(0) - exact_gradient(logits, 0.0)).abs() <= 3 * error).all())


@pytest.mark.parametrize(
    ("weight", "optimum", "value"),
    [
        (0.003, (0.001271, 0.998684, 0.000045), 0.020003951),
        (0.01, (0.114195, 0.843795, 0.042010), 0.021698460),
        (0.1, (0.319873, 0.390694, 0.289433), 0.113983106),
    ],
)
def test_the_known_optimum(weight: float, optimum: tuple[float, ...], value: float) -> None:
    """Check 13: softmax(R / lambda), which exact ascent reaches."""
    best = torch.tensor([REWARDS], dtype=torch.float64) / weight
    torch.testing.assert_close(
        best.softmax(1)[0], torch.tensor(optimum, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert float(objective(best, weight)) == pytest.approx(value, abs=1e-9)
    logits = torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(5000):
        logits += exact_gradient(logits, weight) / weight
    assert float(objective(logits, weight)) == pytest.approx(value, abs=1e-6)


def test_sampled_training_finds_the_best_action() -> None:
    """Check 13: at lambda 0.003 with probability 0.99 or more."""
    logits = torch.zeros(1, 3, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.02)
    baseline, rng = MovingBaseline(), random.Random(0)
    for _ in range(4000):
        policy = Policy.of(logits)
        actions = policy.draw(rng)
        optimiser.zero_grad()
        loss(policy, actions, baseline.advantage(REWARDS[actions[0]]), 0.003).backward()
        optimiser.step()
    assert float(logits.detach().softmax(1)[0, 1]) >= 0.99


@pytest.mark.parametrize(
    ("recursion", "after", "limit"), [("correct", 0.63397, 1.0), ("compat", 0.43369, 0.5)]
)
def test_the_baseline(recursion: Recursion, after: float, limit: float) -> None:
    """Check 14, for a constant reward of 1; the first advantage is the whole reward."""
    baseline = MovingBaseline(recursion=recursion)
    assert baseline.advantage(1.0) == 1.0
    for _ in range(99):
        baseline.advantage(1.0)
    assert baseline.value == pytest.approx(after, abs=5e-6)
    for _ in range(5000):
        baseline.advantage(1.0)
    assert baseline.value == pytest.approx(limit)


@pytest.mark.parametrize(
    ("given", "field"), [({"decay": 1.0}, "baseline.decay"), ({"recursion": "old"}, "baseline.recursion")]
)
def test_baselines_that_cannot_be(given: dict[str, object], field: str) -> None:
    with pytest.raises(UserError) as caught:
        MovingBaseline(**given)  # type: ignore[arg-type]
    assert caught.value.field == field


# Masks -------------------------------------------------------------------------------------------


def test_what_is_not_allowed_has_probability_zero() -> None:
    """Check 7: exactly; and the rest sums to 1. Gradients stay finite, and none reaches what is masked."""
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.0, 9.0]], dtype=torch.float64, requires_grad=True)
    allowed = torch.tensor([[True, True, False], [False, True, False]])
    policy = Policy.of(logits, allowed)
    p = policy.log_probabilities.exp()
    assert p[~allowed].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(p.sum(1), torch.ones(2, dtype=torch.float64))
    assert policy.likeliest == [0, 1]
    rng = random.Random(0)
    drawn = {tuple(policy.draw(rng)) for _ in range(100)}
    assert drawn == {(0, 1), (1, 1)}
    two = torch.tensor([3.0, 1.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(policy.entropy, -(two * two.log()).sum())
    loss(policy, [1, 1], 0.5, 0.1).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad[~allowed].tolist() == [0.0, 0.0, 0.0] and float(logits.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="no action"):
        Policy.of(logits, torch.zeros(2, 3, dtype=torch.bool))
