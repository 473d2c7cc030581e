"""A round: what is done to which search and when, drawn from the seed; then it is played and judged."""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import NamedTuple

from cluster.version import code_version
from networks.counters import counter_random
from networks.errors import UserError
from tests.chaos import outages  # noqa: F401  (enters its disturbances)
from tests.chaos.disturbances import DISTURBANCES
from tests.chaos.progress import Mark
from tests.chaos.ray_nodes import REPLICA, TRIAL
from tests.chaos.results import Result, Undisturbed, hardware
from tests.chaos.site import Site, outliving
from tests.chaos.stage import Hopeless, Stage, Tempo
from tests.chaos.subjects import Subject, SubjectName
from tests.chaos.verdict import Digests, digests, judge

SECOND_SHARE = 0.25  # of rounds, in which two things happen
BESIDE = ("replica", "trial", "driver", "s3-503", "mlflow-pause")
# Those that end or start drivers, or cannot do with another one at once.
ALONE = {"driver", "head", "rival", "mlflow-whole", "altered-checkpoint", "altered-segment", "disk-run"}
LOOK_S = 0.15
SAID = 300  # characters of what is wrong, for the page; the log has all
LEFT_S = 20.0  # for the processes of a round to end by themselves


class Plan(NamedTuple):
    """`parts`: for each disturbance, the part of the undisturbed search after which it comes."""

    number: int
    seed: int
    subject: SubjectName
    names: tuple[str, ...]
    parts: tuple[float, ...]


def pairs() -> list[tuple[str, SubjectName]]:
    """Every disturbance of every search."""
    return [(one.name, subject) for one in DISTURBANCES.values() for subject in one.subjects]


def plan(seed: int, number: int) -> Plan:
    """Round 1, 2, …: each disturbance of each search comes once before one comes again."""
    cycle, place = divmod(number - 1, len(pairs()))
    order = pairs()
    counter_random(seed, "chaos", "order", cycle).shuffle(order)
    name, subject = order[place]
    rng = counter_random(seed, "chaos", number, "plan")
    names: tuple[str, ...] = (name,)
    if rng.random() < SECOND_SHARE:
        names += (rng.choice([one for one in BESIDE if goes_with(one, name, subject)]),)
    return planned(seed, number, subject, names, rng)


def goes_with(second: str, first: str, subject: SubjectName) -> bool:
    """Whether both may be done to one search."""
    if subject not in DISTURBANCES[second].subjects or {first, second} <= ALONE:
        return False
    return first.partition("-")[0] != second.partition("-")[0]


def planned(seed: int, number: int, subject: SubjectName, names: tuple[str, ...], rng: random.Random) -> Plan:
    return Plan(
        number, seed, subject, names, tuple(rng.uniform(*DISTURBANCES[name].window) for name in names)
    )


class Running:
    """A script that waits for its moment: `delay` seconds after as much is committed as at `mark`."""

    def __init__(self, stage: Stage, name: str, mark: Mark, delay: float) -> None:
        self.name, self.mark, self.delay = name, mark, delay
        self._stage, self._script = stage, DISTURBANCES[name].script(stage)
        self._until: Callable[[], bool] = lambda: False
        self._due: float | None = None
        self.begun = self.over = False
        self._go_on()

    def advance(self) -> None:
        if self.over:
            return
        if not self.begun:
            if self._due is None and self._stage.reached(self.mark):
                self._due = time.monotonic() + self.delay
            if self._stage.ended:
                self.over = True
                self._stage.wrong.append(f"{self.name} came too late")
            elif self._due is not None and time.monotonic() >= self._due:
                self.begun = True
                self._go_on()
        elif self._until():
            self._go_on()

    def _go_on(self) -> None:
        try:
            asked = next(self._script)
        except StopIteration:
            self.over = True
            return
        if asked is None:
            self.over = self.begun
        elif callable(asked):
            self._until = asked
        else:
            due = time.monotonic() + asked
            self._until = lambda: time.monotonic() >= due

    def close(self) -> None:
        self._script.close()  # type: ignore[attr-defined]


def moment(undisturbed: Undisturbed, part: float) -> tuple[Mark, float]:
    """The last commit before this part of the undisturbed search, and the seconds since."""
    if part < 0:
        return Mark(0.0, 0, 0), -100 * part
    marks = [Mark(*mark) for mark in undisturbed.marks]
    at = marks[0].at + part * (marks[-1].at - marks[0].at)
    last = max((mark for mark in marks if mark.at <= at), key=lambda mark: mark.at)
    return last, at - last.at


