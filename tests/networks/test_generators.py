"""RandWire's random graphs against the figures of the specification (checks R1 to R8 and R17).

The figures are the specification's, with its seed counts and tolerances; none is taken from the code.
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
from functools import cache
from typing import ClassVar, Literal

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from networks.errors import UserError
from networks.generators import (
    BarabasiAlbert,
    ErdosRenyi,
    RandomGraph,
    WattsStrogatz,
    Wiring,
    paper_grid,
)
from networks.randwire import RandWireTemplate

N = 32


@cache
def draws(generator: RandomGraph, count: int, n: int = N) -> list[Wiring]:
    return [generator.wiring(n, seed) for seed in range(count)]


def mean_sources(wirings: list[Wiring]) -> float:
    return statistics.mean(len(wiring.sources) for wiring in wirings)


def mean_sinks(wirings: list[Wiring]) -> float:
    return statistics.mean(len(wiring.sinks) for wiring in wirings)


def undirected(wiring: Wiring) -> nx.Graph:
    graph = nx.Graph(wiring.edges)
    graph.add_nodes_from(range(wiring.n))
    return graph


def longest_path(n: int, edges: list[tuple[int, int]]) -> int:
    """Nodes on the longest path, by networkx."""
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(n))
    return nx.dag_longest_path_length(graph) + 1


def test_r1_er_edge_count() -> None:
    counts = [len(wiring.edges) for wiring in draws(ErdosRenyi(p=0.2), 2000)]
    assert statistics.mean(counts) == pytest.approx(99.2, abs=0.8)
    assert statistics.stdev(counts) == pytest.approx(8.91, abs=4 * 8.91 / math.sqrt(2 * 2000))


def test_r2_er_sources_and_sinks() -> None:
    wirings = draws(ErdosRenyi(p=0.2), 2000)
    expected = (1 - (1 - 0.2) ** N) / 0.2
    assert expected == pytest.approx(4.996, abs=0.001)
    assert mean_sources(wirings) == pytest.approx(expected, abs=0.15)
    assert mean_sinks(wirings) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("generator", "n", "probability", "tolerance"),
    [
        (ErdosRenyi(p=0.2), 32, 0.969, 0.015),
        (ErdosRenyi(p=0.4), 32, 1.000, 0.001),
        (ErdosRenyi(p=0.2), 16, 0.56, 0.045),
        (WattsStrogatz(k=4, p=0.75), 32, 1.000, 0.001),
        (WattsStrogatz(k=4, p=0.75), 16, 1.000, 0.001),
        (WattsStrogatz(k=2, p=0.5), 32, 0.675, 0.045),
        (WattsStrogatz(k=2, p=1), 32, 0.71, 0.045),
    ],
    ids=lambda value: value.label if isinstance(value, RandomGraph) else None,
)
def test_r2_probability_of_a_connected_graph(
    generator: RandomGraph, n: int, probability: float, tolerance: float
) -> None:
    wirings = draws(generator, 500 if probability == 1 else 2000, n)
    connected = [nx.is_connected(undirected(wiring)) for wiring in wirings]
    assert statistics.mean(connected) == pytest.approx(probability, abs=tolerance)
    assert connected == [wiring.connected for wiring in wirings]


def test_r2_connectivity_threshold_at_32_nodes() -> None:
    """ln(n)/n = 0.1083: at half of it no graph is connected, at twice it nearly all are."""
    threshold = math.log(N) / N
    assert threshold == pytest.approx(0.1083, abs=5e-5)
    connected = [
        statistics.mean(wiring.connected for wiring in draws(ErdosRenyi(p=factor * threshold), 500))
        for factor in (0.5, 1, 2)
    ]
    assert connected[0] < 0.02 and 0.2 < connected[1] < 0.6 and connected[2] > 0.95


def test_r2_require_connected_changes_only_disconnected_graphs() -> None:
    generator, redrawn = ErdosRenyi(p=0.2), 0
    for seed in range(200):
        plain = generator.wiring(16, seed)
        connected = generator.wiring(16, seed, require_connected=True)
        assert nx.is_connected(undirected(connected))
        if nx.is_connected(undirected(plain)):
            assert connected == plain
        else:
            redrawn += 1
    assert redrawn == pytest.approx(200 * 0.44, abs=4 * math.sqrt(200 * 0.44 * 0.56))


class Recorded(RandomGraph):
    """Never connected; records what each redraw takes from its stream."""

    kind: ClassVar[str] = "Recorded"
    generator: Literal["Recorded"] = "Recorded"
    setting_fields: ClassVar[tuple[str, ...]] = ()
    taken: ClassVar[list[float]] = []

    def check(self, n: int) -> None:
        pass

    def _indexed_edges(self, n: int, rng: random.Random) -> list[tuple[int, int]]:
        self.taken.append(rng.random())
        return []


def test_r2_redraws_advance_the_stream_and_end() -> None:
    Recorded.taken.clear()
    with pytest.raises(UserError) as caught:
        Recorded().wiring(4, 0, require_connected=True)
    assert caught.value.field == "require_connected"
    assert len(Recorded.taken) > 1
    assert len(set(Recorded.taken)) == len(Recorded.taken), "a redraw saw the same random numbers again"


@pytest.mark.parametrize(
    ("m", "edges"), list(zip(range(1, 8), (31, 60, 87, 112, 135, 156, 175), strict=True))
)
def test_r3_ba_structure(m: int, edges: int) -> None:
    for wiring in draws(BarabasiAlbert(m=m), 100):
        graph = undirected(wiring)
        assert len(wiring.edges) == graph.number_of_edges() == edges == m * (N - m)
        assert wiring.sources == tuple(range(m))
        assert not any(graph.has_edge(u, v) for u in range(m) for v in range(m))
        assert set(graph[m]) >= set(range(m))
        assert all(wiring.in_degree[node] == m for node in range(m, N))


def test_r3_networkx_starts_from_a_star_and_fails_the_source_count() -> None:
    """Negative control (spec 1.11): the same number of edges, so only the sources tell them apart."""
    for m in (5, 7):
        for seed in range(20):
            edges = sorted((min(e), max(e)) for e in nx.barabasi_albert_graph(N, m, seed=seed).edges)
            wiring = Wiring(n=N, edges=tuple(edges))
            assert len(wiring.edges) == m * (N - m)
            assert len(wiring.sources) == 1 != m


def test_r3_ba_attaches_in_proportion_to_degree() -> None:
    """Two distributions small enough for paper.

    M=1, N=4: node 3 meets degrees 2, 1, 1 and takes the hub with 1/2 (a uniform draw: 1/3).
    M=2, N=4: node 3 meets degrees 1, 1, 2 and draws two; it takes node 2 with
    1/2 + 1/2 * 2/3 = 5/6 (a uniform draw: 2/3).
    """
    hub = []
    for wiring in draws(BarabasiAlbert(m=1), 2000, n=4):
        (taken,) = [u for u, v in wiring.edges if v == 3]
        degrees = [sum(node in edge for edge in wiring.edges if edge[1] < 3) for node in range(3)]
        hub.append(degrees[taken] == 2)
    assert statistics.mean(hub) == pytest.approx(1 / 2, abs=4 * 0.5 / math.sqrt(2000))
    joined = [(2, 3) in wiring.edges for wiring in draws(BarabasiAlbert(m=2), 2000, n=4)]
    assert statistics.mean(joined) == pytest.approx(5 / 6, abs=4 * 0.373 / math.sqrt(2000))


@pytest.mark.parametrize("k", [2, 4, 6, 8])
@pytest.mark.parametrize("p", [0, 0.25, 0.5, 0.75, 1])
def test_r5_ws_structure(k: int, p: float) -> None:
    for wiring in draws(WattsStrogatz(k=k, p=p), 40):
        graph = undirected(wiring)
        assert len(wiring.edges) == graph.number_of_edges() == N * k // 2
        assert nx.number_of_selfloops(graph) == 0
        assert min(degree for _, degree in graph.degree) >= k // 2


def test_r5_ws_ends_where_a_node_already_knows_everyone() -> None:
    for seed in range(20):
        wiring = WattsStrogatz(k=4, p=1).wiring(5, seed)
        assert wiring.edges == tuple((u, v) for u in range(5) for v in range(u + 1, 5))


def edge_probabilities(n: int, ties: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Exact probability of each edge after the ties (v, distance), in this order, were all rewired (P = 1)
    by spec 1.2: the far end moves to a uniform node that is not v and not adjacent to v."""
    ring = frozenset(tuple(sorted((v, (v + i) % n))) for v, i in ties)
    states = {ring: 1.0}
    for v, i in ties:
        after: dict[frozenset[tuple[int, ...]], float] = {}
        for edges, probability in states.items():
            free = [u for u in range(n) if u != v and tuple(sorted((u, v))) not in edges]
            old = tuple(sorted((v, (v + i) % n)))
            outcomes = [edges - {old} | {tuple(sorted((v, u)))} for u in free] or [edges]
            for outcome in outcomes:
                after[outcome] = after.get(outcome, 0.0) + probability / len(outcomes)
        states = after
    pairs = [(u, v) for u in range(n) for v in range(u + 1, n)]
    return {pair: sum(p for edges, p in states.items() if pair in edges) for pair in pairs}


