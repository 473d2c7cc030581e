"""The command line: `weft search | describe | show | ui | damage`."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

# Before anything imports torch or ray: the thread rule of the promises, and no phoning home.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import click
import typer
from rich.console import Console
from rich.table import Table

from networks.errors import UserError

app = typer.Typer(
    help="Finds out how a neural network should be wired.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name or folder, or a recipe's name for its last.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Storage = Annotated[Path, typer.Option(help="The folder that holds the runs.")]


@app.command()
def search(
    recipe: RecipeName,
    changes: Changes = None,
    local: Annotated[
        bool, typer.Option("--local", help="In this process; Ray need not be installed.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; `auto` finds this machine's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the recipe's unfinished run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search as the recipe says and rank what was found."""
    from cluster.experiment import Place, search
    from cluster.recipe import load_recipe

    if local and address is not None:
        raise UserError("--address", address, "nothing beside --local, which uses no Ray")
    parsed = load_recipe(recipe, changes or [])
    console = err if as_json else out
    try:
        outcome = search(parsed, Place(local, address), console, resume=resume)
    except KeyboardInterrupt:
        again = " ".join(["weft search", recipe, *(f"--set {change}" for change in changes or [])])
        err.print(f"stopped; everything up to the last finished epochs is kept. To go on: {again} --resume")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(outcome.report))
    else:
        out.print(ranking_table(outcome.report, 20))
        picture = outcome.run.pictures / "best-1.png"
        if picture.exists():
            out.print(f"picture of the best graph: {picture}")
        out.print(f"report: {outcome.run.folder / 'report.md'}")
        out.print(f"in MLflow: weft ui {_relative(outcome.run.folder)}")
    if outcome.report["failed"] == outcome.report["candidates"]:
        err.print(f"every candidate failed; the first because: {outcome.report['ranking'][0]['reason']}")
        raise typer.Exit(1)


@app.command()
def describe(
    recipe: RecipeName,
    changes: Changes = None,
    graphs: Annotated[int | None, typer.Option(min=1, help="Draw each setting with seeds 1..GRAPHS.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe would search: candidates, sizes, time. Trains nothing."""
    from cluster.describe import describe
    from cluster.recipe import load_recipe

    found = describe(load_recipe(recipe, changes or []), graphs)
    if as_json:
        print(json.dumps(found))
        return
    sizes = ", ".join("x".join(map(str, size)) for size in found["stage_sizes"])
    out.print(f"{found['recipe']}: {found['candidates']} candidates; images {tuple(found['image'])}, "
              f"{found['classes']} classes")  # fmt: skip
    out.print(f"random stages of {found['stage_nodes']} nodes; stem and stages write {sizes}")
    table = Table("setting", "graphs", "params (M)", "MACs (M)")
    for one in found["settings"]:
        table.add_row(
            one["setting"],
            str(one["graphs"]),
            f"{one['params_mean'] / 1e6:.3f} ± {one['params_deviation'] / 1e6:.3f}",
            f"{one['macs_mean'] / 1e6:.1f} ± {one['macs_deviation'] / 1e6:.1f}",
        )
    out.print(table)
    out.print(f"rungs at epochs {found['rungs']}; {found['epochs_planned']} epochs in all")
    pace = f"one training pass takes {found['seconds_per_1000_images']:.1f} s for 1,000 images here"
    if found["hours_of_one_worker"] is None:
        out.print(f"{pace} (the data was not opened: the recipe gives image and classes itself)")
    else:
        out.print(f"{pace}: about {found['hours_of_one_worker']:.2f} hours of one worker")


@app.command()
def show(
    run: RunName,
    storage: Storage = Path("runs"),
    limit: Annotated[int, typer.Option(min=1, help="How many candidates to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the candidates of a run, best first; also while it runs."""
    from cluster.report import report
    from cluster.run import Run

    found_run = Run.find(run, storage)
    found = report(found_run, found_run.recipe, list(found_run.ledger.rows()))
    if as_json:
        print(json.dumps(found))
        return
    out.print(f"{found_run.name}: {found_run.ending or 'running, or its process died'}")
    out.print(ranking_table(found, limit))


@app.command()
def ui(
    run: RunName,
    storage: Storage = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on a run's database (Ctrl-C ends it)."""
    from cluster.run import Run

    uri = Run.find(run, storage).about["tracking_uri"]
    if uri.startswith("http"):
        out.print(f"this run is in the MLflow at {uri}")
        return
    out.print(f"MLflow at http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    raise typer.Exit(subprocess.call(command))


@app.command()
def damage(
    run: RunName,
    candidate: Annotated[str, typer.Argument(help="Its number in `weft show`, or its id.")],
    storage: Storage = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Remove each node and each edge of a trained candidate in turn and report what is lost."""
    from cluster.damage import damage_report

    found = damage_report(run, candidate, storage, err)
    if as_json:
        print(json.dumps(found))
        return
    out.print(f"undamaged: {100 * found['undamaged']:.2f} % of the validation images")
    for kind, degree in (("node", "out-degree"), ("edge", "in-degree of its target")):
        table = Table(f"{kind}s by {degree}", "number", "mean loss (points)", "largest", "orphaned a node")
        for row in found[f"{kind}s_by_degree"]:
            table.add_row(
                str(row["degree"]), str(row["number"]), f"{100 * row['mean_loss']:.2f}",
                f"{100 * row['largest_loss']:.2f}", str(row["orphaning"]),
            )  # fmt: skip
        out.print(table)
    out.print(f"picture: {found['picture']}")


def ranking_table(found: dict[str, Any], limit: int) -> Table:
    """The ranking of a report as a table."""
    metric = found["metric"]
    table = Table(
        "place",
        "candidate",
        "setting",
        "seed",
        "status",
        "epochs",
        metric,
        "test_accuracy",
        "params",
        "MACs (M)",
    )
    for row in found["ranking"][:limit]:
        table.add_row(
            str(row["place"]), str(row["candidate"]), row["setting"], str(row["seed"]), row["status"],
            str(row["epoch"]), _percent(row[metric]), _percent(row["test_accuracy"]), f"{row['params']:,}",
            f"{row['macs'] / 1e6:.2f}",
        )  # fmt: skip
    if len(found["ranking"]) > limit:
        table.caption = f"{len(found['ranking']) - limit} more"
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _relative(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def main() -> None:
    """Exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort:
        status = 130
    except UserError as error:
        err.print(f"weft: {error}", markup=False)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
