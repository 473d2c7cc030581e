"""The command line: `weft search | describe | show | rank | bench-search | ui | sync | damage`."""

import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

# Before anything imports torch or ray: the thread rule of the promises, and no phoning home.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import typer
from rich.console import Console

from cluster.tables import plain_table, ranking_table, regret_table, scores_table, search_tables, times_line
from networks.errors import CannotGoOn, UserError

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
    from cluster.experiment import Interrupted, Place, search
    from cluster.recipe import load_recipe, naming_recipe

    if local and address is not None:
        raise UserError("--address", address, "nothing beside --local, which uses no Ray")
    changes = changes or []
    parsed = load_recipe(recipe, changes)
    again = [_command(), "search", recipe, *(word for change in changes for word in ("--set", change))]
    again += ["--local"] * local + (["--address", address] if address else []) + ["--resume"]
    try:
        with naming_recipe(recipe, changes):
            outcome = search(parsed, Place(local, address), err if as_json else out, resume=resume)
    except Interrupted as stop:
        if stop.run.ending == "FINISHED":
            err.print(
                f"{stop.run.name} is complete; MLflow or the report may lack something: "
                f"{_command()} sync {shlex.quote(str(_relative(stop.run.folder)))}"
            )
            raise typer.Exit(130) from None
        err.print(f"{stop.run.name} is stopped; all finished epochs are kept. To go on: {shlex.join(again)}")
        raise typer.Exit(130) from None
    except CannotGoOn as error:
        _print_stop(error, shlex.join(again))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("stopped before the search began; nothing was written")
        raise typer.Exit(130) from None
    found, folder = outcome.report, outcome.run.folder
    if as_json:
        print_json(found)
    else:
        print_found(found, 20)
        picture = outcome.run.pictures / "best-1.png"
        if picture.exists():
            out.print(f"picture of the best graph: {_relative(picture)}")
        out.print(f"report: {_relative(folder / 'report.md')}")
        out.print(f"in MLflow: {_command()} ui {shlex.quote(str(_relative(folder)))}")
    if found["failed"] == found["candidates"]:
        err.print("every candidate failed")
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
    sizes = ", ".join("x".join(map(str, size)) for size in found["stage_sizes"])
    out.print(f"{found['recipe']}: {found['candidates']} candidates; images {tuple(found['image'])}, "
              f"{found['classes']} classes")  # fmt: skip
    out.print(f"random stages of {found['stage_nodes']} nodes; stem and stages write {sizes}")
    table = plain_table("setting", "graphs", "params (M)", "MACs (M)")
    for one in found["settings"]:
        table.add_row(
            one["setting"],
            str(one["graphs"]),
            f"{one['params_mean'] / 1e6:.3f} ± {one['params_deviation'] / 1e6:.3f}",
            f"{one['macs_mean'] / 1e6:.2f} ± {one['macs_deviation'] / 1e6:.2f}",
        )
    out.print(table)
    out.print(f"rungs at epochs {found['rungs']}; {found['epochs_planned']} epochs in all")
    where = "this machine's GPU" if found["measured_on"] == "cuda" else "one CPU core of this machine"
    pace = f"training takes {found['seconds_per_1000_images']:.1f} s for 1,000 images on {where}"
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
    from cluster.search_recipe import SearchRecipe
    from cluster.search_report import shown_report

    found_run = Run.find(run, storage)
    recipe = found_run.recipe
    if isinstance(recipe, SearchRecipe):
        found = shown_report(found_run, recipe)
    else:
        found = report(found_run, recipe, list(found_run.ledger.rows()))
    if as_json:
        print_json(found)
        return
    out.print(f"{found_run.name}: {found_run.ending or 'running, or its process died'}")
    print_found(found, limit)


