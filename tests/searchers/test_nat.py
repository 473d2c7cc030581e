"""NAT as a searcher, on a table: it asks as all searchers do, and what it proposes costs no more."""

from itertools import product
from typing import Any

import pytest

from networks.architecture import Shape
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.liveness import is_dead
from networks.randwire import RandWireTemplate
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, cell_genes
from networks.spaces.rewired import NetworkSettings, RewiredSpace
from networks.spaces.space import Genes
from searchers.constraints import Constraint, Feasible
from searchers.nat import NatSearcher, NatSettings
from searchers.problem import Objective, Problem
from searchers.rewriting import Rewriting
from searchers.searcher import Candidate, Evaluation, Part
from searchers.testing import check_searcher
from searchers.transformer import PolicySettings
from searchers.transitions import reachable
from tests.cluster.choices import chain_space

SPACE = NasBench201Space(NasBench201Settings(channels=4, cells=1), Shape(3, 16, 16), 10)
BETAS: tuple[Genes, ...] = ((3, 3, 2, 4, 1, 0), (2, 2, 2, 2, 2, 2))
SMALL: dict[str, Any] = {"transform": BETAS, "steps": 4, "cells": 3, "draws": 2, "candidates": 5}


def value(genes: Genes) -> float:
    """Skip connections are good, but for the last."""
    return sum(gene == 1 for gene in genes[:5]) - 2.0 * (genes[5] == 1)


def searcher(seed: int = 0, feasible: Feasible | None = None, **changes: Any) -> NatSearcher:
    settings = NatSettings.model_validate({**SMALL, **changes})
    problem = Problem(SPACE, (Objective(metric="score"),), seed)
    return settings.build(problem if feasible is None else problem._replace(feasible=feasible))


def driven(one: NatSearcher) -> list[Genes]:
    asked: list[Genes] = []
    while not one.finished:
        for genes in one.ask(7):
            candidate = Candidate.of("s", "d", genes, len(asked))
            asked.append(genes)
            one.tell([Evaluation(candidate=candidate, status="ok", metrics={"score": value(genes)})])
    return asked


@pytest.mark.parametrize("encoder", ["line", "mlp", "lstm", "uniform"])
def test_it_is_a_searcher(encoder: str) -> None:
    check_searcher(lambda: searcher(policy={"encoder": encoder}), SPACE, value)


def test_it_learns_and_then_proposes() -> None:
    policy = {"encoder": "mlp", "rate": 3e-3, "entropy": [0.3, 0.03], "baseline": "cell"}
    one = searcher(steps=150, cells=8, draws=4, policy=policy)
    asked = driven(one)
    for number, beta in enumerate(BETAS):
        group = asked[len(asked) - 12 :][6 * number : 6 * number + 6]
        assert group[0] == beta and len(set(group)) == 6
        best = max(value(SPACE.rewritten(beta, words)) for words in all_rewritings(beta))
        assert max(map(value, group)) == best


def all_rewritings(genes: Genes) -> list[tuple[str, ...]]:
    return list(product(*(reachable(word, "nat") for word in SPACE.cells(genes)[0].words)))


def test_nothing_is_asked_for_twice_in_a_step() -> None:
    one = searcher(steps=1, cells=1, draws=40)
    first = one.ask(100)
    assert len(set(first)) == len(first) < 41
    assert not one.finished and one.ask(5) == []


@pytest.mark.parametrize("no_costlier", [True, False])
def test_proposals_cost_no_more(no_costlier: bool) -> None:
    """Nor do they where `strict` alone sees to it."""
    for rule in ("nat", "nat++"):
        one = searcher(steps=2, rule=rule, candidates=60, no_costlier=no_costlier)
        for beta in BETAS:
            before = SPACE.cost(beta)
            for genes in one.proposals(beta):
                after = SPACE.cost(genes)
                assert after.params <= before.params and after.macs <= before.macs


def test_constraints_bind_the_proposals() -> None:
    limit = (SPACE.cost(BETAS[1]).params + SPACE.cost((0,) * 6).params) // 2
    cheap = Feasible(
        [Constraint(cost="params", at_most=limit)],
        lambda genes: {"params": float(SPACE.cost(genes).params)},
    )
    found = searcher(steps=0, feasible=cheap, candidates=20).proposals(BETAS[1])
    assert len(found) == 20 and all(SPACE.cost(genes).params <= limit for genes in found)


def test_the_cheapest_of_all_is_found() -> None:
    """A bound that only one rewriting meets, which no policy prefers."""
    one = searcher(steps=0)
    rewriting = Rewriting(SPACE, "nat", strict=True)
    cheapest = rewriting.cheapest(BETAS[1], "params")
    least = SPACE.cost(cheapest).params
    bound = Feasible(
        [Constraint(cost="params", at_most=least)],
        lambda genes: {"params": float(SPACE.cost(genes).params)},
    )
    found = searcher(steps=0, feasible=bound, candidates=5).proposals(BETAS[1])
    assert found and all(SPACE.cost(genes).params == least for genes in found)
    assert not any(is_dead(SPACE.decode(genes)) for genes in [*found, *one.proposals(BETAS[0])])


