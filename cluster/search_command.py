"""What `weft search` and `weft resume` share: where they run, and how they end."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from cluster.printing import command, err, out, print_found, print_json, print_stop, relative
from networks.errors import CannotGoOn, UserError

if TYPE_CHECKING:  # imports torch
    from cluster.experiment import Outcome


def check_place(local: bool, address: str | None) -> None:
    if local and address is not None:
        raise UserError("--address", address, "nothing beside --local, which uses no Ray")


def placed(local: bool, address: str | None) -> list[str]:
    """The options that say where a search runs."""
    return ["--local"] * local + (["--address", address] if address else [])


@contextmanager
def telling(again: list[str]) -> Iterator[None]:
    """While searches are driven: print how to go on (`again`) after Ctrl-C and after what cannot be mended,
    and end with the status of that."""
    from cluster.experiment import Interrupted

    try:
        yield
    except Interrupted as stop:
        if stop.run.ending == "FINISHED":
            err.print(
                f"{stop.run.name} is complete; MLflow or the report may lack something: "
                f"{command()} sync {shlex.quote(str(relative(stop.run.folder)))}"
            )
            raise typer.Exit(130) from None
        err.print(f"{stop.run.name} is stopped; all finished epochs are kept. To go on: {shlex.join(again)}")
        raise typer.Exit(130) from None
    except CannotGoOn as error:
        print_stop(error, shlex.join(again))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("stopped before the search began; nothing was written")
        raise typer.Exit(130) from None


def conclude(drive: "Callable[[Console], Outcome]", again: list[str], as_json: bool) -> None:
    """Drive a search and print what it found, or how to go on (`again`)."""
    with telling(again):
        outcome = drive(err if as_json else out)
    found, folder = outcome.report, outcome.run.folder
    if as_json:
        print_json(found)
    else:
        print_found(found, 20)
        picture = outcome.run.pictures / "best-1.png"
        if picture.exists():
            out.print(f"picture of the best graph: {relative(picture)}")
        out.print(f"report: {relative(folder / 'report.md')}")
        out.print(f"in MLflow: {command()} ui {shlex.quote(str(relative(folder)))}")
    if found["failed"] == found["candidates"]:
        err.print("every candidate failed")
        raise typer.Exit(1)
