"""Graph damage (spec 1.10, R16): what is removed, what is then computed, and that all is whole after."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from networks.architecture import Shape, Stage
from networks.generators import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import Network, build_network, initialise
from networks.randwire import RandWireTemplate, stage_graph
from networks.stage import GraphStage
from trainers.damage import Damage, damage_study, removals
from trainers.data import DataSettings, open_data
from trainers.training import Trainer, TrainingSettings

OPERATION = "triplet_sep_conv_3x3"
TEMPLATE = RandWireTemplate(
    regime="cifar", nodes=6, channels=4, head_channels=16, image=Shape(1, 8, 8), classes=10
)
MODELS = [WattsStrogatz(k=4, p=0.75), BarabasiAlbert(m=2), ErdosRenyi(p=0.3)]


def hand_made() -> Graph:
    """1 and 2 are sources; 3 reads both, 4 reads 3 alone; 4 and 5 are sinks and 5 reads 1, 2 and 3."""
    ordinary = [Node(id=i, operation=OPERATION, aggregation="weighted_sum") for i in range(1, 6)]
    wiring = [(1, 3), (2, 3), (3, 4), (1, 5), (2, 5), (3, 5)]
    taken = dict.fromkeys(range(1, 6), 0)
    edges = [Edge(source=0, target=1), Edge(source=0, target=2)]
    for source, target in wiring:
        edges.append(
            Edge(
                source=source, target=target, slot=taken[target], weight="none" if target == 4 else "sigmoid"
            )
        )
        taken[target] += 1
    edges += [Edge(source=4, target=6, slot=0), Edge(source=5, target=6, slot=1)]
    nodes = (Node(id=0), *ordinary, Node(id=6, aggregation="mean"))
    return Graph(nodes=nodes, edges=tuple(edges), inputs=(0,), output=6)


def trained_like(module: torch.nn.Module) -> torch.nn.Module:
    """Initialised, then every vector moved off its start, as training would."""
    initialise(module, 0)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                start = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(start + 0.5 * torch.randn(parameter.shape, generator=draws))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=draws))
    return module.eval()


def stage_of(graph: Graph) -> GraphStage:
    stage = GraphStage(graph, Stage(graph=graph, channels=4, stride=2), Shape(3, 6, 6)).double()
    trained_like(stage)
    return stage


def images() -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_definition(
    stage: GraphStage, x: Tensor, node: int | None = None, edge: tuple[int, int] | None = None
) -> Tensor:
    """The stage without a node or an edge, straight from spec 1.10: what is removed sends zeros, and a
    removed node leaves the output mean."""
    graph, values = stage.graph, {0: x}
    alpha = dict(zip(stage.weighted_edges, torch.sigmoid(stage.edge_values), strict=True))
    for target in graph.order[1:]:
        parts = []
        for position, one in enumerate(graph.edges):
            if one.target != target:
                continue
            if target == graph.output:
                parts += [values[one.source]] if one.source != node else []
                continue
            gone = one.source == node or (one.source, target) == edge
            parts.append(values[one.source] * (0 if gone else alpha.get(position, 1)))
        if target == graph.output:
            return torch.stack(parts).mean(0) if parts else torch.zeros_like(values[target - 1])
        values[target] = stage.operations[f"node_{target}"](sum(parts))
    raise AssertionError


# What is removed ------------------------------------------------------------------------------------


def test_removals_and_degrees_of_a_graph_made_by_hand() -> None:
    """Out-degree of a node and in-degree of an edge's target; edges of the extra nodes count in neither."""
    assert removals(hand_made()) == [
        ("node", "1", 2, frozenset({2, 5})),
        ("node", "2", 2, frozenset({3, 6})),
        ("node", "3", 2, frozenset({4, 7})),
        ("node", "4", 0, frozenset({8})),
        ("node", "5", 0, frozenset({9})),
        ("edge", "1-3", 2, frozenset({2})),
        ("edge", "2-3", 2, frozenset({3})),
        ("edge", "3-4", 1, frozenset({4})),
        ("edge", "1-5", 3, frozenset({5})),
        ("edge", "2-5", 3, frozenset({6})),
        ("edge", "3-5", 3, frozenset({7})),
    ]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.label)
def test_every_node_and_edge_of_the_wiring_is_removed_once(model) -> None:
    for wiring in TEMPLATE.wirings(model, 3):
        found = removals(stage_graph(wiring))
        nodes = [(name, degree) for kind, name, degree, _ in found if kind == "node"]
        edges = [(name, degree) for kind, name, degree, _ in found if kind == "edge"]
        sources = [source for source, _ in wiring.edges]
        assert nodes == [(str(node + 1), sources.count(node)) for node in range(wiring.n)]
        assert sorted(edges) == sorted((f"{s + 1}-{t + 1}", wiring.in_degree[t]) for s, t in wiring.edges)


def test_whoever_is_left_without_inputs_is_marked() -> None:
    network = network_of([hand_made()])
    marked = [one.name for one in damage_study(network, lambda: 1.0, 1.0) if one.orphaning]
    assert marked == ["3", "3-4"]


def test_the_loss_of_the_only_sink_is_marked() -> None:
    graph = stage_graph(WattsStrogatz(k=2, p=0).wiring(3, 0))
    assert [edge.source for edge in graph.edges if edge.target == graph.output] == [3]
    marked = {one.name for one in damage_study(network_of([graph]), lambda: 1.0, 1.0) if one.orphaning}
    assert "3" in marked


