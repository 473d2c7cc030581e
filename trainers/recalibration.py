"""Statistics of batch normalisations, computed anew for one path of a supernet (SPOS, 1904.00420).

The running statistics of shared weights mix all paths that were trained, and fit none of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from networks.network import Network
from networks.spaces.space import Genes
from networks.stage import StageModule
from networks.supernet import Supernet

Forward = Callable[[Tensor], Tensor]


@contextmanager
def evaluating(network: Network | Supernet, genes: Genes | None = None) -> Iterator[Forward]:
    """Gives images -> logits, in eval mode, without gradients and on the executor for that; modes and
    executors are as before afterwards.

    `genes`: the path of a supernet; None for a stand-alone network.
    """
    modes = [(module, module.training) for module in _modules(network, genes)]
    executors = [(stage, stage.executor) for stage in network.stages if isinstance(stage, StageModule)]
    try:
        for module, _ in modes:
            module.training = False
        for stage, _ in executors:
            stage.executor = "whole_stage"
        with torch.no_grad():
            yield _forward(network, genes)
    finally:
        for module, mode in modes:
            module.training = mode
        for stage, executor in executors:
            stage.executor = executor


@contextmanager
def recalibrated(
    network: Network | Supernet, batches: Iterable[Tensor], genes: Genes | None = None
) -> Iterator[Forward]:
    """As `evaluating`, on statistics of `batches` (images N x C x H x W) alone.

    Mean and (unbiased) variance of every batch normalisation that runs are the averages of those of the
    batches, each batch normalised by its own as in training (spec S7). Afterwards all buffers are what they
    were, bit for bit. Raises ValueError where there are no batches.
    """
    norms = [module for module in _modules(network, genes) if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm, dict(norm._buffers), norm.momentum) for norm in norms]
    with evaluating(network, genes) as forward:
        try:
            for norm in norms:
                _start_anew(norm)
            batch = 0
            for batch, x in enumerate(batches, 1):
                for norm in norms:
                    norm.training, norm.momentum = True, 1 / batch
                forward(x)
            if not batch:
                raise ValueError("recalibration needs at least one batch")
            for norm in norms:
                norm.training = False
            yield forward
        finally:
            for norm, buffers, momentum in kept:
                norm._buffers.update(buffers)
                norm.momentum = momentum


def _start_anew(norm: nn.BatchNorm2d) -> None:
    """Buffers of its own in the place of the old ones, which nothing then writes to."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch normalisation without running statistics cannot be recalibrated")
    norm.running_mean = torch.zeros_like(norm.running_mean)
    norm.running_var = torch.ones_like(norm.running_var)
    norm.num_batches_tracked = None


def _modules(network: Network | Supernet, genes: Genes | None) -> list[nn.Module]:
    """Those that a pass may run."""
    if isinstance(network, Network):
        return list(network.modules())
    return [module for part in network.used_modules(_given(genes)) for module in part.modules()]


def _forward(network: Network | Supernet, genes: Genes | None) -> Forward:
    if isinstance(network, Network):
        return network
    path = _given(genes)
    return lambda x: network(x, path)


def _given(genes: Genes | None) -> Genes:
    if genes is None:
        raise TypeError("a supernet runs along genes")
    return genes
