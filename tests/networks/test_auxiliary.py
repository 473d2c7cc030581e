"""The auxiliary head and drop-path: exact costs (NAT spec 5.1), and what training passes see of them."""

import pytest
import torch
from torch import nn

from networks.architecture import Architecture, Shape
from networks.auxiliary import AuxiliaryHead, auxiliary_complexity, auxiliary_stage, build_auxiliary
from networks.cells import CellSettings, cell_architecture
from networks.counters import counter_generator
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.genotypes import published
from networks.network import Network, build_network
from networks.randwire import RandWireTemplate
from networks.stage import DroppedPath

# Parameters with the head: on CIFAR-10 with C = 36 and L = 20, on ImageNet with C = 48 and L = 14.
WITH_HEAD = {
    "DARTS_V1": (3_645_840, 5_771_208), "DARTS_V2": (3_825_768, 5_979_528),
    "NASNet-A": (4_288_944, 6_800_520), "ENAS": (4_317_888, 6_862_152),
    "NAONet": (11_940_096, 16_001_160), "VGG": (4_219_104, 6_194_952),
    "ResBlock": (4_219_104, 6_194_952), "MobileNetV2": (1_581_744, 2_829_576),
    "NAT_DARTS": (3_158_760, 5_239_560), "NAT_ENAS": (4_317_888, 6_862_152),
    "NAT_NAONet": (8_761_008, 12_096_840), "NAT_VGG": (4_271_808, 6_288_264),
    "NAT_ResBlock": (4_271_808, 6_288_264), "NAT_MobileNetV2": (1_608_096, 2_876_232),
    "NATv2_DARTS": (2_952_480, 4_984_584), "NATv2_ENAS": (4_149_408, 6_612_936),
    "NATv2_MobileNetV2": (1_608_096, 2_876_232), "R1": (3_996_624, 6_524_040),
    "NAT_R1": (3_381_024, 5_695_752), "R2": (3_322_272, 5_572_104), "NAT_R2": (2_733_024, 4_790_472),
}  # fmt: skip


def cells(name: str, settings: CellSettings, side: int, classes: int) -> Architecture:
    genotype = published(name)
    return cell_architecture(
        settings, Shape(3, side, side), classes, genotype.normal.graph, genotype.reduction.graph
    )


@pytest.mark.parametrize("name", WITH_HEAD)
def test_costs_with_the_head(name: str) -> None:
    """The column "params + aux head" of spec 5.1: exact, and what the module holds."""
    small = cells(name, CellSettings(channels=36, cells=20, regime="cifar"), 32, 10)
    large = cells(name, CellSettings(), 224, 1000)
    for made, expected in zip((small, large), WITH_HEAD[name], strict=True):
        cost = auxiliary_complexity(made)
        assert made.complexity().plus(cost).params == expected and cost.macs == 0
        with torch.device("meta"):
            head = AuxiliaryHead(made)
        assert sum(one.numel() for one in head.parameters()) == cost.params


@pytest.mark.parametrize(("regime", "side", "normalised"), [("cifar", 32, True), ("imagenet", 224, False)])
def test_it_reads_the_second_reduction(regime: str, side: int, normalised: bool) -> None:
    settings = CellSettings(channels=4, cells=6, regime=regime)  # type: ignore[arg-type]
    made = cells("DARTS_V2", settings, side, 10)
    network = build_network(made, 0)
    head = build_auxiliary(made, 0)
    position = auxiliary_stage(made)
    assert made.stages[position].graph == "reduction" and made.stages[-1].graph == "normal"
    x = torch.randn(2, 3, side, side)
    logits, tapped = network.with_output_of(position, x)
    torch.testing.assert_close(logits, network(x))
    assert head(tapped).shape == (2, 10)
    assert isinstance(head.layers[6], nn.BatchNorm2d) is normalised


def test_a_network_that_has_no_place_for_it() -> None:
    template = RandWireTemplate(regime="small", nodes=6, channels=4, image=Shape(3, 64, 64), classes=10)
    small = template.architecture(WattsStrogatz(k=4, p=0.75), 0)
    with pytest.raises(UserError, match=r"6 to 10 pixels.*puts out 2x2"):
        build_auxiliary(small, 0)
    flat = cells("DARTS_V2", CellSettings(channels=4, cells=3, regime="cifar"), 32, 10)
    flat = flat.model_copy(update={"stages": flat.stages[:1]})
    with pytest.raises(UserError, match="no stage halves"):
        build_auxiliary(flat, 0)


@pytest.fixture
def network() -> Network:
    return build_network(cells("ResBlock", CellSettings(channels=4, cells=3, regime="cifar"), 16, 10), 0)


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    draws = counter_generator(0, "test")
    dropped = DroppedPath(nn.Identity(), 0.25, draws)(torch.ones(4000, 2, 3, 3))
    values = dropped.flatten(1)
    assert values.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert bool((values == values[:, :1]).all())  # an image is dropped as a whole
    # Three standard errors of a fraction of 4,000 draws.
    assert abs((values[:, 0] == 0).double().mean() - 0.25) < 3 * (0.25 * 0.75 / 4000) ** 0.5


def test_skips_are_never_dropped(network: Network) -> None:
    """With nothing left of the operations, a network of skips and operations still tells images apart."""
    network.set_path_drop(1 - 1e-7)
    network.new_step(0, 0)
    x = torch.randn(2, 3, 16, 16)
    features = network.with_output_of(0, x)[1]  # the first cell: 5 = S(4) + S(2), 2 = S(1), 4 = c3(3)
    ends = network.graph_stages[0]
    with torch.no_grad():
        projected = ends.projection[1](network.stem(x))  # type: ignore[index]
    torch.testing.assert_close(features, projected)


def test_same_step_same_drops(network: Network) -> None:
    x = torch.randn(8, 3, 16, 16)
    network.set_path_drop(0.5)

    def logits(step: int) -> torch.Tensor:
        network.new_step(7, step)
        return network(x).detach()

    first = logits(3)
    assert logits(3).equal(first) and not logits(4).equal(first)
    network.eval()
    whole = network(x)
    network.set_path_drop(0.0)
    assert network(x).equal(whole)


def test_gradients_reach_what_was_not_dropped(network: Network) -> None:
    network.set_path_drop(0.3)
    network.new_step(0, 0)
    network(torch.randn(16, 3, 16, 16)).square().mean().backward()
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in network.stem.parameters())


def test_drop_path_refuses_an_undrawn_step(network: Network) -> None:
    network.set_path_drop(0.1)
    with pytest.raises(RuntimeError, match="new_step"):
        network(torch.randn(2, 3, 16, 16))
