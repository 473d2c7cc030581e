"""Arguments and options that several commands of `weft` have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name or folder, or a recipe's name for its last.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Storage = Annotated[str, typer.Option(help="The folder or s3://BUCKET/PREFIX that holds the runs.")]
Local = Annotated[bool, typer.Option("--local", help="In this process; Ray need not be installed.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster; `auto` finds this machine's.")]


def read_if_file(text: str) -> str:
    """What the file of this name says, without spaces around it; the text itself where there is none."""
    try:
        return Path(text).read_text().strip()
    except (OSError, ValueError):  # no such file, or no name of one: genotypes are long
        return text
