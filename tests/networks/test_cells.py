"""Cells as genotypes: notations, what is refused, and the costs of all that were published (NAT spec)."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from networks.architecture import Architecture, Shape
from networks.cells import (
    WORDS,
    Cell,
    CellSettings,
    Genotype,
    Link,
    cell_architecture,
    parse_cell,
    parse_genotype,
)
from networks.errors import UserError
from networks.genotypes import PUBLISHED, published
from networks.network import Network, build_network
from networks.operations import find_operation

CIFAR, IMAGENET = CellSettings(channels=36, cells=20, regime="cifar"), CellSettings()
# Parameters and millions of multiply-adds: on CIFAR-10 with C = 36 and L = 20, on ImageNet with 48 and 14.
COSTS = {
    "DARTS_V1": (3_169_414, 500.988, 4_510_432, 505.865),
    "DARTS_V2": (3_349_342, 528.359, 4_718_752, 529.912),
    "NASNet-A": (3_830_950, 603.452, 5_564_320, 604.032),
    "ENAS": (3_859_894, 605.720, 5_625_952, 608.152),
    "NAONet": (11_463_670, 1673.814, 14_740_384, 1627.182),
    "VGG": (3_797_974, 548.427, 5_007_904, 571.897),
    "ResBlock": (3_797_974, 548.427, 5_007_904, 571.897),
    "MobileNetV2": (1_160_614, 181.649, 1_642_528, 219.492),
    "NAT_DARTS": (2_682_334, 424.181, 3_978_784, 440.950),
    "NAT_ENAS": (3_859_894, 605.720, 5_625_952, 608.152),
    "NAT_NAONet": (8_284_582, 1219.945, 10_836_064, 1204.499),
    "NAT_VGG": (3_850_678, 553.736, 5_101_216, 579.123),
    "NAT_ResBlock": (3_850_678, 553.736, 5_101_216, 579.123),
    "NAT_MobileNetV2": (1_186_966, 184.303, 1_689_184, 223.105),
    "NATv2_DARTS": (2_476_054, 394.156, 3_723_808, 413.290),
    "NATv2_ENAS": (3_691_414, 580.836, 5_376_736, 583.353),
    "NATv2_MobileNetV2": (1_186_966, 184.303, 1_689_184, 223.105),
    "R1": (3_520_198, 533.944, 5_263_264, 559.641),
    "NAT_R1": (2_904_598, 445.581, 4_434_976, 474.216),
    "R2": (2_845_846, 443.314, 4_311_328, 467.085),
    "NAT_R2": (2_256_598, 357.605, 3_529_696, 385.273),
}


def network_of(genotype: Genotype, settings: CellSettings) -> Architecture:
    image, classes = (Shape(3, 32, 32), 10) if settings.regime == "cifar" else (Shape(3, 224, 224), 1000)
    return cell_architecture(settings, image, classes, genotype.normal.graph, genotype.reduction.graph)


@pytest.mark.parametrize("name", COSTS)
def test_costs_of_published_cells(name: str) -> None:
    """Checks 1 to 4: exact."""
    params, macs, large_params, large_macs = COSTS[name]
    small, large = (network_of(published(name), one).complexity() for one in (CIFAR, IMAGENET))
    assert (small.params, round(small.macs / 1e6, 3)) == (params, macs)
    assert (large.params, round(large.macs / 1e6, 3)) == (large_params, large_macs)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("DARTS_V2", 528_359_040), ("NAT_DARTS", 424_181_376), ("NATv2_DARTS", 394_155_648),
        ("ENAS", 605_719_584), ("NATv2_ENAS", 580_836_384), ("NAONet", 1_673_814_240),
        ("NAT_NAONet", 1_219_944_672),
    ],
)  # fmt: skip
def test_multiply_adds_to_the_last(name: str, macs: int) -> None:
    assert network_of(published(name), CIFAR).complexity().macs == macs


def test_naonet_at_its_own_width() -> None:
    settings = CellSettings(channels=42)
    found = [network_of(published(name), settings).complexity().params for name in ("NAONet", "NAT_NAONet")]
    assert found == [11_352_319, 8_362_423]


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_are_what_they_cost(name: str) -> None:
    made = network_of(published(name), CellSettings(channels=4, cells=3, regime="cifar"))
    with torch.device("meta"):
        network = Network(made)
    assert sum(one.numel() for one in network.parameters()) == made.complexity().params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() == 2 * made.complexity().macs


@pytest.mark.parametrize("name", ["NAONet", "NAT_R1", "NAT_R2", "VGG"])
@pytest.mark.parametrize("side", [9, 32])
def test_networks_run_on_images_of_any_size(name: str, side: int) -> None:
    """With inputs that nothing reads, nodes that carry nothing, and windows of two pixels."""
    genotype, settings = published(name), CellSettings(channels=4, cells=6, regime="cifar")
    made = cell_architecture(
        settings, Shape(3, side, side), 10, genotype.normal.graph, genotype.reduction.graph
    )
    network = build_network(made, seed=0)
    x = torch.randn(4, 3, side, side)
    for training in (True, False):
        logits = network.train(training)(x)
        assert logits.shape == (4, 10) and bool(logits.isfinite().all())
        network.set_executor("autograd")
        torch.testing.assert_close(network(x), logits, atol=1e-5, rtol=1e-5)
        network.set_executor("whole_stage")


def test_costs_of_operations() -> None:
    """Check 5: at 128 channels on 32 x 32, without normalisation. Its table also counts what pools and skips
    read, which are no multiply-adds of ours: here their windows give it."""
    expected = {
        "c5": (409_600, 419.43), "c3": (147_456, 150.99), "sep5": (39_168, 40.11),
        "sep3": (35_072, 35.91), "dil5": (19_584, 20.05), "dil3": (17_536, 17.96), "c1": (16_384, 16.78),
    }  # fmt: skip
    reads = {"max5": 3.277, "avg5": 3.277, "max3": 1.180, "avg3": 1.180, "S": 0.131, "N": 0.0}
    for word, millions in reads.items():
        expected[word] = (0, 0)
        built = find_operation(WORDS[word][1]).build(128, 128, 1)
        pools = [one for one in built.modules() if isinstance(one, (torch.nn.MaxPool2d, torch.nn.AvgPool2d))]
        side = max((int(one.kernel_size) for one in pools), default=int(word != "N"))
        assert round(side**2 * 128 * 32 * 32 / 1e6, 3) == millions, word
    for word, (params, macs) in expected.items():
        operation = find_operation(WORDS[word][1])
        found = operation.complexity(128, 128, 32, 32, 1)
        with torch.device("meta"):
            built = operation.build(128, 128, 1)
        scales = sum(one.numel() for module in built.modules() if isinstance(module, torch.nn.BatchNorm2d)
                     for one in module.parameters())  # fmt: skip
        assert (found.params - scales, round(found.macs / 1e6, 2)) == (params, macs), word


# Notations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_printed_is_read_again(name: str) -> None:
    genotype = published(name)
    assert parse_genotype(str(genotype)) == genotype == parse_genotype(genotype.darts)


def test_the_usual_notations() -> None:
    text = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('none', 2)],
              normal_concat=range(2, 4), reduce=[('max_pool_3x3', 0), ('null', 1)], reduce_concat=[2])"""
    found = parse_genotype(text)
    assert str(found.normal) == "2=sep3(0)+sep3(1); 3=S(0)+N(2); out=2,3"
    assert found.reduction == Cell(((Link("max3", 0), Link("N", 1)),), (2,))
    loose = parse_cell("2=c7x1(0)+S(1); 3=c1(2)+N(0)")
    assert loose.joined == (3,) and loose.operations == ("c1x7", "S", "c1", "N")
    assert loose.with_operations(["N", "S", "S", "N"]).operations == ("N", "S", "S", "N")


