"""A small supernet for pools, and what can go wrong in one."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.messages import Scored
from cluster.ray_pool import RayPool
from cluster.recipe_spaces import SmallChainSection
from cluster.replica import ReplicaJob, ScoringSettings
from cluster.replica_actor import ReplicaActor
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.data import DataSettings
from trainers.one_shot_settings import OneShotSettings

JOB = ReplicaJob(
    space=SmallChainSection(channels=2, head_channels=4),
    data=DataSettings(name="digits", limit=160),
    supernet=OneShotSettings(steps=40, batch_size=8, paths_per_step=4),
    scoring=ScoringSettings(names=("accuracy", "params"), batch_size=32),
    seed=3,
)


def job_with(**supernet: object) -> ReplicaJob:
    """The job with other settings of its supernet."""
    assert JOB.supernet is not None
    return JOB.model_copy(update={"supernet": JOB.supernet.model_copy(update=supernet)})


def varying(settings: object) -> dict[str, object]:
    """A data set of the user's own, which is another one where ``WEFT_TEST_IMAGES`` says so."""
    draws = np.random.default_rng(int(os.environ.get("WEFT_TEST_IMAGES", "0")))
    return {"x_train": draws.integers(0, 256, (120, 8, 8), np.uint8), "y_train": np.arange(120) % 2}


DEADLY: Genes = (2, 2, 2, 2, 2, 2, 2, 1)


class DeadlyActor(ReplicaActor):
    """One whose process does not survive the scoring of one candidate."""

    def score(self, candidates: Sequence[Genes], part: Part | None = None) -> list[Scored]:
        if DEADLY in candidates:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(candidates, part)


def pids_of(pool: RayPool) -> list[int]:
    """Of the replicas that answer."""
    return [member.hello.pid for member in pool._members.alive]


def runs(pid: int) -> bool:
    """Whether there is such a process that is more than a dead one's remains."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def open_files() -> int:
    """File handles of this process."""
    return len(os.listdir("/proc/self/fd"))