def test_r5_ws_rewires_a_lap_for_each_distance() -> None:
    """The edge probabilities of WS(4, 1) on 6 nodes are those of laps; the other nesting (the control) is
    told apart by them."""
    laps = edge_probabilities(6, [(v, i) for i in (1, 2) for v in range(6)])
    other = edge_probabilities(6, [(v, i) for v in range(6) for i in (1, 2)])
    wirings = draws(WattsStrogatz(k=4, p=1), 2000, n=6)
    measured = {pair: statistics.mean(pair in wiring.edges for wiring in wirings) for pair in laps}
    tolerance = 4 * 0.5 / math.sqrt(2000)
    assert measured == pytest.approx(laps, abs=tolerance)
    assert measured != pytest.approx(other, abs=tolerance)


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        (WattsStrogatz, {"k": 3, "p": 0.5}),
        (WattsStrogatz, {"k": 0, "p": 0.5}),
        (WattsStrogatz, {"k": 4, "p": 1.1}),
        (WattsStrogatz, {"k": 4, "p": float("nan")}),
        (WattsStrogatz, {"k": 4, "p": 0.5, "m": 1}),
        (ErdosRenyi, {"p": -0.1}),
        (ErdosRenyi, {"p": float("nan")}),
        (BarabasiAlbert, {"m": 0}),
        (BarabasiAlbert, {"m": 2.5}),
    ],
)
def test_settings_outside_the_model_are_refused(model: type[RandomGraph], bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        model(**bad)


@pytest.mark.parametrize(
    ("generator", "n", "field"),
    [
        (BarabasiAlbert(m=32), 32, "m"),
        (BarabasiAlbert(m=40), 32, "m"),
        (WattsStrogatz(k=32, p=0.5), 32, "k"),
        (ErdosRenyi(p=0.5), 0, "nodes"),
    ],
    ids=lambda value: value.label if isinstance(value, RandomGraph) else None,
)
def test_too_few_nodes_are_refused(generator: RandomGraph, n: int, field: str) -> None:
    with pytest.raises(UserError) as caught:
        generator.wiring(n, 0)
    assert caught.value.field == field


def test_r6_ws_sources_and_sinks() -> None:
    wirings = draws(WattsStrogatz(k=4, p=0.75), 2000)
    assert mean_sources(wirings) == pytest.approx(5.88, abs=0.15)
    assert mean_sinks(wirings) == pytest.approx(5.16, abs=0.15)
    deviations = [statistics.stdev(len(ends) for ends in some) for some in (
        [wiring.sources for wiring in wirings], [wiring.sinks for wiring in wirings]
    )]  # fmt: skip
    assert deviations == pytest.approx([1.56, 1.53], abs=4 * 1.56 / math.sqrt(2 * 2000))


@pytest.mark.parametrize(
    ("p", "clustering"), [(0, 0.500), (0.25, 0.262), (0.5, 0.145), (0.75, 0.109), (1, 0.106)]
)
def test_r7_ws_clustering(p: float, clustering: float) -> None:
    wirings = draws(WattsStrogatz(k=4, p=p), 500)
    mean = statistics.mean(nx.average_clustering(undirected(wiring)) for wiring in wirings)
    assert mean == pytest.approx(clustering, abs=0.01)


def test_r7_ws_without_randomness() -> None:
    wirings = draws(WattsStrogatz(k=4, p=0), 500)
    assert len(set(wiring.edges for wiring in wirings)) == 1
    ring = {tuple(sorted((v, (v + i) % N))) for v in range(N) for i in (1, 2)}
    assert set(wirings[0].edges) == ring
    assert nx.average_clustering(undirected(wirings[0])) == 0.5
    assert (len(wirings[0].sources), len(wirings[0].sinks)) == (1, 1)
    assert longest_path(N, list(wirings[0].edges)) == 32


@pytest.mark.parametrize(("p", "depth", "relabelled"), [(0.25, 24.4, 7.1), (0.75, 10.06, 7.4)])
def test_r8_index_rule(p: float, depth: float, relabelled: float) -> None:
    """Clockwise indices give deep graphs; shuffled ones (the control) give shallow ones."""
    wirings = draws(WattsStrogatz(k=4, p=p), 1000)
    depths = [longest_path(N, list(wiring.edges)) for wiring in wirings]
    assert statistics.mean(depths) == pytest.approx(depth, abs=0.5)
    rng, control = random.Random(0), []
    for wiring in wirings:
        index = rng.sample(range(N), N)
        edges = [(min(index[u], index[v]), max(index[u], index[v])) for u, v in wiring.edges]
        control.append(longest_path(N, edges))
    assert statistics.mean(control) == pytest.approx(relabelled, abs=0.5)


SEEDS = (1, 2, 3)
PRINT_WIRINGS = """
import json
from networks.generators import paper_grid
from networks.randwire import RandWireTemplate
template = RandWireTemplate()
print(json.dumps([[w.edges for w in template.wirings(g, s)] for g in paper_grid() for s in (1, 2, 3)]))
"""


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_r17_same_edges_in_every_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", PRINT_WIRINGS], env=environment, capture_output=True, text=True, check=True
    )
    template = RandWireTemplate()
    here = [[w.edges for w in template.wirings(g, s)] for g in paper_grid() for s in SEEDS]
    assert json.loads(run.stdout) == json.loads(json.dumps(here))


