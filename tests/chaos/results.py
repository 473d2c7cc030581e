"""The file of results, a JSON object a line, and the page that is made of it."""

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tests.chaos.subjects import SubjectName


class Undisturbed(BaseModel):
    """A search that nothing was done to. `key`: of what was searched, with which code and numerics. `marks`:
    when something was committed (seconds since the first time), and how far that came: steps, segments."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["undisturbed"] = "undisturbed"
    key: str
    subject: SubjectName
    commit: str
    when: str
    asked: int
    ledger: str
    weights: str
    seconds: float
    marks: tuple[tuple[float, int, int], ...]


class Result(BaseModel):
    """One round. `done`: what was done to it. `after`: for each, the steps and segments that were committed
    before, and the seconds since then. `recovered`: seconds from each harm to the next commit. `attempts`:
    drivers. `synced`: MLflow was brought level by `weft sync`. `wrong`: empty where all is as it must be.
    `hardware`: processor and cores."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["round"] = "round"
    round: int
    seed: int
    subject: SubjectName
    done: tuple[str, ...]
    commit: str
    when: str
    after: tuple[tuple[int, int, float], ...]
    asked: int
    lost: int
    duplicated: int
    recovered: tuple[float, ...]
    seconds: float
    attempts: int
    synced: bool
    wrong: tuple[str, ...]
    hardware: str
    log: str = ""

    @property
    def ok(self) -> bool:
        return not self.wrong


Line = TypeAdapter[Undisturbed | Result](Annotated[Undisturbed | Result, Field(discriminator="kind")])


class Results:
    """A file that lines are added to, each whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undisturbed: dict[str, Undisturbed] = {}
        self.rounds: list[Result] = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                self._take(Line.validate_json(line))
            except ValidationError as error:
                raise ValueError(f"{path} has a line that is no result: {line[:80]}") from error

    def _take(self, line: Undisturbed | Result) -> None:
        if isinstance(line, Undisturbed):
            self.undisturbed[line.key] = line
        else:
            self.rounds.append(line)

    def add(self, line: Undisturbed | Result) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.model_dump_json().encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        self._take(line)

    @property
    def failed(self) -> dict[int, Result]:
        """The rounds that went wrong when they were played last, by their numbers."""
        last = {one.round: one for one in self.rounds}
        return {number: one for number, one in sorted(last.items()) if not one.ok}

    @property
    def next_round(self) -> int:
        return max((one.round for one in self.rounds), default=0) + 1


INTRODUCTION = """\
Three searches run on three Ray nodes (processes on loopback), with their runs in S3 (moto's server) and
an MLflow server: a one-shot search on NAS-Bench-201's space (a small supernet, two replicas, regularised
evolution), the same on a space that shrinks (two supernets that vote), and a RandWire grid with
successive halving. In each round something is done to one of them at a random moment. It is as it must be
when the search ends FINISHED; when each candidate that was asked for has one final row in the ledger and
one run in MLflow; and when the digests of the ledger and of the weights (the supernet's, and what its
space lost, or those of the networks that were trained to the end) equal those of the same search with
nothing done to it. Recovery is from the harm to the next committed segment or checkpoint. Where a driver
died it includes the wait for its lease, 30 s. A round that went wrong stays in the table; played again on
code that was mended it stands there a second time.

    make chaos ROUNDS=10 SEED=0     adds rounds to docs/reliability.jsonl and writes this page anew
"""


def page(results: Results, said: dict[str, str]) -> str:
    """Markdown: a row for each kind of harm, then all rounds. `said`: what each kind is."""
    rounds = results.rounds
    kinds: dict[str, list[Result]] = defaultdict(list)
    for one in rounds:
        kinds[one.done[0]].append(one)
    commits = ", ".join(sorted({one.commit for one in rounds}))
    machines = "; ".join(sorted({one.hardware for one in rounds}))
    lines = ["# What searches survive", "", _summary(rounds), "", INTRODUCTION]
    lines += [f"Commits: {commits}. Hardware: {machines}.", ""] if rounds else []
    lines += _head("what was done", "rounds", "as they must be", "lost", "duplicated", "s to recover", "most")
    lines += [_row(_kind(said[name], kinds[name])) for name in said if name in kinds]
    lines += [
        "",
        "`s to recover` is the median. A round in which two things were done counts for the first.",
        "",
    ]
    lines += [
        "## Rounds",
        "",
        *_head("round", "seed", "search", "done", "after", "drivers", "s to recover", "s", ""),
    ]
    lines += [_row(_cells(one)) for one in rounds]
    return "\n".join(lines) + "\n"


def _summary(rounds: Sequence[Result]) -> str:
    lost, duplicated = sum(one.lost for one in rounds), sum(one.duplicated for one in rounds)
    passed = sum(one.ok for one in rounds)
    return (
        f"{len(rounds)} rounds, {passed} as they must be. Candidates lost: {lost}, duplicated: {duplicated}."
    )


def _kind(said: str, rounds: Sequence[Result]) -> list[object]:
    seconds = [one.recovered[0] for one in rounds if one.recovered]
    median, most = (statistics.median(seconds), max(seconds)) if seconds else (None, None)
    counts = [
        sum(one.ok for one in rounds),
        sum(one.lost for one in rounds),
        sum(one.duplicated for one in rounds),
    ]
    return [said, len(rounds), *counts, _short(median), _short(most)]


def _cells(one: Result) -> list[object]:
    after = "; ".join(f"step {steps}, segment {number}, {delay:.1f} s" for steps, number, delay in one.after)
    state = (
        "; ".join(f"{text:.100}" for text in one.wrong).replace("|", "/").replace("\n", " ")
        or "as it must be"
    )
    return [
        one.round, one.seed, one.subject, " + ".join(one.done), after, one.attempts,
        ", ".join(map(_short, one.recovered)), f"{one.seconds:.0f}", state,
    ]  # fmt: skip


def _short(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _head(*names: str) -> list[str]:
    return [_row(names), "|---" * len(names) + "|"]


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def hardware() -> str:
    """Processor and cores of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
