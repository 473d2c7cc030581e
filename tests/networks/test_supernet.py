"""The supernet: a path computes what its stand-alone network computes, and touches nothing else."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import supernet as supernets
from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.counters import counter_generator
from networks.errors import UserError
from networks.graph import Edge, Graph, Node
from networks.spaces.choices import ChoiceSpace, Option, Site
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, live_paths
from networks.spaces.space import Genes
from networks.stage import Executor
from networks.supernet import Supernet, SuperStage, build_supernet
from tests.networks.test_choice_spaces import CELLS, SHUFFLE, drawn, over_spaces

EXECUTORS: list[Executor] = ["autograd", "whole_stage", "modules"]
over_executors = pytest.mark.parametrize("executor", EXECUTORS)


def images(count: int = 6, side: int = 8) -> Tensor:
    return torch.randn(count, 3, side, side, generator=counter_generator(0, "x"))


def used_supernet(space: ChoiceSpace, executor: Executor = "autograd") -> Supernet:
    """One whose weights and statistics are nobody's start."""
    supernet = build_supernet(space, seed=1)
    draws = counter_generator(2, "shake")
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=draws)
                module.running_var.uniform_(0.5, 2, generator=draws)
    supernet.set_executor(executor)
    return supernet


def gradients(supernet: Supernet) -> Supernet:
    """A copy that has its gradients for parameters, NaN where there are none: their part of a path is then
    found as that of its weights is."""
    copied = copy.deepcopy(supernet)
    with torch.no_grad():
        for parameter, original in zip(copied.parameters(), supernet.parameters(), strict=True):
            grad = original.grad
            parameter.copy_(torch.full_like(original, torch.nan) if grad is None else grad)
    return copied


