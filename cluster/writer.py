"""The process that writes a search to MLflow: ``python -m cluster.writer RUN [--driver PID]``.

It reads committed segments after its cursor, upserts them, and waits for more. Segments beyond the cursor
are its outbox: when MLflow fails it starts over from them, after a pause. It ends when ``finished.json``
is there and everything is written (exit status 0), when it was told to (SIGTERM), or when its driver has
died and what was committed is written (1; nothing is lost, a later writer goes on). 2: bad run folder.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cluster.files import AnyPath, path_of
from cluster.lease import Lease, disk_lease, s3_lease
from cluster.ledger import read_checked, read_segment
from cluster.mlflow_view import SearchView
from cluster.run import TRACKING, Run
from cluster.s3 import S3Path
from cluster.secrets import clean, redacted
from cluster.shrinking import RUNGS, Rung, Rungs
from cluster.standing import Standing
from cluster.tracker import BAD_RUN, MLFLOW_ENVIRONMENT, Cursor, follow_move
from networks.errors import CannotGoOn, UserError

log = logging.getLogger("weft.writer")

POLL_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LEADERS_EVERY_S = 30.0
PATIENCE_S = 60.0  # how long a writer without a driver bears with an MLflow that fails
NICENESS = 19  # it shares the cores with what computes, and may not slow that down
Step = Literal["done", "idle", "stopped", "orphan"]


class Writer:
    """Keeps MLflow level with one run folder. `driver` is the parent's process id; without one, what is
    committed is written once. `connect` gives a client; `stop` ends the work between two calls."""

    def __init__(
        self,
        run: AnyPath,
        driver: int | None = None,
        connect: Callable[[str], MlflowClient] = MlflowClient,
        stop: threading.Event | None = None,
    ) -> None:
        self.run, self.driver, self._connect = Run(run), driver, connect
        self.stop = stop or threading.Event()
        self.lease = Lease()  # that of the record; who serves for long holds a real one
        self.ledger = self.run.ledger
        try:
            self.uri, about = self.run.tracking_uri, self.run.about
            self._metric, self._shrinks = str(about["metric"]), bool(about["recipe"].get("shrinking"))
        except (OSError, ValueError, KeyError) as error:
            raise UserError("RUN", str(run), "the folder of a search", f"run.json: {error!r}.") from None
        (self.run.work / "tracking").mkdir(parents=True, exist_ok=True)
        self._rungs, self._dropped = Rungs(self.run.folder / RUNGS), list[Rung]()
        self._view: SearchView | None = None
        self._leaders_at = 0.0
        self._born = time.monotonic()

    def serve(self) -> int:
        """Work until the end; the process's exit status. Raises `UserError` for an altered ledger."""
        pause, failing_since = FIRST_PAUSE_S, None
        while not self.stop.is_set() and not self.lease.lost:
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
        finished = self.run.ended
        view = self._view or self._open(reopen=driven and finished is None)
        self._write_rungs(view)
        for number, segment in self.ledger.since(self._cursor.segments, whole=finished is not None):
            rows = read_segment(segment)
            for row in () if view.frontier_only else rows:
                if self.stop.is_set() or self.lease.lost:
                    return "stopped"
                view.write_row(row)
            view.write_best(self._standing.update(number, rows))
            self._move(self._cursor._replace(segments=number + 1))
            if time.monotonic() - self._leaders_at > LEADERS_EVERY_S:
                view.write_leaders(self._standing.leaders())
                self._leaders_at = time.monotonic()
        if finished is not None:
            if self._cursor.finished != finished.time:
                view.finish(self._standing.leaders(), *finished)
                self._move(self._cursor._replace(finished=finished.time))
            return "done"
        if driven:
            return "idle"
        if self.driver is not None:  # it died; a resumed search reopens the run
            view.end("KILLED", int(time.time() * 1000))
        return "orphan"

    def _write_rungs(self, view: SearchView) -> None:
        """What a search has dropped since the last time; earlier rungs are written again, unchanged."""
        if self._shrinks and (added := [path for _, path in self._rungs.since(len(self._dropped))]):
            self._dropped += [Rung.model_validate(rung) for path in added for rung in read_checked(path)]
            view.write_rungs(self._dropped)

    def patient(self) -> bool:
        """Whether to wait for another writer. Not after the driver's death: whoever holds the lock drains."""
        if self.stop.is_set():
            return False
        return self._driven if self.driver is not None else time.monotonic() < self._born + PATIENCE_S

    @property
    def _driven(self) -> bool:
        return self.driver is not None and os.getppid() == self.driver

    def _open(self, reopen: bool) -> SearchView:
        """Read what MLflow has, and go on from the cursor if it is of the same parent run."""
        follow_move(self.run)
        view = SearchView(self._connect(self.uri), self.run)
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
        self._leaders_at, self._dropped = time.monotonic(), []
        self._view = view
        return view

    def _move(self, cursor: Cursor) -> None:
        cursor.save(self.run)
        self._cursor = cursor

    def _said(self, error: Exception) -> str:
        told = isinstance(error, MlflowException | OSError)
        return clean(f"{type(error).__name__}: {error}" if told else traceback.format_exc(), self.uri)


@contextmanager
def only_writer(run: Run, patient: Callable[[], bool]) -> Iterator[Lease | None]:
    """Hold the run's record, so that two writers never meet: on this machine, and for a run in S3 anywhere.
    None if it is taken and `patient` turns false.

    It goes with the process that holds it, however that dies: the kernel's lock at once, in S3 after a while.
    """
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(disk_lease(run.work / "tracking" / "lock", run.name))
                if isinstance(run.folder, S3Path):
                    lease = held.enter_context(s3_lease(run.folder / "writer.json", run.name))
            except UserError:
                held.close()
                if patient():
                    time.sleep(0.2)
                    continue
                yield None
                return
            yield lease
            return


@contextmanager
def known_to_mlflow(uri: str) -> Iterator[None]:
    """A server's artifact addresses are resolved through MLflow's own setting, which it puts into the
    environment: there it would be taken for the user's by the next search of this process."""
    before = os.environ.get(TRACKING)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        os.environ.pop(TRACKING, None)
        if before is not None:
            os.environ[TRACKING] = before


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.writer", description="Write a search to MLflow.")
    parser.add_argument("run", type=path_of, metavar="RUN", help="folder of the search")
    parser.add_argument("--driver", type=int, metavar="PID", help="parent process to work for until it ends")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    os.environ.update(MLFLOW_ENVIRONMENT)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        writer = Writer(options.run, options.driver, stop=stop)
        with known_to_mlflow(writer.uri), only_writer(writer.run, writer.patient) as lease:
            if lease is None:
                log.warning("another writer works on %s", options.run)
                return 1
            writer.lease = lease
            log.info("writing %s to %s", options.run, redacted(writer.uri))
            return writer.serve()
    except UserError as error:
        log.error("%s", error)
        return BAD_RUN
    except CannotGoOn as error:  # S3 is out of reach; a later writer goes on
        log.error("%s", error)
        return 1


def step_back() -> None:
    """Leave the cores to the search. Linux may schedule by sessions (sched_autogroup): the niceness of a
    process counts within its own then, and between sessions it is the session's that does."""
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


if __name__ == "__main__":  # beside a search; `weft sync` has nobody to leave the cores to
    step_back()
    sys.exit(main())
