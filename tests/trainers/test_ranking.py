"""tau-b against its definition and scipy, its interval, and what is refused."""

import itertools
import json
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from networks.errors import UserError
from networks.liveness import WORST
from trainers.ranking import Ranking, kendall_tau_b


def by_definition(x: Sequence[float], y: Sequence[float]) -> tuple[float, int, int]:
    """tau-b pair by pair, and the tied pairs of each."""
    concordant = discordant = tied_x = tied_y = pairs = 0
    for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2):
        pairs += 1
        tied_x += a == c
        tied_y += b == d
        concordant += (a - c) * (b - d) > 0
        discordant += (a - c) * (b - d) < 0
    tau = (concordant - discordant) / math.sqrt((pairs - tied_x) * (pairs - tied_y))
    return tau, tied_x, tied_y


@pytest.mark.parametrize("size", [2, 3, 7, 40])
@pytest.mark.parametrize("values", [3, 10, 1000])
def test_tau_is_that_of_the_definition(size: int, values: int) -> None:
    rng = np.random.default_rng([size, values])
    x, y = rng.integers(0, values, (2, size)).astype(float)
    x[:2], y[:2] = (0, 1), (1, 0)  # at least two values
    found = kendall_tau_b(x, y, resamples=0)
    tau, tied_x, tied_y = by_definition(x.tolist(), y.tolist())
    assert found.tau == pytest.approx(tau, abs=1e-12)
    assert (found.tied_scores, found.tied_truth, found.candidates) == (tied_x, tied_y, size)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_tau_of_many_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=15_625)
    y = np.round(x + rng.normal(size=x.size), 1)  # with ties
    started = time.process_time()
    found = kendall_tau_b(x, y, resamples=0)
    short = kendall_tau_b(x[:1000], y[:1000])
    assert time.process_time() - started < 10
    assert found.tau == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.tied_scores == 0 < found.tied_truth
    assert short.low is not None and short.high is not None and short.tau is not None
    assert short.low < short.tau < short.high and short.resamples == 1000


def test_the_interval_is_the_bootstraps() -> None:
    """Against a bootstrap of another kind: counts of a multinomial, with other draws."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=80)
    y = x + rng.normal(size=80)
    signs = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    apart = np.ones((80, 80)) - np.eye(80)
    counts = rng.multinomial(80, [1 / 80] * 80, size=2000).astype(float)
    total = np.einsum("ri,ij,rj->r", counts, signs, counts, optimize=True)
    pairs = np.einsum("ri,ij,rj->r", counts, apart, counts, optimize=True)
    low, high = np.percentile(total / pairs, [2.5, 97.5])
    found = kendall_tau_b(x, y, resamples=2000)
    assert found.low == pytest.approx(low, abs=0.015) and found.high == pytest.approx(high, abs=0.015)


def test_the_interval_covers_the_truth() -> None:
    """Of normal variables of correlation r, tau is 2 / pi asin r; about 19 in 20 intervals hold it."""
    r, held = 0.6, 0
    for trial in range(50):
        rng = np.random.default_rng([3, trial])
        x, noise = rng.normal(size=(2, 60))
        found = kendall_tau_b(x, r * x + math.sqrt(1 - r * r) * noise, seed=trial, resamples=60)
        assert found.low is not None and found.high is not None
        held += found.low <= 2 / math.pi * math.asin(r) <= found.high
    assert 41 <= held <= 50


def test_the_seed_decides_the_interval() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 50))
    one, again, other = (kendall_tau_b(x, y, seed, resamples=200) for seed in (0, 0, 1))
    assert one == again and (one.low, one.high) != (other.low, other.high) and one.tau == other.tau


def test_only_order_counts() -> None:
    x, y = [0.3, WORST, 0.1, 0.2, WORST], [5.0, 1.0, 3.0, 4.0, 2.0]
    found = kendall_tau_b(x, y, resamples=100)
    assert found == kendall_tau_b([3, 0, 1, 2, 0], [9, 1, 3, 8, 2], resamples=100)
    assert found.tied_scores == 1 and found.tau == pytest.approx(by_definition(x, y)[0])
    same = kendall_tau_b(y, y, resamples=100)
    assert (same.tau, same.low, same.high, same.spearman) == pytest.approx((1, 1, 1, 1))
    assert kendall_tau_b(y, [-value for value in y], resamples=0).tau == pytest.approx(-1)


@pytest.mark.parametrize(
    ("scores", "truth", "constant"),
    [
        ([], [], "scores and in truth"),
        ([1.0], [2.0], "scores and in truth"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "scores"),
        ([1.0, 2.0], [WORST, WORST], "truth"),
    ],
)
def test_no_tau_without_two_values(scores: list[float], truth: list[float], constant: str) -> None:
    found = kendall_tau_b(scores, truth)
    assert (found.tau, found.low, found.high, found.spearman, found.resamples) == (None, None, None, None, 0)
    assert found.reason == f"fewer than two distinct values in {constant}"
    assert found.candidates == len(scores)


def test_resamples_without_tau_are_left_out() -> None:
    found = kendall_tau_b([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], resamples=300)
    # Every third resample or so has one value only: (2/3)^3 + (1/3)^3.
    assert 150 < found.resamples < 250 and (found.low, found.high) == pytest.approx((1, 1))


def test_it_is_json() -> None:
    found = kendall_tau_b([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], resamples=20)
    assert Ranking.model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["candidates"] == 3


@pytest.mark.parametrize(
    ("scores", "truth", "field"),
    [
        ([1.0, math.nan], [1.0, 2.0], "scores.1"),
        ([1.0, 2.0], [-math.inf, 2.0], "truth.0"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "truth"),
        ([[1.0], [2.0]], [1.0, 2.0], "scores"),
    ],
)
def test_what_cannot_be_ranked(scores: list[float], truth: list[float], field: str) -> None:
    with pytest.raises(UserError) as caught:
        kendall_tau_b(scores, truth)
    assert caught.value.field == field


def test_a_negative_number_of_resamples() -> None:
    with pytest.raises(UserError, match="resamples"):
        kendall_tau_b([1.0, 2.0], [1.0, 2.0], resamples=-1)
