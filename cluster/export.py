"""`weft export`: a candidate's network, weights and all, also while its search still runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cluster.candidates import find_candidate, trained_state
from cluster.checkpoints import CheckpointStore
from cluster.files import AnyPath
from cluster.ledger import Row
from cluster.network_file import save_network
from cluster.recipe import Recipe
from cluster.run import Run
from cluster.search_plan import SearchPlan, batch_size_of
from cluster.search_recipe import SearchRecipe
from cluster.shrinking import RUNGS, Course, Rungs
from networks.errors import UserError
from networks.network import Network
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.supernet import build_supernet
from trainers.data import open_data
from trainers.one_shot import load_weights
from trainers.recalibration import recalibrated
from trainers.scores.accuracy import RECALIBRATION_BATCHES
from trainers.scores.score import Bench


def export_network(run: Run, candidate: str | None, target: AnyPath | None) -> dict[str, Any]:
    """Write a candidate's network, the best so far where none is named, into the folder `target`; else into
    one of the working folder that is called by run and candidate. What was written, and where. Raises
    `UserError` when there is no such candidate, no weights of it, or no folder that can be written."""
    row, recipe = find_candidate(run, candidate), run.recipe
    if isinstance(recipe, SearchRecipe):
        exported = _of_supernet(run, recipe, row)
    else:
        exported = _of_grid(run, recipe, row)
    folder = target or Path(f"{run.name}-{row.candidate.ask_index:06d}")
    about = {
        "run": run.name,
        "candidate": row.candidate.ask_index,
        "id": row.candidate.id,
        "genes": list(row.candidate.genes),
        "trained": exported.trained,
        "metrics": exported.metrics,
        "classes": list(exported.classes),
    }
    try:
        save_network(folder, exported.network, about)
    except OSError as error:
        raise UserError("--to", str(folder), "a folder that can be written", str(error)) from None
    params = sum(parameter.numel() for parameter in exported.network.parameters())
    return {**about, "params": params, "folder": str(folder)}


class Exported(NamedTuple):
    """`trained`: steps of the supernet, or epochs of the candidate itself; `metrics` are of that moment."""

    network: Network
    metrics: dict[str, float]
    trained: int
    classes: tuple[str, ...]


def _of_grid(run: Run, recipe: Recipe, row: Row) -> Exported:
    checkpoint = trained_state(run, row)
    data = open_data(recipe.data)
    architecture = recipe.space.build(data.image, len(data.classes)).decode(row.candidate.genes)
    if architecture.digest != row.architecture:
        raise UserError("data", recipe.data.name, "what the run began with; its images or classes differ")
    network, prefix = Network(architecture), "network."
    state = {
        name.removeprefix(prefix): x for name, x in checkpoint.tensors.items() if name.startswith(prefix)
    }
    network.load_state_dict(state)
    point = checkpoint.values["curve"][-1]
    metrics = {name: value for name, value in point.items() if name != "epoch"}
    return Exported(network, metrics, checkpoint.epoch, data.classes)


def _of_supernet(run: Run, recipe: SearchRecipe, row: Row) -> Exported:
    if recipe.supernet is None or not recipe.supernet.steps:
        fix = "Its candidates were never trained. A grid with `kind: listed` trains them: docs/searches.md."
        raise UserError("RUN", run.name, "a grid, or a search that trains a supernet", fix)
    data = open_data(recipe.data)
    plan = SearchPlan(recipe, data)
    run.check_data(plan)
    dropped = tuple(rung.dropped for rung in Rungs(run.folder / RUNGS).read())
    course = Course(recipe, plan.space, dropped)
    store, steps = (
        CheckpointStore(run.folder / "supernet"),
        course.until(len(dropped)) + recipe.trained_beside,
    )
    checkpoint = store.newest()
    if checkpoint is None or checkpoint.epoch < steps:
        allowed = f"a whole checkpoint, unaltered, of step {steps:,}, with which candidates are scored"
        raise UserError("checkpoint", str(store.folder), allowed)
    network = path_network(plan, course.left(len(dropped)), checkpoint.tensors, row.candidate.genes)
    return Exported(network, row.metrics, checkpoint.epoch, data.classes)


def path_network(
    plan: SearchPlan, space: ChoiceSpace, tensors: Mapping[str, Tensor], genes: Genes
) -> Network:
    """The network of a path, with the weights of a saved supernet of this space and statistics of its own."""
    assert plan.data is not None
    # On the CPU, whatever the replicas train on: all that is needed are weights and a few batches.
    supernet = build_supernet(space, plan.recipe.seed)
    load_weights(supernet, tensors)
    bench = Bench(plan.space, plan.data, plan.recipe.seed, batch_size_of(plan.recipe))
    images = (bench.batch(number)[0] for number in range(RECALIBRATION_BATCHES))
    with recalibrated(supernet, images, genes):
        return supernet.extract(genes)
