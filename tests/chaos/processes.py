"""Processes of this machine, by their numbers: who descends from whom, and how to be rid of them."""

import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

GONE_S = 20.0


class Process(NamedTuple):
    """`command`: its command line; Ray's workers name in it what they are."""

    pid: int
    parent: int
    command: str


def living() -> dict[int, Process]:
    """All that are more than a dead one's remains."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it ended meanwhile
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                pid = int(folder.name)
                found[pid] = Process(pid, int(parent), command)
    return found


def below(pids: Collection[int]) -> list[Process]:
    """These and all that descend from them."""
    all_of_them = living()
    family = set(pids) & set(all_of_them)
    grew = True
    while grew:
        born = {one.pid for one in all_of_them.values() if one.parent in family} - family
        family |= born
        grew = bool(born)
    return [all_of_them[pid] for pid in sorted(family)]


def belonging(folder: Path) -> dict[int, str]:
    """The command lines of processes whose environment names this folder, or that have a file open below it:
    a worker of Ray has written its title over its environment, but its log lies there."""
    mark, found = os.fsencode(folder), {}
    for one in living().values():
        place = Path(f"/proc/{one.pid}")
        with suppress(OSError):  # it ended meanwhile
            links = [place / "cwd", *(place / "fd").iterdir()]
            if mark in (place / "environ").read_bytes() or any(map(partial(_leads_below, mark), links)):
                found[one.pid] = one.command.strip()
    found.pop(os.getpid(), None)
    return found


def _leads_below(mark: bytes, link: Path) -> bool:
    with suppress(OSError):  # closed meanwhile
        return os.readlink(os.fsencode(link)).startswith(mark + b"/")
    return False


def signal_each(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_family(pids: Collection[int]) -> list[Process]:
    """SIGKILL these and all that descend from them, at once: nobody is born meanwhile. Who they were."""
    signal_each(pids, signal.SIGSTOP)
    family = below(pids)
    signal_each((one.pid for one in family), signal.SIGKILL)
    return family


class Held:
    """One process for good: its number may be given to another, what is held here may not."""

    def __init__(self, pid: int) -> None:
        self._handle = os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there."""
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        os.close(self._handle)


def end(pids: Iterable[int]) -> None:
    """SIGKILL, and wait until they are gone."""
    pids = set(pids)
    signal_each(pids, signal.SIGKILL)
    until = time.monotonic() + GONE_S
    while pids & set(living()):
        assert time.monotonic() < until, f"processes do not end: {sorted(pids & set(living()))}"
        time.sleep(0.05)
