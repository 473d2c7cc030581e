"""A round in progress: one search on a site, its driver, and what it has committed so far."""

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.files import AnyPath
from cluster.run import Run, runs_of
from tests.chaos.progress import Mark, Progress
from tests.chaos.site import Site
from tests.chaos.subjects import Subject
from tests.cluster.commands import ROOT, Background, run_weft, weft_command

ATTEMPTS = 6
SYNC_S = 150.0
TAIL = 25  # lines


class Tempo:
    """How long things last, in seconds. `quick`: for CI."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.s3_s, self.mlflow_s, self.disk_s = (6.0, 8.0, 6.0) if quick else (20.0, 30.0, 20.0)
        self.stopped_s = 13.0  # a replica's deadline is 10 s behind the others
        self.round_s = 240.0 if quick else 400.0


class Attempt:
    """One driver, in a working folder and with a WEFT_WORK of its own."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str]) -> None:
        self.background = Background(command, folder, env)

    @property
    def status(self) -> int | None:
        return self.background.process.poll()

    @property
    def output(self) -> str:
        return self.background.output()


class Stage:
    """`storage`: where its runs lie, as its drivers are told; `env`: what its drivers are given beside the
    usual. `wrong`: what went otherwise than it should."""

    def __init__(self, site: Site, subject: Subject, tempo: Tempo, folder: Path, rng: random.Random) -> None:
        self.site, self.subject, self.tempo, self.rng = site, subject, tempo, rng
        self.folder = folder
        self.storage: AnyPath = site.storage
        self.work: Path | None = None  # WEFT_WORK of the first attempt; None: one in its own folder
        self.env: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.others: list[Attempt] = []
        self.harms: list[float] = []
        self.wrong: list[str] = []
        self.outages = 0
        self.run: Run | None = None
        self.over = False  # though its driver did not say so by its status
        self.progress = Progress(site.s3)
        self._held = 0
        self._began = time.monotonic()
        self._journal: list[str] = []
        self._ended: set[int] = set()
        self._before: set[str] = set()
        (folder / "home").mkdir(parents=True)

    def note(self, what: str) -> None:
        """For the log: what happened, and when."""
        self._journal.append(f"{time.monotonic() - self._began:6.1f} s  {what}")

    def start(self) -> None:
        self._before = {run.name for run in self._runs()}
        self.attempts.append(self._attempt(self._search()))

    def resume(self) -> None:
        """By either command, from another folder."""
        self.attempts.append(self._attempt(self._resuming()))

    def rival(self) -> Attempt:
        """Another driver of the same run."""
        self.others.append(self._attempt(self._resuming()))
        return self.others[-1]

    def _resuming(self) -> list[str]:
        if self.rng.random() < 0.5 or self.run is None:
            return [*self._search(), "--resume"]
        return ["resume", self.run.name, "--storage", str(self.storage), *self._place()]

    def _search(self) -> list[str]:
        named = [f"storage={self.storage}", f"tracking.uri={self.site.mlflow.url}"]
        sets = [word for change in named for word in ("--set", change)]
        return ["search", f"{self.subject.raw['name']}.yaml", *sets, *self._place()]

    def _place(self) -> list[str]:
        return ["--address", self.site.nodes.address]

    def _attempt(self, arguments: list[str]) -> Attempt:
        number = len(self.attempts) + len(self.others)
        self.note(f"driver {number} starts: {arguments[0]}")
        folder = self.folder / f"attempt-{number}"
        folder.mkdir()
        self.subject.write(folder)
        return Attempt(folder, weft_command(*arguments), self._environment(number))

    def _environment(self, number: int) -> dict[str, str]:
        own = self.folder / f"work-{number}"
        work = self.work if self.work is not None and number == 0 else own
        return {**self.site.env, **self.env, "HOME": str(self.folder / "home"), "WEFT_WORK": str(work)}

    def _runs(self) -> list[Run]:
        return runs_of(str(self.subject.raw["name"]), self.storage)

    # While it runs ---------------------------------------------------------------------------------------

    @property
    def driver(self) -> Attempt:
        return self.attempts[-1]

    @property
    def ended(self) -> bool:
        """Whether a driver came to the end of the search."""
        return self.over or self.driver.status == 0

    @property
    def finished(self) -> bool:
        """Whether its folder says so."""
        return self.run is not None and self.run.ending == "FINISHED"

    @property
    def gone(self) -> bool:
        return self.driver.status is not None

    def look(self) -> None:
        """Take notice of what is committed, and of a driver that ended before its search: another goes on."""
        if self.run is None:
            self.run = next((run for run in self._runs() if run.name not in self._before), None)
        if self.run is not None and self.progress.look(self.run.folder):
            self.note("committed: step {1}, segment {2}".format(*self.progress.marks[-1]))
        for number, attempt in enumerate(self.attempts):
            if attempt.status is not None and number not in self._ended:
                self._ended.add(number)
                self.note(f"the {number + 1}. driver of this search ended with status {attempt.status}")
        if self.gone and not self.ended and not self._held:
            self.wrong.append(f"the driver ended with status {self.driver.status}: {last_line(self.driver)}")
            if len(self.attempts) >= ATTEMPTS:
                raise Hopeless(f"not one of {ATTEMPTS} drivers came to the end")
            self.resume()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile whoever holds it ends drivers and resumes."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Meanwhile nobody would resume."""
        self.outages += 1
        try:
            yield
        finally:
            self.outages -= 1

    def struck(self) -> None:
        """The harm is done."""
        self.note("harm")
        self.harms.append(time.monotonic())

    @property
    def since_struck(self) -> float:
        """Seconds since the last harm."""
        return time.monotonic() - self.harms[-1]

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.wrong.append(what)

    def end_driver(self, number: signal.Signals = signal.SIGKILL) -> Callable[[], bool]:
        """Signal it; whether it has ended."""
        driver = self.driver
        driver.background.process.send_signal(number)
        return lambda: driver.status is not None

    def overwrite(self, file: AnyPath, body: bytes) -> None:
        """Put this in the place of a file of the run."""
        assert self.run is not None
        self.note(f"{file} is overwritten")
        file.write_bytes(body)
        self.progress.disregard(self.run.folder)

    def sync(self) -> None:
        """`weft sync`, from elsewhere."""
        assert self.run is not None
        arguments = ["sync", self.run.name, "--storage", str(self.storage)]
        cwd = self.folder / "sync"
        cwd.mkdir(exist_ok=True)
        done = run_weft(*arguments, cwd=cwd, env=self._environment(99), timeout=SYNC_S)
        self.expect(done.returncode == 0, f"weft sync ended with {done.returncode}: {done.stderr[-300:]}")

    def reached(self, mark: Mark) -> bool:
        """Whether the run is there, with as much committed as at this mark of the undisturbed search."""
        last = self.progress.marks[-1] if self.progress.marks else Mark(0.0, 0, 0)
        return self.run is not None and last.steps >= mark.steps and last.segments >= mark.segments

    def logged(self, words: str) -> bool:
        """Whether a driver says this, or one of Ray's workers does in its log."""
        if any(words in attempt.output for attempt in self.attempts):
            return True
        logs = self.site.folder.glob("tmp/ray/session_*/logs/worker-*")
        return any(words in log.read_text(errors="replace") for log in logs)

    def log(self) -> str:
        """What the drivers and the writers of MLflow said last."""
        parts = ["\n".join(self._journal)]
        parts += [f"--- driver {n}\n{tail(attempt.output)}" for n, attempt in enumerate(self.attempts)]
        for file in sorted(self.folder.rglob("writer.log")):
            parts.append(f"--- {file}\n{tail(file.read_text(errors='replace'))}")
        return self.plain("\n".join(parts))

    def plain(self, text: str) -> str:
        """Without the places of this machine."""
        places = {str(self.folder): "ROUND", str(ROOT): "WEFT", sys.base_prefix: "PYTHON"}
        for place, name in places.items():
            text = text.replace(place, name)
        return text

    def close(self) -> None:
        for attempt in (*self.attempts, *self.others):
            attempt.background.__exit__()


class Hopeless(RuntimeError):
    """The search does not come to its end."""


def tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL:])


def last_line(attempt: Attempt) -> str:
    lines = [line for line in attempt.output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
