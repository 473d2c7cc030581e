"""What replicas say to their pool. Imports no torch: what stands in for a replica may do without."""

from typing import NamedTuple


class Scored(NamedTuple):
    """How one candidate did. A `reason` says what went wrong; `metrics` hold the scores that went well, so
    that who reads it decides what it lacks. Seconds and place decide nothing."""

    metrics: dict[str, float]
    reason: str
    seconds: float
    place: str


class About(NamedTuple):
    """What a replica computes with, and on which images."""

    numerics: str
    data: str
    place: str


class Hello(NamedTuple):
    """What a new replica says of itself. `node` is Ray's id of its machine."""

    about: About
    pid: int
    node: str


class Trained(NamedTuple):
    """How far a call to train came: the step it left off at, the loss of each of its steps, the learning
    rate of the last, and its seconds. `lost`: why its group broke; `error`: what else went wrong."""

    step: int
    losses: tuple[float, ...]
    lr: float
    seconds: float
    lost: str = ""
    error: Exception | None = None


class Pulse(NamedTuple):
    """What a replica is at, in answer to a ping. `task`: train, score, or another call; none between calls.
    `working`: seconds that it has been at this step's share, candidate or call; `waiting`: seconds that it
    has waited for the others of its group, of `generation`. One of the two is 0."""

    task: str = ""
    working: float = 0.0
    waiting: float = 0.0
    generation: int = 0
