"""One driver a run. On a disk the kernel's lock, which goes with its process; in S3 an object that its holder
renews, and that another may take once it was not renewed for `EXPIRES_S` by the clock of the store."""

import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.s3 import S3Path
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)

EXPIRES_S, RENEW_S, LOOK_S = 30.0, 5.0, 1.0


class LeaseLost(CannotGoOn):
    """Another process drives the run now: everything in it is that one's to write."""


class Lease:
    """That of a driver. `check` raises `LeaseLost` when another has taken it."""

    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost("another process has taken over this run while S3 was out of reach")


@contextmanager
def disk_lease(file: Path, run: str) -> Iterator[Lease]:
    """Raises `UserError` when another process holds it."""
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _taken(run, "") from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield Lease()


def disk_holder(file: Path) -> str:
    """The process of this machine that holds it, as text; empty when none does."""
    try:
        with file.open() as held:
            pid = held.read().strip()
            if not Path(f"/proc/{pid or 'nobody'}").exists():
                return ""  # without touching a lock that somebody may be taking at this moment
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except OSError:
        return f"process {pid}"
    return ""


def s3_holder(path: S3Path) -> str:
    """Who renewed it lately, as text; empty when nobody did."""
    try:
        return (_holder(path) or "a process") if path.version().age <= EXPIRES_S else ""
    except FileNotFoundError:
        return ""


@contextmanager
def s3_lease(path: S3Path, run: str) -> Iterator[Lease]:
    """Waits for one whose holder seems dead. Raises `UserError` when it is renewed meanwhile."""
    own = S3Lease(path, _acquired(path, run))
    own.start()
    try:
        yield own
    finally:
        own.give_back()


class S3Lease(Lease):
    def __init__(self, path: S3Path, tag: str) -> None:
        super().__init__()
        self._path, self._tag, self._count = path, tag, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            self._count += 1
            try:
                tag = self._path.put_if(_note(self._count), self._tag)
            except (CannotGoOn, UserError) as error:  # it may yet be ours when S3 is back
                log.warning("the lease of this run could not be renewed: %s", error)
                continue
            if tag is None:
                self.lost = True
                return
            self._tag = tag

    def give_back(self) -> None:
        self._ended.set()
        self._thread.join()
        if not self.lost and self._path.put_if(b"{}", self._tag) is not None:  # not another's
            self._path.unlink(missing_ok=True)


def _acquired(path: S3Path, run: str) -> str:
    """The tag of our own version of the object."""
    seen, said = "", False
    while True:
        tag = path.put_if(_note(0), None)
        if tag is not None:
            return tag
        try:
            found = path.version()
        except FileNotFoundError:  # given back meanwhile
            continue
        if seen and found.tag != seen:
            raise _taken(run, _holder(path))
        seen = found.tag
        if found.age > EXPIRES_S:
            tag = path.put_if(_note(0), found.tag)
            if tag is None:
                raise _taken(run, _holder(path))
            return tag
        if not said:
            said = True
            log.warning("waiting for %g s, to see whether %s still drives %s",
                        EXPIRES_S - found.age, _holder(path) or "another process", run)  # fmt: skip
        time.sleep(LOOK_S)


def _note(count: int) -> bytes:
    # With a mark, for equal contents have equal tags.
    note = {"host": platform.node(), "pid": os.getpid(), "count": count, "mark": uuid.uuid4().hex}
    return json.dumps(note).encode()


def _holder(path: S3Path) -> str:
    try:
        note = json.loads(path.read_text())
        return f"process {note['pid']} on {note['host']}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _taken(run: str, holder: str) -> UserError:
    return UserError("RUN", run, "a run that no other process is driving", holder and f"That is {holder}.")
