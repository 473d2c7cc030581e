"""The executors of a stage: RandWire spec R13 to R16, and the registry run through every one of them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from networks import whole_stage
from networks.architecture import Shape, Stage, stage_costs
from networks.complexity import Complexity, total
from networks.errors import UserError
from networks.generators import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import build_network, initialise
from networks.operations import OPERATIONS, Operation, PreActivated
from networks.randwire import RandWireTemplate, stage_graph
from networks.stage import GraphStage
from tests.networks.reference import level_batched, per_edge

CHANNELS = 6
RANDOM = [WattsStrogatz(k=4, p=0.75), BarabasiAlbert(m=3), ErdosRenyi(p=0.2), ErdosRenyi(p=0.05)]


def random_stage(generator, n=14, seed=0, **changes) -> GraphStage:
    graph = stage_graph(generator.wiring(n, seed, "test"))
    return ready(
        GraphStage(graph, Stage(graph=graph, channels=CHANNELS, stride=2), Shape(4, 9, 9)), **changes
    )


def ready(stage: GraphStage, seed: int = 0, dtype: torch.dtype = torch.float64) -> GraphStage:
    """Initialised, with edge values and normalisation parameters that are not all alike."""
    initialise(stage, seed)
    draws = torch.Generator().manual_seed(seed)
    stage = stage.to(dtype)
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            if parameter.dim() == 1 and parameter.numel():
                shift = 0.0 if "edge_values" in name or name.endswith("bias") else 1.0
                parameter.copy_(shift + 0.7 * torch.randn(parameter.shape, generator=draws))
    return stage


def batch(stage: GraphStage, n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, *stage.entries[0], generator=torch.Generator().manual_seed(7), dtype=dtype)


def fast(executor: str) -> Callable[[GraphStage, Tensor], Tensor]:
    def run(stage: GraphStage, x: Tensor) -> Tensor:
        stage.executor = executor
        return stage(x)

    return run


def everything(stage: GraphStage, run: Callable[[GraphStage, Tensor], Tensor]) -> dict[str, Tensor | None]:
    """Output, gradients (None where there is none) and running statistics of one pass over a copy."""
    stage = copy.deepcopy(stage)
    x = batch(stage).requires_grad_()
    output = run(stage, x)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(8), dtype=output.dtype)
    if output.requires_grad:  # an orphaned output is a constant
        output.backward(gradient)
    found = {"output": output.detach(), "x": x.grad}
    found |= {f"d {name}": parameter.grad for name, parameter in stage.named_parameters()}
    statistics = {name: value for name, value in stage.named_buffers() if "running" in name}
    return found | statistics


def assert_agree(stage: GraphStage, *runs: Callable[[GraphStage, Tensor], Tensor]) -> None:
    expected = everything(stage, per_edge)
    for run in runs:
        found = everything(stage, run)
        for name, value in expected.items():
            other = found[name]
            if value is None or other is None:  # no gradient, or none but zeros
                assert not any(one is not None and one.any() for one in (value, other)), name
            else:
                assert (value - other).abs().max() < 1e-10, name
    with torch.no_grad():
        stage.executor = "whole_stage"
        inferred = copy.deepcopy(stage)(batch(stage))
    assert (inferred - expected["output"]).abs().max() < 1e-10


# --- R13: sizes ------------------------------------------------------------------------------------


def test_sizes_halve_from_stage_to_stage():
    template = RandWireTemplate(regime="small", nodes=8, channels=4, classes=3)
    network = build_network(template.architecture(WattsStrogatz(k=4, p=0.75), 1), 0).eval()
    sizes = []
    convolutions = [module for module in network.stem if isinstance(module, nn.Conv2d)]
    for module in (*convolutions, *network.stages):
        module.register_forward_hook(lambda module, entry, output: sizes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert sizes == [(size, size) for size in (112, 56, 28, 14, 7)]


@pytest.mark.parametrize("generator", RANDOM, ids=lambda generator: generator.label)
def test_each_path_is_downsampled_once_by_its_source(generator):
    stage = random_stage(generator)
    for node in stage.graph.order[1:-1]:
        strides = [
            layer.stride for layer in stage.operations[f"node_{node}"].modules() if hasattr(layer, "stride")
        ]
        is_source = stage.graph.incoming[node][0].source in stage.graph.inputs
        assert strides == [(2, 2) if is_source else (1, 1), (1, 1)]


# --- R14: the executors agree ----------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("generator", RANDOM, ids=lambda generator: generator.label)
def test_executors_agree_on_random_graphs(generator, training):
    stage = random_stage(generator).train(training)
    assert_agree(stage, fast("autograd"), fast("whole_stage"), level_batched)


def mixed_graph() -> Graph:
    """Edges of every weight and with operations, parallel edges, every aggregation, a plain node."""
    sep, dense, pool = "triplet_sep_conv_3x3", "triplet_conv_3x3", "triplet_max_pool_3x3"
    nodes = (
        Node(id=0),
        Node(id=1, operation=sep),
        Node(id=2, operation=dense),
        Node(id=3, operation=sep, aggregation="weighted_sum"),
        Node(id=4, aggregation="weighted_sum"),
        Node(id=5, operation=pool, aggregation="mean"),
        Node(id=6, operation="identity", aggregation="sum"),
        Node(id=7, operation=sep, aggregation="weighted_sum"),
        Node(id=8, aggregation="mean"),
    )
    edges = (
        Edge(source=0, target=1),
        Edge(source=0, target=2),
        Edge(source=1, target=3, weight="sigmoid"),
        Edge(source=2, target=3, slot=1, weight="real"),
        Edge(source=1, target=3, slot=2, operation="triplet_avg_pool_3x3", weight="sigmoid"),
        Edge(source=2, target=4, weight="sigmoid"),
        Edge(source=2, target=4, slot=1, weight="sigmoid"),
        Edge(source=3, target=4, slot=2),
        Edge(source=3, target=5),
        Edge(source=4, target=5, slot=1, operation="none"),
        Edge(source=4, target=5, slot=2),
        Edge(source=4, target=6),
        Edge(source=5, target=6, slot=1, operation="triplet_conv_1x1"),
        Edge(source=6, target=7, weight="sigmoid"),
        Edge(source=1, target=8, slot=0),
        Edge(source=6, target=8, slot=2),
        Edge(source=7, target=8, slot=1),
    )
    return Graph(nodes=nodes, edges=edges, inputs=(0,), output=8)


@pytest.mark.parametrize("rule", ["sources", "input"])
@pytest.mark.parametrize("removed", [(), (2,), (0, 1), (6,), (9, 10), (13,), (14, 16), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_executors_agree_on_every_kind_of_edge(rule, removed, training):
    graph = mixed_graph()
    stage = ready(
        GraphStage(graph, Stage(graph=graph, channels=CHANNELS, stride=2, rule=rule), Shape(4, 9, 9))
    )
    stage.remove(removed)
    assert_agree(stage.train(training), fast("autograd"), fast("whole_stage"))


def cell(operation: str) -> Graph:
    """A cell whose operations are on its edges, with a skip past them."""
    edges = [
        Edge(source=0, target=1, operation=operation),
        Edge(source=0, target=2, operation="triplet_conv_1x1"),
        Edge(source=1, target=2, slot=1, operation=operation),
        Edge(source=1, target=3),
        Edge(source=2, target=3, slot=1),
    ]
    return Graph(nodes=tuple(Node(id=i) for i in range(4)), edges=tuple(edges), inputs=(0,), output=3)


@pytest.mark.parametrize("removed", [(), (0,), (1, 2), (3, 4)], ids=str)
def test_executors_agree_on_a_cell_that_resizes_on_its_edges(removed):
    graph = cell("triplet_sep_conv_3x3")
    description = Stage(graph=graph, channels=CHANNELS, stride=2, rule="edges_from_inputs")
    stage = ready(GraphStage(graph, description, Shape(4, 9, 9)))
    stage.remove(removed)
    assert_agree(stage, fast("autograd"), fast("whole_stage"))


@pytest.mark.parametrize("frozen", ["edge_values", "weight", "bias", ""])
def test_executors_agree_with_frozen_parameters(frozen):
    stage = random_stage(RANDOM[0])
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(not (frozen and name.endswith(frozen)))
    assert_agree(stage, fast("whole_stage"))
    assert (everything(stage, fast("whole_stage"))["d edge_values"] is None) == (frozen == "edge_values")


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_executors_agree_in_channels_last(training, monkeypatch):
    """There 1x1 convolutions are matrix products."""
    stage = random_stage(RANDOM[0]).train(training)
    products = []
    monkeypatch.setattr(torch, "mm", lambda a, b, mm=torch.mm: products.append(1) or mm(a, b))

    def run(stage: GraphStage, x: Tensor) -> Tensor:
        return stage(x.contiguous(memory_format=torch.channels_last))

    assert_agree(stage, run)
    assert len(products) == len(stage.operations)
    output = run(stage, batch(stage))
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_executors_agree_where_all_weights_of_a_node_vanish():
    """-inf weighs exactly 0, -200 less than a quotient of weights can stand."""
    stage = random_stage(RANDOM[0])
    with torch.no_grad():
        for value, node in zip((-torch.inf, -200.0), range(10, 12), strict=True):
            edges = [i for i, edge in enumerate(stage.graph.edges) if edge.target == node]
            factors = [stage.weighted_edges.index(i) for i in edges]
            assert len(factors) > 1
            stage.edge_values[factors] = value
    assert_agree(stage, fast("whole_stage"))


def test_executors_agree_when_weights_are_tensors(monkeypatch):
    """On a GPU weights are not read back; the same code with tensors, here on the CPU."""
    monkeypatch.setattr("networks.execution.as_scalars", lambda weights: weights.unbind())
    monkeypatch.setattr(whole_stage, "as_scalars", lambda weights: weights.unbind())
    assert_agree(random_stage(RANDOM[0]), fast("whole_stage"))


def test_a_stage_that_only_passes_its_input_on_returns_a_tensor_of_its_own():
    graph = Graph(nodes=(Node(id=0), Node(id=1)), edges=(Edge(source=0, target=1),), inputs=(0,), output=1)
    stage = GraphStage(graph, Stage(graph=graph, channels=4), Shape(4, 5, 5))
    x = batch(stage).requires_grad_()
    for output in (stage(x), stage(x.detach())):
        assert output.equal(x) and output.data_ptr() != x.data_ptr()


def test_the_fast_executor_is_deterministic_and_leaves_its_input_alone():
    stage = random_stage(RANDOM[0])
    first, second = (everything(stage, fast("whole_stage")) for _ in range(2))
    assert all(first[name] is None or first[name].equal(second[name]) for name in first)
    x = batch(stage)
    before = x.clone()
    stage(x)
    with torch.no_grad():
        stage(x)
    assert x.equal(before)


def test_autocast_gives_gradients_of_the_parameters_own_type():
    stage = random_stage(RANDOM[0]).float()
    x = batch(stage, 8, torch.float32)
    gradients = []
    for executor in ("autograd", "whole_stage"):
        made = copy.deepcopy(stage)
        made.executor = executor
        with torch.autocast("cpu", torch.bfloat16):
            loss = made(x).float().square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_hooks_on_a_normalisation_are_called():
    stage, calls = random_stage(RANDOM[0]), []
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[2].register_forward_hook(lambda *_: calls.append(1))
    assert_agree(stage, fast("whole_stage"))
    calls.clear()
    stage(batch(stage).requires_grad_())
    assert calls == [1]


@pytest.mark.parametrize("generator", RANDOM, ids=lambda generator: generator.label)
def test_a_plan_frees_each_value_after_its_last_reader_and_holds_few(generator):
    stage = random_stage(generator, n=32)
    live, most = {0}, 0
    for step in stage.plan().steps:
        assert {term.value for term in step.terms} <= live
        live.add(step.target)
        most = max(most, len(live))
        live -= set(step.frees)
    assert live == {stage.plan().output}
    assert most <= 24  # of 32 nodes, their input and what they share


# --- what the fast executor refuses ----------------------------------------------------------------


def test_the_fast_executor_refuses_a_second_derivative_and_autograd_gives_it():
    stage, x = random_stage(RANDOM[0]), batch(random_stage(RANDOM[0])).requires_grad_()
    with pytest.raises(RuntimeError, match=r"twice.*set_executor\(\"autograd\"\)"):
        torch.autograd.grad(stage(x).square().sum(), x, create_graph=True)
    stage.executor = "autograd"
    (slope,) = torch.autograd.grad(stage(x).square().sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert curvature.abs().sum() > 0


def test_the_fast_executor_goes_back_once():
    stage = random_stage(RANDOM[0])
    loss = stage(batch(stage).requires_grad_()).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_functorch_is_refused_by_the_fast_executor_and_served_by_autograd():
    stage = random_stage(RANDOM[0]).eval()
    x, parameters = batch(stage), dict(stage.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(stage, parameters, (x,)).sum()

    with pytest.raises(RuntimeError):
        torch.func.grad(loss)(parameters)
    stage.executor = "autograd"
    found = torch.func.grad(loss)(parameters)
    loss({name: p.requires_grad_() for name, p in parameters.items()}).backward()
    assert all((found[name] - p.grad).abs().max() < 1e-10 for name, p in parameters.items())


def test_export_is_refused_by_the_fast_executor_and_served_by_autograd():
    template = RandWireTemplate(regime="cifar", nodes=6, channels=4, image=Shape(3, 8, 8), classes=3)
    network = build_network(template.architecture(RANDOM[0], 1), 0).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Exception, match="set_executor"):
        torch.export.export(network, (images,))
    expected = network(images)
    network.set_executor("autograd")
    exported = torch.export.export(network, (images,)).module()
    assert (exported(images) - expected).abs().max() < 1e-5


def test_an_unknown_executor_is_named():
    template = RandWireTemplate(regime="cifar", nodes=6, channels=4, image=Shape(3, 8, 8), classes=3)
    network = build_network(template.architecture(RANDOM[0], 1), 0)
    with pytest.raises(UserError, match="whole_stage or autograd"):
        network.set_executor("fast")


# --- R15: aggregation ------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["autograd", "whole_stage"])
def test_gradients_of_edge_values_are_central_differences(executor):
    stage = random_stage(WattsStrogatz(k=4, p=0.75))
    stage.executor = executor
    x, values = batch(stage), stage.edge_values

    def objective() -> Tensor:
        return stage(x).pow(3).mean()

    objective().backward()
    assert ((torch.sigmoid(values) > 0) & (torch.sigmoid(values) < 1)).all()
    for factor in range(len(values)):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                before = values[factor].clone()
                values[factor] += step
                ends.append(objective())
                values[factor] = before
        assert abs((ends[0] - ends[1]) / 2e-5 - values.grad[factor]) < 1e-6


def test_edge_values_pass_gradcheck():
    stage = random_stage(WattsStrogatz(k=4, p=0.75), n=6)
    stage.executor = "autograd"  # gradcheck goes back several times over one pass
    x = batch(stage)

    def output(values: Tensor) -> Tensor:
        return torch.func.functional_call(stage, {"edge_values": values}, (x,))

    assert torch.autograd.gradcheck(output, (stage.edge_values,), atol=1e-6)


@pytest.mark.parametrize("executor", ["autograd", "whole_stage"])
def test_the_output_is_the_plain_mean_of_the_sinks(executor):
    """d out / d sink = 1/S: seen at the sinks' shifts, each of which moves all of its sink by as much."""
    stage = random_stage(BarabasiAlbert(m=2))
    stage.executor = executor
    sinks = [edge.source for edge in stage.graph.incoming[stage.graph.output]]
    assert len(sinks) > 1
    output = stage(batch(stage).requires_grad_())
    output.sum().backward()
    positions = output.numel() / CHANNELS
    for sink in sinks:
        shift = stage.operations[f"node_{sink}"].body[-1].bias
        assert (shift.grad / positions - 1 / len(sinks)).abs().max() < 1e-6


