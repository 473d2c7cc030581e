"""Groups that break: members that die, stop and are told to leave, each in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch.distributed import HashStore

from cluster import process_group
from cluster.process_group import GlooGroup, Lost, Meeting, Seat, arrive, join

SOON = 3.0  # seconds; an exchange would wait 600
PEER = """
import sys, time, torch
from cluster.process_group import GlooGroup, Lost, Meeting, Seat, arrive, join
group = join(Seat(int(sys.argv[1]), 1, 2, "127.0.0.1", int(sys.argv[2])))
print("here", flush=True)
group.gather([torch.ones(2)], [1, 2], [0, 1])
print("gathered", flush=True)
time.sleep(60)  # whatever it sent now could arrive before it is stopped
"""


@pytest.fixture(scope="module")
def meeting() -> Iterator[Meeting]:
    meeting = Meeting("127.0.0.1")
    yield meeting
    meeting.close()


def start_peer(seat: Seat) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PEER, str(seat.generation), str(seat.port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def group(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[GlooGroup, int]]:
    """One of two that have exchanged once, and the process of the other, which stays away from then on."""
    monkeypatch.setattr(process_group, "CONNECT_S", 30.0)  # the other one imports torch first
    own, other = meeting.seats(2, "gloo")
    with start_peer(other) as peer:
        try:
            joined = join(own)
            assert isinstance(joined, GlooGroup)
            found = joined.gather([torch.zeros(1)], [1, 2], [0, 1])
            assert [part.tolist() for part in found] == [[0.0], [1.0, 1.0]]
            assert peer.stdout is not None
            assert [peer.stdout.readline() for _ in range(2)] == ["here\n", "gathered\n"]
            yield joined, peer.pid
        finally:
            peer.kill()


def gather_in_a_thread(group: GlooGroup) -> tuple[threading.Thread, list[Exception]]:
    """A `gather` that waits, and what it raises."""
    raised: list[Exception] = []

    def gather() -> None:
        try:
            group.gather([torch.zeros(1)], [1, 2], [0, 1])
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=gather, daemon=True)
    thread.start()
    return thread, raised


def test_who_waits_for_a_silent_member_can_leave(group: tuple[GlooGroup, int]) -> None:
    """A stopped process stands for a lost machine: neither closes its sockets."""
    joined, peer = group
    os.kill(peer, signal.SIGSTOP)
    thread, raised = gather_in_a_thread(joined)
    thread.join(0.5)
    assert thread.is_alive(), "nothing was waited for"
    started = time.monotonic()
    joined.leave()
    thread.join(SOON)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [Lost]
    with pytest.raises(Lost, match="told to leave"):
        joined.gather([torch.zeros(1)], [1, 2], [0, 1])
    del joined._group  # as an actor that goes on to the next group
    assert time.monotonic() - started < SOON, "the group is not let go of"


def test_the_death_of_a_member_is_noticed_at_once(group: tuple[GlooGroup, int]) -> None:
    joined, peer = group
    os.kill(peer, signal.SIGKILL)
    thread, raised = gather_in_a_thread(joined)
    thread.join(SOON)
    assert [type(error) for error in raised] == [Lost]


def test_who_sits_alone_is_lost_soon(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "CONNECT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(Lost):
        join(meeting.seats(2, "gloo")[0])
    assert time.monotonic() - started < 10


def test_members_arrive_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before NCCL's first exchange, which cannot be left."""
    monkeypatch.setattr(process_group, "CONNECT_S", 0.3)
    store, seats = HashStore(), [Seat(1, rank, 2, "", 0, "nccl") for rank in range(2)]
    with pytest.raises(RuntimeError):
        arrive(store, seats[0])
    late = threading.Timer(0.1, arrive, (store, seats[1]))
    late.start()
    arrive(store, seats[0])
    late.join()
