"""RandWire's published sizes (checks R9 to R12 and the networkx trap of spec 1.11)."""

import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, NamedTuple

import networkx as nx
import pytest

from networks.architecture import Shape
from networks.complexity import Complexity, conv
from networks.generators import BarabasiAlbert, ErdosRenyi, RandomGraph, WattsStrogatz, Wiring
from networks.operations import OPERATIONS
from networks.randwire import RandWireTemplate

WS = WattsStrogatz(k=4, p=0.75)
RING = WattsStrogatz(k=4, p=0)
SEEDS = range(100)
SEPARABLE = OPERATIONS["triplet_sep_conv_3x3"].complexity


class Published(NamedTuple):
    """A row of spec 1.6: the paper's mean and spread, and the specification's own count."""

    regime: Literal["small", "regular"]
    channels: int
    params: tuple[float, float]
    macs: tuple[float, float]
    counted_params: tuple[float, float]
    counted_macs: tuple[float, float]


TABLE = [
    Published("small", 78, (5.6e6, 0.1e6), (583e6, 6.2e6), (5.624e6, 0.081e6), (579.6e6, 5.7e6)),
    Published("regular", 109, (31.9e6, 0.66e6), (4.0e9, 0.09e9), (32.14e6, 0.60e6), (3.986e9, 0.058e9)),
    Published("regular", 154, (61.5e6, 1.32e6), (7.9e9, 0.18e9), (61.93e6, 1.20e6), (7.842e9, 0.114e9)),
]
SMALL = TABLE[0]


def template(row: Published) -> RandWireTemplate:
    return RandWireTemplate(regime=row.regime, channels=row.channels)


def chain(n: int) -> Wiring:
    return Wiring(n=n, edges=tuple((node, node + 1) for node in range(n - 1)))


def size(template: RandWireTemplate, wiring: Callable[[int], Wiring]) -> tuple[int, int]:
    cost = template.build([wiring(nodes) for nodes in template.stage_nodes()]).complexity()
    return cost.params, cost.macs


@cache
def costs(row: Published) -> list[Complexity]:
    """Of 100 WS(4, 0.75) networks."""
    return [template(row).architecture(WS, seed).complexity() for seed in SEEDS]


def mean_size(some: Sequence[Complexity]) -> tuple[float, float]:
    return statistics.mean(cost.params for cost in some), statistics.mean(cost.macs for cost in some)


def closed_form(wirings: Sequence[Wiring], c: int, regime: str) -> tuple[int, int]:
    """Params and MACs of a 224 px, 1000-class network, counted from spec 1.5 and 1.6 alone."""
    widths = {"small": [c, 2 * c, 4 * c], "regular": [c, 2 * c, 4 * c, 8 * c]}[regime]
    params, macs, c_in, side = 9 * 3 * (c // 2) + 2 * (c // 2), 9 * 3 * (c // 2) * 112**2, c // 2, 112
    if regime == "small":
        params, macs = params + 9 * c_in * c + 2 * c, macs + 9 * c_in * c * 56**2
        c_in, side = c, 56
    for wiring, c_out in zip(wirings, widths, strict=True):
        side //= 2
        in_degree = [sum(target == node for _, target in wiring.edges) for node in range(wiring.n)]
        for degree in in_degree:
            width = c_out if degree else c_in
            params += 9 * width + width * c_out + 2 * c_out + (degree if degree > 1 else 0)
            macs += side**2 * (9 * width + width * c_out)
        c_in = c_out
    params += c_in * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    return params, macs + side**2 * c_in * 1280 + 1280 * 1000


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"C={row.channels}")
@pytest.mark.parametrize(
    "generator", [WS, ErdosRenyi(p=0.2), BarabasiAlbert(m=7)], ids=lambda generator: generator.label
)
def test_complexity_is_the_closed_form(row: Published, generator: RandomGraph) -> None:
    for seed in range(5):
        wirings = template(row).wirings(generator, seed)
        cost = template(row).build(wirings).complexity()
        assert (cost.params, cost.macs) == closed_form(wirings, row.channels, row.regime)


def test_r9_exact_sizes_of_the_small_regime() -> None:
    assert size(template(SMALL), lambda n: RING.wiring(n, 0)) == (5_929_468, 603_665_420)
    assert size(template(SMALL), chain) == (5_929_279, 603_665_420)


def test_r9_macs_depend_on_the_sources_alone() -> None:
    """Edges cost nothing, a source of conv4 or conv5 reads half the width (conv3 keeps its width)."""
    seen = set()
    for seed in range(50):
        wirings = template(SMALL).wirings(WattsStrogatz(k=4, p=0.25), seed)
        macs = template(SMALL).build(wirings).complexity().macs
        one_source_each = all(len(wiring.sources) == 1 for wiring in wirings[1:])
        assert (macs == 603_665_420) is one_source_each
        seen.add(one_source_each)
    assert seen == {True, False}


def test_r10_exact_sizes_of_the_regular_regime() -> None:
    regular = template(TABLE[1])
    params, macs = size(regular, lambda n: RING.wiring(n, 0))
    assert (params, macs) == (34_571_707, 4_305_023_892)
    assert size(regular, chain) == (params - 220, macs)


