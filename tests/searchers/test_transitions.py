"""NAT's and NAT++'s moves: the tables, how much they reach, and which published cells keep to them (NAT
spec)."""

import random

import numpy as np
import pytest

from networks.architecture import Placement, Shape
from networks.cells import WORDS, Cell, CellSettings, Link, cell_architecture
from networks.complexity import Complexity
from networks.errors import UserError
from networks.genotypes import published
from networks.operations import find_operation
from searchers.transitions import Actions, Move, Rule, count, illegal, mask, moves, never_costlier, reachable

NAT_PLUS = ("max3", "max5", "avg3", "avg5", "S", "sep3", "sep5", "dil3", "dil5", "c1", "c3", "c5", "N")


def test_mask_sizes() -> None:
    """Check 7."""
    sizes = dict(c5=13, c3=8, c1=3, sep5=10, sep3=6, dil5=8, dil3=5, avg5=6, avg3=4, max5=6, max3=4, S=2, N=2)
    found = mask(list(sizes), NAT_PLUS, "nat++").sum(1)
    assert dict(zip(sizes, found.tolist(), strict=True)) == sizes
    assert mask(NAT_PLUS, NAT_PLUS, "nat").sum(1).tolist() == [3, 3, 3, 3, 2, *[3] * 7, 2]
    with pytest.raises(UserError, match="one with c5 too"):
        mask(["c5"], ["c3", "S", "N"], "nat")


@pytest.mark.parametrize(
    ("name", "rule", "normal", "reduction"),
    [
        ("DARTS_V2", "nat", 2916, 1944), ("ENAS", "nat", 26_244, 59_049), ("VGG", "nat", 576, 864),
        ("ResBlock", "nat", 576, 576), ("DARTS_V2", "nat++", 155_520, 8192),
        ("ENAS", "nat++", 5_529_600, 55_296_000), ("VGG", "nat++", 4096, 8192),
        ("ResBlock", "nat++", 4096, 4096),
    ],
)  # fmt: skip
def test_reachable_sets(name: str, rule: Rule, normal: int, reduction: int) -> None:
    cells = published(name)
    assert count(cells.normal.operations, rule) == normal
    assert count(cells.reduction.operations, rule) == reduction


PAIRS: list[tuple[str, str, Rule]] = [
    *((base, f"NAT_{base.replace('DARTS_V2', 'DARTS')}", "nat") for base in
      ("DARTS_V2", "ENAS", "NAONet", "VGG", "ResBlock", "MobileNetV2", "R1", "R2")),
    *((base, f"NATv2_{base.replace('DARTS_V2', 'DARTS')}", "nat++") for base in
      ("DARTS_V2", "ENAS", "NAONet", "VGG", "ResBlock", "MobileNetV2")),
]  # fmt: skip
# Links that the published transforms changed against their own rules; c1x3 and avg2 are in no table.
IRREGULAR = {
    "NAT_NAONet": ([], [(1, 2)]),
    "NATv2_NAONet": ([(0, 4), (0, 5)], [(1, 2), (0, 3)]),
}


@pytest.mark.parametrize(("base", "transformed", "rule"), PAIRS, ids=[name for _, name, _ in PAIRS])
def test_published_pairs_keep_the_rules(base: str, transformed: str, rule: Rule) -> None:
    """Check 6."""
    for before, after, expected in zip(
        published(base), published(transformed), IRREGULAR.get(transformed, ([], [])), strict=True
    ):
        assert [(move.source, move.target) for move in illegal(before, after, rule)] == expected
        assert moves(before, after) or transformed == "NAT_ENAS"


def test_what_nat_darts_changed() -> None:
    before, after = published("DARTS_V2"), published("NAT_DARTS")
    assert moves(before.normal, after.normal) == [Move(0, 3, "sep3", "S"), Move(1, 4, "sep3", "S")]
    assert moves(before.reduction, after.reduction) == [
        Move(1, 2, "max3", "S"), Move(1, 3, "max3", "S"), Move(2, 4, "S", "N"),
    ]  # fmt: skip


# Spec 2.2's table, less itself, S and N, which every operation that computes may become too.
TABLE = {
    "c5": "c3 c1 sep5 sep3 dil5 dil3 max5 max3 avg5 avg3",
    "c3": "c1 sep3 dil3 max3 avg3",
    "c1": "",
    "sep5": "sep3 dil5 dil3 max5 max3 avg5 avg3",
    "sep3": "dil3 max3 avg3",
    "dil5": "dil3 max5 max3 avg5 avg3",
    "dil3": "max3 avg3",
    "avg5": "avg3 max5 max3",
    "avg3": "max3",
    "max5": "max3 avg5 avg3",
    "max3": "avg3",
}


