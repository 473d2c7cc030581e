"""Topologies and learned edges: checks T1 to T13 and T16 of the TopoNet spec (section 2.9)."""

from itertools import combinations

import networkx as nx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.adjacency import adjacency, frozen, prune, sparsity
from networks.architecture import Architecture, Shape
from networks.counters import counter_generator
from networks.errors import UserError
from networks.generators import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import Network, build_network
from networks.standard import standard, standard_topology
from networks.topologies import Complete, Dense, Plain, Residual, pairs_of, subgraphs, topology_graph
from networks.toponet import TopologySettings, TopologyTemplate

CIFAR = (Shape(3, 32, 32), 10)
SMALL = TopologyTemplate(nodes=8, stages=2, channels=4, image=Shape(3, 8, 8))
TRIPLET = "triplet_sep_conv_3x3"


def randomised(network: Network, seed: int = 0) -> Network:
    """In float64, with weights and statistics of nobody's start; edge values stay."""
    draws = counter_generator(seed, "randomised")
    network.double()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=draws)
            elif tensor.is_floating_point() and "edge_values" not in name:
                tensor.add_(torch.randn(tensor.shape, generator=draws, dtype=tensor.dtype), alpha=0.2)
    return network


def images(side: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=counter_generator(seed, "x"), dtype=torch.float64)


# T1, T2: counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "edges"), [(4, (15, 19, 23)), (9, (55, 64, 73)), (16, (153, 169, 185))])
def test_edge_counts(blocks: int, edges: tuple[int, int, int]) -> None:
    for interval, expected in zip((1, 2, 3), edges, strict=True):
        nodes = interval * blocks + 2
        assert len(Residual(interval=interval).pairs(nodes)) == expected
        assert len(Plain().pairs(nodes)) == nodes - 1
        assert len(Complete().pairs(nodes)) == nodes * (nodes - 1) // 2 == len(Dense().pairs(nodes))
    assert Residual(interval=1).pairs(blocks + 2) == Complete().pairs(blocks + 2)


@pytest.mark.parametrize(("nodes", "count"), [(3, 8), (4, 64), (5, 1024)])
def test_number_of_subgraphs(nodes: int, count: int) -> None:
    found = set(subgraphs(nodes))
    assert len(found) == count == 2 ** len(Complete().pairs(nodes))
    assert set().union(*found) == set(combinations(range(nodes), 2))


@pytest.mark.parametrize("generator", [ErdosRenyi(p=0.4), BarabasiAlbert(m=2), WattsStrogatz(k=4, p=0.5)])
def test_random_topologies_are_wirings_between_an_input_and_an_output(
    generator: ErdosRenyi | BarabasiAlbert | WattsStrogatz,
) -> None:
    pairs = pairs_of(generator, 12, 3, "stage", 0)
    wiring = generator.wiring(10, 3, "stage", 0)
    assert {(i - 1, j - 1) for i, j in pairs if i > 0 and j < 11} == set(wiring.edges)
    assert {j - 1 for i, j in pairs if i == 0} == set(wiring.sources)
    assert {i - 1 for i, j in pairs if j == 11} == set(wiring.sinks)
    topology_graph(12, pairs, TRIPLET)  # every node lies between input and output
    assert pairs != pairs_of(generator, 12, 3, "stage", 1)


def test_wrong_numbers_of_nodes_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of the interval 2"):
        pairs_of(Residual(interval=2), 7)
    for topology in (Plain(), Complete(), ErdosRenyi(p=0.5)):
        with pytest.raises(UserError, match="3 or more"):
            pairs_of(topology, 2)


# T3, T4: residual networks are complete graphs ----------------------------------------------------


def blocks_as_nodes(state: dict[str, Tensor], made: Network) -> dict[str, Tensor]:
    """Weights of `standard`'s links by the names that they have in `standard_topology`."""
    renamed = {}
    for name in made.state_dict():
        parts = name.split(".")
        if parts[0] != "stages" or "operations" not in parts:
            renamed[name] = state[name] if "edge_values" not in name else made.state_dict()[name]
            continue
        key, inside = parts[3], parts[4:]
        block = 0 if key.startswith("edge") else int(key.removeprefix("node_")) - 1
        if key == "edge_0_1_1":  # the projected shortcut
            renamed[name] = state[
                f"{parts[0]}.{parts[1]}.operations.{_shortcut(state, parts[1])}.{'.'.join(inside)}"
            ]
            continue
        renamed[name] = state[_link(state, parts[1], block, inside)]
    return renamed


