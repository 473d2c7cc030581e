"""Networks that everybody has: their published sizes, and what can become of their blocks (NAT spec 1.4)."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from networks.architecture import Shape
from networks.errors import UserError
from networks.network import Network, build_network
from networks.operations import PreActivated
from networks.spaces.rewired import NetworkSettings, RewiredSpace
from networks.standard import STANDARD, standard
from networks.supernet import build_supernet
from searchers.rewriting import Rewriting

CIFAR, IMAGENET = (Shape(3, 32, 32), 10), (Shape(3, 224, 224), 1000)


@pytest.mark.parametrize(
    ("name", "place", "params"),
    [
        ("resnet20", CIFAR, 269_722), ("resnet56", CIFAR, 853_018), ("resnet50", IMAGENET, 25_557_032),
        ("mobilenet_v2", IMAGENET, 3_504_872), ("vgg16", IMAGENET, 138_357_544),
    ],
)  # fmt: skip
def test_published_sizes(name: str, place: tuple[Shape, int], params: int) -> None:
    made = standard(name, *place)
    assert made.complexity().params == params
    with torch.device("meta"):
        network = Network(made)
    assert sum(one.numel() for one in network.parameters()) == params


@pytest.mark.parametrize(("name", "macs"), [("resnet20", 40_551_040), ("resnet56", 125_485_696)])
def test_multiply_adds_of_residual_networks(name: str, macs: int) -> None:
    """Spec 9: analytic, shortcuts without weights."""
    assert standard(name, *CIFAR).complexity().macs == macs


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("side", [32, 96])
def test_networks_are_what_they_cost_and_run(name: str, side: int) -> None:
    made = standard(name, Shape(3, side, side), 10)
    with torch.device("meta"):
        network = Network(made)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network.eval()(torch.empty(2, 3, side, side, device="meta"))
    assert logits.shape == (2, 10)
    assert counter.get_total_flops() == 2 * 2 * made.complexity().macs


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(UserError, match="resnet20"):
        standard("resnet21", *CIFAR)


def test_resnet_learns_as_residual_networks_do() -> None:
    """With branches of zeros every block passes on what it reads."""
    network = build_network(standard("resnet20", *CIFAR), 0)
    stage = network.graph_stages[0]
    with torch.no_grad():
        for operation in stage.operations.values():
            if isinstance(operation, PreActivated):
                operation.body[-1].weight.zero_()  # type: ignore[operator]
    x = torch.randn(2, 16, 32, 32)
    torch.testing.assert_close(stage(x), x)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_blocks_are_links_that_can_be_rewritten(name: str) -> None:
    """A convolution may go, or become a skip connection; a shortcut may go; hooks may come. Every rewriting
    computes as alone what it does in the supernet."""
    image = Shape(3, 32, 32)
    space = RewiredSpace(NetworkSettings(architecture=name, hooks=1), image, 10)
    words = [tuple(one.word for one in options) for options in space.options]
    own = "c3" if name == "resnet20" else "inverted6_3x3"
    assert (own, "S", "N") in words and ("S", "N") in words and ("N", "S") in words
    if name == "resnet20":
        assert words.count(("c3", "S", "N")) == 18 and words.count(("S", "N")) == 9
    rewriting, rng = Rewriting(space, "nat", strict=True), random.Random(0)
    given = space.parse("given")
    assert space.cost(given).params == standard(name, image, 10).complexity().params
    supernet = build_supernet(space, 0)
    x = torch.randn(2, *image, generator=torch.Generator().manual_seed(0))
    legal = rewriting.legal([given])
    for _ in range(3):
        actions = [rng.choice(row.nonzero()[0].tolist()) for row in legal[0]]
        genes = rewriting.after(given, actions)
        assert space.cost(genes).params <= space.cost(given).params
        assert space.cost(genes).macs <= space.cost(given).macs
        alone = supernet.extract(genes)
        torch.testing.assert_close(supernet.eval()(x, genes), alone.eval()(x), atol=1e-4, rtol=1e-4)
        supernet.train()


def test_a_convolution_of_vgg_that_all_depends_on_may_only_become_a_skip() -> None:
    space = RewiredSpace(NetworkSettings(architecture="vgg16", hooks=0), Shape(3, 32, 32), 10)
    assert len(space.places) == 12
    assert all([one.word for one in options] == ["vgg_conv_3x3", "S"] for options in space.options)