def test_edge_values_are_in_the_state_dict_and_a_step_changes_them():
    stage = random_stage(WattsStrogatz(k=4, p=0.75))
    before = stage.state_dict()["edge_values"].clone()
    assert len(before) == sum(edge.weight == "sigmoid" for edge in stage.graph.edges)
    optimiser = torch.optim.SGD(stage.parameters(), lr=0.1)
    stage(batch(stage)).square().sum().backward()
    optimiser.step()
    assert (stage.state_dict()["edge_values"] != before).all()


def test_every_predecessor_is_read():
    """Zeroing what any one of several predecessors carries changes the output."""
    stage = random_stage(WattsStrogatz(k=4, p=0.75)).eval()
    with torch.no_grad():
        whole = stage(batch(stage))
        for position in stage.weighted_edges:
            stage.remove([position])
            assert (stage(batch(stage)) - whole).abs().max() > 1e-6


# --- R16: damage and edge-drop ---------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_removing_an_edge_is_a_weight_of_0(training):
    stage = random_stage(WattsStrogatz(k=4, p=0.75)).train(training)
    for factor in range(0, len(stage.weighted_edges), 3):
        removed, zeroed = copy.deepcopy(stage), copy.deepcopy(stage)
        removed.remove([stage.weighted_edges[factor]])
        with torch.no_grad():
            zeroed.edge_values[factor] = -torch.inf
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                assert (removed(batch(stage)) - zeroed(batch(stage))).abs().max() < 1e-12