def _shortcut(state: dict[str, Tensor], stage: str) -> str:
    keys = {name.split(".")[3] for name in state if name.startswith(f"stages.{stage}.operations.")}
    return next(key for key in keys if key.endswith("_1"))


def _link(state: dict[str, Tensor], stage: str, block: int, inside: list[str]) -> str:
    """A basic block is two links (its layers 0, 1 and 3, 4), all others one."""
    where = f"stages.{stage}.operations"
    if f"{where}.edge_1_2_0.body.0.weight" in state and inside[0] == "body" and _is_basic(state, where):
        layer = int(inside[1])
        link = 2 * block + (layer > 2)
        return f"{where}.edge_{link}_{link + 1}_0.body.{layer % 3}.{inside[2]}"
    return f"{where}.edge_{block}_{block + 1}_0.{'.'.join(inside)}"


def _is_basic(state: dict[str, Tensor], where: str) -> bool:
    return f"{where}.edge_0_1_0.body.3.weight" not in state


@pytest.mark.parametrize(("name", "side"), [("resnet20", 32), ("resnet50", 32), ("mobilenet_v2", 64)])
def test_residual_networks_are_complete_graphs_with_weights_of_one(name: str, side: int) -> None:
    image = Shape(3, side, side)
    plain = randomised(build_network(standard(name, image, 10), 0)).eval()
    made = standard_topology(name, image, 10, Complete(), "real")
    complete = build_network(made, 1).double().eval()
    complete.load_state_dict(blocks_as_nodes(plain.state_dict(), complete))
    x = images(side)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(complete(x), expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
        complete.graph_stages[0 if name != "mobilenet_v2" else 1].edge_values[0] = 0.5
        assert not torch.allclose(complete(x), expected)


def chain_of_blocks(
    operations: list[nn.Module], interval: int, x: Tensor, relu_after: bool = False
) -> Tensor:
    """A residual network from its definition: h <- h + f_l(... f_1(h))."""
    for start in range(0, len(operations), interval):
        branch = x
        for operation in operations[start : start + interval]:
            branch = operation(branch)
        x = x + branch
        x = F.relu(x) if relu_after else x
    return x


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_residual_topologies_are_residual_networks(interval: int) -> None:
    """Also with a post-add ReLU: that one must not match (T4)."""
    graph = topology_graph(8, Residual(interval=interval).pairs(8), TRIPLET)
    network = randomised(build_network(SMALL.architecture(Residual(interval=interval)), 0)).eval()
    stage = network.graph_stages[0]
    assert stage.graph == graph
    operations = [stage.operations[f"node_{node}"] for node in range(1, 7)]
    x = torch.randn(2, 4, 8, 8, generator=counter_generator(1, "x"), dtype=torch.float64)
    with torch.no_grad():
        out = stage(x)
        torch.testing.assert_close(chain_of_blocks(operations, interval, x), out, rtol=0, atol=1e-10)
        assert (chain_of_blocks(operations, interval, x, relu_after=True) - out).abs().max() > 1e-3


def test_dense_edges_are_one_convolution_of_all_that_is_joined() -> None:
    network = randomised(build_network(SMALL.architecture(Dense()), 0)).eval()
    stage = network.graph_stages[0]
    x = torch.randn(2, 4, 8, 8, generator=counter_generator(1, "x"), dtype=torch.float64)
    outputs = [x]
    with torch.no_grad():
        for node in range(1, 8):
            links = [stage.operations[f"edge_{source}_{node}_{source}"] for source in range(node)]
            weight = torch.cat([link.body[0].weight for link in links], 1)  # type: ignore[union-attr,index]
            z = F.conv2d(F.relu(torch.cat(outputs, 1)), weight)
            outputs.append(stage.operations[f"node_{node}"](z) if node < 7 else z)
        torch.testing.assert_close(stage(x), outputs[-1], rtol=0, atol=1e-10)


# T5, T6: gradients --------------------------------------------------------------------------------


class Watched:
    """A complete graph run by its definition, its z and x kept with their gradients."""

    def __init__(self, nodes: int = 5) -> None:
        made = TopologyTemplate(nodes=nodes, stages=1, channels=3, image=Shape(3, 6, 6))
        self.network = randomised(build_network(made.architecture(Complete(), weight="real"), 0))
        self.stage = self.network.graph_stages[0]
        with torch.no_grad():
            draws = counter_generator(0, "alpha")
            values = self.stage.edge_values
            values.copy_(torch.randn(values.shape, generator=draws, dtype=values.dtype))
        self.pairs = [(edge.source, edge.target) for edge in self.stage.graph.edges]
        self.nodes = nodes
        self.x = torch.randn(4, 3, 6, 6, generator=counter_generator(0, "x"), dtype=torch.float64)
        self.aim = torch.randn(4, 3, 6, 6, generator=counter_generator(0, "aim"), dtype=torch.float64)

    def loss(self, values: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        outputs, sums = [self.x.clone().requires_grad_()], []
        for node in range(1, self.nodes):
            z = torch.stack([values[n] * outputs[i] for n, (i, j) in enumerate(self.pairs) if j == node]).sum(
                0
            )
            z.retain_grad()
            sums.append(z)
            if node < self.nodes - 1:
                z = self.stage.operations[f"node_{node}"](z)
                z.retain_grad()
                outputs.append(z)
        return ((z - self.aim) ** 2).sum(), outputs, sums


def test_gradients_of_weights_are_inner_products_and_central_differences() -> None:
    """T5, for the executor that trains; T6: what arrives at x_i is the weighted sum of the z after it."""
    watched = Watched()
    watched.network.eval()  # statistics stay, so that a difference is that of the weight alone
    stage, values = watched.stage, watched.stage.edge_values
    ((stage(watched.x) - watched.aim) ** 2).sum().backward()
    found = values.grad
    assert found is not None
    by_hand = values.detach().clone().requires_grad_()
    loss, outputs, sums = watched.loss(by_hand)
    loss.backward()
    for number, (i, j) in enumerate(watched.pairs):
        upstream, source = sums[j - 1].grad, outputs[i]
        assert upstream is not None
        inner = float((upstream * source.detach()).sum())
        assert float(found[number]) == pytest.approx(inner, rel=1e-6)
        with torch.no_grad():
            shift = torch.zeros_like(by_hand)
            shift[number] = 1e-5
        up, down = (
            float(watched.loss((by_hand + sign * shift).detach().requires_grad_())[0].detach())
            for sign in (1, -1)
        )
        assert float(found[number]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)
    for i, x in enumerate(outputs):
        arrives = sum(
            float(by_hand[number].detach()) * sums[j - 1].grad  # type: ignore[operator]
            for number, (source, j) in enumerate(watched.pairs)
            if source == i
        )
        assert isinstance(arrives, Tensor) and x.grad is not None
        torch.testing.assert_close(x.grad, arrives, rtol=0, atol=1e-10)


# T10, T11, T13: what it costs ---------------------------------------------------------------------


def test_weights_cost_their_number_and_no_work() -> None:
    for topology in (Complete(), Residual(interval=2), Plain(), ErdosRenyi(p=0.5)):
        bare, weighed = (SMALL.architecture(topology, 1, weight) for weight in ("none", "real"))
        edges = sum(len(weighed.graph(stage).edges) for stage in range(2))
        more = weighed.complexity().minus(bare.complexity())
        assert more == (edges, 0, 0)
        state = build_network(weighed, 0).state_dict()
        assert sum(len(state[f"stages.{stage}.edge_values"]) for stage in range(2)) == edges


def test_topologies_cost_the_same() -> None:
    """0 apart; the one whose edges compute is as close as a width can be."""
    template = TopologyTemplate(nodes=8, stages=3, channels=16)
    same = [Plain(), Complete(), *(Residual(interval=n) for n in (1, 2, 3))]
    drawn = [ErdosRenyi(p=0.3), BarabasiAlbert(m=2), WattsStrogatz(k=2, p=0.5)]
    costs = {template.architecture(one, 1).complexity()[1:] for one in [*same, *drawn]}
    assert len(costs) == 1
    ((aim, _),) = costs
    width = template.channels_at(aim, Dense())
    assert width.channels < 16 and abs(width.macs - aim) / aim < 0.15  # one channel more or less is as much
    wider, narrower = (
        template.model_copy(update={"channels": width.channels + step})
        .architecture(Dense())
        .complexity()
        .macs
        for step in (1, -1)
    )
    assert narrower < aim < wider
    solved = TopologyTemplate(nodes=8, stages=3, macs=aim)
    assert solved.architecture(Dense()).complexity().macs == width.macs
    assert solved.architecture(Complete()).complexity().macs == aim
    with pytest.raises(UserError, match="two channels"):
        template.channels_at(1000, Complete())


@pytest.mark.parametrize(
    ("name", "params", "weights"),
    [
        ("resnet20", 269_722, 18), ("resnet32", 464_154, 45), ("resnet44", 658_586, 84),
        ("resnet56", 853_018, 135), ("resnet110", 1_727_962, 513),
    ],
)  # fmt: skip
def test_sizes_of_residual_networks(name: str, params: int, weights: int) -> None:
    """T13; 18 weights of ResNet-20 are spec 2.5's, with a stage's first block as its topology's input."""
    assert standard(name, *CIFAR).complexity().params == params
    assert standard(name, CIFAR[0], 100).complexity().params == params + 5850
    assert standard_topology(name, *CIFAR, Complete(), "real").complexity().params == params + weights
    assert standard_topology(name, *CIFAR).complexity() == standard(name, *CIFAR).complexity()


# T12: fixed weights -------------------------------------------------------------------------------


def shaken(architecture: Architecture, seed: int = 0) -> Network:
    network = randomised(build_network(architecture, seed))
    draws = counter_generator(seed, "alpha")
    with torch.no_grad():
        for stage in network.graph_stages:
            values = stage.edge_values
            values.copy_(torch.randn(values.shape, generator=draws, dtype=values.dtype).float())
    return network


def test_a_frozen_topology_computes_the_same_and_is_no_parameter() -> None:
    learned = shaken(SMALL.architecture(Complete(), weight="real"))
    values = [stage.edge_values for stage in learned.graph_stages]
    made = frozen(learned.architecture, values)
    assert Architecture.from_json(made.to_json()) == made
    network = build_network(made, 1).double()
    assert all(
        torch.equal(a, b.double())
        for a, b in zip(values, (s.edge_values for s in network.graph_stages), strict=True)
    )
    network.load_state_dict(learned.state_dict())
    x = images(8, 4)
    torch.testing.assert_close(network(x), learned(x), rtol=0, atol=1e-12)
    assert not any("edge_values" in name for name, _ in network.named_parameters())
    assert any("edge_values" in name for name in network.state_dict())
    assert made.complexity().params == sum(one.numel() for one in network.parameters())
    (network(x) ** 2).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_of_a_graph_are_learned_or_fixed() -> None:
    nodes = [Node(id=0), Node(id=1, operation=TRIPLET), Node(id=2, aggregation="weighted_sum")]
    first = Edge(source=0, target=1)

    def graph(*into: Edge) -> Graph:
        return Graph(nodes=nodes, edges=(first, *into), inputs=(0,), output=2)

    real, fixed = (
        Edge(source=0, target=2, weight="real"),
        Edge(source=1, target=2, slot=1, weight="fixed", value=2.0),
    )
    with pytest.raises(ValueError, match="not both in one graph"):
        graph(real, fixed)
    with pytest.raises(ValueError, match="a number, where the weight is fixed"):
        graph(real, fixed.model_copy(update={"value": None}))
    with pytest.raises(ValueError, match="nothing where the weight is none"):
        graph(Edge(source=0, target=2, value=1.0), Edge(source=1, target=2, slot=1))
    assert "value" not in graph(real, Edge(source=1, target=2, slot=1)).model_dump_json()


# T16: adjacency and pruning -----------------------------------------------------------------------


def by_matrix(stage: nn.Module, matrix: Tensor, x: Tensor) -> Tensor:
    """The stage as products of its adjacency's rows with all outputs so far."""
    last = len(matrix) - 1
    outputs = x.new_zeros(last, *x.shape)
    outputs = torch.cat([x[None], outputs[1:]])
    for node in range(1, last + 1):
        z = torch.einsum("i,i...->...", matrix[node, :node], outputs[:node])
        if node == last:
            return z
        done = stage.operations[f"node_{node}"](z)  # type: ignore[index,operator]
        outputs = torch.cat([outputs[:node], done[None], outputs[node + 1 :]])
    raise AssertionError


@pytest.mark.parametrize("topology", [Complete(), Residual(interval=3), WattsStrogatz(k=2, p=0.5)])
def test_products_with_the_adjacency_are_the_same(topology: Complete | Residual | WattsStrogatz) -> None:
    network = shaken(SMALL.architecture(topology, 2, "real"))
    stage = network.graph_stages[0]
    order = stage.graph.order
    x = torch.randn(2, 4, 8, 8, generator=counter_generator(1, "x"), dtype=torch.float64, requires_grad=True)
    out = stage(x)
    found = torch.autograd.grad((out**2).sum(), [x, stage.edge_values])
    values = stage.edge_values.detach().clone().requires_grad_()
    matrix = torch.zeros(len(order), len(order), dtype=torch.float64)
    target, source = zip(*((edge.target, edge.source) for edge in stage.graph.edges), strict=True)
    matrix = matrix.index_put((torch.tensor(target), torch.tensor(source)), values)
    if order == tuple(range(len(order))):
        assert torch.equal(matrix.detach(), adjacency(stage.graph, stage.edge_values))
    other = by_matrix(stage, matrix, x)
    expected = torch.autograd.grad((other**2).sum(), [x, values])
    torch.testing.assert_close(out, other, rtol=0, atol=1e-10)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_rows_of_the_adjacency_are_edges_into_a_node() -> None:
    """T9's transpose: 0 -> 1 -> 2 and 0 -> 2 on an asymmetric graph."""
    nodes = (Node(id=0), Node(id=1, operation=TRIPLET), Node(id=2, aggregation="weighted_sum"))
    edges = (
        Edge(source=0, target=1),
        Edge(source=1, target=2, weight="real", value=3.0),
        Edge(source=0, target=2, slot=1, weight="real", value=-2.0),
    )
    matrix = adjacency(Graph(nodes=nodes, edges=edges, inputs=(0,), output=2))
    assert matrix.tolist() == [[0, 0, 0], [1, 0, 0], [-2, 3, 0]]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topology", [Complete(), Dense()])
def test_edges_of_zero_may_go(topology: Complete | Dense, seed: int, training: bool) -> None:
    """Some nodes end without any edge in or out."""
    network = shaken(SMALL.architecture(topology, weight="real"), seed)
    draws = counter_generator(seed, "zeros")
    with torch.no_grad():
        for stage in network.graph_stages:
            values = stage.edge_values
            values[torch.rand(values.shape, generator=draws) < 0.7] = 0
    architecture, state = prune(network.architecture, network.state_dict())
    smaller = build_network(architecture, 9).double()
    smaller.load_state_dict(state)
    x = images(8, 4)
    for one in (network, smaller):
        one.train(training)
    out, less = network(x), smaller(x)
    torch.testing.assert_close(less, out, rtol=0, atol=1e-10)
    (out**2).sum().backward()
    (less**2).sum().backward()
    there = dict(network.named_parameters())
    for name, parameter in smaller.named_parameters():
        if parameter.grad is not None and "edge_values" not in name and "operations.edge" not in name:
            expected = there[name].grad
            assert expected is not None
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-10)
    gone = [len(network.architecture.graph(s).edges) - len(architecture.graph(s).edges) for s in range(2)]
    assert min(gone) > 8
    assert nx.is_directed_acyclic_graph(
        nx.DiGraph([(e.source, e.target) for e in architecture.graph(0).edges])
    )


def test_sparsity_is_the_part_of_small_weights() -> None:
    graphs = [topology_graph(4, Complete().pairs(4), TRIPLET, "real")]
    values = [torch.tensor([0.0, 1.0, -0.005, 0.2, -3.0, 0.01])]
    assert sparsity(graphs, values, 0.0) == pytest.approx(1 / 6)
    assert sparsity(graphs, values, 0.01) == pytest.approx(3 / 6)


def test_an_operation_that_no_node_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="triplet_sep_conv_3x3"):
        TopologySettings(operation="triplet_sep_conv_3")
