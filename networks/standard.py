"""Networks that everybody has, as architectures whose blocks are links that can be rewritten: ResNet
(1512.03385), VGG (1409.1556), MobileNetV2 (1801.04381).

Blocks of one width are one stage: a graph in which a block's convolutions lead from node to node, and its
shortcut from the node before the block to the one after it. Bottlenecks and inverted residuals are one link
each: between their convolutions the width is another. Parameters are those of the published networks;
networks/blocks/residual.py says where the ReLU stands.
"""

from collections.abc import Callable, Sequence
from functools import partial

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.errors import UserError, nearest
from networks.graph import Edge, Graph, Node

CONV = "triplet_conv_3x3"


def block_graph(blocks: int, operations: Sequence[str], skip: str | None) -> Graph:
    """So many blocks one after the other, each with these operations on its branch. `skip`: the first block's
    shortcut (None: it has none); the others pass on what they read, unless there are no shortcuts at all
    (``""``)."""
    edges: list[Edge] = []
    node = 0
    for block in range(blocks):
        start = node
        for operation in operations:
            edges.append(Edge(source=node, target=node + 1, operation=operation))
            node += 1
        shortcut = skip if block == 0 else None if skip == "" else "identity"
        if shortcut:
            edges.append(Edge(source=start, target=node, slot=1, operation=shortcut))
    return Graph(
        nodes=tuple(Node(id=number) for number in range(node + 1)),
        edges=tuple(edges),
        inputs=(0,),
        output=node,
    )


def _stage(graph: Graph, channels: int, stride: int) -> Stage:
    return Stage(graph=graph, channels=channels, stride=2 if stride == 2 else 1, rule="edges_from_inputs")


def resnet_cifar(image: Shape, classes: int, *, blocks: int) -> Architecture:
    """Three stages of 16, 32 and 64 channels, of so many basic blocks each; shortcuts have no weights."""
    graph = block_graph(blocks, (CONV, CONV), "padded_skip")
    stages = tuple(_stage(graph, width, stride) for width, stride in ((16, 1), (32, 2), (64, 2)))
    stem, head = Stem(kind="cifar", channels=16), Head(kind="relu", channels=None)
    return Architecture(image=image, classes=classes, stem=stem, stages=stages, head=head)


def resnet_imagenet(
    image: Shape, classes: int, *, blocks: Sequence[int], operations: Sequence[str], width: int
) -> Architecture:
    """Four stages, of `width` channels at first; shortcuts are projected where shapes change."""
    stages = tuple(
        _stage(block_graph(number, operations, "projected_skip"), width * 2**position, 2 if position else 1)
        for position, number in enumerate(blocks)
    )
    stem, head = Stem(kind="resnet", channels=64), Head(kind="relu", channels=None)
    return Architecture(image=image, classes=classes, stem=stem, stages=stages, head=head)


def vgg16(image: Shape, classes: int) -> Architecture:
    """13 convolutions and three linear layers; no batch normalisation, no shortcuts."""
    plan = ((64, 1), (128, 2), (256, 3), (512, 3), (512, 3))  # the first convolution is the stem
    stages = tuple(
        _stage(block_graph(number, ("vgg_conv_3x3",), ""), width, 2 if position else 1)
        for position, (width, number) in enumerate(plan)
    )
    stem, head = Stem(kind="vgg", channels=64), Head(kind="vgg", channels=4096, dropout=0.5)
    return Architecture(image=image, classes=classes, stem=stem, stages=stages, head=head)


def mobilenet_v2(image: Shape, classes: int) -> Architecture:
    """Seven stages of inverted residuals; the first block of a stage has no shortcut."""
    plan = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    stages = tuple(
        _stage(block_graph(number, (f"inverted{expansion}_3x3",), None), width, stride)
        for expansion, width, number, stride in plan
    )
    stem, head = (
        Stem(kind="strided", channels=32, relu=True),
        Head(kind="conv_relu", channels=1280, dropout=0.2),
    )
    return Architecture(image=image, classes=classes, stem=stem, stages=stages, head=head)


STANDARD: dict[str, Callable[[Shape, int], Architecture]] = {
    "resnet20": partial(resnet_cifar, blocks=3),
    "resnet56": partial(resnet_cifar, blocks=9),
    "resnet18": partial(resnet_imagenet, blocks=(2, 2, 2, 2), operations=(CONV, CONV), width=64),
    "resnet50": partial(resnet_imagenet, blocks=(3, 4, 6, 3), operations=("bottleneck",), width=256),
    "vgg16": vgg16,
    "mobilenet_v2": mobilenet_v2,
}


def standard(name: str, image: Shape, classes: int) -> Architecture:
    """The network of this name. Raises `UserError` for another."""
    if name not in STANDARD:
        raise UserError("architecture", name, ", ".join(STANDARD), nearest(name, STANDARD))
    return STANDARD[name](image, classes)