def test_removing_nothing_is_bit_identical_and_restores():
    stage = random_stage(WattsStrogatz(k=4, p=0.75)).eval()
    with torch.no_grad():
        whole = stage(batch(stage))
        stage.remove([])
        assert stage(batch(stage)).equal(whole)
        stage.remove([stage.weighted_edges[0]])
        assert not stage(batch(stage)).equal(whole)
        stage.remove([])
        assert stage(batch(stage)).equal(whole)


def dropping_stage(probability: float) -> GraphStage:
    graph = stage_graph(WattsStrogatz(k=4, p=0.75).wiring(14, 0, "test"))
    return GraphStage(graph, Stage(graph=graph, channels=4, edge_drop=probability), Shape(4, 6, 6))


def test_edge_drop_of_0_never_removes():
    stage = dropping_stage(0.0)
    for step in range(200):
        stage.draw_edge_drop(3, step)
        assert stage.dropped == frozenset()


def test_a_dropped_edge_is_missing_in_training_and_back_in_eval_mode():
    stage = dropping_stage(1.0).double()
    initialise(stage, 0)
    x = batch(stage)
    whole = stage.eval()(x)
    stage.draw_edge_drop(3, 0)
    (dropped,) = stage.dropped
    assert stage(x).equal(whole)
    without = stage.train()(x)
    stage.dropped = frozenset()
    assert not stage(x).equal(without)
    stage.remove([dropped])
    assert stage(x).equal(without)


