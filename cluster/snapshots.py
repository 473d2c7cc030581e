"""Topologies along their optimisation, each trained from scratch with its edges' weights fixed (TopoNet,
2008.08261; spec 2.7).

Weights and edges are learned together, so what the edges are worth shows only in networks that begin with
them. A grid's candidates keep their edges' weights at some epochs; in the end those are a grid of their own
beside the run, of which each candidate names the one that it was taken from.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.grid_beside import beside, named
from cluster.ledger import Row
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.recipe_topology import GivenNetwork, NetworksSection
from cluster.report import newest, rank
from cluster.run import Run, runs_of
from cluster.tables import REPORTED, summary
from cluster.trial import candidate_folder
from networks.adjacency import adjacency, frozen, prune, sparsity
from networks.architecture import Architecture

SNAPSHOTS = "snapshots"  # the folder in a run's


class Moment(NamedTuple):
    """The edge values of each stage after an epoch."""

    epoch: int
    values: Sequence[Tensor]


def moments_of(architecture: Architecture, stored: Checkpoint) -> list[Moment]:
    """The edge values of each stage in a candidate's checkpoint: those kept on the way, and its own."""
    kept: Mapping[str, Sequence[Sequence[float]]] = stored.values.get(SNAPSHOTS, {})
    moments = [
        Moment(int(epoch), [torch.tensor(values) for values in kept[epoch]])
        for epoch in sorted(kept, key=int)
    ]
    if not moments or moments[-1].epoch != stored.epoch:
        names = [f"network.stages.{stage}.edge_values" for stage in range(len(architecture.stages))]
        moments.append(Moment(stored.epoch, [stored.tensors[name] for name in names]))
    return moments


def with_learned_edges(recipe: Recipe, rows: Sequence[Row]) -> list[Row]:
    """Of the candidates that were trained to the end those whose edges learned, the best first."""
    return [
        row
        for row in rank(rows, recipe.metric)
        if row.status == "ok" and recipe.training_of(row.candidate.genes).edges is not None
    ]


def snapshot_networks(search: Search, run: Run) -> list[GivenNetwork]:
    """Their topologies, less the edges that count as gone, the rest fixed."""
    networks: list[GivenNetwork] = []
    wanted = search.recipe.snapshots
    if wanted is None:
        return networks
    rows = with_learned_edges(search.recipe, list(run.ledger.rows()))
    for row in rows[:1] if wanted.of == "best" else rows:
        architecture = search.space.decode(row.candidate.genes)
        settings = search.recipe.training_of(row.candidate.genes).edges
        assert settings is not None
        graphs = [architecture.graph(stage) for stage in range(len(architecture.stages))]
        stored = CheckpointStore(candidate_folder(run.folder, row.candidate)).newest()
        for epoch, values in [] if stored is None else moments_of(architecture, stored):
            tensors = {f"stages.{stage}.edge_values": one for stage, one in enumerate(values)}
            smaller, left = prune(architecture, tensors, settings.threshold)
            fixed = frozen(smaller, [left[f"stages.{stage}.edge_values"] for stage in range(len(values))])
            gone = sparsity(graphs, values, settings.threshold)
            networks.append(
                GivenNetwork(
                    label=f"{row.label} after {epoch}",
                    architecture=fixed,
                    parent=row.candidate.id,
                    edit=f"edges fixed as after epoch {epoch}",
                    of={"epoch": epoch, "sparsity": round(gone, 6)},
                )
            )
    return networks


def train_snapshots(search: Search, run: Run, train: Callable[[Recipe], Run]) -> None:
    """Train them all, each with several seeds."""
    settings = search.recipe.snapshots
    networks = snapshot_networks(search, run)
    if settings is None or not networks:
        return
    space = NetworksSection(networks=networks, seeds=settings.seeds)
    training = (settings.training or search.recipe.training).model_copy(update={"edges": None})
    train(beside(search.recipe, run, SNAPSHOTS, space, training))


def trained_snapshots(recipe: Recipe, run: Run) -> list[dict[str, Any]]:
    """Those topologies with their accuracies so far; JSON-ready."""
    grids = runs_of(named(recipe, SNAPSHOTS), run.folder / SNAPSHOTS) if recipe.snapshots else []
    if not grids:
        return []
    space = grids[-1].recipe.space
    assert isinstance(space, NetworksSection)
    rows = [row for row in newest(grids[-1].ledger.rows()) if row.status == "ok"]
    found = []
    for number, network in enumerate(space.networks):
        own = [row for row in rows if row.candidate.genes[0] == number]
        if own:
            assert isinstance(network.architecture, Architecture)
            found.append(
                {
                    "label": network.name,
                    "parent": network.parent,
                    **network.of,
                    "edges": edges_left(network.architecture),
                    "trainings": len(own),
                    "seconds": fmean(row.seconds for row in own),
                    "metrics": {
                        name: summary([row.metrics[name] for row in own])
                        for name in REPORTED
                        if all(name in row.metrics for row in own)
                    },
                }
            )
    return found


def edges_left(architecture: Architecture) -> int:
    """How many weighted edges a network has."""
    graphs = (architecture.graph(stage) for stage in range(len(architecture.stages)))
    return sum(edge.weight != "none" for graph in graphs for edge in graph.edges)


def adjacency_lists(architecture: Architecture) -> list[list[list[float]]]:
    """The adjacency matrix of each stage (networks/adjacency.py), JSON-ready."""
    graphs = (architecture.graph(stage) for stage in range(len(architecture.stages)))
    return [adjacency(graph).tolist() for graph in graphs]


def given_architectures(recipe: Mapping[str, Any]) -> list[Architecture]:
    """Of a recipe, as a run keeps it, of networks that are given with their architectures; else none."""
    space = recipe.get("space", {})
    networks = space["networks"] if space.get("kind") == "networks" else []
    if any(isinstance(one["architecture"], str) for one in networks):
        return []
    return [Architecture.model_validate(one["architecture"]) for one in networks]