def test_r17_stages_and_seeds_differ() -> None:
    template = RandWireTemplate()
    for generator in (ErdosRenyi(p=0.2), BarabasiAlbert(m=5), WattsStrogatz(k=4, p=0.75)):
        edges = [wiring.edges for seed in range(20) for wiring in template.wirings(generator, seed)]
        assert len(set(edges)) == len(edges) == 60


def test_r17_global_random_states_are_neither_read_nor_changed() -> None:
    generator = ErdosRenyi(p=0.4)
    random.seed(1)
    state, first = random.getstate(), generator.wiring(N, 7)
    assert random.getstate() == state
    random.seed(2)
    assert generator.wiring(N, 7) == first


def test_paper_grid_is_the_specifications() -> None:
    labels = [generator.label for generator in paper_grid()]
    assert len(set(labels)) == len(labels)
    assert [label for label in labels if label.startswith("ER")] == [
        "ER(0.2)", "ER(0.4)", "ER(0.6)", "ER(0.8)"
    ]  # fmt: skip
    assert [label for label in labels if label.startswith("BA")] == [f"BA({m})" for m in (1, 2, 3, 5, 7)]
    assert {label for label in labels if label.startswith("WS")} == {
        f"WS({k}, {p})" for k in (2, 4, 6, 8) for p in ("0", "0.25", "0.5", "0.75", "1")
    }


