"""The command line for tests: recipes on disk, and `weft` in processes that see no other test's files."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

import yaml

from cluster import cli
from tests.cluster.searches import SMALL

ROOT = Path(__file__).resolve().parents[2]


def write_recipe(folder: Path, name: str = "small.yaml", **changes: object) -> Path:
    """The small recipe as a file."""
    path = folder / name
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its modification time."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@contextmanager
def private_environment(**changes: str | None) -> Iterator[dict[str, str]]:
    """Variables with a home and a temporary folder of their own. None takes a variable away.

    The folders stand right under the system's: a path below pytest's is too long for Ray's sockets.
    """
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    try:
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        home, tmp = str(folder / "home"), str(folder / "tmp")
        variables = {
            **os.environ, "PYTHONPATH": str(ROOT), "HOME": home, "TMPDIR": tmp, "RAY_TMPDIR": tmp,
            "COLUMNS": "80", "PYTHONUNBUFFERED": "1", **changes,
        }  # fmt: skip
        yield {name: value for name, value in variables.items() if value is not None}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def weft_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cluster.cli", *arguments]


def run_weft(
    *arguments: str, cwd: Path, env: dict[str, str], timeout: float = 150
) -> subprocess.CompletedProcess[str]:
    """Run `weft` to its end."""
    return subprocess.run(
        weft_command(*arguments), cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True
    )


def json_of(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object that a command printed."""
    assert finished.returncode == 0, finished.stderr
    value = json.loads(finished.stdout)
    assert isinstance(value, dict)
    return value


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def weft(*arguments: str, cwd: Path) -> Ended:
    """The same command in this process, which saves its start."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["weft", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return Ended(int(str(code or 0)), out.getvalue(), err.getvalue())


def heed_ctrl_c() -> None:
    """Where the tests themselves run in the background Ctrl-C is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Background:
    """A command that runs while the test goes on, in a process group of its own."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._output = (cwd / f"output-{uuid.uuid4().hex[:8]}.txt").open("w+")
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()

    def signal_all(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout:g} s"
        time.sleep(0.02)


def processes_of(env: dict[str, str]) -> list[str]:
    """The command lines of all processes that were started with this environment, or by such."""
    mark = f"HOME={env['HOME']}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if line]  # one that is dead and not yet waited for has no command line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
