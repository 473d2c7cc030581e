"""A run's folder: one search, its ledger, its checkpoints and what is said about it.

runs/NAME-001/ holds run.json and recipe.yaml (what was asked for), numerics.json (what computes it), ledger/,
candidates/, tracking/ (the MLflow writer's), pictures/, report.md, report.json and, once the search has
ended, finished.json; by default also MLflow's record. One process at a time may write it: the one that
holds `lock`. Nothing in run.json names the folder, so that it may be moved.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from cluster.checkpoints import make_folder, sync_folder, write_atomically
from cluster.ledger import Ledger
from cluster.recipe import AnyRecipe, recipe_model
from cluster.version import code_version
from networks.errors import UserError, nearest
from networks.spaces.space import SearchSpace

Ending = Literal["FINISHED", "FAILED", "KILLED"]


class Planned(Protocol):
    """A recipe made concrete (cluster/preparation.py, cluster/search_plan.py)."""

    @property
    def recipe(self) -> AnyRecipe: ...

    @property
    def space(self) -> SearchSpace: ...

    @property
    def data_digest(self) -> str: ...

    @property
    def data_field(self) -> str: ...

    @property
    def data_name(self) -> str: ...


class Run:
    """The folder of one search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @classmethod
    def create(cls, search: Planned) -> "Run":
        """A new folder with the next free number. Raises `UserError` when storage cannot be written."""
        recipe = search.recipe
        try:
            make_folder(recipe.storage)
            run = cls(_next_folder(recipe))
            run.pictures.mkdir()
            sync_folder(recipe.storage)
            about = {
                "run": run.name,
                "experiment": recipe.name,
                "recipe_digest": recipe.digest,
                "space_digest": search.space.digest,
                "data_digest": search.data_digest,
                "metric": recipe.metric,
                "created": time.time_ns() // 1_000_000,
                "commit": code_version(),
            }
            run._write_recipe(recipe, about)
        except OSError as error:
            raise UserError(
                "storage", str(recipe.storage), "a folder that can be written", str(error)
            ) from None
        return run

    @classmethod
    def find(cls, name: str, storage: Path) -> "Run":
        """The run of this name or path; the last of a recipe's runs when only the recipe's name is given."""
        for folder in (Path(name), storage / name):
            if (folder / "run.json").is_file():
                return cls(folder)
        numbered = runs_of(name, storage)
        if numbered:
            return numbered[-1]
        known = sorted(path.parent.name for path in storage.glob("*/run.json"))
        raise UserError(
            "RUN", name, f"a run in {storage}: {', '.join(known) or 'none yet'}", nearest(name, known)
        )

    @classmethod
    def resumable(cls, search: Planned) -> "Run":
        """The newest unfinished run of the very same recipe and data. Raises `UserError` when there is
        none, and says what is."""
        recipe = search.recipe
        runs = runs_of(recipe.name, recipe.storage)
        if not runs:
            raise UserError(
                "--resume", recipe.name, f"a recipe with a run in {recipe.storage}", "Start it without."
            )
        same = [run for run in runs if run.about.get("recipe_digest") == recipe.digest]
        if not same:
            raise UserError(
                "--resume", runs[-1].name, "a run of the same recipe; this one has changed since",
                f"Its own is {runs[-1].folder / 'recipe.yaml'}.",
            )  # fmt: skip
        unfinished = [run for run in same if run.ending != "FINISHED"]
        if not unfinished:
            name = same[-1].name
            raise UserError("--resume", name, "an unfinished run", f"This one is complete: weft show {name}")
        resumable = [run for run in unfinished if run.about["data_digest"] == search.data_digest]
        if not resumable:
            allowed = "what the run began with; this is something else"
            raise UserError(search.data_field, search.data_name, allowed)
        return resumable[-1]

    def adopt(self, recipe: AnyRecipe) -> None:
        """Take over what a resumed search may change: where it runs, is tracked and stored, and where its
        data lies. To be called with the lock held."""
        self._write_recipe(recipe, self.about)

    def _write_recipe(self, recipe: AnyRecipe, about: dict[str, Any]) -> None:
        write_atomically(self.folder / "recipe.yaml", _yaml(recipe).encode())
        of_recipe = {
            "recipe": recipe.model_dump(mode="json"),
            "tracking_uri": recipe.tracking.uri,
            "runs": recipe.tracking.runs or "all",
        }
        self.write_json("run.json", {**about, **of_recipe})

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def about(self) -> dict[str, Any]:
        """What run.json says."""
        value: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return value

    @property
    def recipe(self) -> AnyRecipe:
        raw = self.about["recipe"]
        return recipe_model(raw).model_validate(raw)

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; the database in this folder where the recipe names none."""
        return self.about["tracking_uri"] or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger")

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def ending(self) -> Ending | None:
        """How the search ended; None while it runs, or when its process died."""
        path = self.folder / "finished.json"
        ending: Ending | None = json.loads(path.read_text())["status"] if path.exists() else None
        return ending

    def write_json(self, name: str, value: object) -> None:
        write_atomically(self.folder / name, json.dumps(value, indent=2).encode())

    def finish(self, ending: Ending) -> None:
        self.write_json("finished.json", {"status": ending})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run as its only driver. Raises `UserError` when another process holds it."""
        with (self.folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError("RUN", self.name, "a run that no other process is driving") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            (self.folder / "finished.json").unlink(missing_ok=True)
            yield


def check_storage(storage: Path) -> None:
    """Raise `UserError` unless runs can be written to this folder, which need not be there yet."""
    folder = storage.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            "storage", str(storage), "a folder that can be written", f"{folder} is {_what(folder)}."
        )


def _what(path: Path) -> str:
    return "write-protected" if path.is_dir() else "a file"


def runs_of(recipe_name: str, storage: Path) -> list[Run]:
    """The runs of one recipe, oldest first."""
    numbered = []
    for path in storage.glob("*/run.json"):
        match = re.fullmatch(re.escape(recipe_name) + r"-(\d+)", path.parent.name)
        if match:
            numbered.append((int(match[1]), path.parent))
    return [Run(folder) for _, folder in sorted(numbered)]


def _next_folder(recipe: AnyRecipe) -> Path:
    taken = [int(path.name.rsplit("-", 1)[1]) for path in recipe.storage.glob(f"{recipe.name}-[0-9]*")
             if path.name.rsplit("-", 1)[1].isdigit()]  # fmt: skip
    number = max(taken, default=0) + 1
    while True:
        folder = recipe.storage / f"{recipe.name}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another search took the number meanwhile
            number += 1
        else:
            return folder


def _yaml(recipe: AnyRecipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
