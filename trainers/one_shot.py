"""Shared-weight training of a supernet: single paths, drawn uniformly (SPOS, 1904.00420).

A step is a fixed number of paths, each with a mini-batch of its own drawn from (seed, step, path). What a
path contributes is one flat buffer: the gradients of the parameters that it used, the change of its batch
normalisations' statistics, and its loss. Buffers are added in path order, whoever computed them, so that
the weights after a step do not depend on how many replicas there are.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.counters import counter_random
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.supernet import Supernet, build_supernet
from trainers.data import Data, ReadsAhead
from trainers.group import Alone, Group, PathWork, shares
from trainers.one_shot_settings import OneShotSettings, check_possible, labelled
from trainers.schedule import cosine_rate, linear_rate
from trainers.training import Diverged, parameter_groups

LAYOUTS_KEPT = 20_000
TRIES = 500  # SPOS's: draws for one bin before any path will do


class Layout(NamedTuple):
    """What a path's flat buffer holds, in order: the gradients of `parameters`, the changes of `buffers`,
    the mean loss of its images."""

    parameters: tuple[nn.Parameter, ...]
    buffers: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.parameters, *self.buffers)

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        return sum(tensor.numel() for tensor in self.tensors) + 1


class OneShotTrainer:
    """A supernet, its data, its optimiser and a step counter.

    Everything random in step i is a function of (seed, i), so a trainer that loads the state saved after
    any step goes on exactly as the one that saved it.
    """

    def __init__(
        self, space: ChoiceSpace, data: Data, settings: OneShotSettings, seed: int, device: str = "cpu"
    ) -> None:
        self.settings, self.seed = settings, seed
        self.device = torch.device(device)
        mixes = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        check_possible(settings, data, device, mixes)
        self._mixed = mixes and settings.precision != "float32"
        self.data = labelled(data, settings, seed).to(self.device)
        self._memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.step = 0
        self._build(space)

    def _build(self, space: ChoiceSpace) -> None:
        """The supernet of this space, as it is before training, and its optimiser."""
        settings = self.settings
        self.space = space
        self._rebased: dict[str, Tensor] = {}
        self._untrained: dict[str, Tensor] = {}
        built = build_supernet(space, self.seed)
        self.supernet = built.to(self.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self.supernet.set_executor("autograd")
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.supernet, settings.weight_decay),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
        self._layouts: dict[Genes, Layout] = {}
        self._work = PathWork(space)

    def narrow(self, space: ChoiceSpace) -> None:
        """Go on in a part of the space, with the weights, statistics and momenta of what is left of it. What
        was dropped is gone from memory."""
        state = self.state()
        self._build(space)
        self.load_state(*state)

    def paths(self, step: int) -> list[Genes]:
        """The paths of one step, each drawn from (seed, step, path)."""
        return [self._path(step, path) for path in range(self.settings.paths_per_step)]

    def _path(self, step: int, path: int) -> Genes:
        rng = counter_random(self.seed, "path", step, path)
        bins = self.settings.mac_bins
        if bins is None:
            return self.space.sample(rng)
        width = (bins.high - bins.low) / bins.bins
        low = bins.low + rng.randrange(bins.bins) * width
        for _ in range(TRIES):
            genes = self.space.sample(rng)
            if low <= self.space.cost(genes).macs <= low + width:
                return genes
        return self.space.sample(rng)

    def layout(self, genes: Genes) -> Layout:
        """Of this path's flat buffer; the same for every member of a group."""
        if genes not in self._layouts:
            if len(self._layouts) >= LAYOUTS_KEPT:
                self._layouts.clear()
            used = list(self.supernet.used_modules(genes))
            parameters = {id(p): p for module in used for p in module.parameters()}
            buffers = {id(b): b for module in used for b in module.buffers()}
            self._layouts[genes] = Layout(tuple(parameters.values()), tuple(buffers.values()))
        return self._layouts[genes]

    def train(self, steps: int, group: Group | None = None) -> dict[str, float]:
        """Train on: mean `train_loss` over these steps, and `lr` of the last.

        Raises `Diverged` when a loss or a gradient is no number: that step is not applied.
        """
        loss = 0.0
        for _ in range(steps):
            loss += self.train_step(group or Alone())
        return {"train_loss": loss / max(1, steps), "lr": self.rate(max(0, self.step - 1))}

    def train_step(self, group: Group) -> float:
        """One step; its mean loss."""
        paths = self.paths(self.step)
        owners = self._owners(paths, group)
        mine = [path for path, owner in enumerate(owners) if owner == group.rank]
        self._read_ahead(mine, group)
        own = [self.contribution(path) for path in mine]
        layouts = [self.layout(genes) for genes in paths]
        return self.apply(layouts, group.gather(own, [layout.size for layout in layouts], owners))

    def _owners(self, paths: Sequence[Genes], group: Group) -> list[int]:
        # Shared out in turn, two members would wait for each other a tenth of the time.
        return shares([self._work(genes) for genes in paths], group.size)

    def _read_ahead(self, mine: Sequence[int], group: Group) -> None:
        """Announce this member's batches of this step and of the next."""
        if not isinstance(self.data, ReadsAhead):
            return
        coming = [self._batch(self.step, path) for path in mine]
        if self.step + 1 < self.settings.steps:
            owners = self._owners(self.paths(self.step + 1), group)
            coming += [
                self._batch(self.step + 1, path) for path, owner in enumerate(owners) if owner == group.rank
            ]
        self.data.read_ahead(self.seed, coming, self.settings.batch_size)

    def _batch(self, step: int, path: int) -> int:
        """Every path has a mini-batch of its own: its number among the training batches."""
        return step * self.settings.paths_per_step + path

    def contribution(self, path: int) -> Tensor:
        """The flat buffer of one path of the coming step. Leaves weights and statistics as they were."""
        settings = self.settings
        genes = self._path(self.step, path)
        layout = self.layout(genes)
        x, y = self.data.train_batch(self.seed, self._batch(self.step, path), settings.batch_size)
        before = [buffer.clone() for buffer in layout.buffers]
        if not self.supernet.training:  # the walk through all modules takes as long as a small pass
            self.supernet.train()
        self.supernet.new_step(self.seed, self.step, path)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            logits = self.supernet(x.contiguous(memory_format=self._memory_format), genes)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=settings.label_smoothing)
        gradients = torch.autograd.grad(loss, layout.parameters, allow_unused=True)
        parts = [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
            for parameter, gradient in zip(layout.parameters, gradients, strict=True)
        ]
        with torch.no_grad():
            for buffer, old in zip(layout.buffers, before, strict=True):
                parts.append((buffer - old).flatten())
                buffer.copy_(old)
        return torch.cat([*parts, loss.detach().reshape(1)])

    @torch.no_grad()
    def apply(self, layouts: Sequence[Layout], buffers: Sequence[Tensor]) -> float:
        """One optimiser step from the buffers of all paths, in path order; the mean loss.

        Gradients are averaged over all paths; statistics over the paths that used them, so that they move
        at the batch normalisation's own pace. What no path used is not touched: neither weight decay nor
        momentum moves it.
        """
        loss = sum(float(buffer[-1]) for buffer in buffers) / len(buffers)
        if not math.isfinite(loss) or not all(bool(buffer.isfinite().all()) for buffer in buffers):
            what = "gradients are" if math.isfinite(loss) else "loss is"
            raise Diverged(
                f"the supernet's {what} not a number at step {self.step}; a lower supernet.lr or "
                "supernet.clip_norm may help"
            )
        sums: dict[int, Tensor] = {}
        tensors: dict[int, Tensor] = {}
        users: dict[int, int] = {}
        for layout, buffer in zip(layouts, buffers, strict=True):
            pieces = buffer[:-1].split([tensor.numel() for tensor in layout.tensors])
            for tensor, piece in zip(layout.tensors, pieces, strict=True):
                key = id(tensor)
                users[key] = users.get(key, 0) + 1
                if key in sums:
                    sums[key] += piece
                else:
                    sums[key], tensors[key] = piece.clone(), tensor
        touched = []
        for key, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                tensor.grad = (sums[key] / len(buffers)).view(tensor.shape)
                touched.append(tensor)
            else:
                tensor += (sums[key] / users[key]).view(tensor.shape)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(touched, self.settings.clip_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        settings = self.settings
        rate = linear_rate if settings.schedule == "linear" else cosine_rate
        total = settings.rate_steps or settings.steps
        return settings.final_lr + rate(step, total, settings.lr - settings.final_lr)

    @property
    def initial(self) -> dict[str, Tensor]:
        """The angle's W0, on the device: the parameters before training, by name, or those of the state that
        was `rebased`."""
        if not self._untrained and not self._rebased:
            supernet = build_supernet(self.space, self.seed).to(self.device)
            self._untrained = {name: parameter.detach() for name, parameter in supernet.named_parameters()}
        return self._rebased or self._untrained

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything needed to go on: tensors by name, and JSON-ready values."""
        tensors = {f"supernet.{name}": value for name, value in self.supernet.state_dict().items()}
        for name, parameter in self.supernet.named_parameters():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors |= {f"rebased.{name}": value for name, value in self._rebased.items()}
        return tensors, {"step": self.step}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, int]) -> None:
        """Go on from a saved state, also of a larger supernet of the same space. Raises KeyError or
        RuntimeError when it is of another."""
        load_weights(self.supernet, tensors)
        self.optimizer.state.clear()
        self._rebased = {}
        for name, parameter in self.supernet.named_parameters():
            if f"rebased.{name}" in tensors:
                self._rebased[name] = torch.empty_like(parameter).copy_(tensors[f"rebased.{name}"]).detach()
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                self.optimizer.state[parameter] = {
                    "momentum_buffer": torch.empty_like(parameter).copy_(momentum)
                }
        self.step = values["step"]

    def digest(self) -> str:
        """SHA-256 of all parameters and floating-point buffers, by name, and of the step."""
        found = hashlib.sha256(str(self.step).encode())
        for name, tensor in sorted(self.supernet.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def rebased(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state, from which angles are measured from its own weights (spec section 2, re-base of
    W0)."""
    weights = {
        name.removeprefix("supernet."): value
        for name, value in tensors.items()
        if name.startswith("supernet.")
    }
    return {**tensors, **{f"rebased.{name}": value.clone() for name, value in weights.items()}}


@torch.no_grad()
def load_weights(supernet: Supernet, tensors: Mapping[str, Tensor]) -> None:
    """Give a supernet the weights and statistics of a saved state (`OneShotTrainer.state`). Raises KeyError
    or RuntimeError when it is of another supernet."""
    # Not by load_state_dict: torch adds a num_batches_tracked to batch normalisations that keep none.
    for name, tensor in supernet.state_dict().items():
        saved = tensors[f"supernet.{name}"]
        if saved.shape != tensor.shape:
            raise RuntimeError(f"{name} is {tuple(saved.shape)} there and {tuple(tensor.shape)} here")
        tensor.copy_(saved)
