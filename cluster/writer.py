"""The process that writes a search to MLflow: ``python -m cluster.writer RUN [--driver PID]``.

It reads committed segments after its cursor, upserts them, and waits for more. Segments beyond the cursor
are its outbox: when MLflow fails it starts over from them, after a pause. It ends when ``finished.json``
is there and everything is written (exit status 0), when it was told to (SIGTERM), or when its driver has
died and what was committed is written (1; nothing is lost, a later writer goes on). 2: bad run folder.
"""

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cluster.ledger import Ledger, read_segment
from cluster.mlflow_view import SearchView
from cluster.run import Run
from cluster.standing import Standing
from cluster.tracker import BAD_RUN, MLFLOW_ENVIRONMENT, Cursor, clean, follow_move, redacted
from networks.errors import UserError

log = logging.getLogger("weft.writer")

POLL_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LEADERS_EVERY_S = 30.0
PATIENCE_S = 60.0  # how long a writer without a driver bears with an MLflow that fails
NICENESS = 10
Step = Literal["done", "idle", "stopped", "orphan"]


class Writer:
    """Keeps MLflow level with one run folder. `driver` is the parent's process id; without one, what is
    committed is written once. `connect` gives a client; `stop` ends the work between two calls."""

    def __init__(
        self,
        run: Path,
        driver: int | None = None,
        connect: Callable[[str], MlflowClient] = MlflowClient,
        stop: threading.Event | None = None,
    ) -> None:
        self._search = Run(run)
        self.run, self.driver, self._connect = self._search.folder, driver, connect
        self.stop = stop or threading.Event()
        self.ledger = Ledger(run / "ledger")
        try:
            self.uri, self._metric = self._search.tracking_uri, str(self._search.about["metric"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError("RUN", str(run), "the folder of a search", f"run.json: {error!r}.") from None
        (run / "tracking").mkdir(exist_ok=True)
        self._view: SearchView | None = None
        self._leaders_at = 0.0
        self._born = time.monotonic()

    def serve(self) -> int:
        """Work until the end; the process's exit status. Raises `UserError` for an altered ledger."""
        pause, failing_since = FIRST_PAUSE_S, None
        while not self.stop.is_set():
            try:
                step = self.step()
            except UserError:
                raise
            except Exception as error:
                self._view = None
                failing_since = failing_since or time.monotonic()
                log.warning("MLflow failed; next try in %g s: %s", pause, self._said(error))
                if not self._driven and time.monotonic() - failing_since > PATIENCE_S:
                    return 1
                self.stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause, failing_since = FIRST_PAUSE_S, None
            if step == "done":
                log.info("all is written")
                return 0
            if step == "orphan":
                log.info("all that is committed is written; the search has not ended")
                return 1
            self.stop.wait(POLL_S)
        return 1

    def step(self) -> Step:
        """Write everything that is committed now. Raises whatever MLflow raises."""
        driven = self._driven  # both are read before the ledger: what they promise to be there is then found
        finished = self._finished()
        view = self._view or self._open(reopen=driven and finished is None)
        segments = self.ledger.segments()
        for number in range(self._cursor.segments, len(segments)):
            rows = read_segment(segments[number])
            for row in () if view.frontier_only else rows:
                if self.stop.is_set():
                    return "stopped"
                view.write_row(row)
            view.write_best(self._standing.update(number, rows))
            self._move(self._cursor._replace(segments=number + 1))
            if time.monotonic() - self._leaders_at > LEADERS_EVERY_S:
                view.write_leaders(self._standing.leaders())
                self._leaders_at = time.monotonic()
        if finished is not None:
            status, stamp = finished
            if self._cursor.finished != stamp:
                view.finish(self._standing.leaders(), status, stamp // 1_000_000)
                self._move(self._cursor._replace(finished=stamp))
            return "done"
        if driven:
            return "idle"
        if self.driver is not None:  # it died; a resumed search reopens the run
            view.end("KILLED", int(time.time() * 1000))
        return "orphan"

    def patient(self) -> bool:
        """Whether to wait for another writer. Not after the driver's death: whoever holds the lock drains."""
        if self.stop.is_set():
            return False
        return self._driven if self.driver is not None else time.monotonic() < self._born + PATIENCE_S

    @property
    def _driven(self) -> bool:
        return self.driver is not None and os.getppid() == self.driver

    def _finished(self) -> tuple[str, int] | None:
        """How the search ended, and when (Unix ns)."""
        file = self.run / "finished.json"
        if not file.exists():
            return None
        return json.loads(file.read_text())["status"], file.stat().st_mtime_ns

    def _open(self, reopen: bool) -> SearchView:
        """Read what MLflow has, and go on from the cursor if it is of the same parent run."""
        follow_move(self._search)
        view = SearchView(self._connect(self.uri), self._search)
        if reopen:
            view.reopen()
        segments = self.ledger.segments()
        cursor = Cursor.load(self.run)
        if cursor.parent != view.parent or cursor.segments > len(segments):
            log.info("no cursor for this run of MLflow: starting with the first segment")
            cursor = Cursor(parent=view.parent)
        self._cursor = cursor
        self._standing = Standing(self.ledger, self._metric)
        for number in range(cursor.segments):
            self._standing.update(number, read_segment(segments[number]))
        self._leaders_at = time.monotonic()
        self._view = view
        return view

    def _move(self, cursor: Cursor) -> None:
        cursor.save(self.run)
        self._cursor = cursor

    def _said(self, error: Exception) -> str:
        told = isinstance(error, MlflowException | OSError)
        return clean(f"{type(error).__name__}: {error}" if told else traceback.format_exc(), self.uri)


@contextmanager
def only_writer(run: Path, patient: Callable[[], bool]) -> Iterator[bool]:
    """Hold the run's lock, so that two writers never meet; False if it is taken and `patient` turns false.

    The lock is the kernel's: it goes with the process that holds it, however that dies.
    """
    with (run / "tracking" / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if patient():
                    time.sleep(0.2)
                    continue
                yield False
                return
            yield True
            return


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.writer", description="Write a search to MLflow.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the search")
    parser.add_argument("--driver", type=int, metavar="PID", help="parent process to work for until it ends")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    os.environ.update(MLFLOW_ENVIRONMENT)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    os.nice(NICENESS)
    try:
        writer = Writer(options.run, options.driver, stop=stop)
        mlflow.set_tracking_uri(writer.uri)  # a server's artifact addresses are resolved through it
        with only_writer(options.run, writer.patient) as alone:
            if not alone:
                log.warning("another writer works on %s", options.run)
                return 1
            log.info("writing %s to %s", options.run, redacted(writer.uri))
            return writer.serve()
    except UserError as error:
        log.error("%s", error)
        return BAD_RUN


if __name__ == "__main__":
    sys.exit(main())
