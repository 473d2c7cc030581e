"""`weft damage`: the damage study of a run's trained candidate, as a report and a picture."""

import statistics
from typing import Any

from rich.console import Console
from rich.progress import track

from cluster.candidates import find_candidate, untrained
from cluster.files import AnyPath
from cluster.pictures import draw_damage, save_figure
from cluster.run import Run
from cluster.trial import TrainingTrial, TrialConfig
from trainers.damage import Damage, damage_study, removals


def damage_report(run_name: str, candidate: str, storage: AnyPath, console: Console) -> dict[str, Any]:
    """Study one candidate, named by its ask index or id, from its newest checkpoint."""
    run = Run.find(run_name, storage)
    row = find_candidate(run, candidate)
    trial = TrainingTrial()
    trial.setup(TrialConfig(recipe=run.recipe, folder=run.folder, candidate=row.candidate))
    trainer = trial.trainer
    if not trial.epoch:
        raise untrained(run, candidate)

    def accuracy() -> float:
        return trainer.evaluate("validation")["validation_accuracy"]

    undamaged = accuracy()
    total = sum(len(removals(stage.graph)) for stage in trainer.network.graph_stages)
    study = damage_study(trainer.network, accuracy, undamaged)
    found = list(track(study, "removing nodes and edges", total, console=console, transient=True))
    picture = run.pictures / f"damage-{row.candidate.ask_index:06d}.png"
    save_figure(draw_damage(found), picture)
    return {
        "run": run.name,
        "candidate": row.candidate.ask_index,
        "undamaged": undamaged,
        "removals": [one._asdict() for one in found],
        "nodes_by_degree": by_degree([one for one in found if one.kind == "node"]),
        "edges_by_degree": by_degree([one for one in found if one.kind == "edge"]),
        "picture": str(picture),
    }


def by_degree(found: list[Damage]) -> list[dict[str, Any]]:
    """Mean and largest loss for each degree; removals that orphan somebody are counted apart."""
    table = []
    for degree in sorted({one.degree for one in found}):
        some = [one for one in found if one.degree == degree]
        table.append(
            {
                "degree": degree,
                "number": len(some),
                "mean_loss": statistics.mean(one.loss for one in some),
                "largest_loss": max(one.loss for one in some),
                "orphaning": sum(one.orphaning for one in some),
            }
        )
    return table
