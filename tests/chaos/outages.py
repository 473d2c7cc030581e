"""Disturbances of what a search depends on: MLflow, S3, what is stored there, the disk and the clock."""

import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.checkpoints import CheckpointStore
from cluster.files import AnyPath
from tests.chaos.disturbances import Script, disturbance, either, resumed
from tests.chaos.stage import Stage
from tests.chaos.subjects import GRIDS
from tests.cluster.commands import ROOT
from tests.cluster.debian import needed

HOUR_S = 3600
NOTICED_S = 90.0  # for a driver to find that its disk is full
REFUSED_S = 90.0  # and that its ledger was altered
WORK_ROOM, RUN_ROOM = "4m", "48m"


# MLflow ----------------------------------------------------------------------------------------------------


@contextmanager
def no_mlflow(stage: Stage, *, killed: bool) -> Iterator[None]:
    """Killed and started again, or stopped and continued. Starting goes on after it."""
    site = stage.site
    if killed:
        site.mlflow.kill()
    else:
        site.signal_mlflow(signal.SIGSTOP)
    try:
        stage.struck()
        yield
    finally:
        if killed:
            site.start_mlflow()
        else:
            site.signal_mlflow(signal.SIGCONT)


@disturbance("mlflow-pause", "MLflow down (killed, or stopped by SIGSTOP) for 30 s", window=(-0.05, 0.5))
def mlflow_pause(stage: Stage) -> Script:
    yield None
    with stage.outage():
        with no_mlflow(stage, killed=stage.rng.random() < 0.5):
            yield stage.tempo.mlflow_s
        yield stage.site.mlflow_answers


@disturbance("mlflow-whole", "MLflow down from the start to the end, then `weft sync`", window=(-0.01, 0.0))
def mlflow_whole(stage: Stage) -> Script:
    yield None
    with no_mlflow(stage, killed=True), stage.held():
        yield either(lambda: stage.gone, lambda: stage.tempo.quick and stage.finished)
        if not stage.gone:  # a user who does not wait for MLflow
            yield stage.end_driver(signal.SIGINT)
            stage.expect(stage.driver.status == 130, f"after Ctrl-C status {stage.driver.status}")
        stage.over = stage.finished
    yield stage.site.mlflow_answers
    stage.sync()


# S3 --------------------------------------------------------------------------------------------------------


def s3_down(answer: int | str) -> Callable[[Stage], Script]:
    def script(stage: Stage) -> Script:
        yield None
        with stage.outage(), stage.site.proxy.failing(answer):
            stage.struck()
            yield stage.tempo.s3_s

    return script


disturbance("s3-500", "S3 answers 500 for 20 s")(s3_down(500))
disturbance("s3-503", "S3 answers 503 for 20 s")(s3_down(503))
disturbance("s3-slow", "S3 takes a second for each answer for 20 s")(s3_down("slow"))


# What is stored --------------------------------------------------------------------------------------------


def altered(body: bytes, rng: random.Random) -> bytes:
    """Truncated, or with one bit flipped, so that it means something else."""
    cut = rng.random() < 0.5
    while True:
        place = rng.randrange(len(body))
        flipped = bytes([body[place] ^ (1 << rng.randrange(8))])
        found = body[:place] if cut else body[:place] + flipped + body[place + 1 :]
        if meaning(found) != meaning(body):
            return found


def meaning(body: bytes) -> object:
    """JSON's values, of which 1e5 and 1E5 are one; other bytes as they are."""
    try:
        return json.loads(body)
    except ValueError:
        return body


@disturbance("altered-checkpoint", "the newest checkpoint truncated, or a byte flipped", window=(0.1, 0.8))
def alter_checkpoint(stage: Stage) -> Script:
    yield None
    with stage.held():
        yield either(lambda: bool(in_use(stage)), lambda: stage.ended)
        yield stage.end_driver(signal.SIGTERM)
        stores = in_use(stage)
        if stage.ended or not stores:
            return
        store = stage.rng.choice(stores)
        newest = store.folder / f"epoch-{store.epochs()[-1]:06d}.safetensors"
        file = stage.rng.choice([newest, newest.with_suffix(".json")])
        stage.overwrite(file, altered(file.read_bytes(), stage.rng))
        stage.struck()
        yield from resumed(stage)
    yield lambda: stage.ended
    stage.expect(stage.logged(f"checkpoint {newest} cannot be used"), f"no log names {newest}")


