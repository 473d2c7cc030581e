"""What `weft` does with runs: look at them, stop them, go on with them, use what they found."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import Address, AsJson, Local, RunName, Storage
from cluster.files import path_of
from cluster.printing import (
    command,
    err,
    out,
    print_damage,
    print_found,
    print_json,
    print_score_failures,
    relative,
)
from cluster.search_command import check_place, conclude, placed
from cluster.tables import scores_table
from networks.errors import UserError

runs_app = typer.Typer()


@runs_app.command()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="All runs if left out.")] = None,
    storage: Storage = "runs",
    watch: Annotated[bool, typer.Option("--watch", help="Until they have ended; Ctrl-C ends it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say where runs stand: their state, evaluations, best, pace and what MLflow has not taken yet."""
    from cluster.run import Run, all_runs
    from cluster.status import Watched, status_table, watched

    place = path_of(storage)
    runs = [Watched(one) for one in ([Run.find(run, place)] if run else all_runs(place))]
    if watch and as_json:
        raise UserError("--json", True, "nothing beside --watch")
    if as_json:
        print_json({"runs": [one.look()._asdict() for one in runs]})
    elif watch:
        watched(runs, out)
    else:
        out.print(status_table([one.look() for one in runs]))


@runs_app.command()
def show(
    run: RunName,
    storage: Storage = "runs",
    limit: Annotated[int, typer.Option(min=1, help="How many candidates to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the candidates of a run, best first; also while it runs."""
    from cluster.grid_report import grid_report
    from cluster.run import Run
    from cluster.search_recipe import SearchRecipe
    from cluster.search_report import shown_report

    found_run = Run.find(run, path_of(storage))
    recipe = found_run.recipe
    if isinstance(recipe, SearchRecipe):
        found = shown_report(found_run, recipe)
    else:
        found = grid_report(found_run, recipe, list(found_run.ledger.rows()))
    if as_json:
        print_json(found)
        return
    out.print(f"{found_run.name}: {found_run.ending or 'running, or its process died'}")
    print_found(found, limit)


@runs_app.command()
def stop(
    run: RunName,
    storage: Storage = "runs",
    wait: Annotated[float, typer.Option(min=0, help="Seconds, at most, until it has stopped.")] = 60,
) -> None:
    """Stop a search that runs, here or elsewhere; everything is kept."""
    from cluster.run import Run
    from cluster.stopping import stop

    found = Run.find(run, path_of(storage))
    ended = stop(found, wait)
    place = shlex.quote(str(relative(found.folder)))
    out.print(f"{found.name}: {ended.ending}. To go on: {command()} resume {place}")


@runs_app.command()
def resume(
    run: RunName,
    storage: Storage = "runs",
    local: Local = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped or whose process died, as its own recipe says."""
    from cluster.experiment import Place, search
    from cluster.run import Run

    check_place(local, address)
    found = Run.find(run, path_of(storage))
    again = [command(), "resume", str(relative(found.folder)), *placed(local, address)]
    conclude(
        lambda console: search(found.recipe, Place(local, address), console, resume=found), again, as_json
    )


@runs_app.command()
def extend(
    run: RunName,
    budget: Annotated[int, typer.Option(min=1, help="Candidates in all that the searcher asks for.")],
    storage: Storage = "runs",
    local: Local = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Give a finished search over choices more budget, and go on with it; what it found is kept."""
    from cluster.experiment import Place, search
    from cluster.extend import extended_recipe
    from cluster.run import Run

    check_place(local, address)
    found = Run.find(run, path_of(storage))
    recipe = extended_recipe(found, budget)
    again = [command(), "resume", str(relative(found.folder)), *placed(local, address)]
    conclude(lambda console: search(recipe, Place(local, address), console, extend=found), again, as_json)


@runs_app.command()
def export(
    run: RunName,
    candidate: Annotated[
        str | None, typer.Argument(help="Its number in `weft show`, or its id; the best so far if left out.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="A folder or s3://BUCKET/PREFIX; ./RUN-CANDIDATE if left out.")
    ] = None,
    storage: Storage = "runs",
    as_json: AsJson = False,
) -> None:
    """Write a candidate's network, architecture and weights; also while its search runs."""
    from cluster.export import export_network
    from cluster.run import Run

    target = None if to is None else path_of(to)
    found = export_network(Run.find(run, path_of(storage)), candidate, target)
    if as_json:
        print_json(found)
        return
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in found["metrics"].items())
    out.print(f"{found['run']}, candidate {found['candidate']}: {found['params']:,} parameters; {metrics}")
    out.print(f"network, read again and checked: {relative(path_of(found['folder']))}")


@runs_app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A run, as elsewhere.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another, ranked by the same metric.")],
    storage: Storage = "runs",
    as_json: AsJson = False,
) -> None:
    """Put two runs side by side: best so far, cost, what they found in common, what they differ in."""
    from cluster.compare import compare, comparison_tables
    from cluster.run import Run

    place = path_of(storage)
    found = compare(Run.find(first, place), Run.find(second, place))
    if as_json:
        print_json(found)
        return
    for part in comparison_tables(found):
        out.print(part, markup=False) if isinstance(part, str) else out.print(part)


@runs_app.command()
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
    storage: Storage = "runs",
    local: Local = False,
    address: Address = None,
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
    found = rank_scores(Run.find(run, path_of(storage)), scores, known, Place(local, address), console)
    if as_json:
        print_json(found)
        return
    out.print(scores_table(found["scores"]))
    print_score_failures(found["scores"])


@runs_app.command()
def damage(
    run: RunName,
    candidate: Annotated[str, typer.Argument(help="Its number in `weft show`, or its id.")],
    storage: Storage = "runs",
    as_json: AsJson = False,
) -> None:
    """Remove each node and each edge of a trained candidate in turn and report what is lost."""
    from cluster.damage import damage_report

    found = damage_report(run, candidate, path_of(storage), err)
    if as_json:
        print_json(found)
        return
    print_damage(found)
    out.print(f"picture: {relative(path_of(found['picture']))}")


@runs_app.command()
def ui(
    run: RunName,
    storage: Storage = "runs",
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on a run's database (Ctrl-C ends it)."""
    from cluster.mlflow_ui import serve
    from cluster.run import Run
    from cluster.tracker import follow_move

    found = Run.find(run, path_of(storage))
    follow_move(found)
    uri = found.tracking_uri
    if uri.startswith("http"):
        out.print(f"this run is in the MLflow at {uri}")
        return
    raise typer.Exit(serve(uri, port, out))


@runs_app.command()
def sync(run: RunName, storage: Storage = "runs") -> None:
    """Write to MLflow what it has not taken yet."""
    from cluster.run import Run
    from cluster.writer import main as write

    raise typer.Exit(write([str(Run.find(run, path_of(storage)).folder)]))


@runs_app.command()
def gc(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="All runs of the storage if left out.")
    ] = None,
    storage: Storage = "runs",
    keep: Annotated[int, typer.Option(min=0, help="Of each candidate the newest so many stay.")] = 1,
    best: Annotated[int, typer.Option(min=0, help="So many of the best keep all of theirs.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what grids keep and need no more: checkpoints, and what killed processes have left."""
    from cluster.disk_need import bytes_text
    from cluster.gc import Kept, clear_runs, cleared_table
    from cluster.run import Run, all_runs

    place = path_of(storage)
    chosen = [Run.find(name, place) for name in runs] if runs else all_runs(place)
    found = list(clear_runs(chosen, Kept(keep, best), named=bool(runs), dry_run=dry_run))
    total = sum(one.bytes for one in found)
    if as_json:
        print_json({"runs": [one._asdict() for one in found], "bytes": total, "dry_run": dry_run})
        return
    if any(one.files or one.left for one in found):
        out.print(cleared_table(found))
    out.print(f"{total:,} bytes ({bytes_text(total)}) {'would be freed' if dry_run else 'freed'}")