def test_edge_drop_removes_at_its_rate_and_orphans_nobody():
    stage = dropping_stage(0.1)
    in_degree = {node.id: len(stage.graph.incoming[node.id]) for node in stage.graph.nodes}
    drawn: list[int] = []
    for step in range(10_000):
        stage.draw_edge_drop(3, step)
        assert len(stage.dropped) <= 1
        drawn += stage.dropped
    assert len(drawn) / 10_000 == pytest.approx(0.1, abs=0.01)
    assert all(in_degree[stage.graph.edges[position].target] > 1 for position in drawn)
    assert set(drawn) == set(stage.droppable_edges)


# --- the registry ----------------------------------------------------------------------------------


def one_operation(name: str, place: str) -> GraphStage:
    """A stage in which the operation stands on a node or an edge, resizing where it can."""
    stride, entry = (2, 4) if OPERATIONS[name].resizes else (1, CHANNELS)
    if place == "edge":
        graph, rule = cell(name), "edges_from_inputs"
        if not OPERATIONS[name].resizes:
            rule = "sources"
            edges = tuple(
                edge.model_copy(update={"operation": name if edge.operation == name else "identity"})
                for edge in graph.edges
            )
            graph = graph.model_copy(update={"edges": edges})
    else:
        nodes = (Node(id=0), Node(id=1, operation=name), Node(id=2, operation=name), Node(id=3))
        edges = (
            Edge(source=0, target=1),
            Edge(source=1, target=2),
            Edge(source=1, target=3),
            Edge(source=2, target=3, slot=1),
        )
        graph, rule = Graph(nodes=nodes, edges=edges, inputs=(0,), output=3), "sources"
    description = Stage(graph=graph, channels=CHANNELS, stride=stride, rule=rule)
    return GraphStage(graph, description, Shape(entry, 9, 9))


