"""Chains of inverted residual blocks: the MobileNet-like spaces of ABS (2004.13431) and FairNAS."""

import random
from functools import cached_property
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.architecture import Head, Shape, Stem
from networks.blocks.mobile import MBCONVS
from networks.errors import UserError
from networks.spaces.chain import Block, ChainSpace
from networks.spaces.choices import Kept, Option
from networks.spaces.space import Genes, drawn

IDENTITY = len(MBCONVS)  # of the layers that have it


class MobileNetSettings(BaseModel):
    """`channels`: of the stem, of the block after it, which is no choice, and of the stages; `repeats` and
    `strides`: layers of each stage and the stride of its first; `head_channels`: of the last 1x1 convolution.
    `identity`: whether a layer that changes no shape can be left out. The defaults are the released 21 layers
    of ABS (angle spec section 2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, ...] = Field((40, 24, 32, 56, 112, 128, 256, 432), min_length=3)
    repeats: tuple[int, ...] = Field((4, 4, 4, 4, 4, 1), min_length=1)
    strides: tuple[int, ...] = Field((2, 2, 2, 1, 2, 1), min_length=1)
    head_channels: int = Field(1728, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    identity: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        stages = len(self.channels) - 2
        for field, values in (("repeats", self.repeats), ("strides", self.strides)):
            if len(values) != stages:
                raise UserError(field, list(values), f"{stages} numbers, one for each stage")
        for field, values, allowed in (
            ("channels", self.channels, range(2, 2**20)),
            ("repeats", self.repeats, range(1, 2**20)),
            ("strides", self.strides, (1, 2)),
        ):
            for position, value in enumerate(values):
                if value not in allowed:
                    words = "1 or 2" if field == "strides" else f"{allowed[0]} or more"
                    raise UserError(f"{field}.{position}", value, words)
        for stage, ((before, width), stride) in enumerate(
            zip(pairwise(self.channels[1:]), self.strides, strict=True)
        ):
            if before == width and stride == 1:
                fix = "Its first layer would belong to the stage before."
                raise UserError(f"strides.{stage}", stride, "2 where the width stays the same", fix)
        return self


class MobileNetSpace(ChainSpace):
    """stem, an unexpanded block, layers of six inverted residuals (expansion 3 or 6, kernel 3, 5 or 7), with
    identity where it fits, head. The activations of stem and head are ReLU, as elsewhere here; the released
    ones are ReLU6."""

    kind = "mobilenet"

    def __init__(self, settings: MobileNetSettings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        settings = self.settings
        some = tuple(Option(name, name) for name in MBCONVS)
        every = (*some, Option("identity", "identity")) if settings.identity else some
        blocks = [Block((Option("mbconv1_3x3", "mbconv1_3x3"),), settings.channels[1], 1)]
        for width, layers, stride in zip(
            settings.channels[2:], settings.repeats, settings.strides, strict=True
        ):
            blocks += [Block(some, width, stride), *[Block(every, width, 1)] * (layers - 1)]
        return tuple(blocks)

    @property
    def stem(self) -> Stem:
        return Stem(kind="strided", channels=self.settings.channels[0], relu=True)

    @property
    def head(self) -> Head:
        settings = self.settings
        return Head(kind="conv_relu", channels=settings.head_channels, dropout=settings.dropout)

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        """Layers first, then how many of those that may be left out are: uniform in their number, where
        choosing each layer by itself would almost never give a shallow network (released sampling)."""
        layers = [[gene for gene in values if gene != IDENTITY] for values in kept]
        genes = [drawn(some, rng) if some else IDENTITY for some in layers]
        optional = [i for i, values in enumerate(kept) if layers[i] and IDENTITY in values]
        for i in rng.sample(optional, rng.randint(0, len(optional))):
            genes[i] = IDENTITY
        return tuple(genes)
