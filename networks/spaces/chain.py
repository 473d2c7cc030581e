"""Spaces of blocks in a row: a gene for each block, and a choice of operations for it."""

from abc import abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.architecture import Architecture, Head, Shape, Stage, Stem, StrideRule
from networks.errors import UserError
from networks.graph import single_edge
from networks.spaces.choices import ChoiceSpace, Option, Site
from networks.spaces.space import Genes


class Block(NamedTuple):
    """One stage of the chain. `options`: its choices; one alone is no choice and has no gene."""

    options: tuple[Option, ...]
    channels: int
    stride: int


class ChainSpace(ChoiceSpace):
    """stem, one block after the other, head. Each stage's graph is a single edge."""

    image: Shape
    classes: int

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in order."""

    @property
    @abstractmethod
    def stem(self) -> Stem: ...

    @property
    @abstractmethod
    def head(self) -> Head: ...

    @cached_property
    def _searched(self) -> tuple[int, ...]:
        """Stages that have a gene."""
        return tuple(i for i, block in enumerate(self.blocks) if len(block.options) > 1)

    @cached_property
    def positions(self) -> tuple[str, ...]:
        return tuple(f"block {number}" for number in range(1, len(self._searched) + 1))

    @cached_property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return tuple(self.blocks[i].options for i in self._searched)

    @cached_property
    def sites(self) -> dict[Site, int]:
        return {Site(stage, 0): gene for gene, stage in enumerate(self._searched)}

    def built(self, genes: Genes) -> Architecture:
        chosen = dict(zip(self._searched, genes, strict=True))
        stages, before = [], self.stem.channels
        for i, (options, channels, stride) in enumerate(self.blocks):
            # Where nothing changes, an identity may stand; the rule "input" then adds no projection.
            rule: StrideRule = "input" if (channels, stride) == (before, 1) else "edges_from_inputs"
            graph = single_edge(options[chosen.get(i, 0)].operation)
            stages.append(Stage(graph=graph, channels=channels, stride=stride, rule=rule))
            before = channels
        return Architecture(
            image=self.image, classes=self.classes, stem=self.stem, stages=tuple(stages), head=self.head
        )


class ShuffleNetSettings(BaseModel):
    """SPOS's chain. `channels`: of the stem and the four stages; `repeats`: blocks of each stage;
    `head_channels`: of the last 1x1 convolution. The defaults are the released ones (spec section 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, ...] = Field((16, 64, 160, 320, 640), min_length=2)
    repeats: tuple[int, ...] = Field((4, 4, 8, 4), min_length=1)
    head_channels: int = Field(1024, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        stem, *widths = self.channels
        if stem < 2:
            raise UserError("channels.0", stem, "2 or more")
        if len(self.repeats) != len(widths):
            raise UserError("repeats", list(self.repeats), f"{len(widths)} numbers, one for each stage")
        for stage, (before, width) in enumerate(pairwise(self.channels)):
            if width <= before or width % 2:
                allowed = f"an even number above {before}"
                raise UserError(f"channels.{stage + 1}", width, allowed, "A block passes half of them on.")
        for stage, repeats in enumerate(self.repeats):
            if repeats < 1:
                raise UserError(f"repeats.{stage}", repeats, "1 or more")
        return self


class ShuffleNetSpace(ChainSpace):
    """SPOS (1904.00420): ShuffleNetV2 blocks with kernels 3, 5 and 7 and an Xception-like one."""

    kind = "spos_shufflenet"

    def __init__(self, settings: ShuffleNetSettings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        options = tuple(Option(name, name) for name in SHUFFLE_OPTIONS)
        settings = self.settings
        return tuple(
            Block(options, channels, 2 if position == 0 else 1)
            for channels, repeats in zip(settings.channels[1:], settings.repeats, strict=True)
            for position in range(repeats)
        )

    @property
    def stem(self) -> Stem:
        return Stem(kind="strided", channels=self.settings.channels[0], relu=True)

    @property
    def head(self) -> Head:
        settings = self.settings
        return Head(kind="conv_relu", channels=settings.head_channels, dropout=settings.dropout, bias=False)


SHUFFLE_OPTIONS = ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "shuffle_xception")


class SmallChainSettings(BaseModel):
    """`channels`: of the stem and the first stage, doubled at each reduction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(8, ge=2)
    head_channels: int = Field(32, ge=1)


class SmallChainSpace(ChainSpace):
    """8 layers x 3 choices, of the kind of NAS-Bench-Macro: identity, MBConv3 3x3, MBConv6 5x5.

    Three stages of 2, 3 and 3 layers; a plain convolution with stride 2, which is no choice, goes before
    the second and the third. 6,561 candidates.
    """

    kind = "small_chain"
    LAYERS = (2, 3, 3)

    def __init__(self, settings: SmallChainSettings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        blocks = []
        for stage, layers in enumerate(self.LAYERS):
            width = self.settings.channels * 2**stage
            if stage:
                blocks.append(Block((Option("reduction", "conv_bn_relu_3x3"),), width, 2))
            blocks += [Block(SMALL_OPTIONS, width, 1)] * layers
        return tuple(blocks)

    @property
    def stem(self) -> Stem:
        return Stem(kind="cifar", channels=self.settings.channels, relu=True)

    @property
    def head(self) -> Head:
        return Head(kind="conv_relu", channels=self.settings.head_channels)


SMALL_OPTIONS = (
    Option("identity", "identity"),
    Option("mbconv3_3x3", "mbconv3_3x3"),
    Option("mbconv6_5x5", "mbconv6_5x5"),
)
