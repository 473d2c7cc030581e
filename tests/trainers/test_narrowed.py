"""A supernet that goes on in a part of its space."""

import random

import pytest
import torch

from networks.errors import UserError
from networks.spaces.narrowed import NarrowedSpace, Operator, narrowed
from networks.supernet import Supernet
from tests.trainers.test_one_shot import CELLS, CHAIN, kept, same, trainer
from trainers.one_shot import OneShotTrainer, rebased
from trainers.scores.angle import AngleTable

DROPPED = [Operator(0, 3), Operator(2, 2), Operator(2, 3), Operator(5, 0)]
SMALLER = narrowed(CELLS, DROPPED)


def begun(**given: object) -> OneShotTrainer:
    one = trainer(momentum=0.9, **given)
    one.train(4)
    return one


def numbers(supernet: Supernet) -> int:
    return sum(value.numel() for value in supernet.state_dict().values())


def test_what_is_left_is_untouched_and_the_rest_is_gone() -> None:
    one = begun()
    before, _ = kept(one.state())
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = random.Random(0)
    paths = [SMALLER.sample(rng) for _ in range(5)]
    logits = [one.supernet.eval()(x, genes) for genes in paths]
    old = numbers(one.supernet)
    one.narrow(SMALLER)
    after, values = kept(one.state())
    assert values == {"step": 4} and after.keys() < before.keys()
    assert same(after, {name: before[name] for name in after})
    assert any(name.startswith("momentum.") for name in after)
    gone = {name.removeprefix("supernet.") for name in before.keys() - after.keys()}
    assert all(".options." in name for name in gone)
    assert not any("triplet_conv_3x3" in name and ".0-1" in name for name in after)
    assert numbers(one.supernet) < old
    for genes, expected in zip(paths, logits, strict=True):
        assert torch.equal(one.supernet.eval()(x, genes), expected)
    with pytest.raises(UserError, match=r"genes\.0 \(0-1\): 3 .*allowed: 0 or 1 or 2 or 4"):
        one.supernet(x, (3, 0, 0, 1, 0, 1))


def test_it_goes_on_as_one_that_was_built_small() -> None:
    one = begun()
    state = kept(one.state())
    one.narrow(SMALLER)
    two = trainer(SMALLER, momentum=0.9)
    two.load_state(*state)
    assert one.paths(4) == two.paths(4) and all(SMALLER.legal(genes) for genes in one.paths(4))
    one.train(3)
    two.train(3)
    assert one.digest() == two.digest()
    three = trainer(SMALLER, momentum=0.9)
    three.load_state(*kept(one.state()))
    one.train(1)
    three.train(1)
    assert one.digest() == three.digest()


def test_a_larger_supernet_does_not_go_on_from_a_smaller() -> None:
    with pytest.raises(KeyError):
        trainer().load_state(*kept(trainer(SMALLER).state()))


def test_angles_stay_what_they_are() -> None:
    one = begun()
    rng = random.Random(1)
    paths = [SMALLER.sample(rng) for _ in range(50)]
    whole = AngleTable.of(one.supernet, one.initial, "searched").angles(paths)
    one.narrow(SMALLER)
    # Only the numerics of the difference change: it is taken along the weights of the whole supernet.
    assert AngleTable.of(one.supernet, one.initial, "searched").angles(paths) == pytest.approx(
        whole, rel=1e-9
    )


def test_rebased_angles_start_from_zero_and_are_kept() -> None:
    one = begun()
    tensors, values = kept(one.state())
    one.load_state(rebased(tensors), values)
    assert same(one.initial, {name: value.detach() for name, value in one.supernet.named_parameters()})
    path = [(3, 3, 3, 3, 3, 3)]
    assert AngleTable.of(one.supernet, one.initial).angles(path)[0] == 0
    one.train(2)
    angle = AngleTable.of(one.supernet, one.initial).angles(path)[0]
    assert angle > 0
    two = trainer()
    two.load_state(*kept(one.state()))
    assert same(two.initial, one.initial)
    assert AngleTable.of(two.supernet, two.initial).angles(path)[0] == angle
    two.narrow(SMALLER)
    assert two.initial.keys() == dict(two.supernet.named_parameters()).keys()
    assert same(two.initial, {name: one.initial[name] for name in two.initial})
    two.load_state(*kept(begun().state()))
    assert not same(two.initial, {name: one.initial[name] for name in two.initial}), "no longer re-based"


def test_a_part_of_a_part_is_a_part_of_the_whole() -> None:
    first = narrowed(CHAIN, [Operator(0, 0), Operator(3, 2)])
    both = narrowed(first, [Operator(0, 1)])
    assert isinstance(both, NarrowedSpace) and both.whole is CHAIN
    assert both.digest == narrowed(CHAIN, [Operator(0, 1), Operator(3, 2), Operator(0, 0)]).digest
    assert len({both.digest, first.digest, CHAIN.digest}) == 3
    assert both.size == CHAIN.size // 9 * 2 == sum(1 for _ in both.enumerate())
    genes = both.sample(random.Random(0))
    assert genes[0] == 2
    assert both.decode(genes) == CHAIN.decode(genes) and both.cost(genes) == CHAIN.cost(genes)
    assert both.names(genes) == CHAIN.names(genes)
    assert all(both.legal(near) for near in both.neighbours(genes))
    low, high = both.extremes("macs")
    costs = [both.cost(one).macs for one in both.enumerate()]
    assert (low, high) == (min(costs), max(costs))
