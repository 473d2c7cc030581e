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
SMALLEST_SCALE = 1e-30  # below it quotients of weights are no longer safe in float32


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


def parameters_of(operation: nn.Module) -> list[nn.Parameter]:
    """`operation.parameters()`, for the usual flat operation without its slow walk."""
    body = without_relu(operation)
    layers = body._modules.values() if isinstance(body, nn.Sequential) else (body,)
    if any(layer is None or layer._modules for layer in layers):
        return list(operation.parameters())
    return [
        parameter
        for layer in layers
        if layer is not None
        for parameter in layer._parameters.values()
        if parameter is not None
    ]


def edge_weights(values: Tensor, kinds: Sequence[str]) -> Tensor:
    """sigmoid(a) for sigmoid edges, a for real and fixed ones: one value for each weighted edge."""
    if "sigmoid" not in kinds:
        return values
    if all(kind == "sigmoid" for kind in kinds):
        return torch.sigmoid(values)
    is_sigmoid = torch.tensor([kind == "sigmoid" for kind in kinds], device=values.device)
    return torch.where(is_sigmoid, torch.sigmoid(values), values)


def as_scalars(weights: Tensor) -> Sequence[Weight]:
    return weights.tolist() if weights.device.type == "cpu" else weights.unbind()


def add_scaled(z: Tensor, x: Tensor, weight: Weight) -> Tensor:
    """z += weight * x, in place."""
    return z.add_(x, alpha=weight) if isinstance(weight, float) else z.addcmul_(x, weight)


def run_plain(
    plan: Plan, operations: Mapping[str, nn.Module], weights: Tensor, sizes: Sizes, *inputs: Tensor
) -> Tensor:
    """The stage by differentiable operations only: twice differentiable, and it can be traced.

    With a plan that does not rectify, every operation is called as it is, its ReLU included.
    """
    values: list[Tensor | None] = [*inputs, *[None] * (plan.values - len(inputs))]
    scalars = weights.unbind()
    for step in plan.steps:
        parts = []
        for term in step.terms:
            part = values[term.value]
            assert part is not None
            parts.append(part if term.factor is None else part * scalars[term.factor])
        if not parts:
            z = sizes.zeros(step, inputs[-1])
        elif step.joins:
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
            operation = operations[step.operation]
            z = (without_relu(operation) if plan.rectifies else operation)(z)
        values[step.target] = z
        for value in step.frees:
            values[value] = None
    output = values[plan.output]
    assert output is not None
    return output


def run_inference(
    plan: Plan, operations: Mapping[str, nn.Module], weights: Tensor, sizes: Sizes, *inputs: Tensor
) -> Tensor:
    """The stage without a backward pass: sums and ReLUs in place, each tensor freed after its last reader."""
    x = inputs[-1]
    values: list[Tensor] = [*inputs, *[x] * (plan.values - len(inputs))]
    scalars = as_scalars(weights)
    for step in plan.steps:
        layers = () if step.operation is None else layers_of(without_relu(operations[step.operation]))
        term_weights, scale = balanced(step, scalars, layers)
        z = aggregate(step, values, term_weights, sizes, x)
        values[step.target] = run_layers(layers, z, scale)
        for value in step.frees:
            values[value] = x  # x outlives the stage; the freed tensor need not
    return values[plan.output]


def run_layers(layers: Sequence[nn.Module], z: Tensor, scale: float = 1.0) -> Tensor:
    """The layers, one after the other, on scale * z; the first is a convolution where scale is not 1."""
    if scale != 1.0:
        first, *layers = layers
        assert isinstance(first, nn.Conv2d)
        z = first._conv_forward(z, first.weight * scale, None)
    for layer in layers:
        z = convolve(layer, z)
    return z


def balanced(
    step: Step, scalars: Sequence[Weight], layers: Sequence[nn.Module]
) -> tuple[list[Weight], float]:
    """A weight for each term, and a factor that the first layer is to make up for.

    relu(w0 x0 + w1 x1) = w0 relu(x0 + (w1 / w0) x1) for w0 > 0, and the first convolution can take w0
    into its weights, which are few: one pass over the tensors less, forward and backward. w0 is the
    largest weight, so no quotient exceeds 1.
    """
    weights = [1.0 if term.factor is None else scalars[term.factor] for term in step.terms]
    if not step.positive or not _can_scale(layers):
        return weights, 1.0
    numbers = [weight for weight in weights if isinstance(weight, float)]
    largest = max(numbers, default=0.0)
    if len(numbers) < len(weights) or largest < SMALLEST_SCALE:
        return weights, 1.0
    return [number / largest for number in numbers], largest


def _can_scale(layers: Sequence[nn.Module]) -> bool:
    first = layers[0] if layers else None
    return type(first) is nn.Conv2d and first.bias is None and not is_hooked(first)


def aggregate(
    step: Step, values: Sequence[Tensor], weights: Sequence[Weight], sizes: Sizes, x: Tensor
) -> Tensor:
    """What the step's operation reads: the aggregate, rectified where the step says so. `weights` are
    those of the terms.

    A new tensor, or the storage of the term that the step may overwrite; the value itself where the step
    only passes it through.
    """
    terms = step.terms
    if not terms:
        return sizes.zeros(step, x)
    if step.passes_through:
        return values[terms[0].value]
    parts = [values[term.value] for term in terms]
    if step.joins:
        return torch.cat(parts, 1)
    if len(parts) == 1 and is_one(weights[0]) and step.overwrites is None:
        return torch.relu(parts[0]) if step.rectifies else parts[0].clone()
    z = _summed(parts, weights, step.overwrites)
    if step.averages:
        z = z.mul_(1 / len(terms))
    return z.relu_() if step.rectifies else z


def is_one(weight: Weight) -> bool:
    return isinstance(weight, float) and weight == 1.0


def _summed(parts: list[Tensor], weights: Sequence[Weight], overwrites: int | None) -> Tensor:
    """sum of weight * part, in the storage of `parts[overwrites]` where one is named."""
    rest = list(range(len(parts)))
    unit = next((i for i in rest if is_one(weights[i])), None)
    if unit is None:
        base = rest.pop(overwrites or 0)
        z = parts[base]
        z = z * weights[base] if overwrites is None else z.mul_(weights[base])
    else:
        rest.remove(unit)
        z = parts[unit]
        if overwrites != unit:
            other = rest.pop(0 if overwrites is None else rest.index(overwrites))
            z = plus(z, parts[other], weights[other], None if overwrites is None else parts[overwrites])
    for position in rest:
        z = add_scaled(z, parts[position], weights[position])
    return z


def plus(z: Tensor, x: Tensor, weight: Weight, out: Tensor | None = None) -> Tensor:
    """z + weight * x, in one pass."""
    if isinstance(weight, float):
        return torch.add(z, x, alpha=weight, out=out)
    return torch.addcmul(z, x, weight, out=out)
