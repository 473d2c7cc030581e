"""The pure rules of successive halving."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.errors import UserError
from searchers.halving import planned_epochs, rungs, survivors

NAN = float("nan")
SCORES = st.dictionaries(
    st.integers(0, 200),
    st.one_of(st.none(), st.just(NAN), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-5, 5)),
    min_size=1,
    max_size=30,
)


def usable(scores: dict[int, float | None]) -> dict[int, float]:
    return {ask: score for ask, score in scores.items() if score is not None and not math.isnan(score)}


@pytest.mark.parametrize(
    ("epochs", "grace", "eta", "expected"),
    [
        (27, 1, 3, [1, 3, 9, 27]),
        (10, 1, 3, [1, 3, 9, 10]),
        (8, 2, 2, [2, 4, 8]),
        (12, 3, 4, [3, 12]),
        (5, 5, 3, [5]),
        (3, 7, 2, [3]),
        (1, 1, 2, [1]),
    ],
)
def test_rungs(epochs: int, grace: int, eta: int, expected: list[int]) -> None:
    assert rungs(epochs, grace, eta) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 1000), st.integers(1, 50), st.integers(2, 6))
def test_rungs_ascend_by_eta_and_end_at_the_last_epoch(epochs: int, grace: int, eta: int) -> None:
    marks = rungs(epochs, grace, eta)
    assert marks[-1] == epochs
    assert marks == sorted(set(marks))
    assert all(mark == grace * eta**rung for rung, mark in enumerate(marks[:-1]))
    assert grace * eta ** (len(marks) - 1) >= epochs


@pytest.mark.parametrize(
    ("grace", "eta", "field"), [(0, 2, "grace"), (-1, 2, "grace"), (1, 1, "eta"), (1, 0, "eta")]
)
def test_rungs_that_would_never_end_are_refused(grace: int, eta: int, field: str) -> None:
    with pytest.raises(UserError) as caught:
        rungs(10, grace, eta)
    assert caught.value.field == field


def test_survivors_of_one_rung() -> None:
    scores = {0: 0.1, 1: 0.9, 2: NAN, 3: 0.5, 4: None, 5: 0.7, 6: 0.2}
    assert survivors(scores, 3) == [1, 3, 5]  # 7 / 3 rounded up, the failed ones counted in the 7
    assert survivors(scores, 7) == [1]
    assert survivors({3: 0.5}, 4) == [3]
    assert survivors({3: NAN, 4: None}, 2) == []
    assert survivors({}, 2) == []


def test_ties_go_to_the_earlier_ask() -> None:
    assert survivors({9: 0.5, 2: 0.5, 7: 0.5, 4: 0.5}, 2) == [2, 4]
    assert survivors({9: 0.6, 2: 0.5, 7: 0.5, 4: 0.5}, 2) == [2, 9]
    assert survivors({1: 0.0, 0: -0.0}, 2) == [0]


def test_infinite_scores_are_scores() -> None:
    assert survivors({0: -math.inf, 1: 0.0, 2: math.inf, 3: -1.0}, 2) == [1, 2]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(SCORES, st.integers(2, 5), st.randoms(use_true_random=False))
def test_survivors_are_the_best(scores: dict[int, float | None], eta: int, shuffler: random.Random) -> None:
    kept = survivors(scores, eta)
    good = usable(scores)
    assert len(kept) == min(len(good), -(-len(scores) // eta))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(good)
    for out in set(good) - set(kept):
        for ask in kept:
            assert (-good[ask], ask) < (-good[out], out)
    items = list(scores.items())
    shuffler.shuffle(items)
    assert survivors(dict(items), eta) == kept


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SCORES, st.integers(2, 5))
def test_a_better_score_never_loses_a_place(scores: dict[int, float | None], eta: int) -> None:
    for ask in survivors(scores, eta):
        assert ask in survivors({**scores, ask: usable(scores)[ask] + 1}, eta)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 5), st.integers(2, 4))
def test_planned_epochs_are_those_of_a_played_search(count: int, epochs: int, grace: int, eta: int) -> None:
    marks = rungs(epochs, grace, eta)
    alive, trained, played = list(range(count)), dict.fromkeys(range(count), 0), 0
    for mark in marks:
        for ask in alive:
            played, trained[ask] = played + mark - trained[ask], mark
        alive = survivors({ask: ask * 0.5 for ask in alive}, eta)
    assert planned_epochs(count, marks, eta) == played