def loss_of(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


# A path and its stand-alone network --------------------------------------------------------------


@over_spaces
@over_executors
def test_a_path_computes_what_its_network_computes(space: ChoiceSpace, executor: Executor) -> None:
    supernet, x = used_supernet(space, executor), images()
    for genes in drawn(space, 3):
        for training in (False, True):
            supernet.train(training)
            network = supernet.extract(genes)
            network.set_executor(executor)
            assert network.training == training
            for one in (supernet, network):
                one.new_step(3, 4)  # the same dropout in both
            if not training:
                with torch.no_grad():
                    close(supernet(x, genes), network(x))
            logits, expected = supernet(x, genes), network(x)
            assert float(expected.detach().std()) > 1e-4
            close(logits, expected)
        state = supernet.path_state(genes)  # the last passes were in training: statistics moved alike
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                close(state[name], value)


@over_spaces
@over_executors
def test_gradients_are_those_of_the_network(space: ChoiceSpace, executor: Executor) -> None:
    supernet, x = used_supernet(space, executor), images()
    for genes in drawn(space, 2, seed=1):
        supernet.zero_grad(set_to_none=True)
        network = supernet.extract(genes)
        network.set_executor("autograd")
        for one in (supernet, network):
            one.new_step(3, 4)
        loss_of(supernet(x, genes)).backward()
        loss_of(network(x)).backward()
        of_path = gradients(supernet).path_state(genes)
        for name, parameter in network.named_parameters():
            if name in of_path and parameter.numel():
                found, expected = of_path[name], parameter.grad
                assert bool(found.isnan().all()) == (expected is None), name
                if expected is not None:
                    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@over_spaces
@over_executors
def test_gradients_reach_only_the_path(space: ChoiceSpace, executor: Executor) -> None:
    supernet, x = used_supernet(space, executor), images()
    for genes in drawn(space, 4):
        if space is CELLS and not any(live_paths(genes)):
            continue
        supernet.zero_grad(set_to_none=True)
        supernet.new_step(0, 0)
        before = {name: value.clone() for name, value in supernet.named_buffers()}
        loss_of(supernet(x, genes)).backward()
        modules = [inner for module in supernet.used_modules(genes) for inner in module.modules()]
        used = {id(parameter) for module in modules for parameter in module.parameters()}
        reached = {id(p) for p in supernet.parameters() if p.numel() and p.grad is not None}
        # What reads only the cell before the last leaves the last one without a gradient, though it has run.
        assert reached == used or (space.kind == "cells" and reached < used)
        # Statistics move along the path, and nowhere else.
        kept = {id(buffer) for module in modules for buffer in module.buffers()}
        for name, buffer in supernet.named_buffers():
            assert torch.equal(buffer, before[name]) == (id(buffer) not in kept), name


@over_spaces
def test_extract_copies_all_and_only_the_path(space: ChoiceSpace) -> None:
    """What the network has beside the path's state: scales and shifts, which are 1 and 0."""
    supernet = used_supernet(space)
    for genes in drawn(space, 2):
        state, network = supernet.path_state(genes), supernet.extract(genes)
        own = network.state_dict()
        assert set(state) <= set(own)
        for name in set(own) - set(state):
            if name.endswith("num_batches_tracked"):
                continue
            module = network.get_submodule(name.rpartition(".")[0])
            assert isinstance(module, nn.BatchNorm2d)
            assert torch.equal(own[name], torch.full_like(own[name], name.endswith("weight")))
        assert all(torch.equal(own[name], value) for name, value in state.items())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        assert all(torch.equal(state[n], value) for n, value in supernet.path_state(genes).items())


@over_spaces
def test_the_global_random_state_is_left_alone(space: ChoiceSpace) -> None:
    before = torch.random.get_rng_state()
    supernet = build_supernet(space, seed=0)
    supernet.new_step(0, 0)
    supernet(images(), drawn(space, 1)[0])
    supernet.extract(drawn(space, 1)[0])
    assert torch.equal(torch.random.get_rng_state(), before)


@over_spaces
def test_weights_come_from_the_seed(space: ChoiceSpace) -> None:
    one, same, other = (build_supernet(space, seed).state_dict() for seed in (1, 1, 2))
    assert one.keys() == other.keys()
    assert not any(name.endswith("num_batches_tracked") for name in one)
    assert all(torch.equal(one[name], same[name]) for name in one)
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    assert any(name.startswith("stages.") for name in differ) and "head.classifier.weight" in differ


@over_spaces
def test_options_have_no_scale_and_shift(space: ChoiceSpace) -> None:
    """They would be learned by other paths; nor have the projections of two inputs (DARTS). Stem, head and
    what is no choice otherwise keep theirs."""
    supernet = build_supernet(space, seed=0)
    for name, module in supernet.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            stage = supernet.get_submodule(".".join(name.split(".")[:2]))
            projects = (
                ".projection." in name and isinstance(stage, SuperStage) and len(stage.graph.inputs) > 1
            )
            assert module.affine == (".options." not in name and not projects), name


@over_spaces
def test_searched_weights_are_every_option_once(space: ChoiceSpace) -> None:
    supernet = build_supernet(space, seed=0)
    found = [
        module
        for gene, options in enumerate(space.options)
        for option in range(len(options))
        for module in supernet.searched_weights(gene, option)
    ]
    expected = 0
    for site, gene in space.sites.items():
        edge = space.template.graph(site.stage).edges[site.edge]
        names = [space.at(gene, option, edge) for option in range(len(space.options[gene]))]
        expected += sum(name not in ("none", "identity") for name in names)
    slots = 2 if space.twins else 1  # that share their weights
    assert len({id(module) for module in found}) == expected // slots
    assert len(found) == expected > 0
    genes = drawn(space, 1, seed=4)[0]
    chosen = {
        id(module) for gene, option in enumerate(genes) for module in supernet.searched_weights(gene, option)
    }
    used = {id(module) for module in supernet.used_modules(genes)}
    others = {id(module) for module in found} - chosen
    assert not used & others and used & chosen


@over_spaces
def test_wrong_genes_and_executors_are_refused(space: ChoiceSpace) -> None:
    supernet = build_supernet(space, seed=0)
    long = (0,) * (len(space.positions) + 1)
    for genes in (long, long[2:], (999, *long[2:]), (-1, *long[2:])):
        for use in (lambda wrong: supernet(images(), wrong), supernet.extract):
            with pytest.raises(UserError, match="genes"):
                use(genes)
    wrong: Any = "fast"
    with pytest.raises(UserError, match="whole_stage or autograd or modules"):
        supernet.set_executor(wrong)


def test_forgotten_plans_are_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    some, x = drawn(CELLS, 5), images(2)
    with torch.no_grad():
        roomy = used_supernet(CELLS).eval()
        expected = [roomy(x, genes) for genes in some]
        monkeypatch.setattr(supernets, "PLANS_KEPT", 2)
        supernet = used_supernet(CELLS).eval()
        for _ in range(2):
            assert all(torch.equal(supernet(x, g), one) for g, one in zip(some, expected, strict=True))
    assert all(len(stage._plans) <= 2 for stage in supernet.super_stages)


def test_a_path_does_not_depend_on_those_before_it() -> None:
    supernet, x = used_supernet(SHUFFLE).eval(), images(2)
    first, second = drawn(SHUFFLE, 2)
    with torch.no_grad():
        alone = supernet(x, second)
        supernet(x, first)
        assert torch.equal(supernet(x, second), alone)


# Dead cells --------------------------------------------------------------------------------------

NONE = (0,) * 6


@over_executors
@pytest.mark.parametrize("training", [False, True])
def test_a_cell_of_none_gives_the_same_logits_for_every_image(executor: Executor, training: bool) -> None:
    """Zeros reach the first reduction; what follows is a constant."""
    supernet, x = used_supernet(CELLS, executor).train(training), images()
    with torch.no_grad():
        logits = supernet(x, NONE)
        assert torch.isfinite(logits).all()
        close(logits, logits[:1].expand_as(logits))
        assert torch.equal(logits, supernet(5 * x.flip(0), NONE))
        alive = supernet(x, (1,) * 6)
        assert not torch.allclose(alive, alive[:1].expand_as(alive), atol=1e-3)
    loss_of(supernet(x, NONE)).backward()
    assert supernet.head.classifier.bias.grad is not None
    assert all(parameter.grad is None for parameter in supernet.stem.parameters())


def test_with_fresh_statistics_a_dead_network_gives_its_bias() -> None:
    """All zeros, through normalisations that have seen nothing, up to the classifier."""
    supernet = build_supernet(CELLS, seed=0).eval()
    with torch.no_grad():
        supernet.head.classifier.bias.copy_(torch.arange(10.0))
        close(supernet(images(), NONE), torch.arange(10.0).expand(6, 10))


@over_executors
def test_a_convolution_that_nobody_reads_is_not_run(executor: Executor) -> None:
    """0-1 is a convolution, and all edges out of node 1 are none; 0-2 is one whose one reader is none."""
    genes = (3, 3, 0, 2, 0, 0)
    supernet = used_supernet(CELLS, executor)
    unread = [*supernet.searched_weights(0, 3), *supernet.searched_weights(1, 3)]
    assert len(unread) == 6
    before = [value.clone() for module in unread for value in module.state_dict().values()]
    loss_of(supernet(images(), genes)).backward()
    assert all(parameter.grad is None for module in unread for parameter in module.parameters())
    after = [value for module in unread for value in module.state_dict().values()]
    assert all(map(torch.equal, before, after))
    used = {id(module) for module in supernet.used_modules(genes)}
    assert not used & {id(module) for module in unread}
    read = supernet.searched_weights(3, 2)
    assert {id(module) for module in read} <= used
    assert all(parameter.grad is not None for module in read for parameter in module.parameters())


@over_executors
def test_a_convolution_of_zeros_gets_a_gradient_of_zeros(executor: Executor) -> None:
    """1-3 is a convolution, and nothing comes into node 1."""
    supernet = used_supernet(CELLS, executor)
    loss_of(supernet(images(), (0, 0, 0, 1, 3, 0))).backward()
    for module in supernet.searched_weights(4, 3):
        for parameter in module.parameters():
            assert parameter.grad is not None and not parameter.grad.any()


# Spaces of a user's own --------------------------------------------------------------------------


class Averaging(ChoiceSpace):
    """Two choices and a fixed `none`, averaged: a mean counts the zeros of what carries nothing."""

    kind = "averaging"
    image, classes = Shape(3, 8, 8), 4
    OPTIONS = (Option("none", "none"), Option("skip", "identity"), Option("conv", "triplet_conv_3x3"))

    positions = ("first", "second")
    options = (OPTIONS, OPTIONS)

    @property
    def sites(self) -> Mapping[Site, int]:
        return {Site(0, 0): 0, Site(0, 1): 1}

    def built(self, genes: Genes) -> Architecture:
        words = (*self.operations(genes), "none")
        edges = tuple(Edge(source=0, target=1, slot=i, operation=word) for i, word in enumerate(words))
        nodes = (Node(id=0), Node(id=1, aggregation="mean"))
        graph = Graph(nodes=nodes, edges=edges, inputs=(0,), output=1)
        stages = (Stage(graph=graph, channels=6, rule="input"),)
        stem, head = Stem(kind="cifar", channels=6), Head(kind="bn_relu", channels=None)
        return Architecture(image=self.image, classes=4, stem=stem, stages=stages, head=head)


@over_executors
def test_a_mean_counts_what_none_carries(executor: Executor) -> None:
    space = Averaging()
    supernet, x = used_supernet(space, executor).eval(), images(4, 8)
    seen = []
    for genes in space.enumerate():
        network = supernet.extract(genes)
        network.set_executor(executor)
        close(supernet(x, genes), network(x))
        with torch.no_grad():
            stem = supernet.stem(x)
            stage, chosen = next(iter(supernet._walk(genes)))
            parts = [module_of(supernet, position, gene, stem) for position, gene in enumerate(genes)]
            close(stage(stem, chosen), (parts[0] + parts[1]) / 3)
            seen.append(supernet(x, genes))
    assert not torch.allclose(seen[1], seen[4], atol=1e-4)  # one skip of three, and two


def module_of(supernet: Supernet, position: int, gene: int, x: Tensor) -> Tensor:
    if gene == 2:
        (module,) = supernet.searched_weights(position, gene)
        result: Tensor = module(x)
        return result
    return x * gene


def test_all_stages_of_a_full_size_supernet_are_counted() -> None:
    """C = 16, N = 5: fixed parts as the angle spec counts them (head 464, reductions 72,064, tail 778)."""
    space = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), 10)
    with torch.device("meta"):
        supernet = Supernet(space)
    sizes = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in (("stem", supernet.stem), ("head", supernet.head))
    }
    fixed = [stage for stage in supernet.super_stages if not stage.options]
    assert sizes == {"stem": 464, "head": 778} and len(fixed) == 2
    assert sum(p.numel() for stage in fixed for p in stage.parameters()) == 72_064
    convolutions = sum(
        p.numel() for stage in supernet.super_stages if stage.options for p in stage.parameters()
    )
    assert convolutions == 5 * 6 * sum(10 * c * c for c in (16, 32, 64))