GENERATORS = st.one_of(
    st.builds(ErdosRenyi, p=st.floats(0, 1)),
    st.builds(BarabasiAlbert, m=st.integers(1, 5)),
    st.builds(WattsStrogatz, k=st.sampled_from([2, 4]), p=st.floats(0, 1)),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(generator=GENERATORS, n=st.integers(6, 20), seed=st.integers(0, 2**63))
def test_every_wiring_is_a_simple_graph_in_index_order(generator: RandomGraph, n: int, seed: int) -> None:
    wiring = generator.wiring(n, seed)
    assert list(wiring.edges) == sorted(set(wiring.edges))
    assert all(0 <= u < v < n for u, v in wiring.edges)
    targets, starts = {v for _, v in wiring.edges}, {u for u, _ in wiring.edges}
    assert wiring.sources == tuple(node for node in range(n) if node not in targets)
    assert wiring.sinks == tuple(node for node in range(n) if node not in starts)
    assert sum(wiring.in_degree) == sum(wiring.out_degree) == len(wiring.edges)
    assert Wiring.model_validate_json(wiring.model_dump_json()) == wiring


@pytest.mark.parametrize(
    ("generator", "edges"),
    [
        (ErdosRenyi(p=0.3), "12 26 35 36 37 56 57 67"),
        (BarabasiAlbert(m=2), "02 03 12 14 16 17 23 24 25 27 45 56"),
        (WattsStrogatz(k=4, p=0.5), "01 02 04 12 14 17 23 26 27 34 36 45 46 47 56 67"),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_recorded_wirings(generator: RandomGraph, edges: str) -> None:
    """ER and WS draw inside networkx: a release that draws otherwise would change every search."""
    wiring = generator.wiring(8, 1, "recorded")
    assert " ".join(f"{source}{target}" for source, target in wiring.edges) == edges
