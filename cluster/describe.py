"""What a recipe would search: its space, its sizes, its time. Trains nothing that is kept."""

import statistics
import time
from typing import Any

import torch

from cluster.recipe import HalvingStopping, Recipe
from networks.architecture import Architecture, Shape
from networks.complexity import Complexity
from networks.counters import counter_generator
from networks.network import build_network
from networks.spaces.randwire import RandWireSpace
from searchers.halving import planned_epochs
from trainers.data import open_data

PROBE_MACS = 4e9  # multiply-adds of one probe's forward pass: a few seconds of one core
PROBE_STEPS = 2  # the first warms up


def describe(recipe: Recipe, graphs: int | None = None) -> dict[str, Any]:
    """Candidates, params and MACs with spread for each setting, and an estimate of the time.

    With `graphs`, every setting is drawn with seeds 1..graphs instead of the recipe's. Data is opened
    unless the recipe gives image and classes itself. Raises `UserError`.
    """
    section = recipe.space
    images: int | None = None
    if section.image is not None and section.classes is not None:
        space = section.build(section.image, section.classes)
    else:
        data = open_data(recipe.data)
        images = data.sizes["train"]
        space = section.build(data.image, len(data.classes))
    settings = _settings(space, graphs)
    example = space.decode(next(space.enumerate()))
    probe, device = measure_step(example, recipe)
    candidates = space.size
    halving = recipe.stopping if isinstance(recipe.stopping, HalvingStopping) else None
    epochs = (
        planned_epochs(candidates, recipe.rungs, halving.eta)
        if halving
        else candidates * recipe.training.epochs
    )
    return {
        "recipe": recipe.name,
        "candidates": candidates,
        "image": list(space.template.image),
        "classes": space.template.classes,
        "stage_nodes": list(space.template.stage_nodes()),
        "stage_sizes": [list(shape) for shape in example.stage_shapes()],
        "settings": settings,
        "epochs_planned": epochs,
        "rungs": recipe.rungs,
        "seconds_per_1000_images": probe * 1000,
        "measured_on": device,
        "train_images": images,
        "hours_of_one_worker": None if images is None else epochs * images * probe / 3600,
    }


def _settings(space: RandWireSpace, graphs: int | None) -> list[dict[str, Any]]:
    """Mean and sample deviation of params and MACs for each generator setting."""
    costs: dict[str, list[Complexity]] = {}
    for genes in space.enumerate():
        generator = space.generator(genes)
        if graphs is None:
            costs.setdefault(generator.label, []).append(space.decode(genes).complexity())
        elif generator.label not in costs:
            costs[generator.label] = [
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
        for label, some in costs.items()
    ]


def _deviation(values: list[int]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def measure_step(architecture: Architecture, recipe: Recipe) -> tuple[float, str]:
    """Seconds that training takes for one image, from a few steps on noise with one thread or GPU, and the
    device: cuda only where the recipe asks for a GPU and this machine has one."""
    device = "cuda" if recipe.resources.gpus and torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = max(2, min(recipe.training.batch_size, int(PROBE_MACS / architecture.complexity().macs)))
        network = build_network(architecture, recipe.seed).to(device).train()
        shape = Shape(*architecture.image)
        x = torch.randn(batch, *shape, generator=counter_generator(recipe.seed, "describe")).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        times = []
        for step in range(PROBE_STEPS):
            started = time.perf_counter()
            network.new_step(recipe.seed, step)
            network(x).sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times) / batch, device
