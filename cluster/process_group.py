"""Process groups: how replicas in several processes bring the buffers of a step together.

Torch's groups are built directly, not through `init_process_group`, whose one default group per process
could not be left and joined again. Each group has a generation: a number of its own and, in the store at
the pool's owner, a prefix of its own, so that nothing that an earlier group left behind is ever read.
"""

import datetime
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, TCPStore
from torch.nn import functional as F

from trainers.group import Group

CONNECT_S = 10.0  # a member that dies before the group stands is noticed after this
EXCHANGE_S = 600.0  # the slowest member's share of a step must be done by then
LEAVE_S = 0.1  # between looks at whether to leave, while an exchange lasts
POLL_S = 1e-4


class Lost(RuntimeError):
    """A member of the group is gone, or the group never came about. Nothing of the step was applied."""


class Seat(NamedTuple):
    """One member's place in a group. `backend`: gloo or nccl."""

    generation: int
    rank: int
    size: int
    host: str
    port: int
    backend: str = "gloo"


class Meeting:
    """The store at which groups meet, in the process of the pool's owner."""

    def __init__(self, host: str) -> None:
        """`host`: the address of this machine that the members reach."""
        self.host = host
        self.generation = 0
        self._store: TCPStore | None = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=_time(CONNECT_S)
        )
        self.port = self._store.port

    def seats(self, number: int, backend: str) -> list[Seat]:
        """Those of a new generation."""
        self.generation += 1
        return [Seat(self.generation, rank, number, self.host, self.port, backend) for rank in range(number)]

    def close(self) -> None:
        self._store = None


class JoinedGroup(Group, Protocol):
    """A group that can be left."""

    def leave(self) -> None:
        """Let a `gather` that waits in another thread raise `Lost`, and every later one. A process that dies
        closes its sockets, which gloo notices; a machine that is lost, or a member on a GPU, does not."""
        ...


def join(seat: Seat) -> JoinedGroup:
    """Take a seat; returns when all members are there. Raises `Lost` after `CONNECT_S`."""
    made = NcclGroup if seat.backend == "nccl" else GlooGroup
    try:
        return made(seat)
    except RuntimeError as error:
        raise Lost(str(error)) from None


class _Exchange(ABC):
    """What both kinds of group share: an exchange that can be left while it lasts."""

    rank: int
    size: int
    _group: Any  # torch's stubs leave most of it out

    def __init__(self, seat: Seat) -> None:
        self.rank, self.size = seat.rank, seat.size
        self._left = threading.Event()

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        device = own[0].device
        flat = self._carried(padded(own, sizes, owners, self.size))
        everyone = [torch.empty_like(flat) for _ in range(self.size)]
        try:
            self._check_in()
            work = self._group.allgather(everyone, flat, timeout=_time(EXCHANGE_S))
            while not work.is_completed():
                if self._left.is_set():
                    self._abandon(work)
                self._check_in()
                self._pause(work)
            work.wait()
        except RuntimeError as error:
            raise Lost(str(error)) from None
        return [buffer.to(device) for buffer in separated(everyone, sizes, owners)]

    def leave(self) -> None:
        self._left.set()

    def _check_in(self) -> None:
        if self._left.is_set():
            raise Lost("told to leave")

    def _carried(self, flat: Tensor) -> Tensor:
        """The buffer where the network takes it from."""
        return flat

    @abstractmethod
    def _abandon(self, work: Any) -> None:
        """End an exchange that is to be left."""

    @abstractmethod
    def _pause(self, work: Any) -> None:
        """Between looks at whether the exchange is done and whether to leave."""


class GlooGroup(_Exchange):
    """Over TCP, through the memory of the CPUs, wherever the buffers lie."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        gloo: Any = ProcessGroupGloo
        options = gloo._Options()
        options._timeout = _time(CONNECT_S)
        # By the address that the owner's machine is reached from: a machine's own name may mean loopback.
        options._devices = [gloo.create_device(hostname=_own_address(seat))]
        self._group = gloo(_store(seat), seat.rank, seat.size, options)

    def _carried(self, flat: Tensor) -> Tensor:
        return flat.cpu()

    def _abandon(self, work: Any) -> None:
        """Let an exchange that cannot be ended last until `EXCHANGE_S`, out of everybody's way.

        `abort` and `shutdown` do nothing in torch 2.13's gloo, and the group's destructor waits for what
        runs: a thread that nobody waits for holds it."""
        threading.Thread(target=_outlast, args=(work, self._group), daemon=True).start()

    def _pause(self, work: Any) -> None:
        with suppress(RuntimeError):  # not yet; or it failed, which the last `wait` tells
            work.wait(_time(LEAVE_S))


class NcclGroup(_Exchange):
    """Between GPUs, one for each member.

    NCCL does not notice by itself that a member died: the owner of the pool tells the survivors to leave.
    Its communicator is made by the first exchange, inside a call that cannot be left: one who dies between
    joining and that exchange is waited for until NCCL's own time-outs.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        nccl: Any = torch.distributed.ProcessGroupNCCL  # missing in builds for the CPU
        options = nccl.Options()
        options._timeout = _time(EXCHANGE_S)
        store = _store(seat)
        self._group = nccl(store, seat.rank, seat.size, options)
        arrive(store, seat)

    def _abandon(self, work: Any) -> None:
        self._group.abort()

    def _pause(self, work: Any) -> None:
        time.sleep(POLL_S)


def arrive(store: Store, seat: Seat) -> None:
    """Wait until all members have come this far. Raises RuntimeError after `CONNECT_S`."""
    store.set(f"rank {seat.rank}", "here")
    store.wait([f"rank {rank}" for rank in range(seat.size)], _time(CONNECT_S))


def _outlast(work: Any, group: object) -> None:
    """Hold the group until this exchange has ended."""
    with suppress(RuntimeError):
        work.wait()


def padded(own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int], members: int) -> Tensor:
    """The member's buffers in a row, as long as the longest such row of any member."""
    rows = [0] * members
    for size, owner in zip(sizes, owners, strict=True):
        rows[owner] += size
    row = torch.cat(list(own))
    return F.pad(row, (0, max(rows) - len(row)))


def separated(everyone: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
    """The buffers in path order, from the members' rows."""
    starts = [0] * len(everyone)
    found = []
    for size, owner in zip(sizes, owners, strict=True):
        found.append(everyone[owner][starts[owner] : starts[owner] + size])
        starts[owner] += size
    return found


def _store(seat: Seat) -> PrefixStore:
    store = TCPStore(seat.host, seat.port, is_master=False, wait_for_workers=False, timeout=_time(CONNECT_S))
    return PrefixStore(f"generation {seat.generation}", store)


def _own_address(seat: Seat) -> str:
    """Of the network interface of this machine that leads to the owner's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((seat.host, seat.port))  # of a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)
