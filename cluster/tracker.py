"""MLflow, as a search sees it: a check before the start, and one writer process beside it.

The search only commits segments to its ledger. The writer (`cluster.writer`) reads them and writes to
MLflow; down or slow, MLflow costs the search nothing. This module imports no mlflow.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from cluster.files import write_atomically
from cluster.run import TRACKING, Run
from cluster.secrets import clean, redacted
from networks.errors import UserError, nearest

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
ALLOWED = "sqlite:///FILE, http(s)://HOST:PORT of an MLflow server, or a postgresql / mysql / mssql database"
DRIVER = ". pip install 'weft[postgresql]', and write postgresql+psycopg://"
ANSWER_S = 5.0
LOCAL_ANSWER_S = 30.0  # where MLflow opens its store in our process: on a busy machine that takes seconds
IMPORT_S = 120.0
WRITER = ("-m", "cluster.writer")
BAD_RUN = 2  # the writer's exit status for a run folder that it cannot read

# A repeated create_run makes a second run, so nobody but the writer may repeat a call: it looks first.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}

# Runs in a process of its own, so that nothing mlflow or a resolver waits for can hold up the search.
PROBE = """
import sys
from mlflow import MlflowClient
print("ready", flush=True)
try:
    MlflowClient(tracking_uri=sys.stdin.readline()).search_experiments(max_results=1)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
"""


def check_tracked(named: str | None) -> None:
    """Raise `UserError` unless MLflow can be written to where a search will be tracked: at the address that
    its recipe names, or at that of the environment. What has no address yet can."""
    if named is not None:
        check_tracking(named)
    elif uri := os.environ.get(TRACKING):
        check_tracking(uri, TRACKING)


def check_tracking(uri: str, field: str = "tracking.uri") -> None:
    """Raise `UserError` naming `field` unless MLflow can be written to at this address.

    Writes nothing. A server or database that is silent for 5 s counts as down. The error's text holds
    no user name and no password.
    """
    try:
        _check_tracking(uri)
    except _Unusable as error:
        raise UserError(field, redacted(uri), ALLOWED, clean(str(error), uri)) from None


class _Unusable(Exception):
    """Why an address cannot be used."""


def _check_tracking(uri: str) -> None:
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in {"", "file"} or len(scheme) == 1:  # one letter: a Windows drive
        raise _Unusable(f"MLflow 3 has no folders any more: use sqlite:///{Path(uri).name}.db.")
    if scheme not in SCHEMES:
        raise _Unusable(nearest(scheme, SCHEMES))
    if scheme == "sqlite" and not _check_sqlite(uri):
        return
    _probe(uri, ANSWER_S if scheme in {"http", "https"} else LOCAL_ANSWER_S)


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite URI (three slashes: relative, four: absolute); None for other URIs."""
    if urlsplit(uri).scheme.split("+")[0] != "sqlite":
        return None
    return Path(unquote(uri.partition("://")[2].split("?")[0].removeprefix("/")))


def _check_sqlite(uri: str) -> bool:
    """Whether the file is there. Raises `UserError` where it cannot be written or made."""
    file = sqlite_file(uri)
    assert file is not None
    if not file.name:
        raise _Unusable("It names no file.")
    if file.exists():
        try:
            database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", timeout=ANSWER_S, uri=True)
            with closing(database):
                database.execute("BEGIN IMMEDIATE")
                database.execute("PRAGMA schema_version").fetchone()
                database.rollback()
        except sqlite3.Error as error:
            raise _Unusable(f"The file cannot be used: {error}.") from None
        return True
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _Unusable(f"{folder} is not a folder that can be written to.")
    return False