@pytest.mark.parametrize("place", ["node", "edge"])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_runs_everywhere_and_costs_what_it_says(name, place):
    stage = ready(one_operation(name, place))
    for training in (True, False):
        assert_agree(stage.train(training), fast("autograd"), fast("whole_stage"))
    cost = total(list(stage_costs(stage.graph, stage.stage, *stage.entries)))
    assert sum(parameter.numel() for parameter in stage.parameters()) == cost.params
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stage(batch(stage, 2))
    assert counter.get_total_flops() == 2 * 2 * cost.macs


class Squashed(nn.Module):
    """Keeps its own output for the way back."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


def test_a_users_operations_are_never_written_over(monkeypatch):
    """One that passes its input on, one that keeps its output, one with something behind its BN."""
    users = {
        "user_echo": lambda c_in, c_out, stride: nn.Dropout(0.0),
        "user_squash": lambda c_in, c_out, stride: Squashed(),
        "user_triplet": lambda c_in, c_out, stride: PreActivated(
            nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out), Squashed()
        ),
        "user_norm": lambda c_in, c_out, stride: PreActivated(nn.BatchNorm2d(c_out)),
    }
    for name, build in users.items():
        monkeypatch.setitem(OPERATIONS, name, Operation(name, "O", build, lambda *_: Complexity()))
    for seed in range(3):
        graph = stage_graph(WattsStrogatz(k=4, p=0.75).wiring(16, seed))
        chosen = [*users, "triplet_conv_1x1"]
        nodes = tuple(
            node if node.operation is None else node.model_copy(update={"operation": chosen[node.id % 5]})
            for node in graph.nodes
        )
        graph = graph.model_copy(update={"nodes": nodes})
        description = Stage(graph=graph, channels=CHANNELS, stride=2, rule="input")
        stage = ready(GraphStage(graph, description, Shape(4, 9, 9)))
        for training in (True, False):
            assert_agree(stage.train(training), fast("autograd"), fast("whole_stage"))
