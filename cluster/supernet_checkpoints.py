"""Checkpoints of a search's supernets: what they name beside the weights, and which can be gone on from."""

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.pool import Pool
from cluster.run import Run
from cluster.shrinking import RUNGS, Course
from networks.errors import UserError


class SupernetCheckpoints:
    """Of one supernet. `number`: which of those that vote; the first has the folder ``supernet``."""

    def __init__(self, run: Run, course: Course, number: int) -> None:
        self._run, self._course = run, course
        self._store = CheckpointStore(run.folder / supernet_folder(number))

    @property
    def any(self) -> bool:
        return bool(self._store.epochs())

    def save(self, pool: Pool, rung: int) -> None:
        """It names the space, the rungs behind it and the segments that are committed."""
        tensors, values = pool.state()
        segments = len(self._run.ledger.segments())
        about = {"pool": values, "space": self._course.space.digest, "segments": segments}
        if rung:
            about["rung"] = rung
        try:
            self._store.save(pool.step, tensors, about)
        except OSError as error:
            place = str(self._run.folder)
            raise UserError("storage", place, "a folder with room that can be written", str(error)) from None

    def newest(self) -> Checkpoint | None:
        """The newest usable one. Raises `UserError` when there are some and none is usable, or when it is of
        another space, or knows of decisions or segments that are not there."""
        checkpoint = self._store.newest()
        folder = str(self._store.folder)
        if checkpoint is None:
            if self.any:
                raise UserError(
                    "checkpoint", folder, "a whole checkpoint, unaltered", "Delete it to train anew."
                )
            return None
        if checkpoint.values.get("space") != self._course.space.digest:
            raise UserError("checkpoint", folder, "a checkpoint of this recipe's space")
        decided, rung = len(self._course.dropped), checkpoint.values.get("rung", 0)
        if rung > decided:
            allowed = f"the {rung} decisions that were made when the supernet was saved"
            fix = f"There are {decided}: some were deleted, or it is of another run."
            raise UserError("shrinking", str(self._run.folder / RUNGS), allowed, fix)
        committed, named = len(self._run.ledger.segments()), checkpoint.values.get("segments", 0)
        if committed < named:
            allowed = f"the {named} segments that were committed when the supernet was saved"
            fix = f"There are {committed}: segments were deleted, or the checkpoint is of another run."
            raise UserError("ledger", str(self._run.ledger.folder), allowed, fix)
        return checkpoint


def supernet_folder(number: int) -> str:
    """Of its checkpoints, in the run's folder."""
    return f"supernet-{number}" if number else "supernet"
