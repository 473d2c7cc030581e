"""Networks that differ in nothing but their topology, at equal work (TopoNet, 2008.08261; spec 2.6).

The paper's widths and depths were not recovered. Ours: stages of triplet nodes as RandWire's, twice as wide
from stage to stage, where stride and widening are a projection before the graph, so that what a network costs
does not depend on its topology.
"""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.errors import UserError, nearest
from networks.generators import RandomGraph
from networks.graph import EdgeWeight
from networks.operations import OPERATIONS
from networks.topologies import Topology, pairs_of, topology_graph


class TopologySettings(BaseModel):
    """`nodes`: of each stage, its input and its output included. `channels`: of the first stage. `macs`:
    widths are solved for this many multiply-adds instead (`channels_at`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(8, ge=3)
    stages: int = Field(3, ge=1, le=5)
    channels: int = Field(16, ge=2)
    macs: int | None = Field(None, ge=1)
    stem: Literal["cifar", "strided", "imagenet_small"] = "cifar"
    operation: str = "triplet_sep_conv_3x3"
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("operation")
    @classmethod
    def _known(cls, name: str) -> str:
        resizing = [known.name for known in OPERATIONS.values() if known.category == "O"]
        if name not in resizing:
            raise UserError("", name, ", ".join(sorted(resizing)), nearest(name, resizing))
        return name


class Width(NamedTuple):
    """Channels of the first stage, and the multiply-adds that the network has with them."""

    channels: int
    macs: int


class TopologyTemplate(TopologySettings):
    """Everything about such a network but its topology."""

    image: Shape = Shape(3, 32, 32)
    classes: int = Field(10, ge=2)

    def architecture(
        self, topology: Topology | RandomGraph, seed: int = 0, weight: EdgeWeight = "none"
    ) -> Architecture:
        """The network of this topology. A random one has a wiring of its own in each stage, from the counters
        (seed, "stage", position)."""
        channels = (
            self.channels if self.macs is None else self.channels_at(self.macs, topology, seed).channels
        )
        return self._at(channels, topology, seed, weight)

    def channels_at(self, macs: int, topology: Topology | RandomGraph, seed: int = 0) -> Width:
        """The width whose multiply-adds come closest, the narrower of two that come as close. Raises
        `UserError` where even the narrowest network has more than twice as many."""

        def cost(channels: int) -> int:
            return self._at(channels, topology, seed, "none").complexity().macs

        low, high = 2, 4
        if cost(low) > 2 * macs:
            raise UserError("macs", macs, f"at least {cost(low) // 2}: two channels have {cost(low)}")
        while cost(high) < macs:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) <= macs else (low, middle)
        return min((Width(c, cost(c)) for c in (low, high)), key=lambda one: (abs(one.macs - macs), one))

    def _at(
        self, channels: int, topology: Topology | RandomGraph, seed: int, weight: EdgeWeight
    ) -> Architecture:
        link = topology.link if isinstance(topology, Topology) else "identity"
        stages = tuple(
            Stage(
                graph=topology_graph(
                    self.nodes,
                    pairs_of(topology, self.nodes, seed, "stage", position),
                    self.operation,
                    weight,
                    link,
                ),
                channels=channels * 2**position,
                stride=2 if position else 1,
                rule="input",
            )
            for position in range(self.stages)
        )
        return Architecture(
            image=self.image,
            classes=self.classes,
            stem=Stem(kind=self.stem, channels=channels),
            stages=stages,
            head=Head(kind="bn_relu", channels=None, dropout=self.dropout),
        )