def in_use(stage: Stage) -> list[CheckpointStore]:
    """Those that a resumed search will read, and in which there is one before the newest."""
    if stage.run is None:
        return []
    run = stage.run
    folders = [run.folder / "supernet"]
    if stage.subject.name in GRIDS:
        final = {row.candidate.ask_index for row in run.ledger.rows() if row.final}
        found: list[AnyPath] = sorted((run.folder / "candidates").iterdir(), key=str)
        folders = [folder for folder in found if int(folder.name.partition("-")[0]) not in final]
    stores = [CheckpointStore(folder) for folder in folders]
    return [store for store in stores if len(store.epochs()) > 1]


@disturbance("altered-segment", "a segment of the ledger truncated, or a byte flipped", window=(0.1, 0.9))
def alter_segment(stage: Stage) -> Script:
    yield None
    with stage.held():
        yield either(lambda: stage.run is not None and bool(stage.run.ledger.segments()), lambda: stage.ended)
        yield stage.end_driver(signal.SIGTERM)
        if stage.ended or stage.run is None:
            return
        segment = stage.rng.choice(stage.run.ledger.segments())
        body = segment.read_bytes()
        stage.overwrite(segment, altered(body, stage.rng))
        stage.struck()
        yield from resumed(stage)
        refused = stage.driver
        yield either(lambda: refused.status is not None, lambda: stage.since_struck > REFUSED_S)
        stage.expect(refused.status == 2, f"with an altered ledger a driver ended with {refused.status}")
        stage.expect(str(segment) in refused.output, f"the driver does not name {segment}")
        stage.overwrite(segment, body)
        yield from resumed(stage)


# Disk and clock --------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A folder on a disk of this size. Skips where no disk can be mounted."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs to mount a small disk: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Meanwhile there is no room."""
    file = folder / "full"
    try:
        with file.open("wb", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(65536))
            except OSError:
                """Full."""
        yield
    finally:
        file.unlink()


@disturbance("disk-work", "no room in WEFT_WORK, the driver's own folder, for 20 s")
def fill_work(stage: Stage) -> Script:
    with small_disk(stage.folder / "small", WORK_ROOM) as disk:
        stage.work = disk
        yield None
        with filled(disk):
            stage.struck()
            yield stage.tempo.disk_s
        yield None


@disturbance("disk-run", "no room in the run's folder, which is on a disk; resumed when there is room")
def fill_run(stage: Stage) -> Script:
    with small_disk(stage.folder / "small", RUN_ROOM) as disk:
        stage.storage = disk / "runs"
        yield None
        with stage.held():
            with filled(disk):
                stage.struck()
                yield either(lambda: stage.gone, lambda: stage.since_struck > NOTICED_S)
            stage.expect(stage.gone, "the driver does not notice that there is no room")
            if stage.ended:
                return
            said = stage.driver.output
            stage.expect("No space left" in said and "Traceback" not in said, f"it says: {said[-500:]}")
            yield from resumed(stage)
        yield None


# libfaketime 0.9.10 takes an absolute time of the clock that goes evenly for one of the wall clock, and
# time.sleep() gives it such times.
SLEEPS = """
import threading
import time
time.sleep = lambda seconds: threading.Event().wait(seconds)
"""


@disturbance("clock", "the driver's clock jumps by an hour, ahead or back")
def shift_clock(stage: Stage) -> Script:
    library = subprocess.run(
        [needed("faketime", "faketime"), "-m", "-f", "+0", "printenv", "LD_PRELOAD"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    file = stage.folder / "clock"
    file.write_text("+0")
    (stage.folder / "python").mkdir()
    (stage.folder / "python" / "sitecustomize.py").write_text(SLEEPS)
    stage.env = {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": f"{stage.folder / 'python'}:{ROOT}",
    }  # fmt: skip
    yield None
    file.write_text(stage.rng.choice("+-") + str(HOUR_S))
    stage.struck()
