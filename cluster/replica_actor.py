"""A replica as a Ray actor: one process, whose work is done on one thread and whose pings on another."""

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.messages import Hello, Pulse, Scored, Trained
from cluster.process_group import JoinedGroup, Lost, Seat, join
from cluster.replica import Replica, ReplicaJob
from cluster.stalls import Clock, Timed
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.group import Alone, Group
from trainers.one_shot import OneShotTrainer

State = tuple[dict[str, NDArray[Any]], dict[str, Any]]  # numpy: other processes read it without a copy


class ReplicaActor:
    """`Replica` behind calls. When training goes wrong it leaves its group, and the others see that."""

    def __init__(self) -> None:
        self._group: JoinedGroup | None = None
        self._generation = 0
        self._left = 0  # the newest generation that it was told to leave, if it ever sat there or not
        self._clock = Clock()

    def setup(self, job: ReplicaJob) -> Hello:
        """Build the replica; apart from the constructor, whose errors Ray tells as deaths."""
        self._replica = Replica(job)
        return Hello(self._replica.about, os.getpid(), ray.get_runtime_context().get_node_id())

    def train(self, seat: Seat, until: int) -> Trained:
        """Train on until this step, with those who sit in the same generation."""
        trainer, started = self._replica.trainer, time.monotonic()
        assert trainer is not None
        losses: list[float] = []
        lost, failure = "", None
        with self._clock.task("train"):
            try:
                self._sit(seat)
                while trainer.step < until:
                    losses.append(trainer.train_step(self._company()))
                    self._clock.tick("train")
            except Lost as error:
                self._leave(error)
                lost = str(error) or "lost"
            except Exception as error:
                self._leave(error)
                failure = error.with_traceback(None)
        seconds = time.monotonic() - started
        return Trained(trainer.step, tuple(losses), _last_rate(trainer), seconds, lost, failure)

    def _sit(self, seat: Seat) -> None:
        if seat.generation != self._generation:
            self._group = None
            self._generation = seat.generation
            if seat.generation > self._left and seat.size > 1:
                self._group = join(seat)
        if seat.generation <= self._left:  # said before it came to this call, or while it joined
            raise Lost("told to leave")

    def _company(self) -> Group:
        return Alone() if self._group is None else Timed(self._group, self._clock)

    def _leave(self, error: Exception) -> None:
        """Close the group's sockets: drop all that holds it, the frames of the error too."""
        traceback.clear_frames(error.__traceback__)
        self._group, self._generation = None, 0

    @ray.method(concurrency_group="control")
    def leave(self, generation: int) -> None:
        """Something went wrong with a member of this generation: the others shall not wait for it."""
        self._left = max(self._left, generation)
        group = self._group
        if group is not None and generation == self._generation:
            group.leave()

    @ray.method(concurrency_group="control")
    def ping(self) -> Pulse:
        """Answered while the work goes on, even where it hangs; not by a process that is stopped."""
        return self._clock.pulse(self._generation)

    def score(self, candidates: Sequence[Genes], part: Part | None = None) -> list[Scored]:
        results: list[Scored] = []
        with self._clock.task("score"):
            for genes in candidates:
                self._clock.tick("score")
                results += self._replica.score([genes], part)
        return results

    def state(self) -> State:
        with self._clock.task("state"):
            tensors, values = self._replica.state()
            return arrays_of(tensors), values

    def load_state(self, state: State) -> None:
        arrays, values = state
        with self._clock.task("load_state"):
            self._replica.load_state({name: torch.tensor(array) for name, array in arrays.items()}, values)

    def reset(self, job: ReplicaJob) -> None:
        with self._clock.task("reset"):
            self._replica.reset(job)

    def digest(self) -> str:
        with self._clock.task("digest"):
            return self._replica.digest()


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies, which training on does not change."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def _last_rate(trainer: OneShotTrainer) -> float:
    return trainer.rate(max(0, trainer.step - 1))
