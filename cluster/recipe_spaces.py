"""The spaces that a recipe can name beside RandWire's: those whose choices share a supernet."""

from typing import Annotated, Literal

from pydantic import Field

from networks.architecture import Shape
from networks.spaces.cells import CellsSettings, CellsSpace
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.darts import DartsSettings, DartsSpace
from networks.spaces.mobilenet import MobileNetSettings, MobileNetSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space


class NasBench201Section(NasBench201Settings):
    """NAS-Bench-201's cells."""

    kind: Literal["nasbench201"] = "nasbench201"

    def build(self, image: Shape, classes: int) -> NasBench201Space:
        return NasBench201Space(self, image, classes)


class ShuffleNetSection(ShuffleNetSettings):
    """SPOS's chain of ShuffleNetV2 blocks."""

    kind: Literal["spos_shufflenet"] = "spos_shufflenet"

    def build(self, image: Shape, classes: int) -> ShuffleNetSpace:
        return ShuffleNetSpace(self, image, classes)


class SmallChainSection(SmallChainSettings):
    """8 layers x 3 choices."""

    kind: Literal["small_chain"] = "small_chain"

    def build(self, image: Shape, classes: int) -> SmallChainSpace:
        return SmallChainSpace(self, image, classes)


class MobileNetSection(MobileNetSettings):
    """ABS's and FairNAS's chains of inverted residuals."""

    kind: Literal["mobilenet"] = "mobilenet"

    def build(self, image: Shape, classes: int) -> MobileNetSpace:
        return MobileNetSpace(self, image, classes)


class DartsSection(DartsSettings):
    """DARTS's cells."""

    kind: Literal["darts"] = "darts"

    def build(self, image: Shape, classes: int) -> DartsSpace:
        return DartsSpace(self, image, classes)


class CellsSection(CellsSettings):
    """Cells whose links may come from anywhere."""

    kind: Literal["cells"] = "cells"

    def build(self, image: Shape, classes: int) -> CellsSpace:
        return CellsSpace(self, image, classes)


ChoiceSection = Annotated[
    NasBench201Section
    | ShuffleNetSection
    | SmallChainSection
    | MobileNetSection
    | DartsSection
    | CellsSection,
    Field(discriminator="kind"),
]
SEARCHED_SPACES = tuple(
    str(section.model_fields["kind"].default)
    for section in (
        NasBench201Section,
        ShuffleNetSection,
        SmallChainSection,
        MobileNetSection,
        DartsSection,
        CellsSection,
    )
)
