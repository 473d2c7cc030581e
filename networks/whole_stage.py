"""The training executor: a whole stage as one autograd function with its own walk backwards.

Autograd would add a multiply, an add and a ReLU for each edge, each with a tensor kept for later. Here

- sums and ReLUs are in place, forward and backward, and a gradient that two nodes share is copied only
  when somebody adds to it;
- a batch normalisation is run by hand, so that only its input is kept: where a learned edge needs the
  inner product of its output x with a gradient, it is gamma . dgamma + beta . dbeta of that gradient;
- everything else of an operation is recorded by autograd as a piece of its own, so any registered
  operation works, and a piece is given back as soon as the walk has passed it.

The gradients are those of networks/execution.py's `run_plain`, up to rounding, and deterministic where
torch's own kernels are. A backward pass can be had once, and cannot be differentiated again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from networks.execution import (
    Sizes,
    Weight,
    add_scaled,
    aggregate,
    as_scalars,
    balanced,
    edge_weights,
    is_one,
    layers_of,
    parameters_of,
    plus,
    run_layers,
    without_relu,
)
from networks.operations import PreActivated
from networks.plan import Plan, Step
from networks.pointwise import is_hooked

aten = torch.ops.aten


@dataclass(slots=True)
class Normalisation:
    """One batch normalisation, as run forward: its input y and the statistics of the batch."""

    module: nn.BatchNorm2d
    gamma: nn.Parameter
    beta: nn.Parameter
    y: Tensor
    mean: Tensor
    inverse_deviation: Tensor

    def backward(self, gradient: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of (y, gamma, beta) that are wanted, for a gradient of the output."""
        module = self.module
        return aten.native_batch_norm_backward(
            gradient, self.y, self.gamma, module.running_mean, module.running_var,
            self.mean, self.inverse_deviation, True, module.eps, wanted,
        )  # fmt: skip

    def inner(self, d_gamma: Tensor, d_beta: Tensor) -> Tensor:
        """<gradient, output>, from the gradients of gamma and beta."""
        return torch.dot(self.gamma, d_gamma).add_(torch.dot(self.beta, d_beta))


@dataclass(slots=True)
class Record:
    """What one step leaves for the walk back.

    weights: of the step's terms. rectified: the tensor that is zero where the step's ReLU cut. leaf,
    edge: where the recorded piece begins and ends.
    """

    weights: Sequence[Weight] = ()
    rectified: Tensor | None = None
    leaf: Tensor | None = None
    edge: GradientEdge | None = None
    normalisation: Normalisation | None = None


def final_batch_norm(operation: nn.Module) -> nn.BatchNorm2d | None:
    """The batch normalisation that ends an operation, where the executor can run it by hand: after a
    ReLU that it also runs, on statistics of the batch, and with nobody's hooks on the way."""
    if not isinstance(operation, PreActivated) or not len(operation.body):
        return None
    last = operation.body[-1]
    if type(last) is not nn.BatchNorm2d or is_hooked(last) or is_hooked(operation.body):
        return None
    usual = last.training and last.affine and last.track_running_stats and last.momentum is not None
    return last if usual else None


@dataclass(slots=True)
class Job:
    """One pass: the plan and what it runs, by the operations' keys. `layers`: the modules to call, less
    the ReLU and less the batch normalisation in `normalised`, which is run by hand. `parameters`: all."""

    plan: Plan
    layers: Mapping[str, Sequence[nn.Module]]
    normalised: Mapping[str, nn.BatchNorm2d]
    kinds: Sequence[str]
    sizes: Sizes
    parameters: Mapping[str, Sequence[nn.Parameter]]

    @classmethod
    def of(
        cls,
        plan: Plan,
        operations: Mapping[str, nn.Module],
        normalised: Mapping[str, nn.BatchNorm2d],
        kinds: Sequence[str],
        sizes: Sizes,
    ) -> "Job":
        layers: dict[str, Sequence[nn.Module]] = {}
        for key, operation in operations.items():
            body = without_relu(operation)
            layers[key] = list(body.children())[:-1] if key in normalised else layers_of(body)
        parameters = {key: parameters_of(operation) for key, operation in operations.items()}
        return cls(plan, layers, normalised, kinds, sizes, parameters)

    def apply(self, x: Tensor, edge_values: Tensor) -> Tensor:
        flat = [parameter for some in self.parameters.values() for parameter in some]
        return WholeStage.apply(self, x, edge_values, *flat)


