"""Learning edge weights: checks T7 to T9, T12, T14, T15 and T17 of the TopoNet spec (section 2.9)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from networks.adjacency import frozen
from networks.architecture import Shape
from networks.counters import counter_generator
from networks.errors import UserError
from networks.graph import Edge, EdgeWeight, Graph, Node
from networks.network import Network, build_network
from networks.topologies import Complete
from networks.toponet import TopologyTemplate
from trainers.data import Data, DataSettings, open_data
from trainers.topology import EdgeLearning, EdgeSettings, coefficients, in_degrees
from trainers.training import Diverged, Trainer, TrainingSettings, parameter_groups

TEMPLATE = TopologyTemplate(nodes=7, stages=1, channels=4, image=Shape(3, 8, 8))


def settings(**changes: Any) -> EdgeSettings:
    return EdgeSettings.model_validate({"penalty": "adaptive", "strength": 0.01, **changes})


def network() -> Network:
    """In float64, its weights drawn; none is near 0."""
    made = build_network(TEMPLATE.architecture(Complete(), weight="real"), 0).double()
    values = made.graph_stages[0].edge_values
    draws = counter_generator(0, "alpha")
    with torch.no_grad():
        size = 1 + torch.rand(values.shape, generator=draws, dtype=values.dtype)
        values.copy_(size * (torch.rand(values.shape, generator=draws) < 0.5).double().mul(2).sub(1))
    return made


def pure_step(made: Network, edges: EdgeSettings, rate: float) -> Tensor:
    """How far each weight's size falls in a step without a task gradient or momentum."""
    learning = EdgeLearning(made, edges)
    (values,) = learning.parameters
    before = values.detach().clone()
    optimizer = torch.optim.SGD(parameter_groups(made, 0.1, learning), lr=rate)
    values.grad = torch.zeros_like(values)
    learning.add()
    optimizer.step()
    learning.shrink(rate)
    return before.abs() - values.detach().abs()


@pytest.mark.parametrize("step", ["proximal", "subgradient"])
@pytest.mark.parametrize(("scale", "of"), [("log", math.log), ("linear", lambda d: d / 3.5)])
def test_a_step_of_the_penalty_alone(step: str, scale: str, of: Any) -> None:
    """T7: by eta lambda, or eta lambda g; so the ratio of two nodes is that of their g."""
    rate, strength = 0.1, 0.01
    fallen = pure_step(network(), settings(penalty="uniform", step=step), rate)
    torch.testing.assert_close(fallen, torch.full_like(fallen, rate * strength), rtol=0, atol=1e-12)
    fallen = pure_step(network(), settings(step=step, scale=scale), rate)
    degrees = [edge.target for edge in network().graph_stages[0].graph.edges]  # of node j: j edges
    expected = torch.tensor([rate * strength * of(degree) for degree in degrees], dtype=torch.float64)
    torch.testing.assert_close(fallen, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", ["proximal", "subgradient"])
def test_a_nodes_only_edge_is_left_alone_by_log_and_constant_is_uniform(step: str) -> None:
    """T8."""
    fallen = pure_step(network(), settings(step=step), 0.1)
    graph = network().graph_stages[0].graph
    alone = torch.tensor([edge.target == 1 for edge in graph.edges])
    assert not fallen[alone].any() and (fallen[~alone] > 0).all()
    constant = pure_step(network(), settings(step=step, scale="constant"), 0.1)
    assert torch.equal(constant, pure_step(network(), settings(step=step, penalty="uniform"), 0.1))


def test_degrees_are_those_of_the_node_that_an_edge_leads_to() -> None:
    """T9: 0 -> 3 leads to a node of three edges and comes from one of three; 0 -> 1 to one of one."""
    nodes = [
        Node(id=0),
        *(Node(id=n, operation="triplet_conv_1x1", aggregation="weighted_sum") for n in (1, 2)),
    ]
    pairs = ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3))
    slots = {(0, 3): 0, (1, 3): 1, (2, 3): 2}
    edges = tuple(Edge(source=i, target=j, slot=slots.get((i, j), 0), weight="real") for i, j in pairs)
    graph = Graph(nodes=(*nodes, Node(id=3, aggregation="weighted_sum")), edges=edges, inputs=(0,), output=3)
    assert in_degrees(graph).tolist() == [1, 1, 3, 3, 3]
    assert coefficients(graph, settings()).tolist() == pytest.approx([0, 0] + 3 * [0.01 * math.log(3)])


