"""The architecture: JSON and digest, refusals, static cost against torch, initialisation."""

import hashlib
import json
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.generators import BarabasiAlbert, ErdosRenyi, RandomGraph, WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import build_network, initialise
from networks.operations import OPERATIONS
from networks.randwire import RandWireTemplate
from tests.networks.refusals import refused

SEP, DENSE = "triplet_sep_conv_3x3", "triplet_conv_3x3"
RESIZING = sorted(name for name, operation in OPERATIONS.items() if operation.resizes)


def cell(*edges: Edge, aggregation: str = "sum", operation: str | None = None) -> Graph:
    """Edges among the input 0, computing nodes and the output, which is the largest id and a mean."""
    last = max(edge.target for edge in edges)
    inner = [Node(id=node, aggregation=aggregation, operation=operation) for node in range(1, last)]
    return Graph(
        nodes=(Node(id=0), *inner, Node(id=last, aggregation="mean")), edges=edges, inputs=(0,), output=last
    )


def one_stage(
    graph: Graph | str, *, image: tuple[int, int, int] = (3, 17, 18), **changes: Any
) -> Architecture:
    """A cifar stem of 6 channels, one stage of 8 channels with stride 2, a small head."""
    stage = {"graph": graph, "channels": 8, "stride": 2, **changes.pop("stage", {})}
    parts: dict[str, Any] = {"classes": 5, "stem": Stem(kind="cifar", channels=6), "head": Head(channels=10)}
    return Architecture(image=Shape(*image), stages=(Stage(**stage),), **{**parts, **changes})


EDGE_CELL = cell(
    Edge(source=0, target=1, operation=SEP),
    Edge(source=0, target=2, slot=0, operation="triplet_max_pool_3x3"),
    Edge(source=1, target=2, slot=1, operation=DENSE),
    Edge(source=1, target=2, slot=2, operation="identity"),
    Edge(source=1, target=2, slot=3, operation="none"),
    Edge(source=1, target=3, slot=0),
    Edge(source=2, target=3, slot=1, operation="triplet_avg_pool_3x3"),
)
NODE_CELL = cell(
    Edge(source=0, target=1),
    Edge(source=0, target=2, slot=0, weight="real"),
    Edge(source=1, target=2, slot=1, weight="sigmoid"),
    Edge(source=1, target=3, slot=0),
    Edge(source=2, target=3, slot=1),
    aggregation="weighted_sum",
    operation=SEP,
)
INPUT_OPERATION = cell(Edge(source=0, target=1, operation=DENSE), Edge(source=1, target=2), operation=SEP)
SMALL = RandWireTemplate(image=Shape(3, 64, 64), classes=10, nodes=8, channels=8, head_channels=32)
RECORDED = one_stage(EDGE_CELL, stage={"rule": "edges_from_inputs"})


# JSON and digest ----------------------------------------------------------------------------------


def test_json_round_trip() -> None:
    for made in (
        RECORDED,
        SMALL.architecture(WattsStrogatz(k=4, p=0.75), 3),
        one_stage("normal", stage={"rule": "input", "edge_drop": 0.1}, cells={"normal": NODE_CELL}),
    ):
        again = Architecture.from_json(made.to_json())
        assert again == made
        assert (again.to_json(), again.digest) == (made.to_json(), made.digest)


def test_digest_is_sha256_of_canonical_json() -> None:
    canonical = json.dumps(json.loads(RECORDED.to_json()), sort_keys=True, separators=(",", ":"))
    assert RECORDED.to_json() == canonical
    assert RECORDED.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_digest_is_recorded() -> None:
    """Candidates and caches of older runs are found by this value."""
    assert RECORDED.digest == "bb65098f67b6d3062e097f3f637c39e153cdbbee231765d92d449ed1b5f8286c"