def test_what_is_learnt_from_is_said() -> None:
    """Other batches in every step; all of them for what counts."""
    one = searcher(steps=3, cells=2, draws=2, reward_batches=4)
    seen = []
    while not one.finished:
        for genes in one.ask(50):
            candidate = Candidate.of("s", "d", genes, len(seen))
            seen.append((one.learning, one.part))
            one.tell([Evaluation(candidate=candidate, status="ok", metrics={"score": value(genes)})])
    assert list(dict.fromkeys(seen)) == [(True, Part(n, 4)) for n in range(3)] + [(False, None)]


def test_a_policy_without_preferences_draws() -> None:
    """The likeliest of equal ones would always be the same few."""
    some = [searcher(seed, steps=0, policy={"encoder": "uniform"}).proposals(BETAS[0]) for seed in range(3)]
    assert some[0] != some[1] != some[2]
    changed = {link for genes in some[0] for link in range(6) if genes[link] != BETAS[0][link]}
    assert len(changed) > 3


def test_what_each_action_may_do() -> None:
    rewriting = Rewriting(SPACE, "nat", strict=True)
    assert rewriting.actions.names == ("keep", "S", "N")
    legal = rewriting.legal([(0, 1, 3, 2, 4, 0)])[0] & rewriting.actions.allowed(
        SPACE.cells((0, 1, 3, 2, 4, 0))[0].words
    )
    # none and skip stay or become each other; what computes stays, or becomes either.
    assert legal.tolist() == [
        [True, True, False], [True, False, True], [True] * 3, [True] * 3, [True] * 3, [True, True, False],
    ]  # fmt: skip
    assert rewriting.after((0, 1, 3, 2, 4, 0), [1, 2, 0, 1, 2, 0]) == (1, 0, 3, 1, 0, 0)
    wide = Rewriting(SPACE, "nat++", strict=True)
    assert wide.actions.names == ("N", "S", "avg3", "c1", "c3")
    links = SPACE.cells((3,) * 6)[0]
    assert (wide.legal([(3,) * 6])[0] & wide.actions.allowed(links.words)).all(), "c3 may become all of these"
    assert not wide.legal([(2,) * 6])[0][0, 4], "c3 costs more than c1"


def test_cells_have_words() -> None:
    genes = cell_genes("|avg_pool_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|none~2|")
    links = SPACE.cells(genes)[0]
    assert links.words == ("avg3", "N", "c1", "S", "c3", "N")
    assert links.ends == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert SPACE.rewritten(genes, links.words) == genes


def test_mistakes() -> None:
    with pytest.raises(UserError) as caught:
        searcher(transform=[(0, 1, 2, 3, 4, 5)])
    assert caught.value.field == "searcher.transform.0.genes.5 (2-3)"
    chain = chain_space()
    problem = Problem(chain, (Objective(metric="score"),), 0)
    with pytest.raises(UserError, match="a space of cells"):
        NatSettings(transform=((0,) * len(chain.positions),)).build(problem)
    with pytest.raises(UserError, match="two links into each node"):
        searcher(policy=PolicySettings(encoder="graph")).ask(1)


# A network of yours ------------------------------------------------------------------------------


def test_links_may_come_where_others_go() -> None:
    """In RandWire's networks a link weighs a parameter: strictly none may be added to a node that weighs what
    it reads, and without that the network as a whole may still not cost more."""
    image = Shape(3, 16, 16)
    template = RandWireTemplate(regime="cifar", nodes=8, channels=4, image=image, classes=10)
    given = template.architecture(WattsStrogatz(k=4, p=0.75), 1)
    space = RewiredSpace(NetworkSettings(architecture=given, hooks=1), image, 10)
    problem = Problem(space, (Objective(metric="score"),), 0)
    policy = PolicySettings(encoder="uniform")
    weighed = {(n, edge.target) for n in range(3) for edge in given.graph(n).edges if edge.weight != "none"}
    costly = {
        gene
        for gene, place in enumerate(space.places)
        if place.edge.operation == "none" and (place.graph, place.edge.target) in weighed
    }
    assert costly

    def proposed(**changes: Any) -> tuple[bool, bool]:
        """Whether some add what costs a parameter, and whether some cost more as a whole."""
        settings = NatSettings(
            transform=("given",), steps=0, candidates=40, proposals="drawn", policy=policy, **changes
        )
        searcher = settings.build(problem)
        found, now = searcher.proposals(searcher.given[0]), space.cost(searcher.given[0])
        adds = any(genes[gene] for genes in found for gene in costly)
        return adds, any(space.cost(genes).params > now.params for genes in found)

    assert proposed() == (False, False)
    assert proposed(strict=False) == (True, False)
    assert proposed(strict=False, no_costlier=False)[0]
