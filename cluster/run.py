"""A run's folder, on a disk or in S3: one search, its ledger, its checkpoints and what is said about it.

runs/NAME-001/ holds run.json and recipe.yaml (what was asked for), numerics.json (what computes it), ledger/,
candidates/, tracking/ (the MLflow writer's), pictures/, report.md, report.json and, once the search has
ended, finished.json. One process at a time may write it: the one that holds `lock`. Nothing in run.json
names the folder, so that it may be moved. What belongs to one machine (tracking/, by default MLflow's record)
lies in `work`: for a run on a disk the same folder.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import yaml

from cluster.files import (
    AnyPath,
    clear_drafts,
    make_folder,
    path_of,
    remove_folder,
    sync_folder,
    work_folder,
    write_atomically,
    write_once,
)
from cluster.lease import Lease, disk_holder, disk_lease, s3_holder, s3_lease
from cluster.ledger import Ledger
from cluster.recipe import AnyRecipe, recipe_model
from cluster.s3 import S3Path
from cluster.version import code_version
from networks.errors import UserError, nearest
from networks.spaces.space import SearchSpace

Ending = Literal["FINISHED", "FAILED", "KILLED"]

TRACKING = "MLFLOW_TRACKING_URI"  # which may hold a password: it is never written down
FROM_ENVIRONMENT = f"${TRACKING}"


class Ended(NamedTuple):
    """`time`: Unix milliseconds."""

    ending: Ending
    time: int


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

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder.resolve() if isinstance(folder, Path) else folder

    @classmethod
    def create(cls, search: Planned) -> "Run":
        """A new folder with the next free number. Raises `UserError` when storage cannot be written."""
        recipe = search.recipe
        try:
            make_folder(recipe.storage)
            run = cls(_next_folder(recipe))
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
    def find(cls, name: str, storage: AnyPath) -> "Run":
        """The run of this name or path; the last of a recipe's runs when only the recipe's name is given."""
        for folder in (path_of(name), storage / name):
            if (folder / "run.json").is_file():
                return cls(folder)
        numbered = runs_of(name, storage)
        if numbered:
            return numbered[-1]
        known = sorted(run.name for run in all_runs(storage))
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
        same = [run for run in runs if run.recipe_digest == recipe.digest]
        if not same:
            raise UserError(
                "--resume", runs[-1].name, "a run of the same recipe; this one has changed since",
                f"Its own is {runs[-1].folder / 'recipe.yaml'}.",
            )  # fmt: skip
        unfinished = [run for run in same if run.ending != "FINISHED"]
        resumable = [run for run in unfinished if run.about["data_digest"] == search.data_digest]
        found = (resumable or unfinished or same)[-1]
        found.check_resumable(search, "--resume")
        return found

    def check_resumable(self, search: Planned, field: str = "RUN") -> None:
        """Raise `UserError` for a run that is complete, or whose data has changed."""
        if self.ending == "FINISHED":
            fix = f"This one is complete: weft show {self.name}"
            raise UserError(field, self.name, "an unfinished run", fix)
        self.check_data(search)

    def check_data(self, search: Planned) -> None:
        """Raise `UserError` for other data than the run began with."""
        if self.about["data_digest"] != search.data_digest:
            allowed = "what the run began with; this is something else"
            raise UserError(search.data_field, search.data_name, allowed)

    def adopt(self, recipe: AnyRecipe) -> None:
        """Take over what a resumed search may change: where it runs, is tracked and stored, and where its
        data lies. To be called with the lock held."""
        if recipe.tracking.uri is None and self.about["tracking_uri"] == FROM_ENVIRONMENT:
            self._environment_uri()
        self._write_recipe(recipe, self.about)

    def extend(self, recipe: AnyRecipe) -> None:
        """Take over a recipe of more budget. `--resume` knows the run by that one from now on, and MLflow by
        the one that it began with. To be called with the lock held."""
        remove_folder(self.folder / "best")  # of the smaller budget
        self._write_recipe(recipe, {**self.about, "extended_digest": recipe.digest})

    def _write_recipe(self, recipe: AnyRecipe, about: dict[str, Any]) -> None:
        write_atomically(self.folder / "recipe.yaml", _yaml(recipe).encode())
        of_recipe = {
            "recipe": recipe.model_dump(mode="json"),
            "tracking_uri": recipe.tracking.uri or (FROM_ENVIRONMENT if os.environ.get(TRACKING) else None),
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
    def recipe_digest(self) -> str:
        """Of the recipe as it is now; run.json's own is of the one that the run began with."""
        about = self.about
        return str(about.get("extended_digest") or about.get("recipe_digest"))

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the recipe's, that of the environment where the run began with it, or else that
        of the database in this folder. Raises `UserError` where the environment names none any more."""
        uri: str | None = self.about["tracking_uri"]
        if uri == FROM_ENVIRONMENT:
            return self._environment_uri()
        return uri or f"sqlite:///{self.work / 'mlflow.db'}"

    def _environment_uri(self) -> str:
        uri = os.environ.get(TRACKING)
        if not uri:
            fix = f"{self.name} is recorded there. To record it elsewhere: --set tracking.uri=…"
            raise UserError(TRACKING, None, "the address of its MLflow", fix)
        return uri

    @property
    def work(self) -> Path:
        """This machine's folder for the run."""
        return work_folder(self.folder)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger")

    @property
    def pictures(self) -> AnyPath:
        return self.folder / "pictures"

    @property
    def ending(self) -> Ending | None:
        """How the search ended; None while it runs, or when its process died."""
        return None if self.ended is None else self.ended.ending

    @property
    def ended(self) -> Ended | None:
        try:
            said = json.loads((self.folder / "finished.json").read_text())
        except FileNotFoundError:
            return None
        return Ended(said["status"], said.get("time", 0))  # runs of earlier versions have none

    def write_json(self, name: str, value: object) -> None:
        self.write_text(name, json.dumps(value, indent=2))

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text.encode())

    def finish(self, ending: Ending) -> None:
        self.write_json("finished.json", {"status": ending, "time": time.time_ns() // 1_000_000})

    @property
    def driver(self) -> str:
        """The process that drives it, as text; empty when none does. Of this machine, for a run on a disk."""
        if isinstance(self.folder, S3Path):
            return s3_holder(self.folder / "lease.json")
        return disk_holder(self.work / "lock")

    @contextmanager
    def lock(self) -> Iterator[Lease]:
        """Hold the run as its only driver; it is open again. Raises `UserError` when another process does."""
        with self.hold() as lease:
            self.reopen()
            yield lease

    @contextmanager
    def hold(self) -> Iterator[Lease]:
        """Keep all drivers out; how the run ended stays as it is. Raises `UserError` when another process
        holds it."""
        self.work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            lease = held.enter_context(disk_lease(self.work / "lock", self.name))
            if isinstance(self.folder, S3Path):
                lease = held.enter_context(s3_lease(self.folder / "lease.json", self.name))
            yield lease

    def reopen(self) -> None:
        """It has not ended any more. To be called with the lock held."""
        (self.folder / "finished.json").unlink(missing_ok=True)
        for folder in (self.folder, self.ledger.folder):
            clear_drafts(folder)


def check_storage(storage: AnyPath) -> None:
    """Raise `UserError` unless runs can be written to this folder, which need not be there yet."""
    if isinstance(storage, S3Path):
        storage.check()
        return
    folder = storage.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            "storage", str(storage), "a folder that can be written", f"{folder} is {_what(folder)}."
        )


def _what(path: Path) -> str:
    return "write-protected" if path.is_dir() else "a file"


def runs_of(recipe_name: str, storage: AnyPath) -> list[Run]:
    """The runs of one recipe, oldest first."""
    numbered = ((_number(folder, recipe_name), folder) for folder in storage.glob("*"))
    found = sorted(((number, folder) for number, folder in numbered if number is not None), key=itemgetter(0))
    return [Run(folder) for _, folder in found if (folder / "run.json").is_file()]


def all_runs(storage: AnyPath) -> list[Run]:
    """By name."""
    folders: Iterator[AnyPath] = storage.glob("*")
    found = [Run(folder) for folder in folders if (folder / "run.json").is_file()]
    return sorted(found, key=lambda run: run.name)


def _number(folder: AnyPath, recipe_name: str) -> int | None:
    """Of a run of this recipe, by its folder's name."""
    match = re.fullmatch(re.escape(recipe_name) + r"-(\d+)", folder.name)
    return int(match[1]) if match else None


def _next_folder(recipe: AnyRecipe) -> AnyPath:
    taken = (_number(folder, recipe.name) for folder in recipe.storage.glob("*"))
    number = max((one for one in taken if one is not None), default=0) + 1
    while True:
        folder = recipe.storage / f"{recipe.name}-{number:03d}"
        try:
            if isinstance(folder, Path):
                folder.mkdir()
                sync_folder(folder.parent)
            else:
                write_once(folder / "taken", b"")
        except FileExistsError:  # another search took the number meanwhile
            number += 1
        else:
            return folder


def _yaml(recipe: AnyRecipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
