"""What a recipe would search: its space, its sizes, its time. Trains nothing that is kept."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from cluster.recipe import HalvingStopping, RandWireSection, Recipe
from networks.architecture import Architecture
from networks.complexity import Complexity
from networks.counters import counter_generator
from networks.errors import UserError
from networks.network import build_network
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import Genes, SearchSpace
from searchers.halving import planned_epochs
from trainers.data import Data, open_data
from trainers.training import Trainer, TrainingSettings

PROBE_MACS = 4e9  # multiply-adds of one probe's forward pass: a few seconds of one core
PROBE_STEPS = 2  # the first warms up


def describe(recipe: Recipe, graphs: int | None = None) -> dict[str, Any]:
    """Candidates, params and MACs with spread for each setting, and an estimate of the time.

    With `graphs`, every setting is drawn with seeds 1..graphs instead of the recipe's. Data is opened
    unless the recipe gives image and classes itself. Raises `UserError`.
    """
    section = recipe.space
    if graphs is not None and not isinstance(section, RandWireSection):
        raise UserError("--graphs", graphs, "nothing but with the space randwire")
    images: int | None = None
    space: SearchSpace
    if isinstance(section, RandWireSection) and section.image is not None and section.classes is not None:
        space = section.build(section.image, section.classes)
    else:
        data = open_data(recipe.data)
        images = data.sizes["train"]
        space = section.build(data.image, len(data.classes))
    costs = {genes: space.decode(genes).complexity() for genes in space.enumerate()}
    settings = _settings(space, costs, graphs)
    middle = sorted(costs, key=lambda genes: (costs[genes].macs, genes))[len(costs) // 2]
    example = space.decode(middle)
    probe, device = measure_step(example, recipe, recipe.training_of(middle))
    candidates = len(costs)
    halving = recipe.stopping if isinstance(recipe.stopping, HalvingStopping) else None
    epochs = (
        planned_epochs(candidates, recipe.rungs, halving.eta)
        if halving
        else candidates * recipe.training.epochs
    )
    return {
        "recipe": recipe.name,
        "candidates": candidates,
        "image": list(example.image),
        "classes": example.classes,
        "stage_nodes": [len(example.graph(n).nodes) - 2 for n in range(len(example.stages))],
        "stage_sizes": [list(shape) for shape in example.stage_shapes()],
        "settings": settings,
        "epochs_planned": epochs,
        "rungs": recipe.rungs,
        "seconds_per_1000_images": probe * 1000,
        "measured_on": device,
        "train_images": images,
        "hours_of_one_worker": None if images is None else epochs * images * probe / 3600,
    }


def _settings(
    space: SearchSpace, costs: Mapping[Genes, Complexity], graphs: int | None
) -> list[dict[str, Any]]:
    """Mean and sample deviation of params and MACs for each setting."""
    by_setting: dict[str, list[Complexity]] = {}
    for genes, cost in costs.items():
        label = str(space.names(genes)["setting"])
        if graphs is None or not isinstance(space, RandWireSpace):
            by_setting.setdefault(label, []).append(cost)
        elif label not in by_setting:
            generator = space.generator(genes)
            by_setting[label] = [
                space.template.architecture(generator, seed).complexity() for seed in range(1, graphs + 1)
            ]
    return [
        {
            "setting": label,
            "graphs": len(some),
            **{
                f"{field}_{name}": measure([getattr(cost, field) for cost in some])
                for field in ("params", "macs")
                for name, measure in (("mean", statistics.mean), ("deviation", _deviation))
            },
        }
        for label, some in by_setting.items()
    ]


def _deviation(values: list[int]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


class _Noise:
    """A training set of one batch, always the same: as much work as any other, and no file is read."""

    def __init__(self, architecture: Architecture, batch: int, seed: int) -> None:
        draws = counter_generator(seed, "describe")
        self.x = torch.randn(batch, *architecture.image, generator=draws)
        self.y = torch.arange(batch) % architecture.classes

    def to(self, device: torch.device | str) -> "_Noise":
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self

    def steps_per_epoch(self, batch_size: int) -> int:
        return 1

    def train_batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        return self.x, self.y


def measure_step(architecture: Architecture, recipe: Recipe, training: TrainingSettings) -> tuple[float, str]:
    """Seconds that training takes for one image, from a few of the trainer's own steps on noise with one
    thread or GPU, in the recipe's precision, and the device: cuda only where the recipe asks for a GPU and
    this machine has one."""
    device = "cuda" if recipe.resources.gpus and torch.cuda.is_available() else "cpu"
    batch = max(2, min(training.batch_size, int(PROBE_MACS / architecture.complexity().macs)))
    changes: dict[str, Any] = {"lr": 1e-6}  # no slower than any other, and nothing diverges
    if device == "cpu":
        changes["precision"] = "auto"  # mixed is refused here
    settings = training.model_copy(update=changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        noise = cast(Data, _Noise(architecture, batch, recipe.seed))
        trainer = Trainer(build_network(architecture, recipe.seed), noise, settings, recipe.seed, device)
        times = []
        for _ in range(PROBE_STEPS):
            started = time.perf_counter()
            trainer.train_steps(1)  # reads its loss back, so a GPU has done the work by then
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times) / batch, device
