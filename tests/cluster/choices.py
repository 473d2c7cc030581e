"""Tiny searches over a space of choices, for tests."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from cluster.pool import LocalPool
from cluster.recipe_spaces import SmallChainSection
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.search_trial import SearchTrial
from networks.architecture import Shape
from networks.spaces.chain import SmallChainSpace
from networks.spaces.space import Genes

CHAIN = {"kind": "small_chain", "channels": 2, "head_channels": 4}
TINY = {
    "version": 1,
    "name": "tiny",
    "space": CHAIN,
    "data": {"name": "digits", "limit": 160},
    "supernet": {"steps": 4, "batch_size": 16, "paths_per_step": 2},
    "searcher": {
        "kind": "evolution",
        "population": 6,
        "generations": 2,
        "parents": 2,
        "mutants": 2,
        "crossovers": 2,
    },
    "score": {"kind": "computed", "names": ["accuracy", "params"], "batch_size": 64},
    "round": 3,
    "in_flight": 6,
}


def chain_space() -> SmallChainSpace:
    """The space of the tiny search, on the images of its data."""
    return SmallChainSection.model_validate(CHAIN).build(Shape(1, 8, 8), 10)


def tiny_recipe(storage: Path, **changes: object) -> SearchRecipe:
    """Four training steps, twelve candidates in two generations, and twelve random ones. None leaves a
    section out."""
    raw = {
        name: value for name, value in {**TINY, "storage": storage, **changes}.items() if value is not None
    }
    return SearchRecipe.model_validate(raw)


def write_tiny(folder: Path, **changes: object) -> Path:
    """The tiny recipe as a file."""
    path = folder / "tiny.yaml"
    raw = {name: value for name, value in {**TINY, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(raw))
    return path


def new_search(recipe: SearchRecipe) -> SearchConfig:
    """A run's folder for the recipe, nothing searched yet."""
    return SearchConfig(recipe=recipe, folder=Run.create(SearchPlan.of(recipe)).folder)


def ready(config: SearchConfig) -> SearchTrial:
    """A new trial in this process, set up."""
    trial = SearchTrial(LocalPool)
    trial.setup(config)
    return trial


def reports(trial: SearchTrial) -> list[SearchReport]:
    """What the trial says, step by step, to the end."""
    said = [trial.step()]
    while not said[-1].done:
        said.append(trial.step())
    return said


def write_table(
    path: Path, columns: dict[str, Callable[[Genes], float | str]], genes: Iterable[Genes] | None = None
) -> Path:
    """A csv with these columns, of all candidates of the tiny space or of some."""
    space = chain_space()
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["genes", *columns])
        for one in space.enumerate() if genes is None else genes:
            sheet.writerow([json.dumps(list(one)), *(column(one) for column in columns.values())])
    return path


class NoWriter:
    """In the place of MLflow's writer, which takes longer than these searches."""

    running, outbox = False, 0

    def __init__(self, run: Run) -> None:
        self.run = run

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def drain(self, timeout_s: float, on_wait: Callable[[int], None]) -> bool:
        return True
