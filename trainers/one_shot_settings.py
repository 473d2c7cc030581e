"""The settings of a supernet's training, and what data and device must offer for them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from networks.errors import UserError
from trainers.data import Data, Relabelled


class MacBins(BaseModel):
    """SPOS's released sampling: a bin of multiply-adds is drawn uniformly, then a path that falls into it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int = Field(ge=0)
    high: int = Field(ge=1)
    bins: int = Field(7, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "MacBins":
        if self.low >= self.high:
            raise UserError("low", self.low, f"less than high ({self.high})")
        return self


class OneShotSettings(BaseModel):
    """How a supernet is trained. A step trains `paths_per_step` paths on `batch_size` images each.

    schedule: the rate falls linearly (SPOS) or as half a cosine (NAS-Bench-201), from `lr` to `final_lr`,
    over `rate_steps` (None: `steps`), and stays there; one that falls to 0 makes paths better and can make
    their accuracies rank worse (docs/spos_nasbench201.md). labels: random draws each image's label once
    (RLNAS). mac_bins: None draws paths uniformly. clip_norm: largest gradient norm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=0)
    batch_size: int = Field(64, ge=2)
    paths_per_step: int = Field(4, ge=1)
    lr: float = Field(0.05, gt=0)
    final_lr: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["linear", "cosine"] = "cosine"
    rate_steps: int | None = Field(None, ge=1)
    clip_norm: float | None = Field(None, gt=0)
    labels: Literal["true", "random"] = "true"
    mac_bins: MacBins | None = None
    precision: Literal["auto", "float32", "mixed"] = "auto"
    channels_last: bool = True

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, labels: object) -> object:
        return "true" if labels is True else labels  # as YAML reads the word

    @model_validator(mode="after")
    def _check(self) -> "OneShotSettings":
        if self.nesterov and not self.momentum:
            raise UserError("nesterov", True, "true with momentum above 0")
        if self.final_lr > self.lr:
            raise UserError("final_lr", self.final_lr, f"at most lr ({self.lr})")
        return self


def labelled(data: Data, settings: OneShotSettings, seed: int) -> Data:
    """The data with the labels that the settings ask for."""
    if settings.labels == "true":
        return data
    assert isinstance(data, Relabelled), "check_possible refuses it"
    return data.with_random_labels(seed)


def check_possible(settings: OneShotSettings, data: Data, device: str, mixes: bool) -> None:
    """Raise `UserError` for settings that this data cannot follow, or the device. `mixes`: whether that one
    computes in bfloat16. Looks at no device itself, so that it can be asked where there is none."""
    if settings.labels == "random" and not isinstance(data, Relabelled):
        raise UserError(
            "supernet.labels", "random", "true for this data set", "It cannot be given other labels."
        )
    if settings.precision == "mixed" and not mixes:
        raise UserError("supernet.precision", "mixed", f"auto or float32 on {device}")
    try:
        data.steps_per_epoch(settings.batch_size)
    except UserError as error:
        raise error.under("supernet") from None
