"""Encoders of cells: NAT's graph convolution by hand, its size, and what its scores depend on (NAT spec)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks.cells import Cell, Link, Links
from networks.errors import UserError
from networks.genotypes import published
from searchers.cell_encoders import (
    Adjacency,
    CellEncoder,
    GraphEncoder,
    LineEncoder,
    PerceptronEncoder,
    SequenceEncoder,
    UniformEncoder,
    adjacency,
    line_adjacency,
    propagate,
)

NAT = ("max3", "avg3", "S", "sep3", "sep5", "dil3", "dil5", "c3", "N")
NAT_PLUS = ("max3", "max5", "avg3", "avg5", "S", "sep3", "sep5", "dil3", "dil5", "c1", "c3", "c5", "N")
# Node 2 reads 0 and 1, node 3 reads 0 and 2.
SMALL = Cell(((Link("c3", 0), Link("c3", 1)), (Link("S", 0), Link("S", 2))), (3,))
X = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, -1]])
W0 = torch.tensor([[1.0, -1], [2, 1]])
W1 = torch.tensor([[1.0, 0], [-1, 2]])
WFC = torch.tensor([[1.0, 0, -1], [0, 1, 1]])


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_the_equations_as_released() -> None:
    """Check 9."""
    neighbours = adjacency(SMALL.links.ends, "official")
    close(neighbours, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]])
    second = propagate(neighbours, X, W0, W1)
    close(second, [[0, 0], [0, 0], [0, 0], [3, 0]])
    close((second @ WFC)[3:], [[3, 0, -3]])
    close((second @ WFC).softmax(1)[2:], [[1 / 3, 1 / 3, 1 / 3], [0.950330, 0.047314, 0.002356]])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("row", [[0.606519, 0.311397, 0.082083], [0.774284, 0.182636, 0.043080]]),
        ("symmetric", [[0.688117, 0.276794, 0.035089], [0.868587, 0.115937, 0.015475]]),
    ],
)
def test_the_equations_with_self_loops(form: Adjacency, expected: list[list[float]]) -> None:
    neighbours = adjacency(SMALL.links.ends, form)
    second = propagate(neighbours, X, W0, W1)
    if form == "row":
        close(second, [[1, 0], [1, 2], [4 / 3, 2 / 3], [13 / 9, 0]])
    close((second @ WFC).softmax(1)[2:], expected)


def test_parallel_links_count_twice() -> None:
    cell = Cell(((Link("c3", 1), Link("S", 1)),), (2,))
    close(adjacency(cell.links.ends, "official"), [[0, 0, 0], [0, 0, 0], [0, 2, 0]])
    close(adjacency(cell.links.ends)[2:], [[0, 2 / 3, 1 / 3]])
    with pytest.raises(UserError, match="row or symmetric or official"):
        adjacency(cell.links.ends, "none")  # type: ignore[arg-type]


def test_sizes() -> None:
    """Check 11."""
    for vocabulary, actions, size in ((NAT, 3, 320_330), (NAT_PLUS, 13, 322_750)):
        encoder = GraphEncoder(vocabulary, actions)
        assert sum(one.numel() for one in encoder.parameters()) == size


# On which nodes' features the scores of nodes 2, 3, … depend (spec 3.3).
SEEN = {
    ("DARTS_V2", "normal"): ["", "", "", "01"],
    ("DARTS_V2", "reduction"): ["", "01", "01", "01"],
    ("ENAS", "normal"): ["", "", "", "", ""],
    ("ENAS", "reduction"): ["", "", "", "1", "14"],
    ("VGG", "normal"): ["", "01", "02", "03"],
    ("ResBlock", "normal"): ["", "01", "02", "013"],
}
SEEN_WITH_LOOPS = {
    ("DARTS_V2", "normal"): ["012", "013", "014", "0125"],
    ("DARTS_V2", "reduction"): ["012", "0123", "0124", "0125"],
    ("ENAS", "normal"): ["12", "013", "014", "015", "016"],
    ("ENAS", "reduction"): ["012", "13", "14", "145", "01456"],
    ("VGG", "normal"): ["012", "0123", "0234", "0345"],
}


@pytest.mark.parametrize(
    ("form", "expected"), [("official", SEEN), ("row", SEEN_WITH_LOOPS), ("symmetric", SEEN_WITH_LOOPS)]
)
def test_what_scores_depend_on(form: Adjacency, expected: dict[tuple[str, str], list[str]]) -> None:
    """Check 10, by moving each node's features in turn."""
    for (name, which), seen in expected.items():
        cell: Cell = getattr(published(name), which)
        vocabulary = sorted({*NAT_PLUS, *cell.operations})
        encoder = GraphEncoder(vocabulary, 3, form=form)
        neighbours, x = adjacency(cell.links.ends, form), encoder.nodes([cell.links]).detach()
        before = encoder.scored(neighbours, x).reshape(len(cell.nodes), -1)
        found = [""] * len(cell.nodes)
        for node in range(x.shape[1]):
            moved = x.clone()
            moved[0, node] += torch.linspace(-3, 3, x.shape[2])
            after = encoder.scored(neighbours, moved).reshape(len(cell.nodes), -1)
            for target in torch.nonzero((after != before).any(1)).flatten().tolist():
                found[target] += str(node)
        assert found == seen, (name, which)


