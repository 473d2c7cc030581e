"""Training of one stand-alone network, resumable at any step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor, nn
from torch.nn import functional as F

from networks.architecture import Architecture
from networks.auxiliary import auxiliary_entry, auxiliary_stage, build_auxiliary
from networks.errors import UserError
from networks.network import Network
from trainers.data import Data, ReadsAhead
from trainers.schedule import cosine_rate
from trainers.topology import EdgeLearning, EdgeSettings

AHEAD = 2  # batches that are read before they are asked for, where the data can
CHECK_EVERY = 50  # steps between looks at the loss: a look waits for the device


class TrainingSettings(BaseModel):
    """How a network is trained. Defaults are RandWire's recipe where it is known (spec 1.8).

    precision: float32; mixed (CUDA only: bfloat16, or float16 with loss scaling where the GPU has no
    bfloat16); auto = mixed on CUDA, float32 elsewhere. clip_norm: largest gradient norm, None for none.
    auxiliary: weight of the loss of an auxiliary head (networks/auxiliary.py), which only training has.
    drop_path: the probability in the last epoch with which an operation of a cell is dropped for an image;
    it grows by the epoch, from 0 (DARTS, 1806.09055).
    edges: how learned edge weights are made sparse (trainers/topology.py); None: as any other parameter that
    does not decay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=2)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-5, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    warmup_epochs: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    precision: Literal["auto", "float32", "mixed"] = "auto"
    channels_last: bool = True
    auxiliary: float = Field(0.0, ge=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    edges: EdgeSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> "TrainingSettings":
        if self.warmup_epochs >= self.epochs:
            raise UserError("warmup_epochs", self.warmup_epochs, f"less than epochs ({self.epochs})")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov", True, "true with momentum above 0")
        return self

    @model_serializer(mode="wrap")
    def _where_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not used says nothing of it: recipes keep the digests that they had before it could be."""
        later = {"auxiliary", "drop_path", "edges"}
        return {name: value for name, value in write(self).items() if name not in later or value}


class Diverged(ArithmeticError):
    """The loss is no longer a number. The text says at which step."""


def check_trainable(architecture: Architecture, settings: TrainingSettings) -> None:
    """Raise `UserError` where these settings ask for what such a network has no place for."""
    try:
        if settings.auxiliary:
            auxiliary_entry(architecture)
        if settings.drop_path and not any(
            architecture.graph(position).is_cell for position in range(len(architecture.stages))
        ):
            raise UserError("drop_path", settings.drop_path, "0 for a network without cells of two inputs")
    except UserError as error:
        raise error.under("training") from None


def parameter_groups(
    network: nn.Module, weight_decay: float, edges: EdgeLearning | None = None
) -> list[dict[str, Any]]:
    """Weights of convolutions and linear layers decay; biases, BN and edge values do not. Those of `edges`
    learn at a rate of their own: a group's `factor` says how many times the network's."""
    weights = [] if edges is None else edges.parameters
    apart = {id(one) for one in weights}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        if id(parameter) not in apart:
            (decayed if parameter.ndim > 1 else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if edges is not None:
        groups.append({"params": weights, "weight_decay": 0.0, "factor": edges.settings.rate})
    return [group for group in groups if group["params"]]


class Trainer:
    """A network, its data, its optimiser and a step counter.

    Everything random in step i is a function of (seed, i), so a trainer that loads the state saved after
    any step goes on exactly as the one that saved it. `device` is a torch device name.
    """

    def __init__(
        self, network: Network, data: Data, settings: TrainingSettings, seed: int, device: str = "cpu"
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.data = data.to(self.device)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._layout = layout
        architecture = network.architecture
        check_trainable(architecture, settings)
        self.auxiliary: nn.Module | None = None
        if settings.auxiliary:
            self._tapped = auxiliary_stage(architecture)
            self.auxiliary = build_auxiliary(architecture, seed).to(self.device)
        self.edges = EdgeLearning(self.network, settings.edges) if settings.edges is not None else None
        self.steps_per_epoch = data.steps_per_epoch(settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.optimizer = torch.optim.SGD(
            parameter_groups(nn.ModuleList([*self._trained()]), settings.weight_decay, self.edges),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
        cuda = self.device.type == "cuda"
        if settings.precision == "mixed" and not cuda:
            raise UserError("training.precision", "mixed", f"auto or float32 on {self.device}")
        self._mixed = cuda and settings.precision != "float32"
        half = torch.bfloat16 if not cuda or torch.cuda.is_bf16_supported() else torch.float16
        self._half = half
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._mixed and half == torch.float16)
        self.step = 0

    def _trained(self) -> list[nn.Module]:
        return [self.network, *([self.auxiliary] if self.auxiliary is not None else [])]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the current epoch: mean train_loss and train_accuracy over its steps, lr.

        Raises `Diverged` when the loss stops being a number.
        """
        end = (self.epoch + 1) * self.steps_per_epoch
        return self.train_steps(end - self.step)

    def train_steps(self, steps: int) -> dict[str, float]:
        """As `train_epoch`, for a number of steps."""
        self.network.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        seen = 0
        for done in range(1, steps + 1):
            loss, correct, images = self._train_step()
            loss_sum += loss
            hits += correct
            seen += images
            if done % CHECK_EVERY == 0 or done == steps:
                self._check_finite("training", loss_sum.item())
        sparse = {} if self.edges is None else {"sparsity": self.edges.sparsity()}
        return {
            "train_loss": loss_sum.item() / max(1, steps),
            "train_accuracy": hits.item() / max(1, seen),
            "lr": self._rate(self.step - 1),
            **sparse,
        }

    def _train_step(self) -> tuple[Tensor, Tensor, int]:
        settings = self.settings
        if isinstance(self.data, ReadsAhead):
            coming = range(self.step, min(self.step + 1 + AHEAD, self.total_steps))
            self.data.read_ahead(self.seed, coming, settings.batch_size)
        x, y = self.data.train_batch(self.seed, self.step, settings.batch_size)
        self.network.set_path_drop(settings.drop_path * self.epoch / settings.epochs)
        self.network.new_step(self.seed, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step) * group.get("factor", 1.0)
        with self._precision():
            logits, loss = self._loss(x.contiguous(memory_format=self._layout), y)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if settings.clip_norm is not None or self.edges is not None:
            self.scaler.unscale_(self.optimizer)
        if settings.clip_norm is not None:
            trained = chain.from_iterable(module.parameters() for module in self._trained())
            nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        if self.edges is not None:
            self.edges.add()
        self.scaler.step(self.optimizer)
        if self.edges is not None:
            self.edges.shrink(self._rate(self.step) * self.edges.settings.rate)
        self.scaler.update()
        self.step += 1
        return loss.detach(), (logits.detach().argmax(1) == y).sum(), len(y)

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The network's logits, and the loss with the auxiliary head's share in it."""
        smoothing = self.settings.label_smoothing
        if self.auxiliary is None:
            logits = self.network(x)
            return logits, F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
        logits, tapped = self.network.with_output_of(self._tapped, x)
        beside = self.auxiliary(tapped)
        loss, more = (F.cross_entropy(one.float(), y, label_smoothing=smoothing) for one in (logits, beside))
        return logits, loss + self.settings.auxiliary * more

    def _rate(self, step: int) -> float:
        warmup = round(self.settings.warmup_epochs * self.steps_per_epoch)
        return cosine_rate(step, self.total_steps, self.settings.lr, warmup)

    def _check_finite(self, what: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the {what} loss is not a number at or before step {self.step} "
                f"(epoch {self.step / self.steps_per_epoch:.2f}); a lower training.lr, a warm-up or "
                "training.clip_norm may help"
            )

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._mixed):
            yield

    @torch.no_grad()
    def evaluate(self, split: Literal["validation", "test"]) -> dict[str, float]:
        """`{split}_loss` (cross entropy without smoothing) and `{split}_accuracy` (0 to 1).

        Raises `Diverged` when the loss is not a number: training looks at losses alone, so weights that
        its last step spoilt show here.
        """
        self.network.eval()
        loss, hits, seen = 0.0, 0, 0
        for x, y in self.data.batches(split, max(256, self.settings.batch_size)):
            with self._precision():
                logits = self.network(x.contiguous(memory_format=self._layout)).float()
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            hits += int((logits.argmax(1) == y).sum())
            seen += len(y)
        self._check_finite(split, loss)
        return {f"{split}_loss": loss / seen, f"{split}_accuracy": hits / seen}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything needed to go on: tensors by name, and JSON-ready values."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.auxiliary is not None:
            tensors |= {f"auxiliary.{name}": value for name, value in self.auxiliary.state_dict().items()}
        for name, parameter in self._named_parameters():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return tensors, {"step": self.step, "scaler": self.scaler.state_dict()}

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.network.named_parameters()
        if self.auxiliary is not None:
            yield from self.auxiliary.named_parameters("auxiliary")

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from a saved state. Raises KeyError or RuntimeError when it is of another network."""
        self.network.load_state_dict(_below("network.", tensors))
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(_below("auxiliary.", tensors))
        self.optimizer.state.clear()
        for name, parameter in self._named_parameters():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                buffer = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter] = {"momentum_buffer": buffer}
        self.scaler.load_state_dict(values["scaler"])
        self.step = values["step"]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
