"""`weft rank`: how well scores rank candidates with a finished search's supernet, against a table or against
stand-alone trainings."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console

from cluster.experiment import Place, connection, drive_choices, interruptible, trained_grid
from cluster.ledger import Ledger
from cluster.report import newest
from cluster.retraining import standalone_grid
from cluster.run import Run
from cluster.search_messages import SearchConfig
from cluster.search_plan import LATENCIES, SearchPlan
from cluster.search_recipe import Ranking, SearchRecipe, TableScore, check_untrained
from cluster.search_report import score_rankings
from cluster.stopping import heeding
from networks.architecture import canonical_json, digest_of
from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.space import Genes
from trainers.training import TrainingSettings

TRUTH = "standalone_accuracy"
OPTIONS = {"ranking.table": "--table", "ranking.truth": "--truth", "ranking.scores": "--score"}


class Standalone(NamedTuple):
    """Trainings as ground truth: of so many random candidates, for so many epochs, with so many seeds."""

    candidates: int
    epochs: int
    seeds: int = 1


def rank_scores(
    run: Run, scores: Sequence[str], truth: Ranking | Standalone, place: Place, console: Console
) -> dict[str, Any]:
    """Score random candidates with the run's supernet, and say how each score ranks them. What was scored
    before is not scored again. Raises `UserError`."""
    recipe = run.recipe
    if not isinstance(recipe, SearchRecipe) or isinstance(recipe.score, TableScore):
        raise UserError("RUN", run.name, "a search whose candidates replicas scored")
    if run.ending != "FINISHED":
        raise UserError("RUN", run.name, "a finished search", "weft search --resume goes on with it.")
    if recipe.supernet is None:
        check_untrained("--score", scores)
    with interruptible(), run.lock() as lease, heeding(run):
        try:
            if isinstance(truth, Standalone):
                truth = _train(run, recipe, truth, scores, place, console)
            recipe = recipe.model_copy(update={"ranking": truth})
            plan = _planned(recipe, run)
            about = [truth.truth, truth.cells, list(truth.scores), str(truth.table)]
            folder = f"rankings/{digest_of(about)[:12]}"
            with connection(recipe, place, console):
                config = SearchConfig(recipe=recipe, folder=run.folder, ranking=folder)
                drive_choices(config, lease, place, console)
            rows = list(Ledger(run.folder / folder).rows())
            found = {
                "run": run.name,
                "truth": truth.truth,
                "scores": score_rankings(rows, recipe, plan.truth),
            }
            run.write_json(f"{folder}/report.json", found)
        finally:
            run.finish("FINISHED")
    return found


def _planned(recipe: SearchRecipe, run: Run) -> SearchPlan:
    """The run's search with the ranking that the command line gave; refusals name its options."""
    try:
        return SearchPlan.of(recipe, run.folder / LATENCIES)
    except UserError as error:
        for field, option in OPTIONS.items():
            if error.field.startswith(field):
                given = option + error.field.removeprefix(field)
                raise UserError(given, error.value, error.allowed, error.fix) from None
        raise


def _train(
    run: Run, recipe: SearchRecipe, wanted: Standalone, scores: Sequence[str], place: Place, console: Console
) -> Ranking:
    """Train random candidates of the space on their own, as a grid search beside the run; the table of
    their accuracies."""
    plan = SearchPlan.of(recipe, run.folder / LATENCIES)
    training = TrainingSettings(epochs=wanted.epochs, **_shared(recipe))
    listed = drawn(plan, wanted.candidates)
    grid = standalone_grid(recipe, run, "standalone", listed, wanted.seeds, training)
    trained = trained_grid(grid, place, console)
    accuracies: dict[Genes, list[float]] = defaultdict(list)
    for row in newest(trained.ledger.rows()):
        if row.status == "ok":
            accuracies[listed[row.candidate.genes[0]]].append(row.metrics["validation_accuracy"])
    if len(accuracies) < 3:
        raise UserError("--train", wanted.candidates, "3 or more candidates that can be trained")
    table = trained.work / "accuracies.csv"  # a table is read from a disk
    with table.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["genes", TRUTH])
        sheet.writerows([canonical_json(list(genes)), fmean(some)] for genes, some in accuracies.items())
    return Ranking(table=table, truth=TRUTH, scores=tuple(scores), cells=len(accuracies))


def drawn(plan: SearchPlan, number: int) -> list[Genes]:
    """Different random candidates of the plan's space that meet its constraints."""
    rng = counter_random(plan.recipe.seed, "standalone")
    feasible = plan.feasible
    found: dict[Genes, None] = {}
    for _ in range(100 * number):
        if len(found) == min(number, plan.space.size):
            break
        found[feasible.sample(plan.space, rng)] = None
    plan.latencies.flush()
    return list(found)


def _shared(recipe: SearchRecipe) -> dict[str, Any]:
    """What stand-alone training takes over from the supernet's."""
    if recipe.supernet is None:
        return {"batch_size": 64}
    fields = ("batch_size", "lr", "momentum", "nesterov", "weight_decay", "label_smoothing", "clip_norm")
    return {field: getattr(recipe.supernet, field) for field in fields}
