"""Recalibrated batch normalisations (spec S7)."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from networks.architecture import Shape
from networks.counters import counter_generator
from networks.network import Network
from networks.spaces.chain import SmallChainSettings, SmallChainSpace
from networks.spaces.choices import ChoiceSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.space import Genes
from networks.stage import StageModule
from networks.supernet import Supernet, build_supernet
from trainers.recalibration import evaluating, recalibrated

IMAGE = Shape(3, 16, 16)
CELLS = NasBench201Space(NasBench201Settings(channels=4, cells=1), IMAGE, 5)
CHAIN = SmallChainSpace(SmallChainSettings(channels=4, head_channels=8), IMAGE, 5)
A, B = (3, 3, 2, 4, 3, 1), (2, 3, 3, 1, 4, 3)  # they share the 3x3 convolution of edge 0-2
PATHS = [(CELLS, A), (CELLS, B), (CELLS, (3, 0, 0, 1, 0, 3)), (CHAIN, (1, 2, 0, 2, 1, 1, 0, 2))]


def images(number: int = 5, seed: int = 0) -> list[Tensor]:
    """Batches that differ in mean and spread, so that it matters how they are averaged."""
    return [
        torch.randn(16, *IMAGE, generator=counter_generator(seed, batch)) * (1 + batch) + batch
        for batch in range(number)
    ]


def used(supernet: Supernet) -> Supernet:
    """Statistics as training may leave them: of anything."""
    for name, buffer in supernet.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=counter_generator(3, name)) + 0.5)
    return supernet


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def statistics(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for name, norm in norms(network).items():
        assert norm.running_mean is not None and norm.running_var is not None
        found[name] = norm.running_mean.clone(), norm.running_var.clone()
    return found


def exact(network: Network, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The average, in float64, of mean and unbiased variance of what each normalisation reads in training."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    network.set_executor("modules")
    for name, norm in norms(network).items():

        def see(module: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            x = given[0].double().transpose(0, 1).flatten(1)
            seen.setdefault(name, []).append((x.mean(1), x.var(1)))

        norm.register_forward_pre_hook(see)
    network.train()
    with torch.no_grad():
        for x in batches:
            network(x)
    return {
        name: tuple(torch.stack(some).mean(0) for some in zip(*found, strict=True))
        for name, found in seen.items()
    }


def standing(network: nn.Module) -> dict[str, object]:
    """Everything that must be as before: values and identity of tensors, modes, momenta, executors."""
    state: dict[str, object] = {}
    for name, value in itertools.chain(network.named_parameters(), network.named_buffers()):
        state[name] = id(value), value._version, value.detach().numpy().tobytes()
    for name, module in network.named_modules():
        state[f"{name} mode"] = module.training, getattr(module, "momentum", None)
        state[f"{name} executor"] = module.executor if isinstance(module, StageModule) else None
    return state


@pytest.mark.parametrize(("space", "genes"), PATHS)
def test_s7_statistics_are_the_exact_average(space: ChoiceSpace, genes: Genes) -> None:
    supernet = used(build_supernet(space, 0))
    batches = images()
    expected = exact(supernet.extract(genes), batches)
    with recalibrated(supernet, batches, genes):
        found = statistics(supernet.extract(genes))
    assert expected.keys() <= found.keys() and len(expected) > 3
    for name, (mean, variance) in expected.items():
        for got, wanted in ((found[name][0], mean), (found[name][1], variance)):
            assert float((got - wanted).abs().max()) < 1e-6 * max(1, float(wanted.abs().max())), name


@pytest.mark.parametrize(("space", "genes"), PATHS)
def test_a_stand_alone_network_gives_the_same(space: ChoiceSpace, genes: Genes) -> None:
    supernet = used(build_supernet(space, 0))
    network = supernet.extract(genes)
    x, *batches = images()
    before = standing(network)
    with recalibrated(supernet, batches, genes) as forward:
        expected = forward(x)
    with recalibrated(network, batches) as forward:
        torch.testing.assert_close(forward(x), expected, atol=1e-6, rtol=1e-6)
    assert standing(network) == before


def test_images_are_scored_one_by_one() -> None:
    supernet = used(build_supernet(CELLS, 0))
    x, *batches = images()
    with recalibrated(supernet, batches, A) as forward:
        together = forward(x)
        torch.testing.assert_close(forward(x[:3]), together[:3], atol=1e-6, rtol=1e-6)
        assert torch.equal(forward(x), together)


def test_s7_a_path_before_changes_nothing() -> None:
    supernet = used(build_supernet(CELLS, 0))
    x, *batches = images()

    def of(genes: Genes) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        with recalibrated(supernet, batches, genes) as forward:
            return forward(x), statistics(supernet.extract(genes))

    alone, statistics_alone = of(B)
    of(A)
    after, statistics_after = of(B)
    assert torch.equal(alone, after)
    for name, some in statistics_alone.items():
        assert all(map(torch.equal, some, statistics_after[name])), name
    # The statistics that were there do not count either, whatever they are.
    for norm in norms(supernet).values():
        assert norm.running_mean is not None
        norm.running_mean.fill_(torch.nan)
    assert torch.equal(of(B)[0], alone)


@pytest.mark.parametrize("training", [True, False])
def test_s7_everything_is_put_back(training: bool) -> None:
    supernet = used(build_supernet(CELLS, 0)).train(training)
    supernet.set_executor("autograd")
    next(iter(norms(supernet).values())).momentum = 0.25
    before = standing(supernet)
    with recalibrated(supernet, images(), A) as forward:
        assert standing(supernet) != before
        assert not forward(images()[0]).requires_grad
    assert standing(supernet) == before and torch.is_grad_enabled()
    with evaluating(supernet, A) as forward:
        forward(images()[0])
    assert standing(supernet) == before and torch.is_grad_enabled()


def test_everything_is_put_back_after_an_error() -> None:
    supernet = used(build_supernet(CELLS, 0))
    before = standing(supernet)
    with pytest.raises(RuntimeError), recalibrated(supernet, [images()[0], torch.zeros(1, 2, 3, 3)], A):
        pass
    assert standing(supernet) == before and torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), recalibrated(supernet, images(), A):
        _ = 1 / 0
    assert standing(supernet) == before


def test_nothing_but_the_path_is_touched() -> None:
    supernet = used(build_supernet(CELLS, 0))
    on_path = {id(norm) for part in supernet.used_modules(A) for norm in norms(part).values()}
    before = {name: norm.running_mean for name, norm in norms(supernet).items()}
    with recalibrated(supernet, images(), A):
        for name, norm in norms(supernet).items():
            assert (norm.running_mean is before[name]) == (id(norm) not in on_path)
    assert 0 < len(on_path) < len(before)


def test_unrecalibrated_evaluation_uses_the_running_statistics() -> None:
    supernet = used(build_supernet(CELLS, 0))
    x = images()[0]
    with evaluating(supernet, A) as forward:
        found = forward(x)
    with torch.no_grad():
        torch.testing.assert_close(found, supernet.extract(A).eval()(x), atol=1e-6, rtol=1e-6)


def test_what_cannot_be_recalibrated() -> None:
    supernet = build_supernet(CELLS, 0)
    with pytest.raises(ValueError, match="at least one batch"), recalibrated(supernet, [], A):
        pass
    with pytest.raises(TypeError, match="genes"), recalibrated(supernet, images()):
        pass
    network = supernet.extract(A)
    next(iter(norms(network).values())).running_mean = None
    with pytest.raises(ValueError, match="running statistics"), recalibrated(network, images()):
        pass