class WholeStage(torch.autograd.Function):
    """apply(job, x, edge_values, *parameters): the stage's output for its input x, N x C x H x W."""

    @staticmethod
    def forward(ctx: Any, job: Job, x: Tensor, edge_values: Tensor, *_: Tensor) -> Tensor:
        weights = edge_weights(edge_values, job.kinds)
        scalars = as_scalars(weights)
        tensors = [x] * job.plan.values
        records = []
        for step in job.plan.steps:
            key = step.operation
            layers = () if key is None else job.layers[key]
            term_weights, scale = balanced(step, scalars, layers)
            record = Record(term_weights)
            z = aggregate(step, tensors, term_weights, job.sizes, x)
            if step.rectifies:
                record.rectified = z
            tensors[step.target] = z if key is None else _operate(job, key, z, scale, record)
            records.append(record)
            for value in step.frees:
                if value not in job.plan.keeps:
                    tensors[value] = x
        output, tensors[job.plan.output] = tensors[job.plan.output], x
        ctx.job, ctx.tensors, ctx.records, ctx.weights = job, tensors, records, weights
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the whole_stage executor cannot be differentiated twice (create_graph=True): "
                'call network.set_executor("autograd") first'
            )
        if ctx.records is None:
            raise RuntimeError(
                "the whole_stage executor frees its tensors on the way back, so it can go back only once: "
                'call network.set_executor("autograd") first'
            )
        walk = _Walk(ctx)
        ctx.records = ctx.tensors = None
        return walk.back(gradient)


def _operate(job: Job, key: str, z: Tensor, scale: float, record: Record) -> Tensor:
    """The operation on scale * z, less the ReLU; recorded as a piece of its own."""
    leaf = record.leaf = z.detach().requires_grad_()
    with torch.enable_grad():
        y = run_layers(job.layers[key], leaf, scale)
    record.edge = get_gradient_edge(y) if y.requires_grad else None
    y = y.detach()
    batch_norm = job.normalised.get(key)
    if batch_norm is None:
        return y
    gamma, beta = batch_norm.weight, batch_norm.bias
    output, mean, inverse_deviation = torch.native_batch_norm(
        y, gamma, beta, batch_norm.running_mean, batch_norm.running_var,
        True, batch_norm.momentum or 0.0, batch_norm.eps,
    )  # fmt: skip
    record.normalisation = Normalisation(batch_norm, gamma, beta, y, mean, inverse_deviation)
    return output


