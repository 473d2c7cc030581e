"""A tiny search for tests, driven without MLflow."""

from collections.abc import Callable
from pathlib import Path

from cluster.grid import Grid
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.run import Run
from cluster.trial import Report

SMALL = {
    "version": 1,
    "name": "small",
    "space": {
        "kind": "randwire",
        "regime": "cifar",
        "nodes": 4,
        "channels": 4,
        "head_channels": 16,
        "generators": [{"generator": "WS", "k": 2, "p": [0.0, 0.5]}, {"generator": "BA", "m": 1}],
        "seeds": 2,
    },
    "data": {"name": "digits", "limit": 300},
    "training": {"epochs": 4, "batch_size": 32},
    "stopping": {"kind": "halving", "eta": 2, "grace": 1},
}


def small_recipe(storage: Path, **changes: object) -> Recipe:
    """Six tiny candidates; rungs at epochs 1, 2 and 4."""
    return Recipe.model_validate({**SMALL, "storage": storage, **changes})


def new_grid(recipe: Recipe) -> Grid:
    prepared = Search.of(recipe)
    return Grid(prepared, Run.create(prepared))


def resumed_grid(recipe: Recipe) -> Grid:
    prepared = Search.of(recipe)
    grid = Grid(prepared, Run.resumable(prepared))
    grid.replay()
    return grid


def raise_after(error: type[BaseException], reports: int) -> Callable[[Report], None]:
    """A listener for `Grid.reports` that raises at the n-th report."""
    heard = 0

    def listen(report: Report) -> None:
        nonlocal heard
        heard += 1
        if heard == reports:
            raise error

    return listen
