"""A policy that rewrites DARTS's normal cell, where all that it can reach is known (NAT spec, check 15)."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from networks.cells import Cell
from networks.counters import counter_random
from networks.genotypes import published
from networks.liveness import WORST
from searchers.policy_gradient import Policy
from searchers.transformer import EncoderName, PolicySettings, Transformer, Words, likeliest, rewards_of
from searchers.transitions import Actions, reachable

VOCABULARY = ("N", "S", "c3", "dil3", "dil5", "max3", "avg3", "sep3", "sep5")
ACTIONS = Actions("nat", VOCABULARY)
CELL: Cell = published("DARTS_V2").normal
REACHED = list(itertools.product(*(reachable(word, "nat") for word in CELL.operations)))
SEEDS = range(10)
PRICE = {"sep3": 3.0, "dil3": 1.5}  # what an operation costs, for kappa


class Planted:
    """A made-up gain: of each word at each link, and of pairs of links that follow each other."""

    def __init__(self, seed: int, *, pairs: bool) -> None:
        rng = counter_random(seed, "planted")
        words = sorted({word for some in REACHED for word in some})
        self._alone = [{word: rng.gauss(0, 0.02) for word in words} for _ in CELL.operations]
        self._pairs = {
            (link, one, other): rng.gauss(0, 0.02) if pairs else 0.0
            for link in range(len(CELL.operations) - 1)
            for one in words
            for other in words
        }
        self.gains = {words: self._raw(words) - self._raw(CELL.operations) for words in REACHED}

    def _raw(self, words: Words) -> float:
        alone = sum(some[word] for some, word in zip(self._alone, words, strict=True))
        return alone + sum(self._pairs[link, *pair] for link, pair in enumerate(itertools.pairwise(words)))

    def best(self, fits: float = math.inf) -> Words:
        return max((words for words in REACHED if price(words) <= fits), key=self.gains.__getitem__)


def price(words: Words) -> float:
    return sum(PRICE.get(word, 0.0) for word in words)


def trained(planted: Planted, seed: int, encoder: EncoderName = "line", steps: int = 300) -> Transformer:
    settings = PolicySettings(encoder=encoder, rate=1e-3, entropy=(0.03, 0.003), baseline="cell")
    found = Transformer(settings, ACTIONS, len(CELL.operations), seed)
    cells = [CELL.links]
    for step in range(steps):
        policy = found.policy(cells)
        actions = found.draws(policy, 32, step)
        rewards = [[planted.gains[ACTIONS.after(CELL.operations, one)]] for one in actions[:, 0].tolist()]
        found.learn(policy, actions, torch.tensor(rewards), settings.entropy_at(step, steps))
    return found


def test_what_can_be_reached() -> None:
    assert len(REACHED) == 2916


def test_a_trained_policy_finds_the_best_of_all() -> None:
    """Check 15: best of ten proposals in nine of ten seeds or more; and draws gain more than uniform ones."""
    found = 0
    for seed in SEEDS:
        planted = Planted(seed, pairs=False)
        policy = trained(planted, seed)
        proposals = policy.proposals([CELL.links], 10, lambda words: True, "t")
        best = max(proposals, key=planted.gains.__getitem__)
        found += best == planted.best()
        mean = np.mean([planted.gains[words] for words in proposals])
        rng = counter_random(seed, "uniform")
        uniform = [planted.gains[rng.choice(REACHED)] for _ in range(10)]
        assert mean > np.mean(uniform)
    assert found >= 9


@pytest.mark.parametrize("encoder", ["graph", "mlp", "lstm"])
def test_so_do_the_other_encoders(encoder: EncoderName) -> None:
    planted = Planted(0, pairs=True)
    best = planted.gains[planted.best()]
    proposals = trained(planted, 0, encoder).proposals([CELL.links], 10, lambda words: True, "t", drawn=True)
    assert max(planted.gains[words] for words in proposals) >= 0.9 * best


def test_with_a_bound_it_finds_the_best_within() -> None:
    """Check 15, kappa: from the policy that knows nothing of it."""
    planted = Planted(1, pairs=False)
    whole = planted.best()
    kappa = price(whole) - 0.5
    within = planted.best(kappa)
    assert within != whole
    policy = trained(planted, 1)
    proposals = policy.proposals([CELL.links], 10, lambda words: price(words) <= kappa, "t")
    assert all(price(words) <= kappa for words in proposals)
    assert max(proposals, key=planted.gains.__getitem__) == within


def test_it_is_a_function_of_the_seed() -> None:
    planted = Planted(2, pairs=True)
    one, again, other = (trained(planted, seed, steps=20) for seed in (5, 5, 6))
    for left, right in zip(one.encoder.parameters(), again.encoder.parameters(), strict=True):
        assert torch.equal(left, right)
    with torch.no_grad():
        first, last = (some.policy([CELL.links]).log_probabilities for some in (one, other))
    assert not torch.equal(first, last)


def test_nothing_is_learnt_from_what_is_not_known() -> None:
    settings = PolicySettings(baseline="cell", entropy=(0.0, 0.0), decay=0.0)
    some = Transformer(settings, ACTIONS, 8, 0)
    before = [one.clone() for one in some.encoder.parameters()]
    policy = some.policy([CELL.links])
    actions = some.draws(policy, 4, 0)
    some.learn(policy, actions, torch.full((4, 1), math.nan), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, some.encoder.parameters(), strict=True))


def test_the_weight_of_entropy_falls_geometrically() -> None:
    settings = PolicySettings(entropy=(0.3, 0.003))
    assert [settings.entropy_at(step, 3) for step in range(3)] == pytest.approx([0.3, 0.03, 0.003])
    assert settings.entropy_at(0, 1) == 0.3
    assert PolicySettings(entropy=(0.0, 0.0)).entropy_at(1, 5) == 0.0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"entropy": (0.3, 0.0)}, "entropy"),
        ({"entropy": (-1.0, -1.0)}, "entropy"),
        ({"entropy": (math.nan, 0.1)}, "entropy"),
        ({"encoder": "mlp", "adjacency": "official"}, "adjacency"),
        ({"encoder": "lstm", "skip": False}, "skip"),
        ({"baseline": "cell", "recursion": "compat"}, "recursion"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        PolicySettings(**settings)


def test_what_rewritings_gained() -> None:
    """Of a dead one as much as the worst of the step that lost something; of what was dead before nothing."""
    found = rewards_of([[3.0, WORST], [0.5, 2.0], [-math.inf, math.nan]], [1.0, 1.5])
    expected = torch.tensor([[2.0, -0.5], [-0.5, 0.5], [math.nan, math.nan]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert rewards_of([[WORST, 2.0]], [1.0, WORST]).isnan().all(), "nothing of the step says how bad it is"


def test_a_dead_candidate_does_not_end_the_learning() -> None:
    """Scores of dead ones are -1e30: as a reward, that would make the second moments infinite."""
    some = Transformer(PolicySettings(baseline="cell", decay=0.0), ACTIONS, 8, 0)
    assert some._adam is not None
    for step in range(6):
        policy = some.policy([CELL.links])
        actions = some.draws(policy, 4, step)
        values = [[WORST if draw == 0 and step == 0 else 0.1 * draw] for draw in range(4)]
        before = [one.clone() for one in some.encoder.parameters()]
        some.learn(policy, actions, rewards_of(values, [0.2]), 0.003)
        moved = [
            float((a - b).detach().abs().max())
            for a, b in zip(before, some.encoder.parameters(), strict=True)
        ]
        assert max(moved) > 1e-4, step
    moments = [state["exp_avg_sq"] for state in some._adam.state.values()]
    assert all(bool(one.isfinite().all()) and float(one.max()) < 1e3 for one in moments)


def test_where_the_likeliest_are_too_dear_cheaper_ones_are_looked_for() -> None:
    """Nothing but one rewriting in 2,916 is within the bound."""
    planted = Planted(1, pairs=False)
    policy = trained(planted, 1, steps=20)
    least = min(REACHED, key=lambda words: (price(words), words))
    within = [words for words in REACHED if price(words) <= price(least) and words[0] == "S"]
    logits_only = policy.proposals([CELL.links], 5, lambda words: price(words) <= price(least), "t")
    prices = np.array(
        [
            [PRICE.get(after, 0.0) if after is not None else 0.0 for after in ACTIONS.becomes(word)]
            for word in CELL.operations
        ]
    )
    priced = policy.proposals(
        [CELL.links], 5, lambda words: price(words) <= price(least), "t", prices=prices / prices.max()
    )
    assert within and len(priced) == 5 >= len(logits_only)
    assert all(price(words) <= price(least) for words in priced)


def test_the_likeliest_come_in_order_and_all_of_them() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.5, -1.0, -math.inf], [0.0, 0.0, 0.3]])
    policy = Policy.of(logits, logits > -math.inf)
    found = list(likeliest(policy.log_probabilities))
    assert len(found) == len(set(found)) == 3 * 2 * 3
    logs = policy.log_probability(torch.tensor(found)).tolist()
    assert logs == sorted(logs, reverse=True) and found[0] == (0, 0, 2)


def test_proposals_are_new_and_different() -> None:
    some = Transformer(PolicySettings(encoder="uniform"), ACTIONS, 8, 0)
    for drawn in (False, True):
        found = some.proposals([CELL.links], 30, lambda words: True, "t", drawn=drawn)
        assert len(set(found)) == len(found) == 30 and CELL.operations not in found
        assert set(found) <= set(REACHED)
    short = Cell(CELL.nodes[:1], (2,)).links
    assert len(some.proposals([short], 30, lambda words: True, "t")) == 8, "all that there are"