# What the damaged network computes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "graph",
    [hand_made(), *(stage_graph(model.wiring(7, 1, "test")) for model in MODELS)],
    ids=["by hand", "WS", "BA", "ER"],
)
def test_a_damaged_stage_computes_what_the_definition_says(graph: Graph) -> None:
    stage, x, changed = stage_of(graph), images(), 0
    with torch.no_grad():
        whole = stage(x)
        torch.testing.assert_close(whole, by_definition(stage, x), rtol=0, atol=1e-10)
        for kind, name, _, edges in removals(graph):
            stage.remove(edges)
            damaged = stage(x)
            expected = (
                by_definition(stage, x, node=int(name))
                if kind == "node"
                else by_definition(stage, x, edge=tuple(map(int, name.split("-"))))
            )
            torch.testing.assert_close(damaged, expected, rtol=0, atol=1e-10, msg=f"{kind} {name}")
            changed += not damaged.equal(whole)
        stage.remove([])
        assert stage(x).equal(whole)
    assert changed > 0.7 * len(removals(graph))  # a ReLU may hide some


def network_of(graphs: list[Graph]) -> Network:
    architecture = TEMPLATE.architecture(MODELS[0], 1)
    stages = tuple(
        stage.model_copy(update={"graph": graph})
        for stage, graph in zip(architecture.stages, graphs, strict=False)
    )
    network = build_network(architecture.model_copy(update={"stages": stages}), 0)
    trained_like(network)
    return network


@pytest.fixture
def network() -> Network:
    return network_of([stage.graph for stage in TEMPLATE.architecture(MODELS[0], 1).stages])


def test_removing_an_edge_is_its_sigmoid_weight_at_0(network: Network) -> None:
    """R16 on the whole network: value -inf gives a weight of exactly 0."""
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    outputs: list[Tensor] = []

    def accuracy() -> float:
        with torch.no_grad():
            outputs.append(network(x))
        return 0.0

    accuracy()
    found = list(damage_study(network, accuracy, 0.0))
    compared = 0
    for one, damaged in zip(found, outputs[1:], strict=True):
        stage = network.graph_stages[one.stage]
        for factor, position in enumerate(stage.weighted_edges):
            edge = stage.graph.edges[position]
            if one.kind == "edge" and one.name == f"{edge.source}-{edge.target}":
                with torch.no_grad():
                    kept = stage.edge_values[factor].clone()
                    stage.edge_values[factor] = -torch.inf
                    assert (network(x) - damaged).abs().max() < 1e-6
                    stage.edge_values[factor] = kept
                    compared += 1
    assert compared == sum(len(stage.weighted_edges) for stage in network.graph_stages) > 10
    with torch.no_grad():
        assert network(x).equal(outputs[0])


# The study ------------------------------------------------------------------------------------------


def test_the_study_removes_one_thing_at_a_time_in_each_stage(network: Network) -> None:
    seen: list[list[frozenset[int]]] = []

    def accuracy() -> float:
        seen.append([stage.removed for stage in network.graph_stages])
        return 0.75 - 0.01 * len(seen)

    found = list(damage_study(network, accuracy, 0.75))
    planned = [
        (number, kind, name, degree, edges)
        for number, stage in enumerate(network.graph_stages)
        for kind, name, degree, edges in removals(stage.graph)
    ]
    for (number, kind, name, degree, edges), removed, one in zip(planned, seen, found, strict=True):
        assert removed == [edges if number == stage else frozenset() for stage in range(3)]
        assert (one.stage, one.kind, one.name, one.degree) == (number, kind, name, degree)
    assert [one.loss for one in found] == pytest.approx([0.01 * (i + 1) for i in range(len(found))])
    assert all(not stage.removed for stage in network.graph_stages)


def test_the_network_is_whole_when_the_study_breaks_off(network: Network) -> None:
    calls = 0

    def accuracy() -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return 1.0

    study: Iterator[Damage] = damage_study(network, accuracy, 1.0)
    next(study)
    assert all(not stage.removed for stage in network.graph_stages)
    with pytest.raises(KeyboardInterrupt):
        list(study)
    assert all(not stage.removed for stage in network.graph_stages)


def test_losses_are_of_the_trained_networks_accuracy() -> None:
    """A trainer with edge-drop on: what its last step dropped does not stay, what the study removes does."""
    data = open_data(DataSettings(limit=600))
    template = TEMPLATE.model_copy(update={"edge_drop": 1.0})
    network = build_network(template.architecture(MODELS[0], 1), 0)
    trainer = Trainer(network, data, TrainingSettings(epochs=4, batch_size=32, warmup_epochs=0.5), 0)
    for _ in range(4):
        trainer.train_epoch()

    def accuracy() -> float:
        return trainer.evaluate("validation")["validation_accuracy"]

    whole, state = accuracy(), {name: one.clone() for name, one in network.state_dict().items()}
    found = list(damage_study(network, accuracy, whole))
    assert accuracy() == whole > 0.3
    assert all(one.equal(state[name]) for name, one in network.state_dict().items())
    assert len(found) == sum(len(removals(stage.graph)) for stage in network.graph_stages)
    worst = max(found, key=lambda one: one.loss)
    assert worst.loss > 0.05
    stage = network.graph_stages[worst.stage]
    stage.remove(next(edges for _, name, _, edges in removals(stage.graph) if name == worst.name))
    assert whole - accuracy() == worst.loss
