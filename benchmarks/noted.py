"""Searches that take hours, over as many sittings and machines as they take: what each came to is a line of a
file, and one that is there is not run again."""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.randwire import processor
from cluster.experiment import Place, search
from cluster.recipe import recipe_model
from cluster.run import Run, runs_of
from cluster.version import code_version
from networks.architecture import digest_of

Outcome = Callable[[Run], dict[str, Any]]  # a function of a module: it goes to other processes


def parser_of(doc: str | None, files: str) -> argparse.ArgumentParser:
    """For what all of these take; `files`: what --data holds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=_absolute, required=True, help=f"folder of {files}")
    parser.add_argument("--storage", type=_absolute, default=Path("runs").resolve(), help="of their runs")
    parser.add_argument("--jobs", type=int, default=1, help="searches at once")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def key_of(recipe: dict[str, Any]) -> str:
    """What the recipe says, but for where things lie."""
    data = {name: value for name, value in recipe["data"].items() if not name.endswith("path")}
    return digest_of({**{name: value for name, value in recipe.items() if name != "storage"}, "data": data})


def finished(recipe: dict[str, Any]) -> Run:
    """The run of this recipe: the one that is there, gone on with where it was left, or a new one."""
    made = recipe_model(recipe).model_validate(recipe)
    same = [run for run in runs_of(made.name, made.storage) if run.recipe_digest == made.digest]
    if same and same[-1].ending == "FINISHED":
        return same[-1]
    return search(made, Place(local=True), Console(quiet=True), resume=bool(same)).run


def come_to(outcome: Outcome, recipe: dict[str, Any]) -> dict[str, Any]:
    return outcome(finished(recipe))


def outcomes(
    recipes: Sequence[dict[str, Any]], outcome: Outcome, file: Path, jobs: int
) -> list[dict[str, Any]]:
    """What each search came to, in the order of the recipes; so many run at once, each in a process."""
    known = {}
    if file.exists():
        for line in map(json.loads, file.read_text().splitlines()):
            known[line["key"]] = line["outcome"]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {
            pool.submit(partial(come_to, outcome), recipe): recipe
            for recipe in recipes
            if key_of(recipe) not in known
        }
        for number, done in enumerate(as_completed(running), 1):
            recipe, said = running[done], done.result()
            known[key_of(recipe)] = said
            about = {"name": recipe["name"], "commit": code_version(), "hardware": processor()}
            with file.open("a") as out:
                out.write(json.dumps({"key": key_of(recipe), **about, "outcome": said}) + "\n")
            print(f"{number} of {len(running)}: {recipe['name']}", flush=True)
    return [known[key_of(recipe)] for recipe in recipes]