def test_a_random_cell_goes_through_text() -> None:
    rng = random.Random(0)
    for _ in range(50):
        nodes = tuple(
            (
                Link(rng.choice(list(WORDS)), rng.randrange(node)),
                Link(rng.choice(list(WORDS)), rng.randrange(node)),
            )
            for node in range(2, 7)
        )
        read = {link.source for links in nodes for link in links}
        cell = Cell(nodes, tuple(node for node in range(2, 7) if node not in read))
        assert parse_cell(str(cell)) == cell == parse_cell(str(cell).rpartition(";")[0])


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("2=sep3(0)", "cell", "two inputs for each node"),
        ("3=sep3(0)+S(1)", "cell", "2=OPERATION(NODE)"),
        ("2=sepp3(0)+S(1)", "cell: node 2", "Did you mean 'sep3'?"),
        ("2=S(2)+S(1)", "cell: node 2 reads", "a node before it, 0 to 1"),
        ("2=S(0)+S(1); 3=S(4)+S(1)", "cell: node 3 reads", "0 to 2"),
        ("2=S(0)+S(1); 3=S(0)+S(1); out=3", "cell: out", "[2] too, which nothing reads"),
        ("2=S(0)+S(1); out=1", "cell: out", "nodes 2 to 2"),
        ("", "cell", "one node"),
    ],
)
def test_cells_that_cannot_be(text: str, field: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_cell(text)
    assert caught.value.field == field and words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("normal 2=S(0)+S(1)", "genotype", "| reduction"),
        (
            "Genotype(normal=[('sep_conv_3x3', 0)], normal_concat=[2], reduce=[], reduce_concat=[])",
            "normal",
            "two",
        ),
        (
            "Genotype(normal=[('S', 0), ('x', 1)], normal_concat=[2], reduce=[], reduce_concat=[])",
            "normal: node 2",
            "allowed",
        ),
        ("Genotype(__import__('os').system('true'))", "genotype", "Genotype(normal=["),
        ("Genotype(normal=open('x'), normal_concat=[2])", "genotype", "Genotype(normal=["),
        ("Genotype(", "genotype", "Genotype(normal=["),
    ],
)
def test_genotypes_that_cannot_be(text: str, field: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_genotype(text)
    assert caught.value.field == field and words in str(caught.value)


def test_a_name_that_is_none_tells_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'DARTS_V2'"):
        published("DARTS_V3")