@pytest.mark.parametrize("hash_seed", ["0", "777"])
def test_digest_and_weights_are_the_same_in_every_process(hash_seed: str) -> None:
    made = SMALL.architecture(ErdosRenyi(p=0.4), 5)
    program = (
        "import sys, hashlib; from networks.architecture import Architecture\n"
        "from networks.network import build_network\n"
        "made = Architecture.from_json(sys.stdin.read()); state = build_network(made, 9).state_dict()\n"
        "weights = hashlib.sha256(b''.join(state[k].numpy().tobytes() for k in sorted(state))).hexdigest()\n"
        "print(made.digest, weights)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=made.to_json(), env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    state = build_network(made, 9).state_dict()
    weights = hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()
    assert run.stdout.split() == [made.digest, weights]


@pytest.mark.parametrize(
    "change",
    [
        {"image": (3, 17, 19)},
        {"classes": 6},
        {"stem": Stem(kind="cifar", channels=7)},
        {"stem": Stem(kind="imagenet_regular", channels=12)},
        {"head": Head(channels=None)},
        {"head": Head(channels=10, dropout=0.1)},
        {"stage": {"rule": "edges_from_inputs", "channels": 9}},
        {"stage": {"rule": "edges_from_inputs", "stride": 1}},
        {"stage": {"rule": "input"}},
        {"stage": {"rule": "edges_from_inputs", "edge_drop": 0.1}},
    ],
    ids=str,
)
def test_digest_changes_with_every_field(change: dict[str, Any]) -> None:
    changed = one_stage(EDGE_CELL, **{"stage": {"rule": "edges_from_inputs"}, **change})
    assert changed.digest != RECORDED.digest


def test_digest_sees_every_detail_of_a_graph() -> None:
    digests = {RECORDED.digest}
    for position in range(len(EDGE_CELL.edges)):
        edges = list(EDGE_CELL.edges)
        other = "triplet_conv_1x1"
        edges[position] = edges[position].model_copy(update={"operation": other})
        digests.add(one_stage(cell(*edges), stage={"rule": "edges_from_inputs"}).digest)
    assert len(digests) == 1 + len(EDGE_CELL.edges)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    generator=st.one_of(
        st.builds(ErdosRenyi, p=st.floats(0, 1)), st.builds(BarabasiAlbert, m=st.integers(1, 3))
    ),
    seed=st.integers(0, 99),
    regime=st.sampled_from(["small", "regular", "cifar"]),
    dropout=st.floats(0, 0.9),
)
def test_round_trip_of_random_architectures(
    generator: RandomGraph, seed: int, regime: str, dropout: float
) -> None:
    template = RandWireTemplate(regime=regime, nodes=8, channels=6, dropout=dropout)
    made = template.architecture(generator, seed)
    assert Architecture.from_json(made.to_json()) == made
    assert template.architecture(generator, seed).digest == made.digest


# Refusals -----------------------------------------------------------------------------------------


def test_refuses_an_unknown_cell() -> None:
    with refused("stages.0.graph", "'reduce'", "normal"):
        one_stage("reduce", cells={"normal": NODE_CELL})


def test_refuses_a_stage_of_two_inputs() -> None:
    both = Graph(
        nodes=(Node(id=0), Node(id=1), Node(id=2)),
        edges=(Edge(source=0, target=2), Edge(source=1, target=2, slot=1)),
        inputs=(0, 1),
        output=2,
    )
    with refused("stages.0.rule", "edges_from_inputs, with two inputs"):
        one_stage(both, stage={"rule": "input"})


@pytest.mark.parametrize(
    ("rule", "graph"),
    [
        ("sources", cell(Edge(source=0, target=1), Edge(source=1, target=2))),
        ("edges_from_inputs", cell(Edge(source=0, target=1), Edge(source=1, target=2), operation=SEP)),
        (
            "edges_from_inputs",
            cell(Edge(source=0, target=1, operation="none"), Edge(source=1, target=2), aggregation="mean"),
        ),
    ],
)
def test_refuses_a_rule_whose_first_operations_cannot_resize(rule: str, graph: Graph) -> None:
    with refused("stages.0.rule", rule, "resize"):
        one_stage(graph, stage={"rule": rule})
    assert one_stage(graph, stage={"rule": "input"}).complexity().params


def test_where_nothing_flows_nothing_has_to_resize() -> None:
    """A mean counts its zeros, which then have a size; a sum does not."""
    graph = cell(Edge(source=0, target=1, operation="none"), Edge(source=1, target=2))
    assert one_stage(graph, stage={"rule": "edges_from_inputs"}).stages[0].stride == 2


def test_refuses_sources_that_also_read_other_nodes() -> None:
    with refused("stages.0.rule", "sources", "input alone"):
        one_stage(NODE_CELL)


