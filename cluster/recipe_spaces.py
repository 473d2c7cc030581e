"""The spaces that a recipe can name beside RandWire's: those whose choices share a supernet."""

import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from cluster.files import path_of
from cluster.recipe_errors import explain
from networks.architecture import Architecture, Shape
from networks.errors import UserError
from networks.spaces.cells import CellsSettings, CellsSpace
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.darts import DartsSettings, DartsSpace
from networks.spaces.mobilenet import MobileNetSettings, MobileNetSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.rewired import NetworkSettings, RewiredSpace
from networks.standard import STANDARD


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


class NetworkSection(NetworkSettings):
    """What a given network can be rewritten to. `architecture`: the name of a standard one, or the file of
    one, as JSON or as weft keeps networks."""

    kind: Literal["network"] = "network"

    @field_validator("architecture", mode="before")
    @classmethod
    def _read(cls, given: object) -> object:
        return read_architecture(given) if isinstance(given, str) and given not in STANDARD else given

    def build(self, image: Shape, classes: int) -> RewiredSpace:
        try:
            return RewiredSpace(self, image, classes)
        except UserError as error:
            raise error.under("space") from None


def read_architecture(name: str) -> Architecture:
    """The architecture in a file: alone, or with the weights' checksum as in ``network.json``. Raises
    `UserError`."""
    allowed = (
        f"{', '.join(STANDARD)}, or a file with an architecture as JSON, such as a run's best/network.json"
    )
    path = path_of(name)
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError("", name, allowed, str(error)) from None
    try:
        return architecture_of(raw)
    except ValidationError as error:
        first = explain(error, Architecture, raw)[0]
        raise UserError("", name, allowed, f"In it, {first}") from None


def architecture_of(raw: object) -> Architecture:
    """Of JSON: an architecture alone, or with the weights' checksum as in ``network.json``. Raises pydantic's
    ValidationError."""
    return Architecture.model_validate(raw.get("architecture", raw) if isinstance(raw, dict) else raw)


ChoiceSection = Annotated[
    NasBench201Section
    | ShuffleNetSection
    | SmallChainSection
    | MobileNetSection
    | DartsSection
    | CellsSection
    | NetworkSection,
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
        NetworkSection,
    )
)
