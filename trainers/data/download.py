"""A file from the network into a folder: whole and checked, or not at all."""

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

from networks.errors import UserError
from trainers.data.progress import Progress

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """``$WEFT_CACHE``, else ``~/.cache/weft``."""
    return Path(os.environ.get("WEFT_CACHE") or "~/.cache/weft").expanduser()


def download(url: str, md5: str, target: Path) -> Path:
    """Fetch `url` to `target`, in a temporary file beside it that is renamed once its MD5 sum is right.

    Raises `UserError` ("path") where the folder cannot be written, the network fails, or the sum differs;
    then nothing is left behind.
    """
    print(f"downloading {url} to {target}", file=sys.stderr)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        found = _copy(url, handle, target.name)
        if found != md5:
            raise OSError(f"its MD5 sum is {found}, not {md5}")
        os.replace(temporary, target)
        temporary = None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(
            "path",
            None,
            "the folder or archive of a set that is here already",
            f"Downloading {url} to {target} failed: {error}. Fetch it by other means and give its path.",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def _copy(url: str, handle: int, name: str) -> str:
    """The response into an open file; its MD5 sum in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        with Progress(f"downloading {name}", total, "MB", divisor=1_000_000) as progress:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.add(len(chunk))
    return digest.hexdigest()
