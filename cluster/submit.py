"""What `ray submit` ships to the head of a cluster and runs there:

    ray submit ray_cluster.yaml cluster/submit.py -- recipes/X.yaml [--detach] [options of `weft search`]

It is `weft search RECIPE --address auto` on the machine where it runs. The recipe is looked up in the working
folder, then in ~/weft, where file mounts put the project, then among the recipes that come with weft.

The search is a process of a session of its own that writes to a file in ~/weft-logs, and what is added there
is shown here: it never waits for a terminal, nor dies of one that is gone. Ctrl-C and a connection that ends
stop it as `weft stop` does; with --detach it goes on. `ray submit` passes on only whether the status was 0.
"""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

PROJECT = Path("~/weft")
LOGS = Path("~/weft-logs")
REFUSED_S = 20.0  # what is wrong with a recipe shows sooner
LOOK_S = 0.1
PR_SET_PDEATHSIG = 1  # of Linux's prctl
HELP = "usage: ray submit CLUSTER.yaml cluster/submit.py -- RECIPE [--detach] [options of weft search]"


def main(arguments: Sequence[str]) -> int:
    """The exit status: that of the search, or 0 for one that was detached."""
    given = list(arguments)
    if not given or given[0] in {"-h", "--help"} or given[0].startswith("-"):
        print(HELP, file=sys.stderr)
        return 0 if given[:1] in (["-h"], ["--help"]) else 2
    detach = "--detach" in given
    name, *options = [word for word in given if word != "--detach"]
    command, log = search_command(name, options), new_log(name)
    with log.open("rb") as said:
        return _detached(command, log, said) if detach else _attached(command, log, said)


def search_command(name: str, options: Sequence[str]) -> list[str]:
    placed = {"--address", "--local"} & {option.partition("=")[0] for option in options}
    address = [] if placed else ["--address", "auto"]
    return [sys.executable, "-m", "cluster.cli", "search", resolved(name), *address, *options]


def resolved(name: str) -> str:
    """The recipe's file in the working folder or in the project; else the name, for weft's own recipes."""
    for folder in (Path(), PROJECT.expanduser()):
        if (folder / name).is_file():
            return str((folder / name).absolute())
    return name


def new_log(name: str) -> Path:
    """An empty file for what a search says."""
    folder = LOGS.expanduser()
    folder.mkdir(exist_ok=True)
    log = folder / f"{Path(name).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log.touch(exist_ok=False)
    return log


def _started(command: Sequence[str], log: Path, *, outlives: bool) -> subprocess.Popen[bytes]:
    """The search, in a session of its own. Unless it `outlives` this process it is told to end (SIGTERM) when
    this process dies, however that happens."""

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    libc = ctypes.CDLL(None)  # loaded before the fork
    columns = str(shutil.get_terminal_size().columns)
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": columns},
            preexec_fn=None if outlives else tie,
        )  # fmt: skip


def _attached(command: Sequence[str], log: Path, said: BinaryIO) -> int:
    """Show what it says until it ends, and pass on who wants it to end."""
    search: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        if search is None:
            sys.exit(128 + number)
        if number == signal.SIGINT:
            search.send_signal(signal.SIGINT)
        else:  # once: a terminal that goes says so several times
            for polite in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(polite, signal.SIG_IGN)
            search.send_signal(signal.SIGTERM)

    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, pass_on)
    search = _started(command, log, outlives=False)
    while (status := search.poll()) is None:
        _show(said)
        time.sleep(LOOK_S)
    _show(said)
    return _status(status)


def _detached(command: Sequence[str], log: Path, said: BinaryIO) -> int:
    """Waits a moment for what is refused at once."""
    search = _started(command, log, outlives=True)
    try:
        status = search.wait(REFUSED_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        _show(said)
        print(f"detached; its output: {shlex.quote(str(log))} on {os.uname().nodename}, process {search.pid}")
        return 0
    _show(said)
    return _status(status)


def _status(ended: int) -> int:
    """As a shell tells it."""
    return ended if ended >= 0 else 128 - ended


def _show(said: BinaryIO) -> None:
    """What was added to the file, on standard output; nobody may be there to read it any more."""
    new = said.read()
    try:
        while new:
            new = new[os.write(1, new) :]
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
