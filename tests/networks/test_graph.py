"""The graph: what is valid, what is refused and how, levels and order, JSON."""

from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from networks.generators import BarabasiAlbert, ErdosRenyi, RandomGraph, WattsStrogatz, Wiring
from networks.graph import Edge, Graph, Node
from networks.randwire import stage_graph
from tests.networks.refusals import refused

SEP = "triplet_sep_conv_3x3"


def graph(**changes: Any) -> Graph:
    """0 -> 1 -> 2 -> 3 with a weighted skip 1 -> 3 and a weighted sum at 3, with changes."""
    parts: dict[str, Any] = {
        "nodes": [
            {"id": 0},
            {"id": 1, "operation": SEP},
            {"id": 2, "operation": SEP},
            {"id": 3, "aggregation": "weighted_sum"},
        ],
        "edges": [
            {"source": 0, "target": 1},
            {"source": 1, "target": 2},
            {"source": 2, "target": 3, "slot": 0, "weight": "real"},
            {"source": 1, "target": 3, "slot": 1, "weight": "sigmoid"},
        ],
        "inputs": [0],
        "output": 3,
    }
    return Graph.model_validate({**parts, **changes})


NODES = [node.model_dump() for node in graph().nodes]
EDGES = [edge.model_dump() for edge in graph().edges]


def test_a_valid_graph() -> None:
    made = graph()
    assert made.order == (0, 1, 2, 3)
    assert [edge.source for edge in made.incoming[3]] == [2, 1]
    assert made.incoming[0] == ()
    assert made.operation_of[1] == SEP
    assert made.aggregation_of[3] == "weighted_sum"


def test_a_graph_is_frozen() -> None:
    with pytest.raises(ValidationError):
        graph().output = 2  # type: ignore[misc]


def test_slots_order_the_edges_not_their_place_in_the_list() -> None:
    swapped = [EDGES[0], EDGES[1], {**EDGES[2], "slot": 1}, {**EDGES[3], "slot": 0}]
    assert [edge.source for edge in graph(edges=swapped).incoming[3]] == [1, 2]


def test_refuses_a_doubled_id() -> None:
    with refused("nodes", "[1]", "each id once"):
        graph(nodes=[*NODES, {"id": 1}])


def test_refuses_an_unknown_operation_of_a_node_and_names_the_nearest() -> None:
    with refused("nodes.1.operation", "triplet_sepconv_3x3", f"Did you mean {SEP!r}?"):
        graph(nodes=[NODES[0], {"id": 1, "operation": "triplet_sepconv_3x3"}, *NODES[2:]])


def test_refuses_an_unknown_operation_of_an_edge_and_names_the_nearest() -> None:
    with refused("edges.1.operation", "Did you mean 'identity'?"):
        graph(edges=[EDGES[0], {**EDGES[1], "operation": "Identiti"}, *EDGES[2:]])


def test_refuses_edges_to_unknown_nodes() -> None:
    with refused("edges.4", "7"):
        graph(edges=[*EDGES, {"source": 1, "target": 7}])
    with refused("edges.4", "7"):
        graph(edges=[*EDGES, {"source": 7, "target": 1, "slot": 1}])


@pytest.mark.parametrize("change", [{"inputs": [9]}, {"output": 9}])
def test_refuses_unknown_inputs_and_outputs(change: dict[str, Any]) -> None:
    with refused("inputs / output", "9"):
        graph(**change)


def test_refuses_a_cycle() -> None:
    with refused("edges", "without cycles"):
        graph(edges=[*EDGES, {"source": 2, "target": 1, "slot": 1}])


def test_refuses_a_loop_of_one_node() -> None:
    with refused("edges", "without cycles"):
        graph(edges=[*EDGES, {"source": 2, "target": 2, "slot": 1}])


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param([], id="isolated"),
        pytest.param([{"source": 0, "target": 4}], id="dead end"),
        pytest.param([{"source": 4, "target": 2, "slot": 1}], id="fed by nothing"),
    ],
)
def test_refuses_a_node_off_every_path(edges: list[dict[str, Any]]) -> None:
    with refused("nodes", "[4]", "on a path from an input to the output"):
        graph(nodes=[*NODES, {"id": 4, "operation": SEP}], edges=[*EDGES, *edges])


def test_refuses_a_graph_without_inputs() -> None:
    with refused("nodes", "on a path from an input to the output"):
        graph(inputs=[])