@app.command()
def rank(
    run: RunName,
    scores: Annotated[
        list[str], typer.Option("--score", help="A score to be judged; repeatable. See docs/scores.md.")
    ],
    table: Annotated[Path | None, typer.Option(help="A table with the truth, as csv.")] = None,
    truth: Annotated[str | None, typer.Option(help="The table's column.")] = None,
    train: Annotated[
        int | None, typer.Option(min=3, help="Instead: train so many random candidates on their own.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each such training.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each candidate.")] = 1,
    cells: Annotated[int, typer.Option(min=3, help="Random candidates of the table to be scored.")] = 1000,
    storage: Storage = Path("runs"),
    local: Annotated[bool, typer.Option("--local", help="In this process.")] = False,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how well scores rank candidates, with a finished search's supernet."""
    from cluster.experiment import Place
    from cluster.rank import Standalone, rank_scores
    from cluster.run import Run
    from cluster.search_recipe import Ranking
    from trainers.scores.registry import find_score

    for name in scores:
        find_score(name, "--score")
    if (table is None) == (train is None) or (table is None) != (truth is None):
        raise UserError("--table", None if table is None else str(table), "--table with --truth, or --train")
    known: Ranking | Standalone = Standalone(train or 0, epochs, seeds)
    if table is not None and truth is not None:
        known = Ranking(table=table, truth=truth, scores=tuple(scores), cells=cells)
    console = err if as_json else out
    found = rank_scores(Run.find(run, storage), scores, known, Place(local, address), console)
    if as_json:
        print_json(found)
        return
    out.print(scores_table(found["scores"]))
    print_score_failures(found["scores"])


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
    out.print(f"picture: {_relative(Path(found['picture']))}")


@app.command()
def ui(
    run: RunName,
    storage: Storage = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on a run's database (Ctrl-C ends it)."""
    from cluster.run import Run
    from cluster.tracker import follow_move

    found = Run.find(run, storage)
    follow_move(found)
    uri = found.tracking_uri
    if uri.startswith("http"):
        out.print(f"this run is in the MLflow at {uri}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError("--port", port, "a free port of this machine", f"{error.strerror}.") from None
    out.print(f"MLflow at http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    # In a session of its own: Ctrl-C would make MLflow print tracebacks, and a request to end does not.
    server = subprocess.Popen([*command, "--workers", "1"], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise typer.Exit(server.wait())
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@app.command()
def sync(run: RunName, storage: Storage = Path("runs")) -> None:
    """Write to MLflow what it has not taken yet."""
    from cluster.run import Run
    from cluster.writer import main as write

    raise typer.Exit(write([str(Run.find(run, storage).folder)]))


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
        print_json(found)
        return
    out.print(f"undamaged: {100 * found['undamaged']:.2f} % of the validation images; losses in points")
    for kind, degree in (("node", "nodes by out-degree"), ("edge", "edges by target's in-degree")):
        table = plain_table(degree, "number", "mean loss", "largest", "orphaning")
        for row in found[f"{kind}s_by_degree"]:
            table.add_row(
                str(row["degree"]), str(row["number"]), f"{100 * row['mean_loss']:.2f}",
                f"{100 * row['largest_loss']:.2f}", str(row["orphaning"]),
            )  # fmt: skip
        out.print(table)
    out.print(f"picture: {_relative(Path(found['picture']))}")


def print_found(found: dict[str, Any], limit: int) -> None:
    """The tables of a report."""
    if "frontier" not in found:
        out.print(ranking_table(found, limit, out))
        print_failures(found)
        return
    for table in search_tables(found, limit):
        out.print(table)
    for reason, number in found["failures"][:5]:
        out.print(f"{number} failed: {reason}", markup=False)
    print_score_failures(found["scores"])
    if found["times"]:
        out.print(times_line(found["times"]), highlight=False)


def print_score_failures(scores: Sequence[dict[str, Any]]) -> None:
    """Which scores of a ranking could not be computed, and why."""
    for one in scores:
        for reason, number in one.get("failed", [])[:3]:  # reports of earlier versions have none
            out.print(f"{one['score']} failed {number} times: {reason}", markup=False)


def print_failures(found: dict[str, Any]) -> None:
    """Why candidates failed, each reason once."""
    reasons = Counter(row["reason"] for row in found["ranking"] if row["status"] == "failed")
    for reason, number in reasons.most_common(5):
        out.print(f"{number} failed: {reason}", markup=False)
    if len(reasons) > 5:
        out.print(f"{len(reasons) - 5} more reasons are in the report")


def print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found))


def _command() -> str:
    """How this program was started, so that what is printed can be typed."""
    own, found = Path(sys.argv[0]), shutil.which("weft")
    if own.name != "weft" or (found is not None and Path(found).resolve() == own.resolve()):
        return "weft"
    return shlex.quote(str(_relative(own.absolute())))


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class _Log(logging.Handler):
    """Log lines on standard error, above a progress line that renews itself."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False)


def _print_stop(error: CannotGoOn, again: str) -> None:
    """What happened and how to go on, in one line."""
    text = " ".join(str(error).split())
    err.print(f"weft: {text}; what is committed is kept. To go on: {again}", markup=False)


def main() -> None:
    """Exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[_Log()]
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
        _print_stop(error, "the same command")
        sys.exit(1)


if __name__ == "__main__":
    main()
