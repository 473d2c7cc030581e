"""Asking a search to stop, from anywhere that reaches its run's folder: a file that its driver looks for."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.run import Ended, Run
from networks.errors import CannotGoOn, UserError

STOP = "stop.json"
LOOK_S = 2.0


@contextmanager
def heeding(run: Run) -> Iterator[None]:
    """While this process drives the run: a wish that it stops is a polite request to end (SIGTERM). To be
    entered with the run's lock held; wishes of before do not count."""
    wish, ended = run.folder / STOP, threading.Event()
    wish.unlink(missing_ok=True)

    def look() -> None:
        while not ended.wait(LOOK_S):
            with suppress(CannotGoOn, UserError):  # S3 may be out of reach; the search says so itself
                if wish.is_file():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        wish.unlink(missing_ok=True)


def stop(run: Run, patience_s: float) -> Ended:
    """Ask the run's driver to stop, and wait until it has: how it ended. Raises `UserError` when nobody
    drives it, and `CannotGoOn` when it goes on for longer than `patience_s`; it may yet stop then."""
    if not run.driver:
        raise UserError("RUN", run.name, "a run that a process is driving", _how(run))
    run.write_json(STOP, {"time": time.time_ns() // 1_000_000})
    until = time.monotonic() + patience_s
    while (ended := run.ended) is None or run.driver:
        if time.monotonic() > until:
            raise CannotGoOn(f"{run.name} was asked to stop and has not within {patience_s:g} s; it may yet")
        time.sleep(LOOK_S / 4)
    return ended


def _how(run: Run) -> str:
    ending = run.ending
    return f"It has ended: {ending}." if ending else f"Its process died: weft resume {run.name}"