def test_proximal_steps_arrive_at_zero_and_stay() -> None:
    made, edges = network(), settings(penalty="uniform", strength=1.0)
    for _ in range(40):
        pure_step(made, edges, 0.1)
    (values,) = EdgeLearning(made, edges).parameters
    assert not values.any() and EdgeLearning(made, edges).sparsity() == 1
    made = network()
    for _ in range(40):
        pure_step(made, settings(penalty="uniform", strength=1.0, step="subgradient"), 0.15)
    (values,) = EdgeLearning(made, edges).parameters
    assert values.any() and values.abs().max() <= 0.15  # it goes to and fro


def test_settings_that_say_two_things_are_refused() -> None:
    for wrong in ({"penalty": "none", "strength": 0.1}, {"penalty": "uniform", "strength": 0}):
        with pytest.raises(ValueError, match="strength"):
            settings(**wrong)
    bare = build_network(TEMPLATE.architecture(Complete()), 0)
    with pytest.raises(UserError, match="no real edge weights"):
        EdgeLearning(bare, settings())
    assert "edges" not in TrainingSettings().model_dump()
    assert TrainingSettings(edges=settings()).model_dump()["edges"]["penalty"] == "adaptive"


# Training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataSettings(limit=300))


def trainer(data: Data, weight: EdgeWeight = "real", **changes: Any) -> Trainer:
    template = TEMPLATE.model_copy(update={"image": data.image, "classes": len(data.classes)})
    made = build_network(template.architecture(Complete(), weight=weight), 0)
    return Trainer(made, data, TrainingSettings(**{"epochs": 3, "batch_size": 32, **changes}), 0)


def test_a_frozen_topology_is_trained_around(data: Data) -> None:
    """T12: weights of edges stay to the bit, all others move, and the optimiser knows none of the edges'."""
    learned = trainer(data, edges=settings(strength=0.05))
    learned.train_steps(5)
    made = frozen(learned.network.architecture, [stage.edge_values for stage in learned.network.graph_stages])
    again = Trainer(
        build_network(made, 1), data, TrainingSettings(epochs=2, batch_size=32, weight_decay=0.1), 1
    )
    before = {name: value.clone() for name, value in again.network.state_dict().items()}
    again.train_steps(5)
    for name, value in again.network.state_dict().items():
        if value.is_floating_point() and value.numel():
            assert torch.equal(value, before[name]) == ("edge_values" in name), name
    known = {id(one) for group in again.optimizer.param_groups for one in group["params"]}
    assert not known & {id(stage.edge_values) for stage in again.network.graph_stages}
    assert not any("edge_values" in name for name in again.state()[0] if name.startswith("momentum."))
    with pytest.raises(UserError, match="no real edge weights"):
        Trainer(build_network(made, 1), data, TrainingSettings(edges=settings()), 1)


@pytest.mark.parametrize("step", ["proximal", "subgradient"])
def test_training_goes_on_from_any_step(data: Data, step: str) -> None:
    edges = settings(step=step, strength=0.05, rate=2.0)
    whole, half, later = (trainer(data, edges=edges) for _ in range(3))
    whole.train_steps(8)
    half.train_steps(3)
    tensors, values = half.state()
    later.load_state({name: tensor.clone() for name, tensor in tensors.items()}, values)
    later.train_steps(5)
    for name, tensor in whole.state()[0].items():
        assert torch.equal(tensor, later.state()[0][name]), name


def test_edges_learn_at_their_own_rate_and_do_not_decay(data: Data) -> None:
    """Three steps without a penalty, by hand from the gradients that the trainer found."""
    one = trainer(data, edges=settings(penalty="none", strength=0, rate=3.0), weight_decay=0.5, momentum=0.9)
    values = one.network.graph_stages[0].edge_values
    expected, velocity = values.detach().clone(), torch.zeros_like(values)
    for _ in range(3):
        rate = one._rate(one.step)
        one.train_steps(1)
        assert values.grad is not None
        velocity = 0.9 * velocity + values.grad
        expected = expected - 3 * rate * velocity
        torch.testing.assert_close(values.detach(), expected, rtol=1e-5, atol=1e-7)


def test_the_metrics_of_an_epoch_say_how_sparse_it_is(data: Data) -> None:
    assert trainer(data, edges=settings(strength=100.0)).train_epoch()["sparsity"] > 0.9
    assert trainer(data, edges=settings(penalty="none", strength=0)).train_epoch()["sparsity"] < 0.5
    assert "sparsity" not in trainer(data).train_epoch()


def test_a_loss_that_is_no_number_names_its_step(data: Data) -> None:
    diverging = trainer(data, lr=1e12, edges=settings())
    with pytest.raises(Diverged, match="step"):
        diverging.train_steps(60)