def test_a_second_input_may_be_read_by_nobody() -> None:
    """As in a published reduction cell (R1 of the NAT spec, section 10)."""
    assert graph(nodes=[*NODES, {"id": 4}], inputs=[0, 4]).inputs == (0, 4)


def test_refuses_an_output_that_goes_on() -> None:
    with refused("output", "2", "without outgoing edges"):
        graph(output=2)


def test_refuses_an_output_that_is_an_input() -> None:
    with refused("output", "0", "no input"):
        Graph.model_validate({"nodes": [{"id": 0}], "edges": [], "inputs": [0], "output": 0})


def test_refuses_an_input_named_twice() -> None:
    with refused("inputs", "[0, 0]", "once"):
        graph(inputs=[0, 0])


@pytest.mark.parametrize("slot", [0, 2, -1])
def test_refuses_slots_that_are_not_0_to_k(slot: int) -> None:
    with refused("node 3: slots of its edges", "each of 0 to 1 once"):
        graph(edges=[*EDGES[:3], {**EDGES[3], "slot": slot}])


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("weight", ["sigmoid", "real"])
def test_refuses_a_weight_where_nothing_is_weighted(aggregation: str, weight: str) -> None:
    with refused("node 3: aggregation", aggregation, "weighted_sum"):
        graph(
            nodes=[*NODES[:3], {"id": 3, "aggregation": aggregation}],
            edges=[*EDGES[:2], {**EDGES[2], "weight": weight}, {**EDGES[3], "weight": "none"}],
        )


def test_refuses_an_aggregation_that_is_not_there() -> None:
    with pytest.raises(ValidationError, match="'sum', 'weighted_sum', 'mean' or 'concat'"):
        graph(nodes=[*NODES[:3], {"id": 3, "aggregation": "maximum"}])


def test_refuses_to_join_inside_a_graph_or_for_an_operation() -> None:
    edges = [
        Edge(source=0, target=1),
        Edge(source=0, target=2),
        Edge(source=1, target=3),
        Edge(source=2, target=3, slot=1),
    ]
    inner = [Node(id=0), Node(id=1, aggregation="concat"), Node(id=2), Node(id=3)]
    with refused("node 1: aggregation", "the output, without an operation"):
        Graph(nodes=inner, edges=edges, inputs=(0,), output=3)
    computing = [Node(id=0), Node(id=1), Node(id=2), Node(id=3, aggregation="concat", operation=SEP)]
    with refused("node 3: aggregation", "the output, without an operation"):
        Graph(nodes=computing, edges=edges, inputs=(0,), output=3)
    joined = [Node(id=0), Node(id=1), Node(id=2), Node(id=3, aggregation="concat")]
    assert Graph(nodes=joined, edges=edges, inputs=(0,), output=3).widths == 2


def test_refuses_an_input_with_an_operation() -> None:
    with refused("node 0", "without an operation"):
        graph(nodes=[{"id": 0, "operation": SEP}, *NODES[1:]])


