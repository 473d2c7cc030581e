"""Policy gradients on one link, where everything is known (NAT spec, checks 7, 12, 13 and 14)."""

import math

import pytest
import torch
from torch import Tensor

from networks.counters import counter_generator
from networks.errors import UserError
from searchers.policy_gradient import MovingBaseline, Policy, Recursion, beside, loss

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


def test_entropy_is_made_larger() -> None:
    """Where nothing was gained: dH/dx = -p (log p + H), which a step of descent of `loss` goes along."""
    logits = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64, requires_grad=True)
    policy = Policy.of(logits)
    (found,) = torch.autograd.grad(loss(policy, torch.tensor([[1]]), torch.zeros(1), 0.2), logits)
    p = logits.detach().softmax(-1)
    entropy = -(p * p.log()).sum()
    torch.testing.assert_close(found, 0.2 * p * (p.log() + entropy), atol=1e-12, rtol=0)


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_samples_average_to_the_gradient(baseline: float) -> None:
    """Check 12: 200,000 draws, with any constant baseline. Each action's gradient is that of `loss`."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    of_action = [
        -torch.autograd.grad(
            loss(
                Policy.of(logits), torch.tensor([[action]]), torch.tensor([REWARDS[action] - baseline]), 0.0
            ),
            logits,
        )[0][0]
        for action in range(3)
    ]
    draws = Policy.of(logits).draw(200_000, counter_generator(0, "draws"))[:, 0]
    samples = torch.stack(of_action)[draws]
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
    baseline, generator = MovingBaseline(), counter_generator(0, "draws")
    for _ in range(4000):
        policy = Policy.of(logits)
        actions = policy.draw(1, generator)
        optimiser.zero_grad()
        advantage = baseline.advantage(REWARDS[int(actions)])
        loss(policy, actions, torch.tensor([advantage]), 0.003).backward()
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
    assert policy.likeliest.tolist() == [0, 1]
    drawn = policy.draw(100, counter_generator(0, "draws"))
    assert {tuple(one) for one in drawn.tolist()} == {(0, 1), (1, 1)}
    two = torch.tensor([3.0, 1.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(policy.entropy, -(two * two.log()).sum())
    loss(policy, torch.tensor([[1, 1]]), torch.tensor([0.5]), 0.1).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad[~allowed].tolist() == [0.0, 0.0, 0.0] and float(logits.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="no action"):
        Policy.of(logits, torch.zeros(2, 3, dtype=torch.bool))


# Several cells ------------------------------------------------------------------------------------


def test_several_cells_are_as_each_alone() -> None:
    generator = counter_generator(1, "logits")
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    allowed = torch.rand(3, 4, 5, generator=generator) < 0.6
    allowed[..., 0] = True
    together = Policy.of(logits, allowed)
    actions = together.draw(7, generator)
    assert actions.shape == (7, 3, 4) and bool(allowed.expand(7, 3, 4, 5).gather(3, actions[..., None]).all())
    for cell in range(3):
        alone = Policy.of(logits[cell], allowed[cell])
        torch.testing.assert_close(together.entropy[cell], alone.entropy)
        torch.testing.assert_close(
            together.log_probability(actions)[:, cell], alone.log_probability(actions[:, cell])
        )


def test_draws_are_as_likely_as_they_should_be() -> None:
    p = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.0, 0.9, 0.0, 0.1]], dtype=torch.float64)
    drawn = Policy(p.log()).draw(20_000, counter_generator(2, "draws"))
    for link in range(2):
        shares = torch.bincount(drawn[:, link], minlength=4) / len(drawn)
        assert float((shares - p[link]).abs().max()) < 0.015 and bool((shares[p[link] == 0] == 0).all())


def test_baselines_over_several_cells() -> None:
    rewards = torch.tensor([[1.0, 10.0], [3.0, 20.0]])  # two draws from each of two cells
    all_known = torch.ones(2, 2, dtype=torch.bool)
    assert beside(rewards, all_known).tolist() == [[-2.0, -10.0], [2.0, 10.0]]
    one, other = MovingBaseline(0.5), MovingBaseline(0.5)
    found = one.advantages(rewards, all_known)
    expected = [other.advantage(reward) for reward in (1.0, 3.0, 10.0, 20.0)]
    assert found.T.flatten().tolist() == pytest.approx(expected) and one.value == other.value


def test_what_is_not_known_teaches_nothing() -> None:
    rewards = torch.tensor([[1.0, math.nan], [3.0, 5.0], [math.nan, math.nan]])
    known = rewards.isfinite()
    assert beside(rewards, known).tolist() == [[-2.0, 0.0], [2.0, 0.0], [0.0, 0.0]]
    one, other = MovingBaseline(0.5), MovingBaseline(0.5)
    first, second, third = (other.advantage(reward) for reward in (1.0, 3.0, 5.0))
    assert one.advantages(rewards, known).tolist() == [[first, 0.0], [second, third], [0.0, 0.0]]