def follow_move(run: Run) -> None:
    """Make a run's own database name the artifacts beside it: MLflow stores whole paths, and the folder may
    have been moved since. A database elsewhere is left alone."""
    file = run.work / "mlflow.db"
    if run.about["tracking_uri"] is not None or not file.exists():
        return
    name = run.about["experiment"]
    place = (run.work / "mlartifacts" / name).as_uri()
    with closing(sqlite3.connect(file, timeout=LOCAL_ANSWER_S)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # MLflow has not made its tables yet
        for (old,) in database.execute(
            "SELECT artifact_location FROM experiments WHERE name = ? AND artifact_location != ?",
            (name, place),
        ).fetchall():
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?)"
                " WHERE substr(artifact_uri, 1, ?) = ?",
                (place, len(old) + 1, len(old) + 1, f"{old}/"),
            )
            database.execute("UPDATE experiments SET artifact_location = ? WHERE name = ?", (place, name))


def _probe(uri: str, answer_s: float) -> None:
    environment = {**os.environ, **MLFLOW_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(answer_s))}
    probe = subprocess.Popen(
        [sys.executable, "-c", PROBE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert probe.stdin and probe.stdout
        probe.stdin.write(uri)  # not an argument: those can be read by everyone on the machine
        probe.stdin.close()
        probe.stdin = None
        imported = probe.stdout.readline().strip() == "ready"
        _, said = probe.communicate(timeout=answer_s if imported else IMPORT_S)
    except subprocess.TimeoutExpired:
        raise _Unusable(f"MLflow did not answer within {answer_s:g} s. Is its server running?") from None
    finally:
        probe.kill()
        probe.wait()
    if probe.returncode:
        last = (said.strip().splitlines() or ["no reason given"])[-1]
        hint = DRIVER if "No module named 'psycopg" in last else ""
        raise _Unusable(f"MLflow cannot be reached: {last[:400]}{hint}")


class Cursor(NamedTuple):
    """How far the writer is, in ``tracking/cursor.json``: segments written under the run `parent`, and the
    time in the ``finished.json`` that was dealt with. A lost one only costs time."""

    segments: int = 0
    parent: str = ""
    finished: int = 0

    @classmethod
    def load(cls, run: Run) -> "Cursor":
        try:
            return cls(**json.loads((run.work / "tracking" / "cursor.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    def save(self, run: Run) -> None:
        write_atomically(run.work / "tracking" / "cursor.json", json.dumps(self._asdict()).encode())


def outbox_of(run: Run) -> int:
    """Committed segments that are not in MLflow yet, as this machine knows."""
    return max(0, len(run.ledger.segments()) - Cursor.load(run).segments)


class WriterProcess:
    """The writer of one run folder, as a process in a session of its own: Ctrl-C in the terminal does not
    reach it. The driver removes an old ``finished.json`` before it starts one."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the writer unless it runs. What it says goes to ``tracking/writer.log``."""
        if self.running:
            return
        folder = self.run.work / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "writer.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *WRITER, str(self.run.folder), "--driver", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **MLFLOW_ENVIRONMENT},
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Between two calls to MLflow, and for good: another driver's writer goes on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    @property
    def outbox(self) -> int:
        """Committed segments that are not in MLflow yet."""
        return outbox_of(self.run)

    def drain(self, timeout_s: float, on_wait: Callable[[int], None] = lambda outbox: None) -> bool:
        """Wait, after ``finished.json`` was written, until MLflow has everything.

        `on_wait` is told the outbox about twice a second. A writer that died is started again. False
        after `timeout_s` (the writer still runs then), or at once when the ledger cannot be read, which
        ``tracking/writer.log`` explains. ``weft sync`` writes the rest.
        """
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            code = self._process.poll() if self._process else None
            if code in (0, BAD_RUN):
                return code == 0
            self.start()
            assert self._process is not None
            try:
                if self._process.wait(min(0.5, left)):
                    time.sleep(0.5)  # one that dies at once is not started in a tight loop
            except subprocess.TimeoutExpired:
                on_wait(self.outbox)
        return self._process is not None and self._process.poll() == 0  # it may have ended in the last moment
