"""How a replica that hangs is told from one that is slow.

A replica whose work hangs (a file that is never read, a kernel that never ends) still answers pings, from
another thread, and those who wait for it in an exchange would wait for minutes. So the answer to a ping says
what the replica is at and since when, and the pool compares:

- a step's share, while another has waited for it in the exchange or has come back from the same call: no
  longer than max(10 s, 5 median steps); a replica's first share may take a minute;
- the same where nobody waits, with one replica or when all are late together: no longer than
  max(10 minutes, 20 times the slowest step). A slow machine is slow for all;
- a candidate: no longer than max(1 minute, 20 times the slowest candidate). Candidates wait for nobody;
- anything that has not been seen to end yet: an hour.

None of it decides a bit of a result.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cluster.messages import Pulse
from trainers.group import Group

STALL_S = 10.0  # behind the others for this long, or for five steps where that is longer: stalled
STALL_STEPS = 5
FIRST_S = 60.0  # instead of STALL_S where nothing is known to be warm: libraries, files, the GPU
SLOWEST = 20  # times the slowest so far, where there is nobody to compare with
FLOORS = {"train": 600.0, "score": 60.0}
UNKNOWN_S = 3600.0


class Clock:
    """What a replica is at: said by the thread that works, read by the one that answers pings."""

    def __init__(self) -> None:
        self._at = ("", False, 0.0)  # one object: the other thread never sees half of a change

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """One call."""
        self.tick(name)
        try:
            yield
        finally:
            self._at = ("", False, 0.0)

    def tick(self, name: str, *, waiting: bool = False) -> None:
        """Something new begins."""
        self._at = (name, waiting, time.monotonic())

    def pulse(self, generation: int) -> Pulse:
        task, waiting, since = self._at
        seconds = time.monotonic() - since if task else 0.0
        return Pulse(task, 0.0 if waiting else seconds, seconds if waiting else 0.0, generation)


class Timed:
    """A group whose waiting is told to a clock."""

    def __init__(self, group: Group, clock: Clock) -> None:
        self._group, self._clock = group, clock

    @property
    def rank(self) -> int:
        return self._group.rank

    @property
    def size(self) -> int:
        return self._group.size

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        if own[0].is_cuda:  # what the GPU has not finished is this member's own work
            torch.cuda.current_stream(own[0].device).synchronize()
        self._clock.tick("train", waiting=True)
        try:
            return self._group.gather(own, sizes, owners)
        finally:
            self._clock.tick("train")


@dataclass
class Usual:
    """What was measured. `unit`: median seconds of a training step, or mean of a candidate, whichever is
    worked on; `slowest`: most seconds of each task so far."""

    unit: float = 0.0
    slowest: dict[str, float] = field(default_factory=dict)

    def heard(self, task: str, unit: float, slowest: float) -> None:
        self.unit = unit
        self.slowest[task] = max(slowest, self.slowest.get(task, 0.0))

    @property
    def patience(self) -> float:
        """With one that is behind the others, or does not answer."""
        return max(STALL_S, STALL_STEPS * self.unit)

    def limit(self, task: str) -> float:
        """What a step's share, a candidate or a call may take where there is nothing to compare with."""
        if task not in self.slowest:
            return UNKNOWN_S
        return max(FLOORS[task], SLOWEST * self.slowest[task])


def hangs(pulse: Pulse, waited: float, warm: bool, usual: Usual) -> bool:
    """Whether a replica hangs. `waited`: seconds that another has waited for it; `warm`: it has trained a
    step before."""
    if pulse.task == "train":
        first = 0.0 if warm else FIRST_S
        if min(pulse.working, waited) > max(first, usual.patience):
            return True
    return pulse.working > usual.limit(pulse.task)


def stuck(pulses: Sequence[Pulse], usual: Usual) -> bool:
    """Whether all wait for each other, and nothing comes: their network, not one of them, is broken."""
    if len(pulses) < 2 or "train" not in usual.slowest:
        return False
    longest = max(FIRST_S, SLOWEST * usual.slowest["train"])
    return all(pulse.waiting > longest for pulse in pulses)
