"""Two executors of a plan: plain autograd, and inference in place.

Both read the modules in `operations` (keyed as the stage's are) and one weight for each learned edge.
The third, which trains, is networks/whole_stage.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.operations import PreActivated
from networks.plan import Plan, Step
from networks.pointwise import convolve, is_hooked

# A Python number where reading it costs nothing (the CPU), else a tensor without dimensions: reading a
# number back from a GPU would stop the host.
Weight = float | Tensor


class Sizes(NamedTuple):
    """Channels and stride of a stage: what a node that is left without inputs needs to know."""

    channels: int
    stride: int

    def zeros(self, step: Step, x: Tensor) -> Tensor:
        """What nothing aggregates to, beside the stage input x: N x C x H x W."""
        if step.entry_shaped:
            return torch.zeros_like(x)
        n, _, h, w = x.shape
        shape = (n, self.channels, -(-h // self.stride), -(-w // self.stride))
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
        zeros = x.new_zeros(shape)
        return zeros.contiguous(memory_format=layout) if layout is not None else zeros


def without_relu(operation: nn.Module) -> nn.Module:
    """What is left of an operation once the executor has applied its ReLU."""
    return operation.body if isinstance(operation, PreActivated) else operation


def layers_of(operation: nn.Module) -> Sequence[nn.Module]:
    """The modules to call one after the other: those of a plain sequence, else the operation itself."""
    if type(operation) is nn.Sequential and not is_hooked(operation):
        return list(operation.children())
    return [operation]


def edge_weights(values: Tensor, kinds: Sequence[str]) -> Tensor:
    """sigmoid(a) for sigmoid edges, a for real ones: one value for each learned edge."""
    if "real" not in kinds:
        return torch.sigmoid(values)
    if "sigmoid" not in kinds:
        return values
    is_sigmoid = torch.tensor([kind == "sigmoid" for kind in kinds], device=values.device)
    return torch.where(is_sigmoid, torch.sigmoid(values), values)


def as_scalars(weights: Tensor) -> Sequence[Weight]:
    return weights.tolist() if weights.device.type == "cpu" else weights.unbind()


def add_scaled(z: Tensor, x: Tensor, weight: Weight) -> Tensor:
    """z += weight * x, in place."""
    return z.add_(x, alpha=weight) if isinstance(weight, float) else z.addcmul_(x, weight)


def run_plain(
    plan: Plan, operations: Mapping[str, nn.Module], weights: Tensor, sizes: Sizes, x: Tensor
) -> Tensor:
    """The stage by differentiable operations only: twice differentiable, and it can be traced."""
    values: list[Tensor | None] = [None] * plan.values
    values[0] = x
    scalars = weights.unbind()
    for step in plan.steps:
        parts = []
        for term in step.terms:
            part = values[term.value]
            assert part is not None
            parts.append(part if term.factor is None else part * scalars[term.factor])
        if not parts:
            z = sizes.zeros(step, x)
        elif step.concatenates:
            z = torch.cat(parts, 1)
        else:
            z = parts[0]
            for part in parts[1:]:
                z = z + part
            if step.averages:
                z = z / len(parts)
        if step.rectifies:
            z = torch.relu(z)
        if step.operation is not None:
            z = without_relu(operations[step.operation])(z)
        values[step.target] = z
        for value in step.frees:
            values[value] = None
    output = values[plan.output]
    assert output is not None
    return output


def run_inference(
    plan: Plan, operations: Mapping[str, nn.Module], weights: Tensor, sizes: Sizes, x: Tensor
) -> Tensor:
    """The stage without a backward pass: sums and ReLUs in place, each tensor freed after its last reader."""
    values: list[Tensor] = [x] * plan.values
    scalars = as_scalars(weights)
    for step in plan.steps:
        z = aggregate(step, values, scalars, sizes, x)
        if step.operation is not None:
            for layer in layers_of(without_relu(operations[step.operation])):
                z = convolve(layer, z)
        values[step.target] = z
        for value in step.frees:
            values[value] = x  # x outlives the stage; the freed tensor need not
    return values[plan.output]


def aggregate(
    step: Step, values: Sequence[Tensor], weights: Sequence[Weight], sizes: Sizes, x: Tensor
) -> Tensor:
    """What the step's operation reads: the aggregate, rectified where the step says so.

    A new tensor, or the storage of the term that the step may overwrite; the value itself where the step
    only passes it through.
    """
    terms = step.terms
    if not terms:
        return sizes.zeros(step, x)
    if step.passes_through:
        return values[terms[0].value]
    if step.concatenates:
        z = torch.cat([values[term.value] for term in terms], 1)
    elif len(terms) == 1 and terms[0].factor is None and step.overwrites is None:
        z = values[terms[0].value]
        return torch.relu(z) if step.rectifies else z.clone()
    else:
        z = _summed(step, values, weights)
    if step.averages:
        z = z.mul_(1 / len(terms))
    return z.relu_() if step.rectifies else z


def _summed(step: Step, values: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    base = step.overwrites or 0
    first, rest = step.terms[base], (*step.terms[:base], *step.terms[base + 1 :])
    z = values[first.value]
    if first.factor is not None:
        weight = weights[first.factor]
        z = z * weight if step.overwrites is None else z.mul_(weight)
    elif step.overwrites is None:
        z = z.clone()
    for term in rest:
        z = add_scaled(z, values[term.value], 1.0 if term.factor is None else weights[term.factor])
    return z
