"""The pool whose replicas are Ray actors.

The process that holds the pool calls the actors and waits for them; it has no thread of its own for that.
Training goes in stretches of a second or so. When a replica dies, the exchange of the others breaks at
once; they go on in a new group, those that lag brought level with the furthest, and the replacement joins
between two stretches. None of that decides a bit: a step is the same whoever computes it.
"""

import statistics
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray
import torch
from torch import Tensor

from cluster.actors import Died, answer
from cluster.dispatch import Dispatch
from cluster.members import Member, Members, Share, check_replicas
from cluster.messages import About, Scored, Trained
from cluster.pool import Crew
from cluster.process_group import Meeting, Seat
from cluster.replica import ReplicaJob
from cluster.replica_actor import State, arrays_of
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.one_shot import rebased

STRETCH_S = 1.5  # of training, after which a replacement may join
IN_FLIGHT = 2  # calls to score that a replica has: one at work, one ready
SNAPSHOT_S = 10.0  # of training, after which the state is fetched, in case that all die at once
SNAPSHOT_SHARE = 0.02  # but fetching takes no more of the time than this


class Snapshot(NamedTuple):
    """A state that outlives the replicas, in Ray's store and here."""

    ref: ray.ObjectRef
    state: State
    step: int


class RayPool:
    """A pool of replicas, each an actor with `cpus` and `gpus`, in the caller's placement group where there
    is one. Ray must be connected.

    `elastic`: so many more join where the cluster has room, outside of the placement group, and leave with
    their machines. `retries`: how many deaths of its process a candidate is tried again after, and how many
    for each replica are borne in a row before any progress. `allow_mixed`: accept replicas whose numerics
    differ.
    Raises `UserError` for more replicas than paths per step or than there is room for, and for replicas
    that compute differently; `PoolLost` when replicas die again and again.
    """

    def __init__(
        self,
        job: ReplicaJob,
        replicas: int,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        elastic: int = 0,
        allow_mixed: bool = False,
        retries: int = 3,
    ) -> None:
        share = Share(cpus, gpus)
        check_replicas(job.supernet, replicas, share, elastic)
        # Two members on one GPU are more than NCCL takes.
        self._backend = "nccl" if job.device != "cpu" and gpus >= 1 else "gloo"
        self._dispatch = Dispatch(retries)
        self._step = 0
        self._losses: dict[int, float] = {}  # by step, of the call to train that runs
        self._rate: float | None = None
        self._snapshot: Snapshot | None = None  # of the furthest step of which there is one
        self._snapshot_due = time.monotonic() + SNAPSHOT_S
        self._paces: deque[float] = deque(maxlen=9)  # seconds a step
        self._seats: dict[Member, Seat] = {}
        self._meeting = Meeting(ray.util.get_node_ip_address())
        try:
            self._members = Members(
                job, replicas, share, allow_mixed=allow_mixed, retries=retries, elastic=elastic
            )
        except BaseException:
            self._meeting.close()
            raise

    @property
    def about(self) -> About:
        assert self._members.about is not None
        return self._members.about

    @property
    def step(self) -> int:
        return self._step

    @property
    def crew(self) -> Crew:
        alive = self._members.alive
        return Crew(len(alive), len({member.hello.node for member in alive}), self._members.deaths)

    def train(self, steps: int) -> dict[str, float]:
        self._finish_scoring()
        first, target = self._step, self._step + steps
        self._losses.clear()
        self._rate = None
        self._reach(target)
        while self._rate is None:  # there was nothing to train
            self._stretch(target)
        loss = 0.0
        for step in range(first, target):  # in this order and one by one, as a replica alone adds them
            loss += self._losses[step]
        return {"train_loss": loss / max(1, steps), "lr": self._rate}

    def _reach(self, target: int) -> None:
        """Train until all stand at this step; again, if it was reached before and all have died since."""
        while (at := self._level()) < target:
            pace = statistics.median(self._paces) if self._paces else STRETCH_S
            self._stretch(min(target, at + max(1, round(STRETCH_S / pace))))
            if time.monotonic() >= self._snapshot_due:
                started = time.monotonic()
                self._fetch(self._furthest())
                took = time.monotonic() - started
                self._snapshot_due = time.monotonic() + max(SNAPSHOT_S, took / SNAPSHOT_SHARE)

    def _level(self) -> int:
        """Bring all to the step of the furthest; that step."""
        members = self._members
        while True:
            members.admit()
            best = self._furthest()
            snapshot = self._snapshot
            if snapshot is not None and snapshot.step > best.step:
                self._load([best], snapshot)
                continue
            if best.step < 0:  # all are new, and nothing but the job says where to begin
                for member in members.alive:
                    member.step = 0
            late = [member for member in members.alive if member.step < best.step]
            if not late:
                return best.step
            if snapshot is None or snapshot.step < best.step:
                self._fetch(best)
            else:
                self._load(late, snapshot)

    def _furthest(self) -> Member:
        self._members.await_one()
        return max(self._members.alive, key=lambda member: member.step)

    def _fetch(self, member: Member) -> None:
        """Fetch this one's state, unless it dies, or is new and stands behind what is there."""
        ref = member.actor.state.remote()
        answers: dict[Member, State] = self._answers({member: ref})
        if member in answers:
            member.step = answers[member][1]["step"]  # further than known, after an interruption
            self._step = max(self._step, member.step)
            if self._snapshot is None or member.step >= self._snapshot.step:
                self._snapshot = Snapshot(ref, answers[member], member.step)

    def _load(self, members: Sequence[Member], snapshot: Snapshot) -> list[Member]:
        """Give them this state; those who have it now."""
        answers = self._answers({member: member.actor.load_state.remote(snapshot.ref) for member in members})
        for member in answers:
            member.step = snapshot.step
        return list(answers)

    def _stretch(self, until: int) -> None:
        """Let all train until this step, from the same one. Where one dies the others come less far."""
        crew = list(self._members.alive)
        if list(self._seats) != crew:
            seats = self._meeting.seats(len(crew), self._backend)
            self._seats = dict(zip(crew, seats, strict=True))
        answers: dict[Member, Trained] = self._answers(
            {member: member.actor.train.remote(self._seats[member], until) for member in crew}
        )
        for member, trained in answers.items():
            member.step, self._rate = trained.step, trained.lr
            member.warm = member.warm or bool(trained.losses)
            self._step = max(self._step, trained.step)
            begun = trained.step - len(trained.losses)
            self._losses |= {begun + i: loss for i, loss in enumerate(trained.losses)}
        lost = [trained.lost for trained in answers.values() if trained.lost]
        errors = [trained.error for trained in answers.values() if trained.error is not None]
        if errors:
            raise errors[0]
        paces = [trained.seconds / len(trained.losses) for trained in answers.values() if trained.losses]
        if paces:
            self._members.progressed()
        elif lost and len(answers) == len(crew):  # deaths are counted where they are noticed
            self._members.fruitless(lost[0])
        if paces and not lost:
            self._paces.append(max(paces))
            self._members.usual.heard("train", statistics.median(self._paces), max(paces))

    def _answers(self, calls: dict[Member, ray.ObjectRef]) -> dict[Member, Any]:
        """What is answered to the calls. Those who die before they answer are buried; an error that one
        answers with is raised when all have answered."""
        waiting = {ref: member for member, ref in calls.items()}
        for member in calls:
            member.called = time.monotonic()
        answers: dict[Member, Any] = {}
        failure: Exception | None = None
        while waiting:
            for ref in self._members.wait(list(waiting)):
                member = waiting.pop(ref)
                try:
                    found = answers[member] = answer(ref)
                except Died as error:
                    self._died(member, error)
                except Exception as error:
                    failure = failure or error
                    self._part(member)
                else:
                    member.answered = time.monotonic()
                    if isinstance(found, Trained) and (found.lost or found.error is not None):
                        self._part(member)
        if failure is not None:
            raise failure from None
        return answers

    def _part(self, member: Member) -> None:
        """This one is out of its group: the others shall not wait for it there."""
        if member in self._seats:
            seats, self._seats = self._seats, {}
            for other, seat in seats.items():
                if other in self._members.alive:
                    other.actor.leave.remote(seat.generation)

    def _died(self, member: Member, why: Died) -> None:
        with suppress(Died):
            self._harvest(member)
        calls, member.calls = list(member.calls), deque()
        for _, chunk in reversed(calls[1:]):
            self._dispatch.returned(chunk)
        self._members.bury(member)
        self._part(member)
        if calls:
            self._dispatch.died(calls[0][1], member.hello.about.place)
        else:
            self._members.fruitless(why)

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        self._dispatch.submit(candidates, part)
        self._reach(self._step)
        self._feed()

    def collect(self, number: int) -> list[Scored]:
        if number > self._dispatch.queued:
            raise IndexError(f"{number} results of {self._dispatch.queued} candidates that are queued")
        while not self._dispatch.ready(number):
            self._score_on()
        return self._dispatch.take(number)

    def _finish_scoring(self) -> None:
        """What was submitted is scored with the weights of then."""
        while self._dispatch.outstanding:
            self._score_on()

    def _score_on(self) -> None:
        """Wait for an answer, or a death, of those who score."""
        self._reach(self._step)
        self._feed()
        calls = {member.calls[0][0]: member for member in self._members.alive if member.calls}
        if not calls:  # the last candidate was given up
            return
        for ref in self._members.wait(list(calls)):
            try:
                self._harvest(calls[ref], ready=True)
            except Died as error:
                self._died(calls[ref], error)
        self._feed()

    def _harvest(self, member: Member, ready: bool = False) -> None:
        """Read what this one has scored; `ready`: its first call has ended. Raises `Died` when it did so over
        the next."""
        while member.calls and (ready or ray.wait([member.calls[0][0]], timeout=0)[0]):
            ready = False  # of the next one that is not known: asking costs a third of a millisecond
            ref, chunk = member.calls[0]
            results = answer(ref)
            member.calls.popleft()
            member.answered = time.monotonic()
            self._dispatch.done(chunk, results)
            self._members.progressed()
            slowest = max(result.seconds for result in results)
            self._members.usual.heard("score", self._dispatch.candidate_seconds, slowest)

    def _feed(self) -> None:
        """Give candidates to those who have least to do."""
        while self._members.alive:
            member = min(self._members.alive, key=lambda member: len(member.calls))
            full = len(member.calls) >= IN_FLIGHT
            chunk = None if full else self._dispatch.next_chunk(len(self._members.alive))
            if chunk is None:
                return
            member.calls.append((member.actor.score.remote(chunk.candidates, chunk.part), chunk))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        while self._snapshot is None or self._snapshot.step != self._step:
            self._reach(self._step)
            self._fetch(self._furthest())
        arrays, values = self._snapshot.state
        return {name: torch.tensor(array) for name, array in arrays.items()}, dict(values)

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._finish_scoring()
        state = (arrays_of(tensors), dict(values))
        snapshot = Snapshot(ray.put(state), state, values["step"])
        while True:
            self._members.await_one()
            if self._load(self._members.alive, snapshot):
                break
        self._snapshot, self._step = snapshot, snapshot.step

    def reset(self, job: ReplicaJob, *, rebase: bool = False) -> None:
        self._finish_scoring()
        state = self.state() if rebase or job.kept != self._members.job.kept else None
        self._members.begin_anew(job)
        self._answers({member: member.actor.reset.remote(job) for member in self._members.alive})
        if state is not None:  # a snapshot of before would bring back what is dropped, or where angles began
            tensors, values = state
            self.load_state(rebased(tensors) if rebase else tensors, values)

    def digest(self) -> str:
        while True:
            self._reach(self._step)
            member = self._furthest()
            answers = self._answers({member: member.actor.digest.remote()})
            if member in answers:
                return str(answers[member])

    def close(self) -> None:
        self._members.close()
        self._meeting.close()
        self._seats, self._snapshot = {}, None
