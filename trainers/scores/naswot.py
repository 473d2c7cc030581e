"""NASWOT (Mellor et al., 2006.04647): how differently an untrained network sees the images of a batch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.network import Network
from networks.operations import PreActivated
from trainers.scores.score import Bench
from trainers.scores.untrained import UntrainedScore

K = 1e-5  # in jacob_cov: keeps eigenvalues of zero finite


class Kernel(NamedTuple):
    """matrix: float64 N x N, K_H[i, j] = N_A - d_H(c_i, c_j). units: N_A, ReLU units of one image.
    relus: how many ReLUs have been seen."""

    matrix: Tensor
    units: int
    relus: int


class Naswot(UntrainedScore):
    """Version 3 (ICML 2021): log |det K_H| of the binary ReLU patterns c_i of a batch's images.

    K_H[i, j] counts the units in which images i and j are both active or both not. ReLUs of dead branches
    do not count, as they are not run. A singular K_H (two images with one pattern) gives `WORST`. Published
    tau on NAS-Bench-201 and CIFAR-10: 0.574 with batches of 128 (spec section 4).
    """

    name = "naswot"

    def measure(self, bench: Bench, network: Network) -> float:
        x, _ = bench.batch(0)
        return log_determinant(activation_kernel(network, x))


class JacobCov(UntrainedScore):
    """NASWOT's version 1, known as jacob_cov: -sum_i [log(s_i + k) + 1 / (s_i + k)], k = 1e-5.

    s_i: eigenvalues of the correlation matrix of the rows J_i = d(sum of the logits) / d(image i). Largest
    where the rows are uncorrelated. A row without variance has no correlation: `WORST`.
    """

    name = "jacob_cov"

    def measure(self, bench: Bench, network: Network) -> float:
        x, _ = bench.batch(0)
        return correlation_score(input_jacobian(network, x))


@torch.no_grad()
def activation_kernel(network: nn.Module, x: Tensor) -> Kernel:
    """K_H of the images x (N x C x H x W), from the inputs of all ReLUs that run.

    A unit is active where its input is above 0, also in a ReLU6. Equal to B B^T + (1 - B)(1 - B)^T, with
    signs S = 2B - 1: (N_A + S S^T) / 2. All are whole numbers, exact in float32 for one ReLU (fewer than
    2^24 units) and in float64 for the sum.
    """
    signs = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    units = relus = 0

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal units, relus
        pattern = torch.where(inputs[0].flatten(1) > 0, 1.0, -1.0)
        signs.add_(pattern @ pattern.T)
        units, relus = units + pattern.shape[1], relus + 1

    rectifiers = [m for m in network.modules() if isinstance(m, PreActivated | nn.ReLU | nn.ReLU6)]
    hooks = [module.register_forward_pre_hook(see) for module in rectifiers]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return Kernel((units + signs) / 2, units, relus)


def log_determinant(kernel: Kernel) -> float:
    """log |det K_H|; -inf where it is singular. Two images of one pattern are found exactly, because a
    factorisation would leave a small number there."""
    matrix, units, _ = kernel
    if int((matrix == units).sum()) > len(matrix):
        return -torch.inf
    sign, logarithm = torch.linalg.slogdet(matrix)
    return float(logarithm) if sign > 0 else -torch.inf


def input_jacobian(network: nn.Module, x: Tensor) -> Tensor:
    """N x CHW: the gradient of the sum of all logits for each image; zeros where nothing depends on it."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x, materialize_grads=True)
    return gradient.flatten(1)


def correlation_score(jacobian: Tensor) -> float:
    """-sum_i [log(s_i + k) + 1 / (s_i + k)] over the eigenvalues s_i of the rows' correlations; -inf where
    a row has no variance."""
    rows = jacobian.double()
    rows = rows - rows.mean(1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all() and lengths.isfinite().all()):
        return -torch.inf
    rows = rows / lengths
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0) + K
    return -float((values.log() + 1 / values).sum())
