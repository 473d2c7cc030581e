"""The searches that are disturbed, and what they give when nothing disturbs them."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml

from cluster.recipe import AnyRecipe, recipe_model
from cluster.version import code_version
from networks.architecture import digest_of
from trainers.numerics import numerics

SubjectName = Literal["search", "grid", "shrinking", "nat", "topologies"]
GRIDS: tuple[SubjectName, ...] = (
    "grid",
    "topologies",
)  # whose candidates are trials with checkpoints of their own

SEARCH: dict[str, Any] = {
    "version": 1,
    "name": "chaos-search",
    "seed": 7,
    "space": {"kind": "nasbench201", "channels": 4, "cells": 1},
    "data": {"name": "digits"},
    "supernet": {"steps": 400, "paths_per_step": 2, "batch_size": 32, "lr": 0.1},
    "searcher": {"kind": "regularised_evolution", "budget": 300, "population": 25, "sample": 5},
    "score": {"kind": "computed", "names": ["accuracy", "params"], "batch_size": 125},
    "round": 25,
    "in_flight": 50,
    "baseline": False,
    "resources": {"workers": 2},
}
# Two supernets vote at three rungs, and the first one is searched.
SHRINKING: dict[str, Any] = {
    **SEARCH,
    "name": "chaos-shrinking",
    "supernet": {**SEARCH["supernet"], "steps": 160, "final_lr": 0.02},
    "shrinking": {
        "supernets": 2,
        "score": "angle_searched",
        "drop": 5,
        "until": 300,
        "steps": 60,
        "then": 40,
    },
    "searcher": {**SEARCH["searcher"], "budget": 200},
    "resources": {"workers": 1},
}
# A policy learns to rewrite cells while the supernet trains; then it rewrites two that are given.
NAT: dict[str, Any] = {
    **SEARCH,
    "name": "chaos-nat",
    "space": {"kind": "cells", "channels": 4, "cells": 3, "nodes": 2},
    "supernet": {**SEARCH["supernet"], "steps": 60, "final_lr": 0.02},
    "searcher": {
        "kind": "nat",
        "transform": [
            "normal 2=sep3(0)+c3(1); 3=S(0)+c3(2); out=2,3 | reduction 2=max3(0)+S(1); 3=c3(0)+N(2); out=2,3",
            "normal 2=c3(0)+c3(1); 3=c3(0)+c3(2); out=2,3 | reduction 2=c3(0)+c3(1); 3=c3(1)+c3(2); out=2,3",
        ],
        "steps": 16,
        "cells": 2,
        "draws": 3,
        "reward_batches": 2,
        "alternate": {"every": 2, "steps": 20},
        "candidates": 10,
    },
    "score": {"kind": "computed", "names": ["accuracy_unrecalibrated", "params"], "batch_size": 50},
    "round": 8,
    "in_flight": 16,
}
GRID: dict[str, Any] = {
    "version": 1,
    "name": "chaos-grid",
    "seed": 7,
    "space": {
        "kind": "randwire",
        "regime": "cifar",
        "nodes": 6,
        "channels": 4,
        "head_channels": 16,
        "generators": [{"generator": "WS", "k": 2, "p": [0.25, 0.75]}, {"generator": "BA", "m": [1, 2]}],
        "seeds": 2,
    },
    "data": {"name": "digits", "limit": 600},
    "training": {"epochs": 8, "batch_size": 32},
    "stopping": {"kind": "halving", "eta": 2, "grace": 2},
}


# Edges are learned; then the topologies of the best candidate along its training are trained from scratch.
TOPOLOGIES: dict[str, Any] = {
    **GRID,
    "name": "chaos-topologies",
    "space": {
        "kind": "topology",
        "nodes": 6,
        "stages": 2,
        "channels": 4,
        "topologies": [
            {"topology": "plain"},
            {
                "topology": "complete",
                "edges": [{"penalty": "none"}, {"penalty": "adaptive", "strength": 0.05}],
            },
        ],
        "seeds": 2,
    },
    "snapshots": {"points": 2, "seeds": 1, "training": {"epochs": 2, "batch_size": 32}},
}


class Subject(NamedTuple):
    """`raw`: its recipe, as it would be written, without where it is stored and tracked."""

    name: SubjectName
    raw: dict[str, Any]

    @property
    def recipe(self) -> AnyRecipe:
        return recipe_model(self.raw).model_validate(self.raw)

    @property
    def key(self) -> str:
        """By which its undisturbed run is known again: what is searched, with which code and numerics."""
        torch.set_num_threads(1)
        computing = numerics("cpu", channels_last=False)  # which of both, the recipe says
        return digest_of([self.recipe.digest, code_version(), computing])[:16]

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.raw['name']}.yaml"
        path.write_text(yaml.safe_dump(self.raw, sort_keys=False))
        return path


def changed(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """With some values of its sections replaced."""
    sections = {key: {**raw[key], **value} for key, value in changes.items() if isinstance(value, dict)}
    return {**raw, **changes, **sections}


QUICK_SEARCH = changed(
    SEARCH,
    name="chaos-search-quick",
    supernet={"steps": 80},
    searcher={"budget": 90, "population": 15},
    round=15,
    in_flight=30,
)
QUICK_GRID = changed(
    GRID,
    name="chaos-grid-quick",
    space={"generators": [{"generator": "WS", "k": 2, "p": [0.25, 0.75]}, {"generator": "BA", "m": 1}]},
    data={"limit": 300},
    training={"epochs": 4},
    stopping={"grace": 1},
)
QUICK_TOPOLOGIES = changed(
    TOPOLOGIES,
    name="chaos-topologies-quick",
    space={"seeds": 1},
    data={"limit": 300},
    training={"epochs": 4},
    stopping={"grace": 1},
    snapshots={"points": 1, "training": {"epochs": 1, "batch_size": 32}},
)
QUICK_SHRINKING = changed(
    SHRINKING,
    name="chaos-shrinking-quick",
    supernet={"steps": 40},
    shrinking={"steps": 20, "then": 0},
    searcher={"budget": 60, "population": 15},
    round=15,
    in_flight=30,
)
QUICK_NAT = changed(
    NAT,
    name="chaos-nat-quick",
    supernet={"steps": 20},
    searcher={"steps": 6, "alternate": {"every": 2, "steps": 10}, "candidates": 5},
)
SUBJECTS: dict[SubjectName, Subject] = {
    "search": Subject("search", SEARCH),
    "grid": Subject("grid", GRID),
    "shrinking": Subject("shrinking", SHRINKING),
    "nat": Subject("nat", NAT),
    "topologies": Subject("topologies", TOPOLOGIES),
}
QUICK: dict[SubjectName, Subject] = {
    "search": Subject("search", QUICK_SEARCH),
    "grid": Subject("grid", QUICK_GRID),
    "shrinking": Subject("shrinking", QUICK_SHRINKING),
    "nat": Subject("nat", QUICK_NAT),
    "topologies": Subject("topologies", QUICK_TOPOLOGIES),
}
