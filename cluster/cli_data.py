"""`weft data`: data sets between this machine and S3."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.printing import err, out

data_app = typer.Typer(help="Data sets in S3: push, pull and list them.", no_args_is_help=True)

BucketName = Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX")]


@data_app.command()
def push(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file or a folder.")], target: BucketName
) -> None:
    """Send a file, or all files of a folder; those that are there already are not sent again."""
    from cluster.data_files import push
    from cluster.s3 import S3Path

    moved = push(source, S3Path.of(target, "TARGET"), err)
    out.print(f"{moved.files} files sent ({moved.bytes:,} bytes), {moved.there} were there already")


@data_app.command()
def pull(source: BucketName, target: Annotated[Path, typer.Argument(metavar="FOLDER")] = Path(".")) -> None:
    """Fetch an object, or all below a prefix, into a folder; those that are there already are not fetched."""
    from cluster.data_files import pull
    from cluster.s3 import S3Path

    moved = pull(S3Path.of(source, "SOURCE"), target, err)
    out.print(f"{moved.files} files fetched ({moved.bytes:,} bytes), {moved.there} were there already")


@data_app.command("ls")
def list_data(source: BucketName) -> None:
    """List all objects below a prefix, with their bytes."""
    from cluster.data_files import listed
    from cluster.s3 import S3Path

    for _, name, size in listed(S3Path.of(source, "SOURCE")):
        out.print(f"{size:>15,}  {name}", markup=False)
