"""An actor whose work hangs while it answers pings."""

import time

from torch import Tensor

from cluster.messages import Trained
from cluster.process_group import Seat
from cluster.replica_actor import ReplicaActor


class HangingActor(ReplicaActor):
    """The second of the first group hangs at its share of step 2."""

    def train(self, seat: Seat, until: int) -> Trained:
        trainer = self._replica.trainer
        assert trainer is not None
        contribution = type(trainer).contribution

        def hanging(path: int) -> Tensor:
            if (seat.generation, seat.rank, trainer.step) == (1, 1, 2):
                time.sleep(600)
            return contribution(trainer, path)

        trainer.contribution = hanging  # type: ignore[method-assign]
        return super().train(seat, until)
