"""Measurements that take hours, over as many sittings and machines as they take: what each came to is a line
of a file, and one that is there is not made again."""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.randwire import processor
from cluster.experiment import Place, finished_run
from cluster.recipe import recipe_model
from cluster.run import Run
from cluster.version import code_version
from networks.architecture import digest_of


def parser_of(doc: str | None, files: str) -> argparse.ArgumentParser:
    """For what all of these take; `files`: what --data holds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=_absolute, required=True, help=f"folder of {files}")
    parser.add_argument("--storage", type=_absolute, default=Path("runs").resolve(), help="of their runs")
    parser.add_argument("--jobs", type=int, default=1, help="searches at once")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def key_of(asked: dict[str, Any]) -> str:
    """What is asked, a recipe for one, but for where things lie."""
    return digest_of(_without_places(asked))


def _without_places(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: _without_places(one)
        for name, one in value.items()
        if name != "storage" and not name.endswith("path")
    }


def finished(recipe: dict[str, Any]) -> Run:
    """The run of this recipe: the one that is there, gone on with where it was left, or a new one."""
    made = recipe_model(recipe).model_validate(recipe)
    return finished_run(made, Place(local=True), Console(quiet=True))


def of_runs(outcome: Callable[[Run], Any], recipe: dict[str, Any]) -> Any:
    """For `outcomes`, with recipes: what their finished runs came to."""
    return outcome(finished(recipe))


def outcomes(
    asked: Sequence[dict[str, Any]], act: Callable[[dict[str, Any]], Any], file: Path, jobs: int
) -> list[Any]:
    """What each came to, in order: `act`, which goes to other processes, gives values that JSON has. So many
    run at once."""
    known = {}
    if file.exists():
        for line in map(json.loads, file.read_text().splitlines()):
            known[line["key"]] = line["outcome"]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(act, one): one for one in asked if key_of(one) not in known}
        for number, done in enumerate(as_completed(running), 1):
            one = running[done]
            known[key_of(one)] = done.result()
            name = one.get("name", "")
            about = {"key": key_of(one), "name": name, "commit": code_version(), "hardware": processor()}
            with file.open("a") as out:
                out.write(json.dumps({**about, "outcome": known[key_of(one)]}) + "\n")
            print(f"{number} of {len(running)}: {name}", flush=True)
    return [known[key_of(one)] for one in asked]