def allowed_by_the_table(before: str, after: str, rule: Rule) -> bool:
    if after in (before, "S", "N"):
        return True
    return rule == "nat++" and after in TABLE[before].split()


@pytest.mark.parametrize("rule", ["nat", "nat++"])
def test_what_becomes_of_each_operation_is_the_table(rule: Rule) -> None:
    for before in TABLE:
        found = set(reachable(before, rule))
        assert found == {after for after in NAT_PLUS if allowed_by_the_table(before, after, rule)}, before
    assert set(reachable("S", rule)) == set(reachable("N", rule)) == {"S", "N"}


@pytest.mark.parametrize("rule", ["nat", "nat++"])
def test_random_actions_keep_wiring_and_rules(rule: Rule) -> None:
    """What a policy may do, judged by the spec's table and not by the code that allowed it."""
    rng, actions = random.Random(0), Actions(rule, NAT_PLUS)
    for _ in range(2000):
        words = [rng.choice(NAT_PLUS) for _ in range(8)]
        some = [rng.choice(np.flatnonzero(row).tolist()) for row in actions.allowed(words)]
        after = actions.after(words, some)
        for one, other in zip(words, after, strict=True):
            fits = {one, other} <= {"S", "N"} if one in ("S", "N") else allowed_by_the_table(one, other, rule)
            assert fits, (one, other)


@pytest.mark.parametrize("rule", ["nat", "nat++"])
def test_random_rewriting_keeps_wiring_and_rules(rule: Rule) -> None:
    rng = random.Random(0)
    for _ in range(10_000):
        nodes = tuple(
            (Link(rng.choice(NAT_PLUS), rng.randrange(node)), Link(rng.choice(NAT_PLUS), rng.randrange(node)))
            for node in range(2, 6)
        )
        before = Cell(nodes, (2, 3, 4, 5))
        after = before.with_operations([rng.choice(reachable(word, rule)) for word in before.operations])
        assert illegal(before, after, rule) == []
        new = [move.after for move in moves(before, after) if move.after not in ("S", "N")]
        assert rule == "nat++" or not new, "nothing that computes is new"


def cost(word: str, stride: int) -> Complexity:
    place = Placement(Shape(36, 32, 32), 36, stride)
    return find_operation(WORDS[word][1]).complexity(*place.complexity_args)


def test_costs_fall_at_stride_one_and_may_rise_at_two() -> None:
    """Check 8."""
    for word in NAT_PLUS:
        for other in reachable(word, "nat++"):
            now, then = cost(word, 1), cost(other, 1)
            assert then.params <= now.params and then.macs <= now.macs, (word, other)
    assert cost("S", 2).params > cost("max3", 2).params and cost("S", 2).macs > cost("N", 2).macs
    base, changed = published("DARTS_V2"), published("NAT_DARTS")
    settings = CellSettings(channels=36, cells=20, regime="cifar")
    whole, more = (
        cell_architecture(settings, Shape(3, 32, 32), 10, base.normal.graph, cell.graph).complexity()
        for cell in (base.reduction, changed.reduction)
    )
    assert more.minus(whole)[:2] == (52_704, 5_308_416)


def test_never_costlier_is_never_costlier() -> None:
    words = ["max3", "N", "sep5", "c3", "S"]
    costs = np.array([[cost(other, 2).macs for other in NAT_PLUS] for _ in words])
    allowed = mask(words, NAT_PLUS, "nat++")
    strict = never_costlier(allowed, costs, [NAT_PLUS.index(word) for word in words])
    left = [[NAT_PLUS[i] for i in np.flatnonzero(row)] for row in strict]
    assert left[0] == ["max3", "avg3", "N"] and left[1] == ["N"] and "S" in left[2] and "S" in left[4]
    assert (strict <= allowed).all()


@pytest.mark.parametrize(("word", "rule", "field"), [("sep9", "nat", "operation"), ("S", "other", "rule")])
def test_what_is_no_operation_or_rule_is_refused(word: str, rule: Rule, field: str) -> None:
    with pytest.raises(UserError) as caught:
        reachable(word, rule)
    assert caught.value.field == field


def test_other_wirings_are_refused() -> None:
    one, two = published("DARTS_V2").normal, published("VGG").normal
    with pytest.raises(UserError, match="the wiring of"):
        moves(one, two)
    with pytest.raises(UserError, match="cell: out"):
        moves(one, one._replace(joined=(5,)))