class _Walk:
    """One walk back over the steps.

    `gradients[value]` is what has arrived for a value so far. A tensor in it that is not `owned` is also
    held elsewhere and is never written to.
    """

    def __init__(self, ctx: Any) -> None:
        self.job: Job = ctx.job
        self.tensors: list[Tensor] = ctx.tensors
        self.records: list[Record] = ctx.records
        self.weights: Tensor = ctx.weights
        plan = self.job.plan
        self.gradients: list[Tensor | None] = [None] * plan.values
        self.owned = [False] * plan.values
        self.normalisation = {
            step.target: record.normalisation
            for step, record in zip(plan.steps, self.records, strict=True)
            if record.normalisation is not None
        }
        self.products: list[Tensor | None] = [None] * len(self.job.kinds)
        self.wants_x: bool = ctx.needs_input_grad[1]
        self.wants_values: bool = ctx.needs_input_grad[2] and bool(self.products)
        self.of_parameter: dict[int, Tensor | None] = {}

    def back(self, gradient: Tensor) -> tuple[Tensor | None, ...]:
        self.gradients[self.job.plan.output] = gradient
        for step in reversed(self.job.plan.steps):
            record = self.records.pop()
            arrived, self.gradients[step.target] = self.gradients[step.target], None
            if arrived is not None:
                self._step(step, record, arrived)
            self.normalisation.pop(step.target, None)
            self.tensors.pop()  # the step's own value: values are numbered as the steps are
        of_parameters = (
            self.of_parameter.get(id(parameter))
            for some in self.job.parameters.values()
            for parameter in some
        )
        return (None, self.gradients[0], self._of_edge_values(), *of_parameters)

    def _step(self, step: Step, record: Record, gradient: Tensor) -> None:
        owned = self.owned[step.target]
        if step.operation is not None:
            through = self._operation(step, record, gradient)
            if through is None:
                return
            # What comes out of a normalisation's backward pass is nobody else's; of other operations
            # it is not known.
            gradient, owned = through, record.normalisation is not None
        if record.rectified is not None:
            if owned:
                aten.threshold_backward.grad_input(gradient, record.rectified, 0, grad_input=gradient)
            else:
                gradient, owned = aten.threshold_backward(gradient, record.rectified, 0), True
        if step.terms:
            self._distribute(step, record.weights, gradient, owned)

    def _operation(self, step: Step, record: Record, gradient: Tensor) -> Tensor | None:
        normalisation = record.normalisation
        if normalisation is not None:
            gradient = self._through_batch_norm(step.target, normalisation, gradient)
        if record.edge is None or record.leaf is None or step.operation is None:
            return None
        parameters = [
            parameter
            for parameter in self.job.parameters[step.operation]
            if parameter.requires_grad and id(parameter) not in self.of_parameter
        ]
        through, *rest = torch.autograd.grad(
            [record.edge], [record.leaf, *parameters], [gradient], allow_unused=True
        )
        self.of_parameter.update((id(p), found) for p, found in zip(parameters, rest, strict=True))
        return through

    def _through_batch_norm(self, value: int, normalisation: Normalisation, gradient: Tensor) -> Tensor:
        gamma, beta = normalisation.gamma, normalisation.beta
        implied = self.job.plan.implied.get(value) if self.wants_values else None
        wanted = [True, implied is not None or gamma.requires_grad, implied is not None or beta.requires_grad]
        through, d_gamma, d_beta = normalisation.backward(gradient, wanted)
        if implied is not None:
            product = normalisation.inner(d_gamma, d_beta)
            for other in implied.others:
                if (known := self.products[other]) is not None:
                    product = product - known
            self.products[implied.factor] = product
        self.of_parameter[id(gamma)] = d_gamma if gamma.requires_grad else None
        self.of_parameter[id(beta)] = d_beta if beta.requires_grad else None
        return through

    def _distribute(self, step: Step, weights: Sequence[Weight], gradient: Tensor, owned: bool) -> None:
        if step.averages:
            scale = 1 / len(step.terms)
            gradient, owned = gradient.mul_(scale) if owned else gradient * scale, True
        pairs = list(zip(step.terms, weights, strict=True))
        if self.wants_values:
            for term, weight in pairs:
                if term.factor is not None:
                    self._product(term.value, term.factor, weight, gradient)
        takers = [pair for pair in pairs if pair[0].value or self.wants_x]
        # Those that only add go first. Of the others the last may have the tensor itself, unless one
        # before it took it as it is.
        takers.sort(key=lambda pair: self.gradients[pair[0].value] is None)
        starting = [weight for term, weight in takers if self.gradients[term.value] is None]
        free = owned and (len(starting) == 1 or not any(is_one(weight) for weight in starting))
        for position, (term, weight) in enumerate(takers):
            self._arrive(term.value, gradient, weight, free and position == len(takers) - 1)

    def _arrive(self, value: int, gradient: Tensor, weight: Weight, owned: bool) -> None:
        """Add weight * gradient to what has arrived for a value. `owned`: the tensor may be taken over."""
        held = self.gradients[value]
        if held is None and is_one(weight):
            self.gradients[value], self.owned[value] = gradient, owned
        elif held is None:
            self.gradients[value] = gradient.mul_(weight) if owned else gradient * weight
            self.owned[value] = True
        elif self.owned[value]:
            add_scaled(held, gradient, weight)
        else:
            self.gradients[value] = plus(held, gradient, weight)
            self.owned[value] = True

    def _product(self, value: int, factor: int, weight: Weight, gradient: Tensor) -> None:
        """The learned factor's share: <gradient, x> for a real edge, weight * <gradient, x> for a sigmoid."""
        implied = self.job.plan.implied.get(value)
        if implied is not None and implied.factor == factor:
            return  # its turn comes in `_through_batch_norm`
        normalisation = self.normalisation.get(value)
        if normalisation is not None:
            _, d_gamma, d_beta = normalisation.backward(gradient, [False, True, True])
            product = normalisation.inner(d_gamma, d_beta)
        else:
            product = (gradient * self.tensors[value]).sum(dtype=self.weights.dtype)
        if self.job.kinds[factor] == "sigmoid":
            product = product * weight
        self.products[factor] = product

    def _of_edge_values(self) -> Tensor | None:
        """sigmoid'(a) = w (1 - w), of which the products hold the w."""
        if not self.wants_values:
            return None
        zero = self.weights.new_zeros(())
        products = [zero if product is None else product for product in self.products]
        slopes = 1 - self.weights
        return torch.stack(
            [
                product * slopes[factor] if kind == "sigmoid" else product
                for factor, (product, kind) in enumerate(zip(products, self.job.kinds, strict=True))
            ]
        )