def play(site: Site, planned: Plan, subject: Subject, undisturbed: Undisturbed, tempo: Tempo) -> Result:
    """Play a round. What is wrong with it is in the result; nothing of it is left afterwards."""
    rng = counter_random(planned.seed, "chaos", planned.number, "draws")
    moments = [moment(undisturbed, part) for part in planned.parts]
    began, lost, duplicated, synced = time.monotonic(), 0, 0, False
    with ExitStack() as open_things:
        stage = Stage(site, subject, tempo, site.folder / f"round-{planned.number}", rng)
        open_things.callback(tidy, site, stage)
        running = []
        for name, (mark, delay) in zip(planned.names, moments, strict=True):
            running.append(Running(stage, name, mark, delay))
            open_things.callback(running[-1].close)
        stage.start()
        try:
            to_the_end(stage, running)
            assert stage.run is not None
            synced = "MLflow has not taken everything" in stage.driver.output
            if synced:
                stage.sync()
            expected = Digests(undisturbed.ledger, undisturbed.weights, undisturbed.asked)
            (lost, duplicated), wrong = judge(stage.run, subject, site.mlflow.url, expected)
            stage.wrong += wrong
        except (Hopeless, UserError, RuntimeError, AssertionError) as error:
            stage.wrong.append(f"{type(error).__name__}: {error}")
        log = stage.log()
        recovered = [stage.progress.seconds_to_next(harm) for harm in stage.harms]
    return Result(
        round=planned.number, seed=planned.seed, subject=subject.name, done=planned.names,
        commit=code_version(), when=now(),
        after=tuple((mark.steps, mark.segments, round(delay, 2)) for mark, delay in moments),
        asked=undisturbed.asked, lost=lost, duplicated=duplicated,
        recovered=tuple(round(seconds, 2) for seconds in recovered if seconds is not None),
        seconds=round(time.monotonic() - began, 1), attempts=len(stage.attempts), synced=synced,
        wrong=tuple(stage.plain(one)[:SAID] for one in stage.wrong), hardware=hardware(), log=log,
    )  # fmt: skip


def to_the_end(stage: Stage, running: list[Running]) -> None:
    """Until the search has ended and all is done that was to be done. Raises `Hopeless`."""
    until = time.monotonic() + stage.tempo.round_s
    while not (stage.ended and all(one.over for one in running)):
        if time.monotonic() > until:
            raise Hopeless(f"it does not end within {stage.tempo.round_s:g} s")
        stage.look()
        for one in running:
            one.advance()
        time.sleep(LOOK_S)
    stage.look()


def tidy(site: Site, stage: Stage) -> None:
    """End what is left of a round, note what should have ended by itself, and make the site whole again."""
    stage.close()
    stage.wrong += [f"outlives its search: {one[:200]}" for one in outliving(stage.folder, LEFT_S)]
    until = time.monotonic() + LEFT_S
    while left := [one.command.strip() for one in site.nodes.workers(REPLICA + TRIAL)]:
        if time.monotonic() > until:
            stage.wrong += [f"outlives its search: {one}" for one in left]
            break
        time.sleep(LOOK_S)
    site.mend()


def play_undisturbed(site: Site, subject: Subject, tempo: Tempo) -> Undisturbed:
    """What the search gives when nothing is done to it. Raises RuntimeError when something is wrong."""
    began = time.monotonic()
    with ExitStack() as open_things:
        stage = Stage(site, subject, tempo, site.folder / f"undisturbed-{subject.name}", random.Random(0))
        open_things.callback(tidy, site, stage)
        stage.start()
        to_the_end(stage, [])
        assert stage.run is not None
        found = digests(stage.run, subject)
        _, stage.wrong[:] = judge(stage.run, subject, site.mlflow.url, found)
    if stage.wrong:
        raise RuntimeError(f"undisturbed, {subject.name} is wrong: {stage.wrong}\n{stage.log()}")
    first = stage.progress.marks[0].at
    return Undisturbed(
        key=subject.key, subject=subject.name, commit=code_version(), when=now(), asked=found.asked,
        ledger=found.ledger, weights=found.weights, seconds=round(time.monotonic() - began, 1),
        marks=tuple((round(mark.at - first, 2), mark.steps, mark.segments) for mark in stage.progress.marks),
    )  # fmt: skip


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