def test_refuses_an_input_with_incoming_edges() -> None:
    with refused("node 1", "without incoming edges"):
        graph(inputs=[0, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": [{"id": 0, "operator": SEP}]},
        {"edges": [{"source": 0, "target": 1, "weights": "real"}]},
        {"nodes": [{"id": 0, "aggregation": "max"}]},
        {"edges": [{"source": 0, "target": 1, "weight": "softmax"}]},
        {"colour": "red"},
    ],
)
def test_refuses_unknown_keys_and_words(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        graph(**change)


def test_parallel_edges_are_legal() -> None:
    both = [
        {"source": 0, "target": 1, "slot": 0, "operation": "identity"},
        {"source": 0, "target": 1, "slot": 1, "operation": SEP},
        {"source": 0, "target": 1, "slot": 2, "operation": SEP},
    ]
    made = Graph.model_validate({"nodes": [{"id": 0}, {"id": 1}], "edges": both, "inputs": [0], "output": 1})
    assert [edge.operation for edge in made.incoming[1]] == ["identity", SEP, SEP]


def test_several_components_and_isolated_nodes_are_valid() -> None:
    """Spec 1.2: each component has its own sources and sinks; an isolated node is both."""
    made = stage_graph(Wiring(n=6, edges=((0, 2), (1, 2), (3, 4))))  # 5 is isolated
    assert {edge.target - 1 for edge in made.edges if edge.source == 0} == {0, 1, 3, 5}
    assert {edge.source - 1 for edge in made.incoming[made.output]} == {2, 4, 5}
    empty = stage_graph(ErdosRenyi(p=0).wiring(5, 0))
    assert empty.levels == ((0,), (1, 2, 3, 4, 5), (6,))


def test_stage_graph_follows_the_specification() -> None:
    """Spec 1.4: sigmoid weights where there are several inputs, sources read the input as it is, the
    output is the plain mean of the sinks."""
    wiring = Wiring(n=4, edges=((0, 2), (1, 2), (2, 3)))
    made = stage_graph(wiring, "triplet_conv_3x3")
    assert (made.inputs, made.output) == ((0,), 5)
    assert {(edge.source, edge.target): edge.weight for edge in made.edges} == {
        (0, 1): "none", (0, 2): "none", (1, 3): "sigmoid", (2, 3): "sigmoid", (3, 4): "none", (4, 5): "none"
    }  # fmt: skip
    assert made.aggregation_of[3] == "weighted_sum"
    assert made.aggregation_of[5] == "mean"
    assert [made.operation_of[node] for node in range(6)] == [None, *["triplet_conv_3x3"] * 4, None]


WIRINGS = st.builds(
    RandomGraph.wiring,
    st.one_of(
        st.builds(ErdosRenyi, p=st.floats(0, 0.6)),
        st.builds(BarabasiAlbert, m=st.integers(1, 4)),
        st.builds(WattsStrogatz, k=st.sampled_from([2, 4]), p=st.floats(0, 1)),
    ),
    n=st.integers(5, 16),
    seed=st.integers(0, 1000),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(WIRINGS)
def test_every_wiring_makes_a_valid_graph_with_sound_levels(wiring: Wiring) -> None:
    made = stage_graph(wiring)
    assert Graph.model_validate_json(made.model_dump_json()) == made
    level = {node: depth for depth, nodes in enumerate(made.levels) for node in nodes}
    assert sorted(made.order) == sorted(node.id for node in made.nodes)
    assert made.order == tuple(sorted(made.order, key=lambda node: (level[node], node)))
    for node in made.order:
        sources = [level[edge.source] for edge in made.incoming[node]]
        assert level[node] == (1 + max(sources) if sources else 0)
    edges = nx.DiGraph(wiring.edges)
    edges.add_nodes_from(range(wiring.n))
    assert len(made.levels) == nx.dag_longest_path_length(edges) + 1 + 2
    weighted = sum(degree for degree in wiring.in_degree if degree > 1)
    assert sum(edge.weight == "sigmoid" for edge in made.edges) == weighted


@st.composite
def dags(draw: st.DrawFn) -> Graph:
    """Graphs with shuffled ids, parallel edges, several inputs and every aggregation."""
    count, inputs = draw(st.integers(3, 8)), draw(st.integers(1, 2))
    ids = draw(st.permutations(range(10, 10 + count)))
    pairs = [(draw(st.integers(0, i - 1)), i) for i in range(inputs, count)]
    followed = {source for source, _ in pairs}
    pairs += [(i, draw(st.integers(max(i + 1, inputs), count - 1))) for i in range(count - 1)
              if i not in followed]  # fmt: skip
    pairs += draw(st.lists(st.sampled_from(pairs), max_size=3))
    taken, edges = [0] * count, []
    aggregation = [draw(st.sampled_from(["sum", "weighted_sum", "mean"])) for _ in ids]
    for source, target in pairs:
        weighted = aggregation[target] == "weighted_sum"
        weight = draw(st.sampled_from(["none", "sigmoid", "real"])) if weighted else "none"
        edges.append(Edge(source=ids[source], target=ids[target], slot=taken[target], weight=weight))
        taken[target] += 1
    nodes = [Node(id=one, aggregation=how) for one, how in zip(ids, aggregation, strict=True)]
    return Graph(nodes=tuple(nodes), edges=tuple(edges), inputs=tuple(ids[:inputs]), output=ids[-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(dags(), st.randoms(use_true_random=False))
def test_levels_do_not_depend_on_the_order_of_lists(made: Graph, shuffler: Any) -> None:
    assert Graph.model_validate_json(made.model_dump_json()) == made
    nodes, edges = list(made.nodes), list(made.edges)
    shuffler.shuffle(nodes)
    shuffler.shuffle(edges)
    other = Graph(nodes=tuple(nodes), edges=tuple(edges), inputs=made.inputs, output=made.output)
    assert (other.levels, other.order, other.incoming) == (made.levels, made.order, made.incoming)
    place = {node: position for position, node in enumerate(made.order)}
    assert all(place[edge.source] < place[edge.target] for edge in made.edges)