@pytest.mark.parametrize("image", [(0, 8, 8), (3, 0, 8), (3, 8, -1)])
def test_refuses_an_empty_image(image: tuple[int, int, int]) -> None:
    with refused("image", "1 or more"):
        one_stage(EDGE_CELL, image=image, stage={"rule": "edges_from_inputs"})


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 1},
        {"stages": ()},
        {"colour": "red"},
        {"stem": {"kind": "imagenet", "channels": 8}},
        {"stem": {"kind": "cifar", "channels": 1}},
        {"head": {"channels": 0}},
        {"head": {"dropout": 1.0}},
        {"stages": ({"graph": EDGE_CELL, "channels": 8, "stride": 3, "rule": "input"},)},
        {"stages": ({"graph": EDGE_CELL, "channels": 0, "rule": "input"},)},
        {"stages": ({"graph": EDGE_CELL, "channels": 8, "rule": "nodes"},)},
        {"stages": ({"graph": EDGE_CELL, "channels": 8, "rule": "input", "edge_drop": 1.5},)},
    ],
    ids=str,
)
def test_refuses_values_outside_their_fields(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Architecture.model_validate({**RECORDED.model_dump(), **change})


# Static cost against torch ------------------------------------------------------------------------


class Written(TorchDispatchMode):
    """Counts the elements that convolutions and linear layers write."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.addmm):
            self.elements += result.numel()
        return result


def check_against_torch(architecture: Architecture, image: Shape | None = None) -> None:
    """Params, MACs and activations of the built network, at `image`."""
    cost = architecture.complexity(image)
    network = build_network(architecture, 0).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == cost.params
    written = Written()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, written:
        logits = network(torch.zeros(1, *(image or architecture.image)))
    assert logits.shape == (1, architecture.classes)
    assert flops.get_total_flops() == 2 * cost.macs
    assert written.elements == cost.activations


@pytest.mark.parametrize("regime", ["small", "regular", "cifar"])
@pytest.mark.parametrize(
    "generator",
    [ErdosRenyi(p=0.2), BarabasiAlbert(m=3), WattsStrogatz(k=4, p=0), WattsStrogatz(k=4, p=0.75)],
    ids=lambda generator: generator.label,
)
def test_randwire_costs_what_torch_counts(regime: str, generator: RandomGraph) -> None:
    nodes = 12 if regime == "regular" else 8
    template = RandWireTemplate(
        image=Shape(3, 64, 64), classes=10, regime=regime, nodes=nodes, channels=9, head_channels=16
    )
    for seed in (1, 2):
        check_against_torch(template.architecture(generator, seed))


@pytest.mark.parametrize("operation", RESIZING)
def test_every_operation_costs_what_torch_counts_in_a_network(operation: str) -> None:
    template = SMALL.model_copy(update={"operation": operation, "regime": "cifar"})
    made = template.architecture(WattsStrogatz(k=2, p=0.5), 1)
    check_against_torch(made, Shape(3, 33, 30))


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(6, 6, 1), (6, 8, 1), (6, 8, 2), (5, 5, 2)])
def test_every_operation_costs_what_torch_counts_alone(
    operation: str, c_in: int, c_out: int, stride: int
) -> None:
    entry = OPERATIONS[operation]
    unchanged = (c_in, stride) == (c_out, 1)
    shuffled = operation.startswith("shuffle") and not unchanged and (stride == 1 or c_in == c_out)
    if shuffled or not (entry.resizes or unchanged):
        with pytest.raises(ValueError, match=operation):
            entry.build(c_in, c_out, stride)
        return
    module, written = entry.build(c_in, c_out, stride).eval(), Written()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, written:
        shape = module(torch.zeros(1, c_in, 11, 8)).shape
    cost = entry.complexity(c_in, c_out, 11, 8, stride)
    assert shape == (1, c_out, 11 // stride + (stride == 2), 8 // stride)
    assert sum(parameter.numel() for parameter in module.parameters()) == cost.params
    assert flops.get_total_flops() == 2 * cost.macs
    assert written.elements == cost.activations


@pytest.mark.parametrize("channels", [6, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("rule", "graph"),
    [
        ("edges_from_inputs", EDGE_CELL),
        ("input", EDGE_CELL),
        ("input", NODE_CELL),
        ("sources", INPUT_OPERATION),
        ("input", INPUT_OPERATION),
        ("edges_from_inputs", INPUT_OPERATION),
    ],
    ids=["edges_from_inputs-edges", "input-edges", "input-nodes", "sources-both", "input-both", "edges-both"],
)
def test_every_rule_costs_what_torch_counts(rule: str, graph: Graph, stride: int, channels: int) -> None:
    check_against_torch(one_stage(graph, stage={"rule": rule, "stride": stride, "channels": channels}))


def test_the_rule_input_projects_only_where_something_changes() -> None:
    plain = one_stage(NODE_CELL, stage={"rule": "input", "stride": 1, "channels": 6}).complexity()
    strided = one_stage(NODE_CELL, stage={"rule": "input", "stride": 2, "channels": 6}).complexity()
    assert strided.params - plain.params == 6 * 6 + 2 * 6


def test_edge_values_are_parameters_and_cost_no_work() -> None:
    bare = [edge.model_copy(update={"weight": "none"}) for edge in NODE_CELL.edges]
    without = one_stage(cell(*bare, operation=SEP), stage={"rule": "input"}).complexity()
    learned = one_stage(NODE_CELL, stage={"rule": "input"}).complexity()
    assert learned == (without.params + 2, without.macs, without.activations)


def test_spatial_sizes_of_the_regimes() -> None:
    """Spec 1.5 at 224 pixels; the cifar regime at 32."""
    sizes = {}
    for regime, side in (("small", 224), ("regular", 224), ("cifar", 32)):
        template = RandWireTemplate(image=Shape(3, side, side), regime=regime, nodes=8, channels=109)
        sizes[regime] = template.architecture(BarabasiAlbert(m=1), 0).stage_shapes()
    assert sizes == {
        "small": [(109, 56, 56), (109, 28, 28), (218, 14, 14), (436, 7, 7)],
        "regular": [(54, 112, 112), (109, 56, 56), (218, 28, 28), (436, 14, 14), (872, 7, 7)],
        "cifar": [(109, 32, 32), (109, 32, 32), (218, 16, 16), (436, 8, 8)],
    }


# Initialisation -----------------------------------------------------------------------------------


def states_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def global_states() -> list[object]:
    _, keys, *rest = np.random.get_state(legacy=True)
    return [random.getstate(), torch.get_rng_state().tolist(), list(keys), rest]


def test_initialise_depends_on_the_seed_and_on_nothing_else() -> None:
    made = SMALL.architecture(WattsStrogatz(k=4, p=0.75), 1)
    torch.manual_seed(1)
    random.seed(1)
    before = global_states()
    first = build_network(made, 4).state_dict()
    assert global_states() == before
    torch.manual_seed(2)
    random.seed(2)
    assert states_equal(first, build_network(made, 4).state_dict())
    assert not states_equal(first, build_network(made, 5).state_dict())


def test_initialise_sets_every_parameter_and_buffer() -> None:
    network = build_network(SMALL.architecture(BarabasiAlbert(m=2), 1), 4)
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    for value in network.state_dict().values():
        value.fill_(float("nan") if value.is_floating_point() else 7)
    initialise(network, 4)
    assert states_equal(expected, network.state_dict())


def test_equal_names_get_equal_weights() -> None:
    """A wiring's change leaves the start of all that it has in common with another alone."""
    networks = [
        build_network(SMALL.architecture(generator, 1), 4).state_dict()
        for generator in (ErdosRenyi(p=0.4), BarabasiAlbert(m=2))
    ]
    common = {
        key
        for key in networks[0].keys() & networks[1].keys()
        if networks[0][key].shape == networks[1][key].shape
    }
    convolutions = [key for key in common if networks[0][key].ndim == 4]
    assert len(convolutions) > 20
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in common)


def test_different_names_get_different_weights_of_the_stated_scale() -> None:
    """He et al. (2015): deviation sqrt(2 / fan_out); the classifier 0.01; edge values 0."""
    template = SMALL.model_copy(update={"channels": 64, "operation": DENSE, "regime": "cifar"})
    network = build_network(template.architecture(WattsStrogatz(k=4, p=0), 1), 4)
    kernels = [module.weight for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    dense = [kernel for kernel in kernels if kernel.shape == (64, 64, 3, 3)]
    assert len(dense) >= 8
    assert len({kernel.detach().numpy().tobytes() for kernel in dense}) == len(dense)
    for kernel in dense:
        assert kernel.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
        assert abs(kernel.mean().item()) < 4 * kernel.std().item() / kernel.numel() ** 0.5
    assert network.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.06)
    assert all(not stage.edge_values.any() for stage in network.graph_stages)
