"""Networks that everybody has, as architectures: ResNet (1512.03385), VGG (1409.1556), MobileNetV2
(1801.04381).

Blocks of one width are one stage, in either of two forms. As links (`standard`) a block's convolutions lead
from node to node, and its shortcut from the node before the block to the one after it: all of them can be
rewritten. As nodes (`standard_topology`) a block's branch is the operation of a node, and the shortcuts are
the edges of a topology whose weights can be learned. Bottlenecks and inverted residuals are one operation
each: between their convolutions the width is another. Parameters are those of the published networks;
networks/blocks/residual.py says where the ReLU stands.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.errors import UserError, nearest
from networks.graph import Edge, EdgeWeight, Graph, Node
from networks.topologies import Residual, Topology, topology_graph

CONV = "triplet_conv_3x3"
NO_SHORTCUTS = ""


class Blocks(NamedTuple):
    """The blocks of one stage: how many, the branch of one, the same as operations one after the other, the
    first block's shortcut (None: it has none; `NO_SHORTCUTS`: none of them has), width and stride."""

    number: int
    branch: str
    links: tuple[str, ...]
    skip: str | None
    width: int
    stride: int


class Plan(NamedTuple):
    stem: Stem
    stages: tuple[Blocks, ...]
    head: Head


def _resnet_cifar(blocks: int) -> Plan:
    """Three stages of 16, 32 and 64 channels, of so many basic blocks each; shortcuts have no weights."""
    stages = tuple(
        Blocks(blocks, "basic_block", (CONV, CONV), "padded_skip", width, stride)
        for width, stride in ((16, 1), (32, 2), (64, 2))
    )
    return Plan(Stem(kind="cifar", channels=16), stages, Head(kind="relu", channels=None))


def _resnet_imagenet(numbers: Sequence[int], branch: str, links: tuple[str, ...], width: int) -> Plan:
    """Four stages, of `width` channels at first; shortcuts are projected where shapes change."""
    stages = tuple(
        Blocks(number, branch, links, "projected_skip", width * 2**position, 2 if position else 1)
        for position, number in enumerate(numbers)
    )
    return Plan(Stem(kind="resnet", channels=64), stages, Head(kind="relu", channels=None))


def _vgg16() -> Plan:
    """13 convolutions and three linear layers; no batch normalisation, no shortcuts."""
    plan = ((64, 1), (128, 2), (256, 3), (512, 3), (512, 3))  # the first convolution is the stem
    conv = "vgg_conv_3x3"
    stages = tuple(
        Blocks(number, conv, (conv,), NO_SHORTCUTS, width, 2 if position else 1)
        for position, (width, number) in enumerate(plan)
    )
    return Plan(Stem(kind="vgg", channels=64), stages, Head(kind="vgg", channels=4096, dropout=0.5))


def _mobilenet_v2() -> Plan:
    """Seven stages of inverted residuals; the first block of a stage has no shortcut."""
    rows = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    stages = tuple(
        Blocks(number, branch, (branch,), None, width, stride)
        for expansion, width, number, stride in rows
        for branch in [f"inverted{expansion}_3x3"]
    )
    head = Head(kind="conv_relu", channels=1280, dropout=0.2)
    return Plan(Stem(kind="strided", channels=32, relu=True), stages, head)


STANDARD: dict[str, Callable[[], Plan]] = {
    **{f"resnet{6 * blocks + 2}": partial(_resnet_cifar, blocks) for blocks in (3, 5, 7, 9, 18)},
    "resnet18": partial(_resnet_imagenet, (2, 2, 2, 2), "basic_block", (CONV, CONV), 64),
    "resnet50": partial(_resnet_imagenet, (3, 4, 6, 3), "bottleneck", ("bottleneck",), 256),
    "vgg16": _vgg16,
    "mobilenet_v2": _mobilenet_v2,
}


def standard(name: str, image: Shape, classes: int) -> Architecture:
    """The network of this name, its blocks as links. Raises `UserError` for another name."""
    return _built(_plan(name), image, classes, _links)


def standard_topology(
    name: str,
    image: Shape,
    classes: int,
    topology: Topology | None = None,
    weight: EdgeWeight = "none",
) -> Architecture:
    """The network of this name, its blocks as nodes of a topology (None: its own, a shortcut around each).

    In each stage the output of the first block, which changes the shape, is the topology's input; the other
    blocks are its nodes: N = blocks + 1 with the output (spec 2.5). Complete with weights of 1 it computes
    what `standard` does. Raises `UserError` for another name, or a topology that so many nodes cannot have.
    """
    wiring = topology or Residual(interval=1)
    return _built(_plan(name), image, classes, partial(_nodes, topology=wiring, weight=weight))


def _plan(name: str) -> Plan:
    if name not in STANDARD:
        raise UserError("architecture", name, ", ".join(STANDARD), nearest(name, STANDARD))
    return STANDARD[name]()


def _built(plan: Plan, image: Shape, classes: int, graph_of: Callable[[Blocks], Graph]) -> Architecture:
    stages = tuple(
        Stage(
            graph=graph_of(blocks),
            channels=blocks.width,
            stride=2 if blocks.stride == 2 else 1,
            rule="edges_from_inputs",
        )
        for blocks in plan.stages
    )
    return Architecture(image=image, classes=classes, stem=plan.stem, stages=stages, head=plan.head)


def _links(blocks: Blocks) -> Graph:
    edges: list[Edge] = []
    node = 0
    for block in range(blocks.number):
        start = node
        for operation in blocks.links:
            edges.append(Edge(source=node, target=node + 1, operation=operation))
            node += 1
        shortcut = blocks.skip if block == 0 or blocks.skip == NO_SHORTCUTS else "identity"
        if shortcut:
            edges.append(Edge(source=start, target=node, slot=1, operation=shortcut))
    nodes = tuple(Node(id=number) for number in range(node + 1))
    return Graph(nodes=nodes, edges=tuple(edges), inputs=(0,), output=node)


def _nodes(blocks: Blocks, topology: Topology, weight: EdgeWeight) -> Graph:
    """Node 0 is the stage's input, and node 1 what its first block puts out."""
    first = [Edge(source=0, target=1, operation=blocks.branch)]
    if blocks.skip:
        first.append(Edge(source=0, target=1, slot=1, operation=blocks.skip))
    if blocks.number == 1:
        return Graph(nodes=(Node(id=0), Node(id=1)), edges=tuple(first), inputs=(0,), output=1)
    size = blocks.number + 1
    topology.check(size)
    wired = topology_graph(size, topology.pairs(size), blocks.branch, weight, topology.link)
    nodes = [node.model_copy(update={"id": node.id + 1}) for node in wired.nodes]
    edges = [
        edge.model_copy(update={"source": edge.source + 1, "target": edge.target + 1}) for edge in wired.edges
    ]
    return Graph(nodes=(Node(id=0), *nodes), edges=(*first, *edges), inputs=(0,), output=size)