def test_r10_half_of_an_odd_width_is_rounded_down() -> None:
    """Negative control: conv1 of 55 channels would give the other pair of spec 1.5."""
    regular = template(TABLE[1])
    params, macs = size(regular, lambda n: RING.wiring(n, 0))
    sources = SEPARABLE(55, 109, 112, 112, 2), SEPARABLE(54, 109, 112, 112, 2)
    params += 27 + 2 + sources[0].params - sources[1].params
    macs += 27 * 112**2 + sources[0].macs - sources[1].macs
    assert (params, macs) == (34_571_854, 4_305_732_628)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"C={row.channels}")
def test_r11_mean_sizes(row: Published) -> None:
    params, macs = mean_size(costs(row))
    assert params == pytest.approx(row.counted_params[0], rel=0.01)
    assert macs == pytest.approx(row.counted_macs[0], rel=0.01)
    assert params == pytest.approx(row.params[0], abs=row.params[1])
    assert macs == pytest.approx(row.macs[0], abs=row.macs[1])


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"C={row.channels}")
def test_r11_spread(row: Published) -> None:
    """The table's deviations; 100 draws know one to 4 / sqrt(200) of itself."""
    deviations = [statistics.stdev(some) for some in zip(*[cost[:2] for cost in costs(row)], strict=True)]
    assert deviations == pytest.approx([row.counted_params[1], row.counted_macs[1]], rel=0.28)


def test_r11_the_largest_network_at_320_pixels() -> None:
    wide = template(TABLE[2])
    some = [wide.architecture(WS, seed) for seed in range(20)]
    assert {one.complexity(Shape(3, 320, 320)).params - one.complexity().params for one in some} == {0}
    macs = statistics.mean(one.complexity(Shape(3, 320, 320)).macs for one in some)
    assert macs == pytest.approx(16.0e9, abs=0.36e9)


def fails_r11(params: float, macs: float) -> tuple[bool, bool]:
    (expected, _), (work, _) = SMALL.counted_params, SMALL.counted_macs
    return params != pytest.approx(expected, rel=0.01), macs != pytest.approx(work, rel=0.01)


def test_r11_accepts_the_networks_that_are_built() -> None:
    assert fails_r11(*mean_size(costs(SMALL))) == (False, False)


def test_r12_a_separable_stem_fails_on_macs() -> None:
    """Negative control: conv1 and conv2 as depthwise + pointwise."""
    saved = Complexity()
    for c_in, c_out, side in ((3, 39, 224), (39, 78, 112)):
        dense = conv(c_in, c_out, side, side, kernel=3, stride=2)
        depthwise = conv(c_in, c_in, side, side, kernel=3, stride=2, groups=c_in)
        pointwise = conv(c_in, c_out, side // 2, side // 2)
        saved = Complexity(
            saved.params + dense.params - depthwise.params - pointwise.params,
            saved.macs + dense.macs - depthwise.macs - pointwise.macs,
        )
    assert saved[:2] == (24_894, 86_619_456)
    params, macs = mean_size(costs(SMALL))
    assert macs - saved.macs == pytest.approx(493e6, rel=0.01)
    assert fails_r11(params - saved.params, macs - saved.macs) == (False, True)


def sinks_widening(wirings: Sequence[Wiring]) -> tuple[int, int]:
    """The small network with every stage's widening moved from its sources to its sinks."""
    built = template(SMALL).build(list(wirings))
    cost, shapes = built.complexity(), built.stage_shapes()
    params, macs = cost.params, cost.macs
    for wiring, entry, leaving in zip(wirings, shapes, shapes[1:], strict=False):
        for node in range(wiring.n):
            source, sink = node in wiring.sources, node in wiring.sinks
            place = (entry.h, entry.w, 2) if source else (leaving.h, leaving.w, 1)
            now = SEPARABLE(entry.c if source else leaving.c, leaving.c, *place)
            moved = SEPARABLE(entry.c, leaving.c if sink else entry.c, *place)
            params, macs = params + moved.params - now.params, macs + moved.macs - now.macs
    return params, macs


def test_r12_widening_at_the_sinks_fails_on_both() -> None:
    """Negative control (spec 1.4)."""
    some = [Complexity(*sinks_widening(template(SMALL).wirings(WS, seed))) for seed in SEEDS]
    params, macs = mean_size(some)
    assert params == pytest.approx(3.14e6, rel=0.01)
    assert macs == pytest.approx(385e6, rel=0.01)
    assert fails_r11(params, macs) == (True, True)


@pytest.mark.parametrize(("m", "macs"), [(5, 583.8e6), (7, 573.8e6)])
def test_ba_sizes(m: int, macs: float) -> None:
    """Spec 1.11. BA(M) has M sources always, so its cost has no spread."""
    counts = {template(SMALL).architecture(BarabasiAlbert(m=m), seed).complexity().macs for seed in range(5)}
    assert len(counts) == 1
    assert counts.pop() == pytest.approx(macs, abs=0.05e6)


@pytest.mark.parametrize("m", [5, 7])
def test_ba_of_networkx_costs_as_much_as_a_chain(m: int) -> None:
    """Negative control (spec 1.11): its star start leaves one source."""

    def star(n: int) -> Wiring:
        edges = sorted((min(e), max(e)) for e in nx.barabasi_albert_graph(n, m, seed=1).edges)
        return Wiring(n=n, edges=tuple(edges))

    assert size(template(SMALL), star)[1] == 603_665_420
