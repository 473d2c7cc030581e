"""The command line, `weft`: recipes and their searches; runs are in cli_runs.py, data sets in cli_data.py."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

# Before anything imports torch or ray: the thread rule of the promises, and no phoning home.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import typer
from rich.console import Console

from cluster.cli_data import data_app
from cluster.cli_options import Address, AsJson, Changes, Local, RecipeName
from cluster.cli_runs import runs_app
from cluster.printing import (
    command,
    err,
    out,
    print_grid,
    print_json,
    print_stop,
    relative,
)
from cluster.search_command import check_place, conclude, placed, telling
from cluster.tables import regret_table
from networks.errors import CannotGoOn, UserError

if TYPE_CHECKING:  # imports torch
    from cluster.experiment import Outcome

app = typer.Typer(
    help="Finds out how a neural network should be wired.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(data_app, name="data")
app.add_typer(runs_app)  # without a name: its commands are weft's own


@app.command()
def search(
    recipe: RecipeName,
    changes: Changes = None,
    local: Local = False,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the recipe's unfinished run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search as the recipe says and rank what was found."""
    from cluster.experiment import Place, search
    from cluster.recipe import load_recipe, naming_recipe

    check_place(local, address)
    changes = changes or []
    parsed = load_recipe(recipe, changes)
    again = [command(), "search", recipe, *(word for change in changes for word in ("--set", change))]
    again += [*placed(local, address), "--resume"]

    def drive(console: Console) -> "Outcome":
        with naming_recipe(recipe, changes):
            return search(parsed, Place(local, address), console, resume=resume)

    conclude(drive, again, as_json)


@app.command()
def transform(
    recipe: RecipeName,
    cells: Annotated[
        list[str],
        typer.Argument(
            metavar="CELL",
            help="As the space writes it, a published name, or a file with it. Or one network: resnet20 and "
            "the like, or its file, such as a run's best/network.json.",
        ),
    ],
    changes: Changes = None,
    local: Local = False,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the recipe's unfinished run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite cells or a network of yours into better ones that cost no more, with a recipe whose searcher is
    `nat`."""
    from cluster.transform_command import transforming

    search(recipe, transforming(recipe, cells, changes or []), local, address, resume, as_json)


@app.command()
def sweep(
    recipe: RecipeName,
    over: Annotated[
        list[str],
        typer.Option("--over", metavar="A.B=[C, …]", help="Values of a field of the recipe; repeatable."),
    ],
    changes: Changes = None,
    local: Local = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Search with every combination of some values of a recipe's fields, and compare what was found:
    settings, policies, seeds. What was searched before is not searched again."""
    from cluster.experiment import Place, finished_run
    from cluster.recipe import naming_recipe
    from cluster.sweep import arms_of, sweep, sweep_tables

    check_place(local, address)
    changes = changes or []
    arms = arms_of(recipe, changes, over)
    again = [command(), "sweep", recipe, *(word for one in over for word in ("--over", one))]
    again += [word for change in changes for word in ("--set", change)] + placed(local, address)
    console = err if as_json else out
    with telling(again), naming_recipe(recipe, changes):
        found = sweep(arms, lambda one: finished_run(one, Place(local, address), console), console.print)
    if as_json:
        print_json(found)
        return
    for table in sweep_tables(found):
        out.print(table)


@app.command()
def describe(
    recipe: RecipeName,
    changes: Changes = None,
    graphs: Annotated[int | None, typer.Option(min=1, help="Draw each setting with seeds 1..GRAPHS.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe would search: candidates, sizes, time. Trains nothing."""
    from cluster.describe import describe
    from cluster.describe_search import describe_search, description
    from cluster.recipe import load_recipe, naming_recipe
    from cluster.search_recipe import SearchRecipe

    parsed = load_recipe(recipe, changes or [])
    if isinstance(parsed, SearchRecipe):
        if graphs is not None:
            raise UserError("--graphs", graphs, "nothing with a recipe that draws no graphs")
        with naming_recipe(recipe, changes or []):
            found = describe_search(parsed)
        if as_json:
            print_json(found)
        else:
            out.print(description(found))
        return
    with naming_recipe(recipe, changes or []):
        found = describe(parsed, graphs)
    if as_json:
        print_json(found)
        return
    print_grid(found)


@app.command("bench-search")
def bench(
    recipe: RecipeName,
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(min=2, help="Searches with each method.")] = 100,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Evaluations; the searcher's if left out.")
    ] = None,
    reported: Annotated[
        str | None, typer.Option(help="The column that regret is told in; the objective's if left out.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where picture and report are written.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Run a recipe's searcher with many seeds on its table, beside random search, and plot the regret."""
    from cluster.bench_recipe import bench_recipe
    from cluster.recipe import load_recipe, naming_recipe

    parsed = load_recipe(recipe, changes or [])
    console = err if as_json else out
    with naming_recipe(recipe, changes or []):
        found = bench_recipe(parsed, seeds, budget, reported, console, folder)
    if as_json:
        print_json(found)
        return
    out.print(regret_table(found))
    out.print(f"picture: {relative(Path(found['picture']))}")


class _Log(logging.Handler):
    """Log lines on standard error, above a progress line that renews itself."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False)


def main() -> None:
    """Exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[_Log(logging.WARNING)]
    )
    if (
        not sys.warnoptions
    ):  # what libraries tell their developers; python -W or PYTHONWARNINGS brings it back
        warnings.simplefilter("ignore")
    try:
        app()
    except UserError as error:
        for line in str(error).splitlines():
            err.print(f"weft: {line}", markup=False)
        sys.exit(2)
    except CannotGoOn as error:
        print_stop(error, "the same command")
        sys.exit(1)


if __name__ == "__main__":
    main()