def test_the_released_form_is_blind_to_operations() -> None:
    """Check 10: on DARTS's normal cell its scores are those of the wiring alone."""
    cell = published("DARTS_V2").normal
    for form, blind in (("official", True), ("row", False)):
        encoder = GraphEncoder(NAT_PLUS, 3, form=form)  # type: ignore[arg-type]
        before = encoder([cell.links])[0]
        for link in range(len(cell.operations)):
            words = list(cell.operations)
            words[link] = "c5"
            after = encoder([cell.with_operations(words).links])[0]
            assert torch.equal(after, before) == blind
            assert blind or not torch.equal(after[link], before[link])


MADE: list[Callable[[int], CellEncoder]] = [
    lambda seed: GraphEncoder(NAT_PLUS, 4, seed),
    lambda seed: LineEncoder(NAT_PLUS, 4, seed),
    lambda seed: LineEncoder(NAT_PLUS, 4, seed, skip=False),
    lambda seed: SequenceEncoder(NAT_PLUS, 4, seed),
    lambda seed: PerceptronEncoder(NAT_PLUS, 4, seed, links=10),
    lambda seed: UniformEncoder(NAT_PLUS, 4),
]


@pytest.mark.parametrize(
    "make", MADE, ids=["graph", "line", "line without skip", "sequence", "perceptron", "uniform"]
)
def test_encoders_are_functions_of_the_seed_and_the_cell(make: Callable[[int], CellEncoder]) -> None:
    cell = published("ENAS").normal
    some = [cell.links, cell.with_operations(["sep3"] * 10).links]
    state = torch.random.get_rng_state()
    one, again, other = make(1), make(1), make(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    logits = one(some)
    assert logits.shape == (2, 10, 4) and torch.equal(logits, again(some))
    for place, alone in enumerate(some):
        torch.testing.assert_close(logits[place], one([alone])[0], atol=1e-5, rtol=0)
    if not isinstance(one, UniformEncoder):
        assert not torch.equal(logits, other(some)) and float(logits[0].detach().std()) > 1e-4
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in one.parameters())
    with pytest.raises(UserError, match="c1x7"):
        one([cell.with_operations(["c1x7"] * 10).links])


def test_links_that_share_a_node_are_neighbours() -> None:
    ends = SMALL.links.ends  # 0-2, 1-2, 0-3, 2-3
    close(line_adjacency(ends), [
        [1 / 4] * 4, [1 / 3, 1 / 3, 0, 1 / 3], [1 / 3, 0, 1 / 3, 1 / 3], [1 / 4] * 4,
    ])  # fmt: skip
    close(line_adjacency(ends, "official"), [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])


def test_a_link_that_sees_no_other_still_sees_itself() -> None:
    """With the skip connection; without it, the released form sees nothing of what begins at an input."""
    cell = Cell(((Link("c3", 0), Link("c3", 1)), (Link("S", 0), Link("S", 1))), (2, 3))
    other = cell.with_operations(["sep5", "c3", "S", "S"])
    for skip in (True, False):
        encoder = LineEncoder(NAT_PLUS, 3, form="official", skip=skip)
        before, after = encoder([cell.links, other.links])
        assert torch.equal(before[0], after[0]) != skip


def test_cells_that_an_encoder_cannot_take() -> None:
    square = Links(((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), ("c3",) * 6)
    with pytest.raises(UserError, match="two links into each node"):
        GraphEncoder(NAT_PLUS, 3)([square])
    with pytest.raises(UserError, match="4 links"):
        PerceptronEncoder(NAT_PLUS, 3, links=4)([square])
    with pytest.raises(UserError, match="at most 16 nodes"):
        LineEncoder(NAT_PLUS, 3)([Links(((0, 16),), ("c3",))])
